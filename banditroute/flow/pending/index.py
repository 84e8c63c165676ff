"""From a request's hash to its decisions: open addressing, ten to eleven bytes per entry."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.flow.pending import _kernels_index

_LEAST: Final = 64
_FULLEST: Final = 0.8
_GROWTH: Final = 1.1  # small steps: between 10 and 11 bytes per entry
_EMPTIEST: Final = 0.25  # below this the table shrinks


class RequestIndex:
    """Finds sequence numbers by the lower half of a hash.

    A fingerprint of 32 bits may be that of another id: the caller compares the whole hash with that of the row, and
    asks for the next one where they differ.
    """

    def __init__(self) -> None:
        self._table = self._empty(_LEAST)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    @property
    def table(self) -> NDArray[np.uint64]:
        """The entries, for kernels."""
        return self._table

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self._table.nbytes

    def insert(self, low: NDArray[np.uint64], numbers: NDArray[np.int64]) -> None:
        """Enter low halves of hashes with the sequence numbers of their rows."""
        wanted = self._used + len(low)
        if wanted > _FULLEST * len(self._table):
            self._resize(max(_LEAST, int(_GROWTH * max(len(self._table), wanted / _FULLEST))))
        _kernels_index.insert(self._table, np.ascontiguousarray(low), numbers, len(low))
        self._used = wanted

    def remove(self, low: NDArray[np.uint64], numbers: NDArray[np.int64]) -> None:
        """Take out entries, all of which are there."""
        _kernels_index.remove(self._table, low, numbers, len(low))
        self._used -= len(low)
        if self._used < _EMPTIEST * len(self._table) and len(self._table) > _LEAST:
            self._resize(max(_LEAST, int(self._used * _GROWTH / _FULLEST)))

    def find(self, low: int, floor: int, beyond: int = 0) -> int:
        """Return the lowest sequence number of a fingerprint at or above `floor + beyond`, or -1."""
        distance = int(_kernels_index.find(self._table, np.uint64(low), floor, beyond))
        return distance if distance < 0 else floor + distance

    def find_each(self, low: NDArray[np.uint64], floor: int) -> NDArray[np.int64]:
        """Return `find` of many, int64[n]: distances to `floor`, or -1."""
        out = np.empty(len(low), np.int64)
        _kernels_index.find_each(self._table, np.ascontiguousarray(low), floor, out)
        return out

    def _resize(self, size: int) -> None:
        table = self._empty(size)
        _kernels_index.move(self._table, table)
        self._table = table

    @staticmethod
    def _empty(size: int) -> NDArray[np.uint64]:
        return np.full(size, _kernels_index.EMPTY, np.uint64)
