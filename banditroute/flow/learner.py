"""The learner of one partition: it applies journal records, and that is the only way anything is learned.

Evidence and ledger are a function of (decisions, journal) alone: see "What a journal record does" in
docs/EVENTS.md, of which this module is the implementation.
"""

from __future__ import annotations

import math
from collections import Counter, deque

import msgspec

from banditroute.bandit.evidence import Evidence, ModelKey, Vote
from banditroute.events import (
    QUALITY_KINDS,
    Control,
    Copied,
    Decided,
    Expire,
    Feedback,
    PauseEdit,
    PriceEdit,
    decode_journal,
)
from banditroute.flow.effects import REASONS, Learned, NeedDecisions, Parked, Ready, Refused, withdraws
from banditroute.flow.fields import Fields, LearnerSettings
from banditroute.flow.header import Header, parse_header
from banditroute.flow.pending import MAX_SLOTS, KnownDecision, OpenDecision, Pending, Slot

NAN = math.nan


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
    """

    def __init__(self, partition: int, d: int, spec_id: str, settings: LearnerSettings) -> None:
        self.partition = partition
        self.spec_id = spec_id
        self.settings = settings
        self.fields = Fields()
        self.evidence = Evidence(d)
        self.ledger: Counter[str] = Counter()
        self.pending = Pending()
        self.parked: deque[Parked] = deque()
        self.ahead: deque[KnownDecision] = deque()  # known, at or above D
        self.ahead_ids: Counter[str] = Counter()
        self.end = 0  # decisions below this log offset are known
        self.r = 0  # 1 + highest request offset known
        self.j = 0  # next journal offset
        self.frozen = False  # re-reading what the evidence already holds
        self._learned: list[Learned] = []
        self._refused: list[Refused] = []

    # -- decisions ---------------------------------------------------------------------------------

    def know(self, decision: KnownDecision) -> None:
        """Take note of the next decision in the log; offsets ascend."""
        if decision.offset < self.end:
            return
        self.end = decision.offset + 1
        self.r = max(self.r, decision.request_offset + 1)
        self.ahead.append(decision)
        self.ahead_ids[decision.request_id] += 1

    def has_request(self, request_id: str) -> bool:
        """Tell whether a request id already has a decision inside the join window."""
        return request_id in self.ahead_ids or self.pending.of_request_id(request_id) is not None

    def take_in(self, upto: int) -> None:
        """Make the known decisions below a log offset open to feedback."""
        fields = self.fields
        while self.ahead and self.ahead[0].offset < upto:
            decision = self.ahead.popleft()
            self.ahead_ids[decision.request_id] -= 1
            if not self.ahead_ids[decision.request_id]:
                del self.ahead_ids[decision.request_id]
            if decision.request_offset < fields.rD:
                self._count("later")
                continue
            fields.rD = decision.request_offset + 1
            self._count("first")
            if decision.offset >= fields.X:
                self.pending.add(decision)

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
        NeedDecisions
            Before anything changed, when decisions must be read first.
        """
        try:
            record = decode_journal(value or b"")
        except msgspec.DecodeError:
            record = None
        if isinstance(record, Decided) and record.upto > self.end:
            raise NeedDecisions(record.upto)
        self._tick(timestamp)
        control = False
        outcome = None
        if isinstance(record, Decided):
            self._count("decided")
            self._decided(record.upto)
        elif isinstance(record, Expire):
            self._count("expired_records")
            self._expire(record.upto, record.before)
        elif isinstance(record, Control):
            control = self._control(record)
        elif isinstance(record, Copied):
            outcome = self._feedback(offset, timestamp, record)
        else:
            self._count("unreadable")
        self.j = offset + 1
        ready = Ready(self._learned, self._refused, control, outcome)
        self._learned, self._refused = [], []
        return ready

    def _tick(self, timestamp: int) -> None:
        if self.settings.half_life_ms is None:
            return
        now = timestamp // self.settings.tick_ms
        fields = self.fields
        if fields.clock is not None and now > fields.clock:
            step = self.settings.decay(now - fields.clock)
            fields.decay += step
            if not self.frozen:
                factor = math.exp(step)
                for key in self.evidence.rows:
                    self.evidence.scale(key, factor)
                self.evidence.scale_shared(factor)
        if fields.clock is None or now > fields.clock:
            fields.clock = now

    def _decided(self, upto: int) -> None:
        if upto <= self.fields.D:
            return
        self.take_in(upto)
        self.fields.D = upto
        again, self.parked = self.parked, deque()
        for parked in again:
            outcome = self._settle(parked.journal_offset, parked.copied)
            if outcome is None:
                self.parked.append(parked)
            else:
                self._outcome(parked.copied, outcome)

    def _expire(self, upto: int, before: int) -> None:
        fields = self.fields
        upto = max(fields.X, min(upto, fields.D))
        # a later decision has a request offset below that of a first one before it, so first ones suffice for rX
        for decision in self.pending.close_below(upto):
            self._count("answered" if decision.answered else "expired")
            fields.rX = max(fields.rX, decision.known.request_offset + 1)
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
        edit = record.edit
        if isinstance(edit, PriceEdit):
            fields.prices[edit.model] = (edit.input_usd_per_mtok, edit.output_usd_per_mtok)
        elif isinstance(edit, PauseEdit):
            fields.paused[edit.model] = edit.paused
        elif edit.epoch == fields.epochs.get(edit.model, 0) + 1:
            fields.epochs[edit.model] = edit.epoch
            for name, factor in sorted(edit.factors.items()):
                fields.shrink[name] = fields.shrink.get(name, 0.0) + math.log(factor)
                if not self.frozen:
                    for key in self.evidence.rows:
                        if key.name == name:
                            self.evidence.scale(key, factor)
        return True

    def _feedback(self, offset: int, timestamp: int, copied: Copied) -> str:
        source, source_offset = copied.src
        if source_offset <= self.fields.hi.get(source, -1):
            self._count("copied_twice")
            return "copied_twice"
        self.fields.hi[source] = source_offset
        if copied.feedback.request_id is None:
            return self._outcome(copied, self._withdraw_voter(copied.feedback))
        outcome = self._settle(offset, copied)
        if outcome is not None:
            return self._outcome(copied, outcome)
        self.parked.append(Parked(offset, timestamp, copied))
        if len(self.parked) > self.settings.max_parked:
            self._give_up(self.parked.popleft().copied)
        return "parked"

    # -- settling ----------------------------------------------------------------------------------

    def _settle(self, offset: int, copied: Copied) -> str | None:
        """Return the outcome of one feedback, or None while its decision is unknown."""
        feedback = copied.feedback
        if feedback.decision_id is not None:
            partition, _, request_offset = feedback.decision_id.partition("-")
            if int(partition) != self.partition:
                return "rejected: its decision_id names another partition"
            if int(request_offset) < self.fields.rX:
                return "late"
            decision = self.pending.at_request_offset(int(request_offset))
        else:
            decision = self.pending.of_request_id(feedback.request_id or "")
        if decision is None:
            return None
        known = decision.known
        if known.request_id != feedback.request_id:
            return "rejected: its decision_id belongs to another request_id"
        if feedback.tenant is not None and feedback.tenant != known.tenant:
            return "foreign"
        if feedback.kind == "withdraw":
            return self._withdraw(offset, decision, feedback)
        return self._vote(offset, decision, feedback)

    def _withdraw(self, offset: int, decision: OpenDecision, feedback: Feedback) -> str:
        slots = [
            (kind, slot)
            for (kind, source, voter), slot in decision.slots.items()
            if kind in QUALITY_KINDS and (source, voter) == (feedback.source, feedback.voter)
        ]
        if feedback.feedback_id is not None and any(feedback.feedback_id in slot.seen for _, slot in slots):
            return "duplicate"
        if not any(slot.on for _, slot in slots):
            return "rejected: there is no vote to withdraw"
        self.pending.touch(decision, offset)
        for kind, slot in slots:
            if slot.on:
                self._take_back(decision, kind, slot)
                slot.on = False
                if feedback.feedback_id is not None:
                    slot.seen.append(feedback.feedback_id)
        return "revised"

    def _withdraw_voter(self, feedback: Feedback) -> str:
        """Take back every quality vote of a voter on open decisions, and let those go that are parked."""
        tenant, stay = feedback.tenant, deque[Parked]()
        found = False
        for parked in self.parked:
            waits = parked.copied.feedback
            if withdraws(feedback, waits.kind, waits.source, waits.voter) and tenant in (None, waits.tenant):
                self._outcome(parked.copied, "withdrawn")
                found = True
            else:
                stay.append(parked)
        self.parked = stay
        for decision in self.pending:
            if tenant not in (None, decision.known.tenant):
                continue
            for (kind, source, voter), slot in decision.slots.items():
                if slot.on and withdraws(feedback, kind, source, voter):
                    self._take_back(decision, kind, slot)
                    slot.on = False
                    if feedback.feedback_id is not None:
                        slot.seen.append(feedback.feedback_id)
                    found = True
        return "revised" if found else "elsewhere"

    def _vote(self, offset: int, decision: OpenDecision, feedback: Feedback) -> str:
        known = decision.known
        name = feedback.model or (None if known.shadow else known.model)
        if name is None:
            return "rejected: the decision was not served by a model of ours; name the `model` that served"
        header = parse_header(known.header)
        predicted = header.predicted(name)
        if predicted is None:
            return f"rejected: model '{name}' was not in the catalog when this was decided"
        slot_key = (feedback.kind, feedback.source, feedback.voter)
        slot = decision.slots.get(slot_key)
        quality = feedback.quality
        numbers = (
            quality,
            feedback.output_tokens,
            feedback.cost_usd,
            feedback.latency_ms,
            feedback.input_tokens,
        )
        identity = feedback.feedback_id
        if slot is not None:
            same = identity is None and slot.on and slot.key.name == name and slot.numbers == numbers
            if same or (identity is not None and identity in slot.seen):
                return "duplicate"
            if identity is not None and len(slot.seen) >= MAX_SLOTS:
                return f"rejected: this vote was already revised {MAX_SLOTS} times"
        elif len(decision.slots) >= MAX_SLOTS:
            return f"rejected: the decision already has {MAX_SLOTS} different votes"
        self.pending.touch(decision, offset)
        vote = Vote(
            quality=NAN if quality is None else quality,
            quality_pred=predicted.quality,
            sd_pred=predicted.sd,
            output_tokens=_or_nan(feedback.output_tokens),
            log_tokens_pred=predicted.log_tokens,
            cost_usd=_or_nan(feedback.cost_usd),
            cost_pred=predicted.cost,
            latency_ms=_or_nan(feedback.latency_ms),
            input_tokens=_or_nan(feedback.input_tokens),
            input_pred=NAN if header.counted else header.input_tokens,
        )
        if slot is not None and slot.on:
            self._take_back(decision, feedback.kind, slot)
        seen = [] if slot is None else slot.seen
        if identity is not None:
            seen.append(identity)
        fields = self.fields
        g = fields.decay + fields.shrink.get(name, 0.0)
        weight = self.settings.weight(feedback.kind)
        decision.slots[slot_key] = Slot(seen, True, vote, numbers, predicted.key, weight, g, fields.decay)
        if slot is None:
            self._count("quality_votes", quality is not None)
            self._count("usage_votes", any(number is not None for number in numbers[1:]))
        if not self.frozen:
            self._add(header, predicted.key, feedback.kind, known.segment, vote, weight, weight, 1)
        return "applied" if slot is None else "revised"

    def _take_back(self, decision: OpenDecision, kind: str, slot: Slot) -> None:
        if self.frozen:
            return
        fields = self.fields
        g = fields.decay + fields.shrink.get(slot.key.name, 0.0)
        weight = -(slot.weight * math.exp(g - slot.g))
        shared = -(slot.weight * math.exp(fields.decay - slot.g_shared))
        known = decision.known
        self._add(parse_header(known.header), slot.key, kind, known.segment, slot.vote, weight, shared, -1)

    def _add(
        self,
        header: Header,
        key: ModelKey,
        kind: str,
        segment: str | None,
        vote: Vote,
        weight: float,
        shared: float,
        count: int,
    ) -> None:
        if header.spec_id != self.spec_id:
            self.evidence.add_free(key, vote, weight, kind)  # another context: only what needs none
            return
        self.evidence.add(key, header.x, vote, weight, shared, count, kind)
        self._learned.append(Learned(key, header.x, vote, weight, kind, segment))

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


def _or_nan(value: float | None) -> float:
    return NAN if value is None else float(value)
