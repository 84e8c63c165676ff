"""Open decisions: what was decided and may still be answered, filled from the log alone.

Compact: 84 bytes and a context per decision, and some eleven in the index. Ids are 128-bit keyed hashes. Of the
predictions that a decision logged, those for the decided model are kept; those for the others are with the newest
decisions, with decisions of shadow mode, and otherwise in the log alone: `NeedPredictions` asks for them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.flow.pending import _kernels_settle
from banditroute.flow.pending.blocks import BITS, BLOCK, ID, ROW
from banditroute.flow.pending.identity import Identity
from banditroute.flow.pending.open_decision import Open
from banditroute.flow.pending.rows import KEPT_WHOLE, Rows
from banditroute.flow.pending.slots import NONE, Predictions, Slot
from banditroute.flow.records.header import parse_header
from banditroute.flow.settling.chunk import Chunk, Columns

__all__ = ["KEPT_WHOLE", "NeedPredictions", "Pending"]

_EVER = 1 << 62  # beyond every log offset


class NeedPredictions(Exception):
    """A vote names a model other than the decided one: supply the header of the decision at a log offset first."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class Pending(Rows):
    """The decisions of one partition that are known and not closed, in log order, and the votes on them.

    Parameters
    ----------
    d : int
        Columns of a context.
    spec_id : str
        Contexts of another feature spec are not kept.
    identifier : Identifier
        Hashes ids; equal for all who replay the same log.
    keep : int or None
        Newest decisions of which the whole header is kept; None keeps all, for who has no log to read again.
    """

    # -- finding -----------------------------------------------------------------------------------

    def has_request(self, request_id: str) -> bool:
        """Tell whether a request id has a first decision that is known and not closed."""
        return self._find(self.identifier.of(request_id)) >= 0

    def has_each(self, ids: Sequence[bytes]) -> list[int]:
        """Return the places of the request ids for which `has_request` is true."""
        hashes = self.identifier.of_each(ids)
        candidates = np.flatnonzero(self._index.find_each(hashes[:, 1], self._floor) >= 0).tolist()
        return [i for i in candidates if self._find((int(hashes[i, 0]), int(hashes[i, 1]))) >= 0]

    def of_request_id(
        self, request_id: str, upto: int | None = None, tenant: str | None = None
    ) -> Open | None:
        """Return the open decision of lowest log offset with a request id; see `at_request_offset` for `upto`.

        That of the tenant, if one is given and has one.
        """
        identity = self.identifier.of(request_id)
        number = self._find(identity)
        first = None if number < 0 else self._read_open(number, upto)
        if tenant is None or first is None:
            return first
        theirs, found = self.identifier.of_name(tenant), first
        while found.tenant != theirs:
            number = self._find(identity, number + 1)
            following = None if number < 0 else self._read_open(number, upto)
            if following is None:
                return first
            found = following
        return found

    def namesakes(self, request_id: str) -> list[Open]:
        """Return the first decisions with a request id that are known and not closed, in log order."""
        identity, found = self.identifier.of(request_id), []
        number = self._find(identity)
        while number >= 0:
            decision = self._read_open(number, _EVER)
            if decision is not None:
                found.append(decision)
            number = self._find(identity, number + 1)
        return found

    def at_request_offset(self, request_offset: int, upto: int | None = None) -> Open | None:
        """Return the open decision of the request at an offset.

        With `upto`, decisions below that log offset count as open.
        """
        at = bisect_right(self._blocks, request_offset, key=lambda block: block.place) - 1
        while at >= 0:
            block = self._blocks[at]
            row = block.row_of_place(request_offset)
            if row == 0 and at > 0 and block.place == request_offset:
                at -= 1  # later decisions of one request may fill the start of a block
                continue
            break
        for index in range(max(at, 0), min(at + 2, len(self._blocks))):
            block = self._blocks[index]
            row = block.row_of_place(request_offset)
            if row < block.filled:
                number = ((self._first_block + index) << BITS) + row
                if number < self._floor or block.place + int(block.places[row]) != request_offset:
                    return None
                return self._read_open(number, upto) if block.columns["flags"][row] else None
        return None

    def voted_by(self, voter: int) -> Iterator[Open]:
        """Read the open decisions with a vote of a voter (the hash of one) that is on, in log order."""
        for number in self.slots.owners_by(voter):
            decision = self._read_open(number, None)
            if decision is not None:
                yield decision

    def _find(self, identity: Identity, start: int = 0) -> int:
        """Return the lowest sequence number from `start` on with a hash, or -1."""
        low, beyond = identity[1], max(0, start - self._floor)
        while True:
            number = self._index.find(low, self._floor, beyond)
            if number < 0:
                return -1
            at = (number & (BLOCK - 1)) * ROW.size
            if ID.unpack_from(self._block(number).bytes, at) == identity:
                return number
            beyond = number - self._floor + 1

    def _read_open(self, number: int, upto: int | None) -> Open | None:
        block, row = self._block(number), number & (BLOCK - 1)
        offset = block.offset + int(block.offsets[row])
        if number >= self._opened and (upto is None or offset >= upto):
            return None
        high, low, q, sd, tokens, cost, tenant, input_tokens, _, kind, segment, _, on, head = ROW.unpack_from(
            block.bytes, row * ROW.size
        )
        return Open(
            number, offset, (high, low), tenant, self._kinds[kind], self._segments[segment], block.x[row],
            (q, sd, tokens, cost), input_tokens, on, head,
        )  # fmt: skip

    # -- many votes at once ------------------------------------------------------------------------

    def columns(self, chunk: Chunk, partition: int, hi: Mapping[int, int]) -> Columns:
        """Return the columns of the feedback of a chunk; see `Columns`."""
        self._kind_table()  # which numbers the names of the models
        return Columns(chunk, self._d, partition, self.identifier, self.names, hi)

    def look_up(self, columns: Columns, start: int, stop: int) -> None:
        """Find the open decisions of the usual votes from `start` to `stop`, and what was predicted for them."""
        blocks = self._block_table()
        _kernels_settle.look_up(
            self._index.table, self._floor, self._opened, blocks.first, blocks.bits, blocks.addresses,
            self._kind_table(), columns.ids, start, stop, columns.tenants, columns.claims, columns.usual,
            columns.found, columns.votes, columns.x,
        )  # fmt: skip
        columns.looked = stop

    def settle(self, columns: Columns, start: int, stop: int, g: NDArray[np.float64], g_shared: float) -> int:
        """Make the rows of first votes on open decisions; see `SlotTable.settle`."""
        return self.slots.settle(columns, start, stop, self._block_table(), g, g_shared)

    def take_back(self, columns: Columns, start: int, stop: int) -> None:
        """Undo `settle` of the last votes that it made rows for."""
        self.slots.take_back(columns, start, stop, self._block_table())

    def segments(self, numbers: NDArray[np.int64]) -> list[str | None]:
        """Return the segments that some numbers stand for."""
        if not numbers.any():
            return [None] * len(numbers)
        return [self._segments[number] for number in numbers.tolist()]

    def _kind_table(self) -> NDArray[np.int64]:
        """Return key number (-1 where a vote needs more than its row), name and whether tokens were counted."""
        known = len(self._kinds_table)
        if known < len(self._kinds):
            more = []
            for number in range(known, len(self._kinds)):
                kind = self._kinds[number]
                usual = kind.place >= 0 and kind.ours and not kind.shadow
                key = self.slots.key_number(kind.names[kind.place]) if usual else -1
                more.append((key, self.names.setdefault(kind.model or "", len(self.names)), kind.counted))
            self._kinds_table = np.concatenate((self._kinds_table, np.array(more, np.int64)))
        return self._kinds_table

    # -- predictions and votes ---------------------------------------------------------------------

    def predicted(self, decision: Open, name: str) -> tuple[ModelKey, Predictions | None] | None:
        """Return a model's key and what was predicted of it; None in place of the latter stands for `decided`.

        None alone says that the catalog did not have it. Raises NeedPredictions when the log has to be read.
        """
        kind = decision.kind
        if name == kind.model:
            return (kind.names[kind.place], None) if kind.place >= 0 else None
        index = next((i for i, key in enumerate(kind.names) if key.name == name), None)
        if index is None:
            return None
        number = decision.number
        header = self._newest.get(number) or self._shadows.get(number) or self._supplied.get(decision.offset)
        if header is None:
            raise NeedPredictions(decision.offset)
        quality, sd, log_tokens, cost, _ = parse_header(header).predictions[index].tolist()
        return kind.names[index], (quality, sd, log_tokens, cost)

    def supply(self, offset: int, header: bytes) -> None:
        """Keep the header of the decision at a log offset until `forget_supplied`."""
        self._supplied[offset] = header

    def forget_supplied(self) -> None:
        """Let supplied headers go."""
        if self._supplied:
            self._supplied.clear()

    def slots_of(self, decision: Open) -> list[Slot]:
        """Return the slots of a decision in the order in which they were made."""
        return [] if decision.head == NONE else list(self.slots.chain(decision.head))[::-1]

    def put_slot(self, decision: Open, slot: Slot, journal_offset: int, switched: int) -> None:
        """Write a slot that the journal record at an offset made or changed.

        `switched` is by how much the number of quality votes that are on changes.
        """
        if slot.row == NONE:
            decision.head = self.slots.add(decision.head, slot, journal_offset, decision.number)
        else:
            self.slots.write(slot, journal_offset)
        decision.on += switched
        self._block(decision.number).set_votes(decision.number & (BLOCK - 1), decision.on, decision.head)

    def first_touch(self) -> int | None:
        """Return the lowest journal offset that acted on a decision still open."""
        return self.slots.first_touch()
