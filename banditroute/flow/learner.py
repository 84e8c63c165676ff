"""The learner of one partition: it applies journal records, and that is the only way anything is learned.

Evidence and ledger are a function of (decisions, journal) alone: see "What a journal record does" in
docs/EVENTS.md, of which this module is the implementation.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

import msgspec

from banditroute.bandit.evidence import Evidence
from banditroute.events import (
    QUALITY_KINDS,
    Control,
    Copied,
    Decided,
    Expire,
    Feedback,
    decode_journal,
)
from banditroute.flow.effects import REASONS, Learned, NeedDecisions, Parked, Ready, Refused, withdraws
from banditroute.flow.fields import Fields, LearnerSettings
from banditroute.flow.header import parse_header
from banditroute.flow.identity import Identifier, Identity
from banditroute.flow.known import KnownBatch, KnownDecision, Open
from banditroute.flow.pending import KEPT_WHOLE, Pending
from banditroute.flow.slots import KINDS, MAX_SLOTS, NONE, Slot
from banditroute.flow.votes import has_usage, numbers_of, say_the_same, vote_of


class Learner:
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
        self.partition = partition
        self.spec_id = spec_id
        self.settings = settings
        self.fields = Fields()
        self.evidence = Evidence(d)
        self.ledger: Counter[str] = Counter()
        self.pending = Pending(d, spec_id, Identifier(hash_key), keep)
        self.parked: deque[Parked] = deque()
        self.end = 0  # decisions below this log offset are known
        self.r = 0  # 1 + highest request offset known
        self.j = 0  # next journal offset
        self._weights = {kind: settings.weight(kind) for kind in KINDS}
        self.frozen = False  # re-reading what the evidence already holds
        self._learned: list[Learned] = []
        self._refused: list[Refused] = []

    # -- decisions ---------------------------------------------------------------------------------

    def know(self, decision: KnownDecision) -> None:
        """Take note of the next decision in the log; offsets ascend."""
        if decision.offset < self.end:
            return
        header = parse_header(decision.header)
        self.pending.add(decision, header, self.r)
        self.end = decision.offset + 1
        self.r = max(self.r, header.request_offset + 1)

    def know_batch(self, batch: KnownBatch, base: int, timestamp: int) -> None:
        """Take note of decisions of our own, which the log has from offset `base` on."""
        count = len(batch.ids)
        if count:
            self.pending.add_batch(base, timestamp, batch)
            self.end = base + count
            self.r = int(batch.request_offsets[-1]) + 1

    def has_request(self, request_id: str) -> bool:
        """Tell whether a request id already has a decision inside the join window."""
        return self.pending.has_request(request_id)

    def has_each(self, ids: Sequence[bytes]) -> Sequence[int]:
        """Return the places of the ids for which `has_request` is true."""
        return self.pending.has_each(ids)

    def take_in(self, upto: int) -> None:
        """Make the known decisions below a log offset open to feedback."""
        first, later, after = self.pending.take_in(upto)
        self._count("first", first)
        self._count("later", later)
        self.fields.rD = max(self.fields.rD, after)

    # -- the journal -------------------------------------------------------------------------------

    def apply(self, offset: int, timestamp: int, value: bytes | None) -> Ready:
        """Apply one journal record.

        Parameters
        ----------
        offset, timestamp : int
            Its log offset and Kafka timestamp in milliseconds.
        value : bytes or None
            Its value.

        Returns
        -------
        Ready
            Votes learned and feedback refused by it; empty while frozen.

        Raises
        ------
        NeedDecisions, NeedPredictions
            Before anything changed, when decisions must be read first, or one of them again.
        """
        try:
            record = decode_journal(value or b"")
        except msgspec.DecodeError:
            record = None
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
        for parked in self.parked:
            if parked.copied.feedback.model is not None:
                self._find(parked.copied.feedback, upto)

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
        self.take_in(upto)
        self.fields.D = upto
        again, self.parked = self.parked, deque()
        for parked in again:
            feedback = parked.copied.feedback
            outcome = self._settle(parked.journal_offset, feedback, self._find(feedback))
            if outcome is None:
                self.parked.append(parked)
            else:
                self._outcome(parked.copied, outcome)

    def _expire(self, upto: int, before: int) -> None:
        fields = self.fields
        upto = max(fields.X, min(upto, fields.D))
        closed = self.pending.close_below(upto)
        self._count("answered", closed.answered)
        self._count("expired", closed.expired)
        fields.rX = max(fields.rX, closed.next_request)
        fields.X = upto
        stay = deque(parked for parked in self.parked if parked.timestamp >= before)
        for parked in self.parked:
            if parked.timestamp < before:
                self._give_up(parked.copied)
        self.parked = stay

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
        self.parked.append(Parked(offset, timestamp, copied))
        if len(self.parked) > self.settings.max_parked:
            self._give_up(self.parked.popleft().copied)
        return "parked"

    # -- settling ----------------------------------------------------------------------------------

    def _find(self, feedback: Feedback, upto: int | None = None) -> Open | str | None:
        """Return the open decision of a feedback, why there can be none, or None while it is unknown.

        With `upto`, decisions below that log offset count as open. Raises NeedPredictions if the vote needs more of
        the decision than is in memory.
        """
        if feedback.decision_id is not None:
            partition, _, request_offset = feedback.decision_id.partition("-")
            if int(partition) != self.partition:
                return "rejected: its decision_id names another partition"
            if int(request_offset) < self.fields.rX:
                return "late"
            found = self.pending.at_request_offset(int(request_offset), upto)
        else:
            found = self.pending.of_request_id(feedback.request_id or "", upto)
        if found is not None and feedback.model is not None:
            self.pending.predicted(found, feedback.model)
        return found

    def _settle(self, offset: int, feedback: Feedback, found: Open | str | None) -> str | None:
        """Return the outcome of one feedback, or None while its decision is unknown."""
        if found is None or isinstance(found, str):
            return found
        identifier = self.pending.identifier
        if feedback.decision_id is not None and found.identity != identifier.of(feedback.request_id or ""):
            return "rejected: its decision_id belongs to another request_id"
        if feedback.tenant is not None and identifier.of_name(feedback.tenant) != found.tenant:
            return "foreign"
        identity = None if feedback.feedback_id is None else identifier.of(feedback.feedback_id)
        who = identifier.of_pair(feedback.source, feedback.voter)
        if feedback.kind == "withdraw":
            return self._withdraw(offset, found, who, identity)
        return self._vote(offset, found, feedback, who, identity)

    def _withdraw(self, offset: int, decision: Open, who: Identity, identity: Identity | None) -> str:
        slots = [
            slot for slot in self.pending.slots_of(decision) if slot.kind in QUALITY_KINDS and slot.who == who
        ]
        if identity is not None and any(identity in slot.seen for slot in slots):
            return "duplicate"
        if not any(slot.on for slot in slots):
            return "rejected: there is no vote to withdraw"
        for slot in slots:
            if slot.on:
                self._switch_off(offset, decision, slot, identity)
        return "revised"

    def _switch_off(self, offset: int, decision: Open, slot: Slot, identity: Identity | None) -> None:
        self._take_back(decision, slot)
        slot.on = False
        if identity is not None:
            slot.seen.append(identity)
        self.pending.put_slot(decision, slot, offset, -1)

    def _withdraw_voter(self, offset: int, feedback: Feedback) -> str:
        """Take back every quality vote of a voter on open decisions, and let those go that are parked."""
        stay = deque[Parked]()
        found = False
        for parked in self.parked:
            waits = parked.copied.feedback
            if withdraws(feedback, waits.kind, waits.source, waits.voter) and feedback.tenant in (
                None,
                waits.tenant,
            ):
                self._outcome(parked.copied, "withdrawn")
                found = True
            else:
                stay.append(parked)
        self.parked = stay
        identifier = self.pending.identifier
        source, voter = identifier.of_pair(feedback.source, feedback.voter)
        tenant = None if feedback.tenant is None else identifier.of_name(feedback.tenant)
        identity = None if feedback.feedback_id is None else identifier.of(feedback.feedback_id)
        for decision in self.pending.voted_by(voter):
            if tenant not in (None, decision.tenant):
                continue
            for slot in self.pending.slots_of(decision):
                meant = slot.who[1] == voter and (feedback.source is None or slot.who[0] == source)
                if slot.on and meant and slot.kind in QUALITY_KINDS:
                    self._switch_off(offset, decision, slot, identity)
                    found = True
        return "revised" if found else "elsewhere"

    def _vote(
        self, offset: int, decision: Open, feedback: Feedback, who: Identity, identity: Identity | None
    ) -> str:
        name = feedback.model or (None if decision.kind.shadow else decision.kind.model)
        if name is None:
            return "rejected: the decision was not served by a model of ours; name the `model` that served"
        predicted = self.pending.predicted(decision, name)
        if predicted is None:
            return f"rejected: model '{name}' was not in the catalog when this was decided"
        key, predictions = predicted
        kind, quality = feedback.kind, feedback.quality
        slots = self.pending.slots_of(decision)
        slot = next((slot for slot in slots if slot.kind == kind and slot.who == who), None)
        numbers = numbers_of(feedback, quality)
        if slot is not None:
            same = (
                identity is None and slot.on and slot.key.name == name and say_the_same(slot.numbers, numbers)
            )
            if same or (identity is not None and identity in slot.seen):
                return "duplicate"
            if identity is not None and len(slot.seen) >= MAX_SLOTS:
                return f"rejected: this vote was already revised {MAX_SLOTS} times"
        elif len(slots) >= MAX_SLOTS:
            return f"rejected: the decision already has {MAX_SLOTS} different votes"
        was_on = slot is not None and slot.on
        if slot is not None and slot.on:
            self._take_back(decision, slot)
        seen = [] if slot is None else slot.seen
        if identity is not None:
            seen.append(identity)
        fields = self.fields
        g = fields.decay + fields.shrink.get(name, 0.0)
        row = NONE if slot is None else slot.row
        new = Slot(row, kind, True, who, seen, key, numbers, predictions, g, fields.decay)
        self.pending.put_slot(decision, new, offset, 0 if was_on or kind == "usage" else 1)
        if not self.frozen:
            if slot is None:
                self._count("quality_votes", quality is not None)
                self._count("usage_votes", has_usage(numbers))
            weight = self._weights[kind]
            self._add(decision, new, weight, weight, 1)
        return "applied" if slot is None else "revised"

    def _take_back(self, decision: Open, slot: Slot) -> None:
        if self.frozen:
            return
        fields = self.fields
        w = self._weights[slot.kind]
        g = fields.decay + fields.shrink.get(slot.key.name, 0.0)
        weight = -(w * math.exp(g - slot.g))
        shared = -(w * math.exp(fields.decay - slot.g_shared))
        self._add(decision, slot, weight, shared, -1)

    def _add(self, decision: Open, slot: Slot, weight: float, shared: float, count: int) -> None:
        vote = vote_of(decision, slot.numbers, slot.predictions or decision.decided)
        if not decision.kind.ours:
            self.evidence.add_free(slot.key, vote, weight, slot.kind)  # another context: only what needs none
            return
        self.evidence.add(slot.key, decision.x, vote, weight, shared, count, slot.kind)
        self._learned.append(Learned(slot.key, decision.x, vote, weight, slot.kind, decision.segment))

    def _give_up(self, copied: Copied) -> None:
        self._outcome(copied, "elsewhere" if copied.everywhere else "orphan")

    def _outcome(self, copied: Copied, outcome: str) -> str:
        kind, _, reason = outcome.partition(": ")
        self._count(kind)
        if kind in REASONS and not self.frozen:
            self._refused.append(Refused(copied, reason or REASONS[kind]))
        return kind

    def _count(self, name: str, by: int = 1) -> None:
        if not self.frozen and by:
            self.ledger[name] += by
