"""Change detection: whether a model has become better or worse than its votes said.

Votes are compared with what was expected of them just before they were learned. Votes that are learned together share
the error of that expectation, so their sum has a variance of its own: for m votes with contexts x_i,
σ²(m + sᵀVs) with s = Σx_i. Four cumulative sums per model look for a shift up or down, large or small (Page, Continuous
inspection schemes, 1954), and an alarm says by how much to shrink what is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice import _kernels_change
from banditroute.bandit.choice._kernels_change import LARGEST, SHIFTS, THRESHOLD
from banditroute.bandit.evidence.evidence import ModelKey

__all__ = ["LARGEST", "SHIFTS", "THRESHOLD", "ChangeDetector", "verdict"]

LEAST_VOTES: Final = 10.0  # a model with fewer has nothing to forget
KEPT_VOTES: Final = 1.0  # what is left of the changed model's votes
OTHERS_VOTES: Final = 100.0  # at most this much is left of every other model's,
OTHERS_SHARE: Final = (
    0.25  # and at most this share: what was learned by comparing with the changed model is stale
)


class ChangeDetector:
    """Watches the residuals of every model.

    The log likelihood ratio of a shift by δ in each of m votes, after residuals of sum r and variance v (all in units
    of the noise), is (δm·r − (δm)²/2)/v; a cumulative sum is its largest value over all starting points, at least 0.

    Examples
    --------
    >>> detector = ChangeDetector()
    >>> key = ModelKey("a")
    >>> any(detector.observe(key, 1.0, 0.0, 1.0) for _ in range(1000))
    False
    >>> next(m for m in range(1, 100) if detector.observe(key, 1.0, 1.5, 1.0))
    14
    """

    def __init__(self) -> None:
        self._rows: dict[ModelKey, int] = {}
        self.sums: NDArray[np.float64] = np.zeros((0, 2 * len(SHIFTS)))

    def row(self, key: ModelKey) -> int:
        """Return the row of a model in `sums`, float64[models, 4], which grows with a new one."""
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = len(self.sums)
            self.sums = np.concatenate((self.sums, np.zeros((1, self.sums.shape[1]))))
        return row

    def observe(self, key: ModelKey, votes: float, residual: float, variance: float) -> bool:
        """Take votes of a model that were learned together; return whether it has changed.

        After an alarm the model starts again from 0.

        Parameters
        ----------
        key : ModelKey
            The model.
        votes : float
            Their number, or the sum of their weights.
        residual : float
            Sum of quality minus what was expected, in standard deviations of the noise of one vote.
        variance : float
            Of that sum, in the square of the same unit.
        """
        row = self.row(key)
        return bool(_kernels_change.observe(self.sums, row, float(votes), float(residual), float(variance)))

    def restart(self, key: ModelKey) -> None:
        """Forget the cumulative sums of a model."""
        self.sums[self.row(key)] = 0.0


def verdict(changed: ModelKey, votes: Mapping[ModelKey, float]) -> dict[str, float] | None:
    """Return by which factor to multiply each model's evidence once `changed` has changed.

    Parameters
    ----------
    changed : ModelKey
        The model of the alarm.
    votes : mapping of ModelKey to float
        Sum of weights of every model's quality votes.

    Returns
    -------
    dict of str to float, or None
        Factors below 1 by name; None when the model has too few votes to have anything to forget.

    Examples
    --------
    >>> verdict(ModelKey("a"), {ModelKey("a"): 50.0, ModelKey("b"): 1000.0, ModelKey("c"): 0.0})
    {'a': 0.02, 'b': 0.1, 'c': 0.25}
    """
    if votes.get(changed, 0.0) <= LEAST_VOTES:
        return None
    totals: dict[str, float] = {}
    for key, n in votes.items():
        totals[key.name] = totals.get(key.name, 0.0) + n
    return {
        name: KEPT_VOTES / n if name == changed.name else min(OTHERS_SHARE, OTHERS_VOTES / max(n, 1.0))
        for name, n in sorted(totals.items())
    }
