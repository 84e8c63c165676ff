"""Headers of decisions that are kept whole: of the newest, and of all that shadow mode decided."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class HeaderTable(Sequence[bytes]):
    """Headers of one length, a row of bytes each.

    Parameters
    ----------
    rows : uint8[n, size]
        Their bytes.
    """

    def __init__(self, rows: NDArray[np.uint8]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> HeaderTable: ...
    def __getitem__(self, index: int | slice) -> bytes | HeaderTable:
        found = self.rows[index]
        return HeaderTable(found) if isinstance(index, slice) else found.tobytes()


class KeptHeaders:
    """Headers by sequence number, in the batches in which they came.

    Parameters
    ----------
    keep : int or None
        Of the newest at least so many are kept, whole batches of them; None keeps all.

    Examples
    --------
    >>> kept = KeptHeaders(2)
    >>> kept.add(10, [b"a", b"b"])
    >>> kept.add(12, [b"c"])
    >>> kept.get(11), kept.get(12), kept.get(13)
    (b'b', b'c', None)
    """

    def __init__(self, keep: int | None) -> None:
        self._keep = keep
        self._first: list[int] = []  # sequence number of the first header of each batch
        self._batches: list[Sequence[bytes]] = []
        self._count = 0

    def add(self, first: int, headers: Sequence[bytes]) -> None:
        """Keep the headers of sequence numbers from `first` on, which are above all before."""
        self._first.append(first)
        self._batches.append(headers)
        self._count += len(headers)
        while self._keep is not None and self._batches and self._count - len(self._batches[0]) >= self._keep:
            self._drop_oldest()

    def get(self, number: int) -> bytes | None:
        """Return a header, None if it is not kept."""
        at = bisect_right(self._first, number) - 1
        if at < 0 or number - self._first[at] >= len(self._batches[at]):
            return None
        return self._batches[at][number - self._first[at]]

    def drop_below(self, floor: int) -> None:
        """Let go of batches whose numbers are all below `floor`."""
        while self._first and self._first[0] + len(self._batches[0]) <= floor:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._count -= len(self._batches.pop(0))
        del self._first[0]
