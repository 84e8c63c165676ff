"""Rows of known decisions in log order: blocks of columns, made as decisions come and dropped as they close."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.arithmetic._kernels_memory import address_of

BITS: Final = 11
BLOCK: Final = 1 << BITS  # rows
#: id, quality, sd, log_tokens and cost predicted for the decided model, tenant, input tokens, timestamp as a difference
#: to the block's first, kind of decision, segment, flags, quality votes on, first slot
ROW: Final = struct.Struct("<2Q4dQfiIHBBi")
ID: Final = struct.Struct("<2Q")  # at the start of a row
FIRST: Final = 1  # flag: the first decision of its request
COLUMNS: Final = np.dtype(
    [
        ("id", "<u8", 2), ("predictions", "<f8", 4), ("tenant", "<u8"), ("tokens", "<f4"), ("timestamp", "<i4"),
        ("kind", "<u4"), ("segment", "<u2"), ("flags", "u1"), ("on", "u1"), ("slot", "<i4"),
    ]
)  # fmt: skip
assert COLUMNS.itemsize == ROW.size
_ON_AT: Final = COLUMNS.fields["on"][1] if COLUMNS.fields else 0
_SLOT_AT: Final = COLUMNS.fields["slot"][1] if COLUMNS.fields else 0
_SLOT: Final = struct.Struct("<i")
_U32: Final = 1 << 32
_I31: Final = 1 << 31


class Block:
    """Up to `BLOCK` rows, consecutive in the log.

    Parameters
    ----------
    d : int
        Columns of a context.
    offset, place, timestamp : int
        What the rows' columns of that name are differences to.
    """

    __slots__ = (
        "addresses",
        "bytes",
        "columns",
        "filled",
        "offset",
        "offsets",
        "place",
        "places",
        "timestamp",
        "x",
    )

    def __init__(self, d: int, offset: int, place: int, timestamp: int) -> None:
        self.bytes = bytearray(BLOCK * ROW.size)
        self.columns = np.frombuffer(self.bytes, COLUMNS)
        self.offsets: NDArray[np.uint32] = np.empty(BLOCK, np.uint32)  # differences, ascending
        self.places: NDArray[np.uint32] = np.empty(BLOCK, np.uint32)  # differences, never descending
        self.x: NDArray[np.float32] = np.empty((BLOCK, d), np.float32)
        self.offset, self.place, self.timestamp = offset, place, timestamp
        self.filled = 0
        #: where the columns, contexts and places are, for kernels
        self.addresses = (address_of(self.columns), address_of(self.x), address_of(self.places))

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self.bytes) + self.offsets.nbytes + self.places.nbytes + self.x.nbytes

    def fits(self, offset: int, place: int, timestamp: int) -> bool:
        """Whether a row's differences fit their columns."""
        return (
            offset - self.offset < _U32
            and place - self.place < _U32
            and -_I31 <= timestamp - self.timestamp < _I31
        )

    def set_votes(self, row: int, on: int, slot: int) -> None:
        """Write how many quality votes are on, and the first slot."""
        self.bytes[row * ROW.size + _ON_AT] = on
        _SLOT.pack_into(self.bytes, row * ROW.size + _SLOT_AT, slot)

    def rows_below(self, offset: int) -> int:
        """Return how many rows have a log offset below one."""
        return self._rows(self.offsets, offset - self.offset)

    def row_of_place(self, place: int) -> int:
        """Return the first row at or behind a place; the number of rows if there is none."""
        return self._rows(self.places, place - self.place)

    def _rows(self, column: NDArray[np.uint32], bound: int) -> int:
        if bound <= 0:
            return 0
        return self.filled if bound >= _U32 else int(column[: self.filled].searchsorted(np.uint32(bound)))
