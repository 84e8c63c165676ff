"""The columns of one request and of its decision, in one buffer that is used again."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from banditroute.bandit.arithmetic._kernels_lanes import BLOCK
from banditroute.bandit.choice.batch import UNLIMITED, Choices, DecideBatch
from banditroute.bandit.choice.state_layout import Floats, aligned, padded
from banditroute.bandit.uncopied import Uncopied

_KEY, _INFO, _CHANCE, _SHAPE, _HEAD = 9, 10, 12, 14, 16


class Single(Uncopied):
    """One request: what `Policy.choose` reads, and what it writes, as views of one buffer.

    A call with one buffer costs a fraction of a call with a dozen of arrays. What was decided stays until the next
    choice.

    Parameters
    ----------
    models : int
        K.
    d : int
        Length of a context.
    prices : float64[K, 2] or float64[K, 3 + 3T]
        As in `DecideBatch`.

    Attributes
    ----------
    limits : float64[9]
        In the order of ``LIMITS``; unlimited at first.
    eligible : bool[K]
        Which models may serve; all at first.
    prices : float64[K, 2] or float64[K, 3 + 3T]
    candidates : float64[K, 5]
        See `Choices`, as for the other results.

    Examples
    --------
    >>> one = Single(2, 3, [[1.0, 2.0], [3.0, 15.0]])
    >>> one.limits[0], one.eligible[1] = 120.0, False
    >>> one.eligible.tolist()
    [True, False]
    """

    __slots__ = (
        "candidates", "chance", "desk", "eligible", "expected", "info", "key", "keys", "limits", "prices", "rank",
        "score",
    )  # fmt: skip

    def __init__(self, models: int, d: int, prices: ArrayLike) -> None:
        wide, lanes = padded(d, BLOCK), padded(models, BLOCK)
        at = _HEAD + 7 * lanes + BLOCK + lanes + 2 * wide  # scratch space is between
        table: Floats = np.asarray(prices, np.float64)
        width = table.shape[1] if table.ndim == 2 else 2
        places = []  # the order that the kernel goes by
        for size in (width * models, 5 * models, (models + 1) // 2, lanes // 8, lanes // 8):
            places.append(slice(at, at + size))
            at += size
        self.desk: Floats = aligned(at)
        self.desk[_SHAPE : _SHAPE + 2] = models, d
        words, flagged = self.desk.view(np.int32), self.desk.view(np.bool_)
        words[2 * _INFO + 3] = width
        self.limits: Floats = self.desk[:9]
        self.limits[:] = UNLIMITED
        self.keys: NDArray[np.uint64] = self.desk.view(np.uint64)[_KEY : _KEY + 1]
        self.key = self.keys.data  # which is quicker to write to
        self.info: NDArray[np.int32] = words[2 * _INFO : 2 * _INFO + 3]
        self.chance: Floats = self.desk[_CHANCE : _CHANCE + 2]
        self.prices: Floats = self.desk[places[0]].reshape(models, width)
        self.prices[:] = table
        self.expected: Floats = self.desk[places[1]]
        self.candidates: Floats = self.expected.reshape(models, 5)
        self.score: Floats = self.desk[_HEAD : _HEAD + models]
        self.rank: NDArray[np.int32] = words[2 * places[2].start : 2 * places[2].start + models]
        self.eligible: NDArray[np.bool_] = flagged[8 * places[3].start : 8 * places[3].start + models]
        self.eligible[:] = True

    def batch(self, x: NDArray[np.float32]) -> DecideBatch:
        """Return the request as a batch of one: views, so that a pacer can write the cost weights."""
        return DecideBatch(x[None], self.keys, self.limits[None], self.eligible[None], self.prices)

    def choices(self) -> Choices:
        """Return what was decided as a batch of one: views, overwritten by the next choice."""
        return Choices(
            self.info[None], self.candidates[None], self.score[None], self.rank[None], self.chance[None]
        )
