"""The learner of one partition: it applies journal records, and that is the only way anything is learned.

Evidence and ledger are a function of (decisions, journal) alone: see "What a journal record does" in
docs/EVENTS.md, of which this module is the implementation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from banditroute.events import Control, Copied, Decided, Expire, JournalRecord
from banditroute.flow.pending.open_decision import KnownBatch, KnownDecision, Open
from banditroute.flow.pending.pending import KEPT_WHOLE
from banditroute.flow.records.header import parse_header
from banditroute.flow.records.position import LearnerSettings
from banditroute.flow.settling.chunk import Chunk, readable
from banditroute.flow.settling.effects import NeedDecisions, Parked, Ready
from banditroute.flow.settling.runs import Runs, Watch


class Learner(Runs):
    """Applies the journal of one partition.

    Parameters
    ----------
    partition : int
        The partition number.
    d : int
        Columns of the context.
    spec_id : str
        The feature spec whose decisions this learner learns from.
    settings : LearnerSettings
        What evidence depends on beside the log.
    hash_key : str
        The key under which ids are hashed: that of the partition's genesis.
    keep : int or None
        Newest decisions of which all predictions are kept in memory; None keeps those of all.
    """

    def __init__(
        self,
        partition: int,
        d: int,
        spec_id: str,
        settings: LearnerSettings,
        hash_key: str = "",
        keep: int | None = KEPT_WHOLE,
    ) -> None:
        super().__init__(partition, d, spec_id, settings, hash_key, keep)
        self.spec_id = spec_id
        self.end = 0  # decisions below this log offset are known
        self.r = 0  # 1 + highest request offset known
        self.j = 0  # next journal offset

    # -- decisions ---------------------------------------------------------------------------------

    def know(self, decision: KnownDecision) -> None:
        """Take note of the next decision in the log; offsets ascend."""
        if decision.offset < self.end:
            return
        header = parse_header(decision.header)
        self.pending.add(decision, header, self.r)
        self.end = decision.offset + 1
        self.r = max(self.r, header.request_offset + 1)

    def know_batch(self, batch: KnownBatch, base: int, timestamps: NDArray[np.int64]) -> None:
        """Take note of first decisions, which the log has from offset `base` on."""
        count = len(batch.ids)
        if count:
            self.pending.add_batch(base, timestamps, batch)
            self.end = base + count
            self.r = int(batch.request_offsets[-1]) + 1

    def has_request(self, request_id: str) -> bool:
        """Tell whether a request id already has a decision inside the join window."""
        return self.pending.has_request(request_id)

    def has_each(self, ids: Sequence[bytes]) -> Sequence[int]:
        """Return the places of the ids for which `has_request` is true."""
        return self.pending.has_each(ids)

    def first_of(self, request_id: str, tenant: str | None, closed: int = 0) -> tuple[Open | None, int]:
        """Return the decision that a tenant's request id already has, and how many other tenants have one.

        Decisions below the log offset ``closed`` count as closed.
        """
        namesakes = [one for one in self.pending.namesakes(request_id) if one.offset >= closed]
        whose = self.pending.identifier.of_name(tenant)
        return next((one for one in namesakes if one.tenant == whose), None), len(namesakes)

    def take_in(self, upto: int) -> None:
        """Make the known decisions below a log offset open to feedback."""
        first, later, after = self.pending.take_in(upto)
        self._count("first", first)
        self._count("later", later)
        self.fields.rD = max(self.fields.rD, after)

    # -- the journal -------------------------------------------------------------------------------

    def apply(self, offset: int, timestamp: int, value: bytes | None) -> Ready:
        """Apply one journal record; see `apply_decoded`."""
        return self.apply_decoded(offset, timestamp, readable(value))

    def apply_some(self, chunk: Chunk, stop: int, watch: Watch | None = None) -> Ready:
        """Apply a run of votes, or else one record, from `chunk.at` on, before place `stop`; see `settle_run`."""
        at = chunk.at
        run = self.settle_run(chunk, stop, watch)
        if chunk.at > at:
            self.j = chunk.offsets[chunk.at - 1] + 1
            return Ready(run=run)
        ready = self.apply_decoded(chunk.offsets[at], chunk.timestamps[at], chunk.records[at])
        chunk.outcomes.append(ready.outcome)
        chunk.at = at + 1
        return ready

    def apply_decoded(self, offset: int, timestamp: int, record: JournalRecord | None) -> Ready:
        """Apply one journal record.

        Parameters
        ----------
        offset, timestamp : int
            Its log offset and Kafka timestamp in milliseconds.
        record : JournalRecord or None
            Decoded; None cannot be read.

        Returns
        -------
        Ready
            Votes learned and feedback refused by it; empty while frozen.

        Raises
        ------
        NeedDecisions, NeedPredictions
            Before anything changed, when decisions must be read first, or one of them again.
        """
        control, outcome = False, None
        if isinstance(record, Copied):
            found = None if record.feedback.request_id is None else self._find(record.feedback)
            self._tick(timestamp)
            outcome = self._feedback(offset, timestamp, record, found)
        elif isinstance(record, Decided):
            self._require(record.upto)
            self._tick(timestamp)
            self._count("decided")
            self._decided(record.upto)
        else:
            self._tick(timestamp)
            if isinstance(record, Expire):
                self._count("expired_records")
                self._expire(record.upto, record.before)
            elif isinstance(record, Control):
                control = self._control(record)
            else:
                self._count("unreadable")
        self.j = offset + 1
        ready = Ready(self._learned, self._refused, control, outcome)
        if self._learned or self._refused:
            self._learned, self._refused = [], []
        self.pending.forget_supplied()
        return ready

    def _require(self, upto: int) -> None:
        """Ask for what a Decided needs that memory does not hold, before anything changes."""
        if upto > self.end:
            raise NeedDecisions(upto)
        for parked in self._awaited(upto):
            if parked.copied.feedback.model is not None:
                self._find(parked.copied.feedback, upto)

    def _awaited(self, upto: int) -> list[Parked]:
        """Return the parked feedback that may have an outcome once decisions below a log offset are known."""
        if not len(self.parked) or upto <= self.fields.D:
            return []
        return self.parked.waiting_for(*self.pending.opening(upto), self.fields.rX)

    def _tick(self, timestamp: int) -> None:
        step = self.fields.advance(timestamp, self.settings)
        if step is not None and not self.frozen:
            factor = math.exp(step)
            for key in self.evidence.rows:
                self.evidence.scale(key, factor)
            self.evidence.scale_shared(factor)

    def _decided(self, upto: int) -> None:
        if upto <= self.fields.D:
            return
        awaited = self._awaited(upto)
        self.take_in(upto)
        self.fields.D = upto
        for parked in awaited:
            feedback = parked.copied.feedback
            outcome = self._settle(parked.journal_offset, feedback, self._find(feedback))
            if outcome is not None:
                self.parked.remove(parked.journal_offset)
                self._outcome(parked.copied, outcome)

    def _expire(self, upto: int, before: int) -> None:
        fields = self.fields
        upto = max(fields.X, min(upto, fields.D))
        closed = self.pending.close_below(upto)
        self._count("answered", closed.answered)
        self._count("expired", closed.expired)
        fields.rX = max(fields.rX, closed.next_request)
        fields.X = upto
        for parked in self.parked.older_than(before):
            self._give_up(parked)

    def _control(self, record: Control) -> bool:
        fields = self.fields
        if record.number <= fields.cursor:
            self._count("control_repeated")
            return False
        self._count("control")
        fields.cursor = record.number
        for name, factor in fields.edit(record.edit).items():
            if not self.frozen:
                for key in self.evidence.rows:
                    if key.name == name:
                        self.evidence.scale(key, factor)
        return True

    def _feedback(self, offset: int, timestamp: int, copied: Copied, found: Open | str | None) -> str:
        source, source_offset = copied.src
        if source_offset <= self.fields.hi.get(source, -1):
            self._count("copied_twice")
            return "copied_twice"
        self.fields.hi[source] = source_offset
        if copied.feedback.request_id is None:
            return self._outcome(copied, self._withdraw_voter(offset, copied.feedback))
        outcome = self._settle(offset, copied.feedback, found)
        if outcome is not None:
            return self._outcome(copied, outcome)
        self.parked.add(Parked(offset, timestamp, copied))
        oldest = self.parked.oldest()
        if len(self.parked) > self.settings.max_parked and oldest is not None:
            self._give_up(oldest)
        return "parked"

    def _give_up(self, parked: Parked) -> None:
        self.parked.remove(parked.journal_offset)
        self._outcome(parked.copied, "elsewhere" if parked.copied.everywhere else "orphan")
