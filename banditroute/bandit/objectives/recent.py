"""The last requests of a stream, kept as the columns of a batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice.batch import LIMITS, DecideBatch

Floats = NDArray[np.float64]


class Recent:
    """A ring of requests.

    Parameters
    ----------
    models : int
        Models of the catalog.
    d : int
        Length of a context.
    size : int
        How many requests it holds.

    Attributes
    ----------
    count : int
        How many it holds now.
    """

    def __init__(self, models: int, d: int, size: int) -> None:
        self.count = 0
        self._x = np.zeros((size, d), np.float32)
        self._keys = np.zeros(size, np.uint64)
        self._limits = np.zeros((size, len(LIMITS)))
        self._eligible = np.zeros((size, models), np.bool_)
        self._next = 0
        self._size = size

    @property
    def shape(self) -> tuple[int, int]:
        """Models and columns of a context."""
        return self._eligible.shape[1], self._x.shape[1]

    @property
    def x(self) -> NDArray[np.float32]:
        """Contexts; float32[count, d]."""
        return self._x[: self.count]

    def add(self, batch: DecideBatch, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Add some requests of a batch, the last ones if they are more than it holds; return their places."""
        rows = rows[-self._size :]
        at = (self._next + np.arange(len(rows))) % self._size
        self._next = int((self._next + len(rows)) % self._size)
        self.count = min(self._size, self.count + len(rows))
        self._x[at], self._keys[at] = batch.x[rows], batch.keys[rows]
        self._limits[at], self._eligible[at] = batch.limits[rows], batch.eligible[rows]
        return at

    def batch(self, prices: Floats) -> DecideBatch:
        """Return all of them as a batch, in no particular order (views)."""
        rows = slice(0, self.count)
        return DecideBatch(self._x[rows], self._keys[rows], self._limits[rows], self._eligible[rows], prices)
