"""Small numbers for what many decisions share: their kind, and the segment that drift is watched by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.flow.pending.open_decision import Kind, KnownBatch

MOST_SEGMENTS: Final = 1 << 16  # different segments at once; the decisions of further ones have none


class Kinds:
    """Numbers of kinds of decision: as many as there are models and catalogs, so none is ever taken back."""

    def __init__(self) -> None:
        self._kinds: list[Kind] = []
        self._numbers: dict[Kind, int] = {}
        self._names: tuple[ModelKey, ...] = ()
        self._shadow = False
        self._table: NDArray[np.uint32] = np.empty((0, 2), np.uint32)

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, number: int) -> Kind:
        return self._kinds[number]

    def number(self, kind: Kind) -> int:
        """Return the number of a kind."""
        number = self._numbers.get(kind)
        if number is None:
            number = self._numbers[kind] = len(self._kinds)
            self._kinds.append(kind)
        return number

    def of_batch(self, batch: KnownBatch) -> NDArray[np.uint32]:
        """Return the number of the kind of each row of a batch."""
        if batch.names is not self._names or batch.shadow != self._shadow or not len(self._table):
            self._names, self._shadow = batch.names, batch.shadow
            places = [(key.name, place) for place, key in enumerate(batch.names)]
            self._table = np.array(
                [
                    [
                        self.number(Kind(name, place, batch.names, batch.shadow, counted, True))
                        for counted in (False, True)
                    ]
                    for name, place in [*places, (None, -1)]  # place -1 is the last row
                ],
                np.uint32,
            )
        return self._table[batch.chosen, batch.counted.astype(np.int64)]


class Segments:
    """Numbers of segments, 0 for none; those that no decision has any more are used again.

    Parameters
    ----------
    in_use : callable
        Returns the numbers that decisions have.
    """

    def __init__(self, in_use: Callable[[], Iterable[int]]) -> None:
        self._in_use = in_use
        self._segments: list[str | None] = [None]
        self._numbers: dict[str | None, int] = {None: 0}
        self._free: list[int] = []
        self._refused = 0

    def __getitem__(self, number: int) -> str | None:
        return self._segments[number]

    def number(self, segment: str | None) -> int:
        """Return the number of a segment; 0 while there are too many."""
        number = self._numbers.get(segment)
        if number is not None:
            return number
        if not self._free and len(self._segments) == MOST_SEGMENTS:
            if self._refused % MOST_SEGMENTS == 0:  # looking through all decisions is dear
                self._sweep()
            if not self._free:
                self._refused += 1
                return 0
        if self._free:
            number = self._free.pop()
            self._segments[number] = segment
        else:
            number = len(self._segments)
            self._segments.append(segment)
        self._numbers[segment] = number
        return number

    def _sweep(self) -> None:
        used = {0, *self._in_use()}
        for number, segment in enumerate(self._segments):
            if number not in used and segment is not None:
                del self._numbers[segment]
                self._segments[number] = None
                self._free.append(number)
