"""The votes on open decisions: one row of 132 bytes per (decision, kind, source, voter), chained per decision."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.flow.pending import _kernels_index, _kernels_settle
from banditroute.flow.pending.identity import NOBODY, Identity

if TYPE_CHECKING:
    from banditroute.flow.settling.chunk import Columns

Floats = NDArray[np.float64]
MAX_SLOTS: Final = 16  # slots per decision, and feedback ids remembered per slot
KINDS: Final = ("thumb", "score", "judge", "outcome", "usage")
NONE: Final = -1
_KIND: Final = {kind: number for number, kind in enumerate(KINDS)}
_ROW: Final = struct.Struct(
    "<BBHI2Q2Q5d2d"
)  # kind, on, seen, model, who, first id seen, numbers, g, g_shared
_COLUMNS: Final = np.dtype(
    [
        ("kind", "u1"), ("on", "u1"), ("seen", "<u2"), ("key", "<u4"), ("who", "<u8", 2), ("first_seen", "<u8", 2),
        ("numbers", "<f8", 5), ("g", "<f8", 2),
    ]
)  # fmt: skip
assert _COLUMNS.itemsize == _ROW.size
_NEVER: Final = np.iinfo(np.int64).max
_GROWTH: Final = 1.125
_LEAST: Final = 64

Numbers = tuple[float, float, float, float, float]
Predictions = tuple[float, float, float, float]


class Slot(Struct, gc=False):
    """One vote's place on a decision; `g` and `g_shared` are the log factors at apply.

    `numbers` are quality, output_tokens, cost_usd, latency_ms and input_tokens, NaN where absent; `predictions` are
    quality, sd, log_tokens and cost as logged for a model that was not the decided one. `seen` are ids of feedback.
    """

    row: int
    kind: str
    on: bool
    who: Identity
    seen: list[Identity]
    key: ModelKey
    numbers: Numbers
    predictions: Predictions | None
    g: float
    g_shared: float


class BlockTable(NamedTuple):
    """Where kernels find the rows of decisions: int64[blocks, 4] from block number ``first`` on; see `look_up`.

    A block holds ``1 << bits`` rows.
    """

    first: int
    bits: int
    addresses: NDArray[np.int64]


class SlotTable:
    """Rows of votes with a free list; a decision keeps the number of its first row, a row that of the next."""

    def __init__(self) -> None:
        self._rows = bytearray()
        self._following: NDArray[np.int32] = np.empty(0, np.int32)
        self._touched: NDArray[np.int64] = np.empty(0, np.int64)
        # once more, each in one piece: a withdrawal by voter looks at all of them
        self._voters: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._owners: NDArray[np.int64] = np.empty(0, np.int64)  # sequence numbers of decisions
        self._free = NONE
        self.keys: list[ModelKey] = []
        self._key_numbers: dict[ModelKey, int] = {}
        self._more_seen: dict[int, list[Identity]] = {}  # beyond the first id
        self._predictions: dict[int, Predictions] = {}  # of a model that was not the decided one

    @property
    def nbytes(self) -> int:
        """Bytes held by rows, used or free."""
        columns = (self._following, self._touched, self._voters, self._owners)
        return len(self._rows) + sum(column.nbytes for column in columns)

    def add(self, head: int, slot: Slot, journal_offset: int, owner: int) -> int:
        """Write a new slot in front of the chain of decision number `owner` and return its row, the new head."""
        if self._free == NONE:
            self._grow()
        row = slot.row = self._free
        self._free = int(self._following[row])
        self._following[row] = head
        self._touched[row] = _NEVER
        self._voters[row], self._owners[row] = slot.who[1], owner
        self.write(slot, journal_offset)
        return row

    def write(self, slot: Slot, journal_offset: int) -> None:
        """Write a slot into its row; the journal record at an offset acted on it."""
        row, seen = slot.row, slot.seen
        key = self.key_number(slot.key)
        first = seen[0] if seen else NOBODY
        _ROW.pack_into(
            self._rows, row * _ROW.size, _KIND[slot.kind], slot.on, len(seen), key,
            *slot.who, *first, *slot.numbers, slot.g, slot.g_shared,
        )  # fmt: skip
        if len(seen) > 1:
            self._more_seen[row] = seen[1:]
        if slot.predictions is not None:
            self._predictions[row] = slot.predictions
        else:
            self._predictions.pop(row, None)
        self._touched[row] = min(self._touched[row], journal_offset)

    def key_number(self, key: ModelKey) -> int:
        """Return the number that stands for a model in rows: its place in `keys`."""
        number = self._key_numbers.get(key)
        if number is None:
            number = self._key_numbers[key] = len(self.keys)
            self.keys.append(key)
        return number

    def settle(
        self, columns: Columns, start: int, stop: int, blocks: BlockTable, g: Floats, g_shared: float
    ) -> int:
        """Make the rows of first votes; return the place of the first vote that is left to `add` or `write`.

        Parameters
        ----------
        columns : Columns
            The votes, looked up from `start` to `stop`.
        start, stop : int
            Which.
        blocks : BlockTable
            Their decisions.
        g : float64[keys]
            Log factor at apply per model.
        g_shared : float
            That of all models together.
        """
        at = start
        while True:
            words = np.frombuffer(self._rows, np.uint64).reshape(-1, _kernels_settle.WORDS)
            # fmt: off
            at, free = _kernels_settle.settle(
                at, stop, columns.usual, columns.found, columns.kinds, columns.who, columns.seen, columns.identities,
                columns.votes, columns.offsets, g, g_shared, blocks.first, blocks.bits, blocks.addresses, words,
                words.view(np.float64), self._following, self._touched, self._voters, self._owners, self._free,
                MAX_SLOTS, columns.made,
            )
            # fmt: on
            self._free = int(free)
            if at == stop or free != NONE or not columns.usual[at]:
                return int(at)
            del words  # a buffer that somebody looks at does not grow
            self._grow()

    def take_back(self, columns: Columns, start: int, stop: int, blocks: BlockTable) -> None:
        """Undo `settle` of the last votes that it made rows for."""
        # fmt: off
        self._free = int(_kernels_settle.take_back(
            start, stop, columns.found, columns.kinds, blocks.first, blocks.bits, blocks.addresses, self._following,
            self._touched, self._voters, self._free, columns.made, _NEVER,
        ))
        # fmt: on

    def chain(self, head: int) -> Iterator[Slot]:
        """Read the slots of a decision, the latest one first."""
        while head != NONE:
            kind, on, seen, key, who0, who1, id0, id1, *rest = _ROW.unpack_from(self._rows, head * _ROW.size)
            ids = [(id0, id1), *self._more_seen.get(head, ())] if seen else []
            quality, output_tokens, cost, latency, input_tokens, g, g_shared = rest
            numbers = (quality, output_tokens, cost, latency, input_tokens)
            who = (who0, who1)
            yield Slot(
                head, KINDS[kind], bool(on), who, ids, self.keys[key], numbers,
                self._predictions.get(head), g, g_shared,
            )  # fmt: skip
            head = int(self._following[head])

    def owners_by(self, voter: int) -> list[int]:
        """Return the numbers of the decisions with a vote by a voter that is on, ascending."""
        rows = np.flatnonzero(self._voters == np.uint64(voter))
        on = np.frombuffer(self._rows, _COLUMNS)["on"][rows] != 0
        owners: list[int] = np.unique(self._owners[rows[on]]).tolist()
        return owners

    def free(self, heads: NDArray[np.int32]) -> None:
        """Give the rows of closed decisions back."""
        if self._more_seen or self._predictions:
            for head in heads.tolist():
                row = head
                while row != NONE:
                    self._more_seen.pop(row, None)
                    self._predictions.pop(row, None)
                    row = int(self._following[row])
        self._free = int(
            _kernels_index.free_chains(
                heads, self._following, self._touched, self._voters, self._free, _NEVER
            )
        )

    def first_touch(self) -> int | None:
        """Return the lowest journal offset that acted on a slot still there."""
        low = int(self._touched.min(initial=_NEVER))
        return None if low == _NEVER else low

    def _grow(self) -> None:
        used = len(self._following)
        size = max(_LEAST, int(used * _GROWTH))
        self._rows.extend(bytes((size - used) * _ROW.size))
        following = np.arange(1, size + 1, dtype=np.int32)
        following[:used] = self._following
        following[-1] = self._free
        touched = np.full(size, _NEVER, np.int64)
        touched[:used] = self._touched
        voters, owners = np.zeros(size, np.uint64), np.zeros(size, np.int64)
        voters[:used], owners[:used] = self._voters, self._owners
        self._voters, self._owners = voters, owners
        self._following, self._touched, self._free = following, touched, used
