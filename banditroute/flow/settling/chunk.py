"""Consecutive journal records that are applied together, and the columns of those among them that are votes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from banditroute.events import Copied, Feedback, JournalRecord, decode_journal
from banditroute.flow.pending.identity import Identifier
from banditroute.flow.pending.slots import KINDS
from banditroute.flow.settling.effects import Learned, LearnedRun, Refused

_BLANK: Final = Feedback(request_id="", kind="withdraw")  # stands for what is no vote
_NOWHERE: Final = (0, -1)
_CODES: Final = {kind: number for number, kind in enumerate((*KINDS, "withdraw"))}
_USAGE: Final = _CODES["usage"]
_WITHDRAW: Final = _CODES["withdraw"]
_FIELD: Final = {name: place for place, name in enumerate(Feedback.__struct_fields__)}
_NUMBERS: Final = {3: "output_tokens", 5: "cost_usd", 7: "latency_ms", 8: "input_tokens"}  # columns of a vote
_MOST_OFFSET: Final = 1 << 62


class Chunk:
    """Journal records in offset order, and how far they were applied.

    Parameters
    ----------
    offsets, timestamps : sequence of int
        Log offsets and Kafka timestamps in milliseconds.
    values : sequence of bytes or None
        As read.
    records : sequence of JournalRecord or None
        Decoded; None cannot be read.

    Attributes
    ----------
    at : int
        Place of the next record to be applied.
    learned, refused, control, outcomes
        What applying brought about so far: that of `Ready`, outcomes by record.
    """

    def __init__(
        self,
        offsets: Sequence[int],
        timestamps: Sequence[int],
        values: Sequence[bytes | None],
        records: Sequence[JournalRecord | None],
    ) -> None:
        self.offsets, self.timestamps, self.values, self.records = offsets, timestamps, values, records
        self.at = 0
        self.learned: list[Learned | LearnedRun] = []
        self.refused: list[Refused] = []
        self.control = False
        self.outcomes: list[str | None] = []
        self.columns: Columns | None = None

    @classmethod
    def of(cls, records: Iterable[Any]) -> Chunk:
        """Decode records read from a journal: anything with `offset`, `timestamp` and `value`."""
        records = list(records)
        values = [record.value for record in records]
        return cls(
            [record.offset for record in records],
            [record.timestamp for record in records],
            values,
            [readable(value) for value in values],
        )

    def __len__(self) -> int:
        return len(self.offsets)


def readable(value: bytes | None) -> JournalRecord | None:
    """Decode a journal record; None where that cannot be done."""
    try:
        return decode_journal(value or b"")
    except msgspec.DecodeError:
        return None


class Columns:
    """The feedback of a chunk, a row per record; `usual` rows may be settled together.

    Parameters
    ----------
    chunk : Chunk
        The records.
    d : int
        Columns of a context.
    partition : int
        Whose journal it is.
    identifier : Identifier
        Hashes ids.
    names : mapping of str to int
        Numbers of the model names that decisions have.
    hi : mapping of int to int
        Highest source offsets so far.
    """

    def __init__(
        self,
        chunk: Chunk,
        d: int,
        partition: int,
        identifier: Identifier,
        names: Mapping[str, int],
        hi: Mapping[int, int],
    ) -> None:
        n = len(chunk)
        copied = [type(record) is Copied for record in chunk.records]
        feedback = [record.feedback if type(record) is Copied else _BLANK for record in chunk.records]
        self.barriers = [i for i, is_copied in enumerate(copied) if not is_copied]
        self.sources = [record.src if type(record) is Copied else _NOWHERE for record in chunk.records]
        fields = list(zip(*map(astuple, feedback), strict=True))
        self._fields, self._n = fields, n
        self.kinds = np.fromiter(map(_CODES.__getitem__, fields[_FIELD["kind"]]), np.uint8, n)
        self.usual = self.kinds != _WITHDRAW
        self.offsets = np.array(chunk.offsets, np.int64)
        self.timestamps = np.array(chunk.timestamps, np.int64)
        self._refuse_repeats(hi)
        self._read_ids(identifier, partition, names)
        self.votes = self._read_numbers()
        there = ~np.isnan(self.votes)
        self.has_quality: NDArray[np.bool_] = there[:, 0]
        self.has_usage: NDArray[np.bool_] = np.logical_or.reduce(there[:, list(_NUMBERS)], axis=1)
        self.found = np.zeros((n, 3), np.int64)
        self.x = np.empty((n, d), np.float32)
        self.made = np.empty(n, np.int32)
        self.looked = 0  # decisions of the votes before this place were looked up

    def next_barrier(self, at: int) -> int:
        """Return the place of the next record that may open or close decisions."""
        return next((place for place in self.barriers if place >= at), self._n)

    def _column(self, name: str) -> tuple[Any, ...] | None:
        column: tuple[Any, ...] = self._fields[_FIELD[name]]
        return None if column.count(None) == self._n else column

    def _refuse_repeats(self, hi: Mapping[int, int]) -> None:
        """Leave what was copied before to the way one by one."""
        last = dict(hi)
        for i, (source, offset) in enumerate(self.sources):
            if offset > last.get(source, -1):
                last[source] = offset
            else:
                self.usual[i] = False

    def _read_ids(self, identifier: Identifier, partition: int, names: Mapping[str, int]) -> None:
        n = self._n
        ids: Sequence[str | None] = self._fields[_FIELD["request_id"]]
        if None in ids:
            self.usual &= np.array([text is not None for text in ids])  # a withdrawal, or no vote at all
        self.ids = identifier.of_texts([text or "" for text in ids])
        self.who: NDArray[np.uint64] = np.zeros((n, 2), np.uint64)
        self.seen: NDArray[np.uint8] = np.zeros(n, np.uint8)
        self.identities: NDArray[np.uint64] = np.zeros((n, 2), np.uint64)
        self.tenants: NDArray[np.uint64] = np.zeros(n, np.uint64)
        self.claims: NDArray[np.int64] = np.full((n, 2), -1)  # place and model
        if (column := self._column("source")) is not None:
            self.who[:, 0] = [identifier.of_name(source) for source in column]
        if (column := self._column("voter")) is not None:
            rows = np.flatnonzero(np.array([voter is not None for voter in column]))
            halves = identifier.of_texts([column[i] for i in rows.tolist()])[:, 0]
            self.who[rows, 1] = np.maximum(halves, np.uint64(1))
        if (column := self._column("feedback_id")) is not None:
            rows = np.flatnonzero(np.array([text is not None for text in column]))
            self.identities[rows] = identifier.of_texts([column[i] for i in rows.tolist()])
            self.seen[rows] = 1
        if (column := self._column("tenant")) is not None:
            self.tenants[:] = [identifier.of_name(tenant) for tenant in column]
        if (column := self._column("model")) is not None:
            self.claims[:, 1] = [-1 if name is None else names.get(name, -2) for name in column]
        if (column := self._column("decision_id")) is not None:
            for i, text in enumerate(column):
                if text is not None:
                    number, _, place = text.partition("-")
                    self.claims[i, 0] = min(int(place), _MOST_OFFSET)
                    self.usual[i] &= int(number) == partition

    def _read_numbers(self) -> NDArray[np.float64]:
        """Return the votes without what was predicted, float64[n, 10]; NaN is absent."""
        votes = np.full((self._n, 10), np.nan)
        if (column := self._column("value")) is not None:
            votes[:, 0] = column  # None becomes NaN
        if (column := self._column("ok")) is not None:
            votes[:, 0] = np.where(np.isnan(votes[:, 0]), np.array(column, np.float64), votes[:, 0])
        votes[self.kinds == _USAGE, 0] = np.nan
        for place, name in _NUMBERS.items():
            if (column := self._column(name)) is not None:
                votes[:, place] = column
        return votes
