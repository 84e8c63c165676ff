"""Open decisions: what was decided and may still be answered, filled from the log alone.

Compact: 84 bytes and a context per decision, and some eleven in the index. Ids are 128-bit keyed hashes. Of the
predictions that a decision logged, those for the decided model are kept; those for the others are with the newest
decisions, with decisions of shadow mode, and otherwise in the log alone: `NeedPredictions` asks for them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence import ModelKey
from banditroute.flow.blocks import BITS, BLOCK, FIRST, ID, ROW, Block
from banditroute.flow.header import COLUMNS, Header, parse_header
from banditroute.flow.identity import Identifier, Identity
from banditroute.flow.index import RequestIndex
from banditroute.flow.interning import Kinds, Segments
from banditroute.flow.known import Closed, Kind, KnownBatch, KnownDecision, Open
from banditroute.flow.slots import NONE, Predictions, Slot, SlotTable

KEPT_WHOLE: Final = 1024  # newest decisions whose header is kept
NAN: Final = float("nan")


class NeedPredictions(Exception):
    """A vote names a model other than the decided one: supply the header of the decision at a log offset first."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class Pending:
    """The decisions of one partition that are known and not closed, in log order.

    Those below `opened` are open to feedback, those behind it wait for the journal to say so.

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

    def __init__(self, d: int, spec_id: str, identifier: Identifier, keep: int | None = KEPT_WHOLE) -> None:
        self._d, self._spec_id, self._keep = d, spec_id, keep
        self.identifier = identifier
        self.slots = SlotTable()
        self._index = RequestIndex()
        self._blocks: list[Block] = []
        self._first_block = 0  # number of the first block
        self._floor = 0  # sequence number of the oldest row
        self._opened = 0  # sequence number of the first row that is not open
        self._open = 0
        self._kinds = Kinds()
        self._segments = Segments(self._segments_in_use)
        self._newest: dict[int, bytes] = {}  # headers by sequence number, oldest first
        self._shadows: dict[int, bytes] = {}
        self._supplied: dict[int, bytes] = {}  # by log offset

    def __len__(self) -> int:
        return self._open

    @property
    def nbytes(self) -> int:
        """Bytes of blocks, index and slots."""
        return sum(block.nbytes for block in self._blocks) + self._index.nbytes + self.slots.nbytes

    # -- taking note -------------------------------------------------------------------------------

    def add(self, known: KnownDecision, header: Header, r: int) -> None:
        """Take note of a decision read from the log; `r` is 1 + the highest request offset before it."""
        name = known.model
        index = next((i for i, key in enumerate(header.keys) if key.name == name), -1)
        ours = header.spec_id == self._spec_id
        kind = self._kinds.number(Kind(name, index, header.keys, header.shadow, header.counted, ours))
        first = header.request_offset >= r
        place = max(header.request_offset, r - 1)
        block, row = self._room(known.offset, place, known.timestamp)
        predictions = header.predictions[index].tolist() if index >= 0 else [NAN] * COLUMNS
        identity = self.identifier.of(known.request_id)
        ROW.pack_into(
            block.bytes, row * ROW.size, *identity, *predictions[:4], self.identifier.of_name(known.tenant),
            header.input_tokens, known.timestamp - block.timestamp, kind, self._segments.number(known.segment),
            FIRST if first else 0, 0, NONE,
        )  # fmt: skip
        block.offsets[row], block.places[row] = known.offset - block.offset, place - block.place
        if ours:
            block.x[row] = header.x
        block.filled += 1
        number = self._end - 1
        if first:
            self._index.insert(np.array([identity[1]], np.uint64), np.array([number]))
        self._keep_whole([number], [known.header], header.shadow)

    def add_batch(self, base: int, timestamp: int, batch: KnownBatch) -> None:
        """Take note of decisions of our own that were appended at log offset `base`, request offsets ascending.

        All of them are first: what has a decision already is not decided again.
        """
        ids, kinds = self.identifier.of_each(batch.ids), self._kinds.of_batch(batch)
        done, n = 0, len(batch.ids)
        while done < n:
            block, row = self._room(base + done, int(batch.request_offsets[done]), timestamp)
            count = min(n - done, BLOCK - row)
            while not block.fits(
                base + done + count, int(batch.request_offsets[done + count - 1]), timestamp
            ):
                count = 1  # a leap in the request offsets
            self._fill(block, row, ids, kinds, base, timestamp, batch, slice(done, done + count))
            first = self._end
            block.filled += count
            numbers = np.arange(first, first + count)
            self._index.insert(ids[done : done + count, 1], numbers)
            self._keep_whole(numbers.tolist(), batch.headers[done : done + count], batch.shadow)
            done += count

    def _fill(
        self,
        block: Block,
        row: int,
        ids: NDArray[np.uint64],
        kinds: NDArray[np.uint32],
        base: int,
        timestamp: int,
        batch: KnownBatch,
        part: slice,
    ) -> None:
        rows = slice(row, row + part.stop - part.start)
        into = block.columns[rows]
        into["id"] = ids[part]
        into["predictions"] = batch.predictions[part, :4]
        into["tenant"] = [self.identifier.of_name(tenant) for tenant in batch.tenants[part]]
        into["tokens"] = batch.tokens[part]
        into["timestamp"] = timestamp - block.timestamp
        into["kind"] = kinds[part]
        into["segment"] = [self._segments.number(segment) for segment in batch.segments[part]]
        into["flags"] = FIRST
        into["on"] = 0
        into["slot"] = NONE
        block.offsets[rows] = np.arange(base + part.start - block.offset, base + part.stop - block.offset)
        block.places[rows] = batch.request_offsets[part] - block.place
        block.x[rows] = batch.x[part]

    def _room(self, offset: int, place: int, timestamp: int) -> tuple[Block, int]:
        """Return the block and row for the next decision."""
        last = self._blocks[-1] if self._blocks else None
        if last is None or last.filled == BLOCK or not last.fits(offset, place, timestamp):
            if last is not None and last.filled < BLOCK and self._opened == self._end:
                self._opened += BLOCK - last.filled  # what stays unused has no number to wait for
            last = Block(self._d, offset, place, timestamp)
            self._blocks.append(last)
            if len(self._blocks) == 1:
                self._floor = self._opened = self._first_block << BITS
        return last, last.filled

    @property
    def _end(self) -> int:
        """The sequence number behind the last row."""
        if not self._blocks:
            return self._first_block << BITS
        return ((self._first_block + len(self._blocks) - 1) << BITS) + self._blocks[-1].filled

    def _segments_in_use(self) -> set[int]:
        used: set[int] = set()
        for block in self._blocks:
            used.update(np.unique(block.columns["segment"][: block.filled]).tolist())
        return used

    def _keep_whole(self, numbers: Sequence[int], headers: Sequence[bytes], shadow: bool) -> None:
        kept = self._shadows if shadow else self._newest
        kept.update(zip(numbers, headers, strict=True))
        if not shadow and self._keep is not None and len(kept) > self._keep:
            for number in list(islice(kept, len(kept) - self._keep)):
                del kept[number]

    # -- opening and closing -----------------------------------------------------------------------

    def take_in(self, upto: int) -> tuple[int, int, int]:
        """Open the decisions below a log offset to feedback.

        Returns
        -------
        int, int, int
            How many of them are first, how many are not, and 1 + the highest request offset among them (0 for none).
        """
        first = later = after = 0
        while self._opened < self._end:
            block = self._block(self._opened)
            row = self._opened & (BLOCK - 1)
            stop = block.rows_below(upto)
            if stop > row:
                firsts = int(np.count_nonzero(block.columns["flags"][row:stop]))
                first, later = first + firsts, later + stop - row - firsts
                after = block.place + int(block.places[stop - 1]) + 1
            whole = stop == block.filled and block is not self._blocks[-1]
            self._opened += max(stop - row, 0) if not whole else BLOCK - row
            if not whole:
                break
        self._open += first
        return first, later, after

    def close_below(self, upto: int) -> Closed:
        """Close the open decisions with a log offset below `upto`."""
        answered = expired = after = 0
        while self._floor < self._opened:
            block = self._block(self._floor)
            row = self._floor & (BLOCK - 1)
            stop = min(block.rows_below(upto), self._opened - (self._floor - row))
            if stop > row:
                rows = block.columns[row:stop]
                first = rows["flags"] != 0
                numbers = np.arange(self._floor, self._floor + stop - row)
                self._index.remove(np.ascontiguousarray(rows["id"][first, 1]), numbers[first])
                voted = int(np.count_nonzero(rows["on"]))
                answered, expired = answered + voted, expired + int(np.count_nonzero(first)) - voted
                heads = rows["slot"]
                self.slots.free(heads[heads != NONE])
                after = block.place + int(block.places[stop - 1]) + 1
            if stop == block.filled and (block.filled == BLOCK or block is not self._blocks[-1]):
                self._drop_first()
                continue
            self._floor += max(stop - row, 0)
            break
        self._open -= answered + expired
        for kept in (self._newest, self._shadows):
            while kept and (oldest := next(iter(kept))) < self._floor:
                del kept[oldest]
        return Closed(answered, expired, after)

    def _drop_first(self) -> None:
        del self._blocks[0]
        self._first_block += 1
        self._floor = self._first_block << BITS
        self._opened = max(self._opened, self._floor)

    def due(self, before: int, surplus: int) -> int | None:
        """Return the log offset behind the oldest decisions that are to be closed.

        From the oldest on, these are older than `before` (milliseconds) or among the first `surplus`.
        """
        upto = None
        at = self._floor
        while at < self._opened:
            block = self._block(at)
            row = at & (BLOCK - 1)
            stop = min(block.filled, row + self._opened - at)
            rows = block.columns[row:stop]
            first = rows["flags"] != 0
            passes = ~first | (rows["timestamp"].astype(np.int64) + block.timestamp < before)
            passes |= np.cumsum(first) <= surplus
            end = stop - row if passes.all() else int(np.argmin(passes))
            closing = np.flatnonzero(first[:end])
            if len(closing):
                upto = block.offset + int(block.offsets[row + closing[-1]]) + 1
            if end < stop - row:
                break
            surplus -= int(np.count_nonzero(first))
            at = (at >> BITS << BITS) + BLOCK
        return upto

    # -- finding -----------------------------------------------------------------------------------

    def has_request(self, request_id: str) -> bool:
        """Tell whether a request id has a first decision that is known and not closed."""
        return self._find(self.identifier.of(request_id)) >= 0

    def has_each(self, ids: Sequence[bytes]) -> list[int]:
        """Return the places of the request ids for which `has_request` is true."""
        hashes = self.identifier.of_each(ids)
        candidates = np.flatnonzero(self._index.find_each(hashes[:, 1], self._floor) >= 0).tolist()
        return [i for i in candidates if self._find((int(hashes[i, 0]), int(hashes[i, 1]))) >= 0]

    def of_request_id(self, request_id: str, upto: int | None = None) -> Open | None:
        """Return the open decision of lowest log offset with a request id; see `at_request_offset` for `upto`."""
        number = self._find(self.identifier.of(request_id))
        return None if number < 0 else self._read_open(number, upto)

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
        at = self._floor
        while at < self._opened:
            block, row = self._block(at), at & (BLOCK - 1)
            stop = min(block.filled, row + self._opened - at)
            for found in np.flatnonzero(self.slots.any_by(voter, block.columns["slot"][row:stop])).tolist():
                decision = self._read_open(at + found, None)
                if decision is not None:
                    yield decision
            at = (at >> BITS << BITS) + BLOCK

    def _find(self, identity: Identity) -> int:
        """Return the lowest sequence number with a hash, or -1."""
        low, beyond = identity[1], 0
        while True:
            number = self._index.find(low, self._floor, beyond)
            if number < 0:
                return -1
            at = (number & (BLOCK - 1)) * ROW.size
            if ID.unpack_from(self._block(number).bytes, at) == identity:
                return number
            beyond = number - self._floor + 1

    def _block(self, number: int) -> Block:
        return self._blocks[(number >> BITS) - self._first_block]

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
            decision.head = self.slots.add(decision.head, slot, journal_offset)
        else:
            self.slots.write(slot, journal_offset)
        decision.on += switched
        self._block(decision.number).set_votes(decision.number & (BLOCK - 1), decision.on, decision.head)

    def first_touch(self) -> int | None:
        """Return the lowest journal offset that acted on a decision still open."""
        return self.slots.first_touch()
