"""Rows of known decisions: taking note of them, opening them to feedback, closing them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.flow.pending.blocks import BITS, BLOCK, FIRST, ROW, Block
from banditroute.flow.pending.identity import Identifier, Identity
from banditroute.flow.pending.index import RequestIndex
from banditroute.flow.pending.interning import Kinds, Segments
from banditroute.flow.pending.kept import KeptHeaders
from banditroute.flow.pending.open_decision import Closed, Kind, KnownBatch, KnownDecision
from banditroute.flow.pending.slots import NONE, BlockTable, SlotTable
from banditroute.flow.records.header import COLUMNS, Header

KEPT_WHOLE: Final = 1024  # newest decisions whose header is kept
NAN: Final = float("nan")


class Rows:
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
        self._d, self._spec_id = d, spec_id
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
        self._newest = KeptHeaders(keep)
        self._shadows = KeptHeaders(None)
        self._supplied: dict[int, bytes] = {}  # by log offset
        self._blocks_table: BlockTable | None = None
        self._kinds_table: NDArray[np.int64] = np.empty((0, 3), np.int64)
        self.names: dict[str, int] = {}  # numbers of the models that decisions have

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
        (self._shadows if header.shadow else self._newest).add(number, [known.header])

    def add_batch(self, base: int, timestamps: NDArray[np.int64], batch: KnownBatch) -> None:
        """Take note of decisions that the log has from offset `base` on, request offsets ascending.

        All of them are first: what has a decision already is not decided again.
        """
        ids, kinds = self.identifier.of_each(batch.ids), self._kinds.of_batch(batch)
        done, n = 0, len(batch.ids)
        while done < n:
            block, row = self._room(base + done, int(batch.request_offsets[done]), int(timestamps[done]))
            count = min(n - done, BLOCK - row)
            last, times = int(batch.request_offsets[done + count - 1]), timestamps[done : done + count]
            if not all(
                block.fits(base + done + count, last, int(time)) for time in (times.min(), times.max())
            ):
                count = 1  # a leap in the request offsets or in time
            self._fill(block, row, ids, kinds, base, timestamps, batch, slice(done, done + count))
            first = self._end
            block.filled += count
            numbers = np.arange(first, first + count)
            self._index.insert(ids[done : done + count, 1], numbers)
            (self._shadows if batch.shadow else self._newest).add(first, batch.headers[done : done + count])
            done += count

    def _fill(
        self,
        block: Block,
        row: int,
        ids: NDArray[np.uint64],
        kinds: NDArray[np.uint32],
        base: int,
        timestamps: NDArray[np.int64],
        batch: KnownBatch,
        part: slice,
    ) -> None:
        rows = slice(row, row + part.stop - part.start)
        into = block.columns[rows]
        into["id"] = ids[part]
        into["predictions"] = batch.predictions[part, :4]
        tenants, segments = batch.tenants[part], batch.segments[part]
        into["tenant"] = into["segment"] = 0
        if tenants.count(None) < len(tenants):
            into["tenant"] = [self.identifier.of_name(tenant) for tenant in tenants]
        into["tokens"] = batch.tokens[part]
        into["timestamp"] = timestamps[part] - block.timestamp
        into["kind"] = kinds[part]
        if segments.count(None) < len(segments):
            into["segment"] = [self._segments.number(segment) for segment in segments]
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
            self._blocks_table = None
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

    def opening(self, upto: int) -> tuple[list[Identity], list[int]]:
        """Return ids and request offsets of the first decisions that `take_in` would open."""
        identities: list[Identity] = []
        places: list[int] = []
        at = self._opened
        while at < self._end:
            block, row = self._block(at), at & (BLOCK - 1)
            stop = block.rows_below(upto)
            if stop > row:
                first = np.flatnonzero(block.columns["flags"][row:stop]) + row
                identities += [(high, low) for high, low in block.columns["id"][first].tolist()]
                places += (block.places[first].astype(np.int64) + block.place).tolist()
            if stop < block.filled or block is self._blocks[-1]:
                break
            at = (at >> BITS << BITS) + BLOCK
        return identities, places

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
        self._newest.drop_below(self._floor)
        self._shadows.drop_below(self._floor)
        return Closed(answered, expired, after)

    def _drop_first(self) -> None:
        del self._blocks[0]
        self._blocks_table = None
        self._first_block += 1
        self._floor = self._first_block << BITS
        self._opened = max(self._opened, self._floor)

    def due(self, before: int, surplus: int, most: int | None = None) -> int | None:
        """Return the log offset behind the oldest decisions that are to be closed, `most` of them at most.

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
            closing = np.flatnonzero(first[:end])[:most]
            if len(closing):
                upto = block.offset + int(block.offsets[row + closing[-1]]) + 1
            if most is not None:
                most -= len(closing)
            if end < stop - row or most == 0:
                break
            surplus -= int(np.count_nonzero(first))
            at = (at >> BITS << BITS) + BLOCK
        return upto

    # -- blocks ------------------------------------------------------------------------------------

    def _block(self, number: int) -> Block:
        return self._blocks[(number >> BITS) - self._first_block]

    def _block_table(self) -> BlockTable:
        if self._blocks_table is None:
            rows = [(*block.addresses, block.place) for block in self._blocks]
            self._blocks_table = BlockTable(self._first_block, BITS, np.array(rows, np.int64).reshape(-1, 4))
        return self._blocks_table
