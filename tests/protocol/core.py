"""The state machine of one partition, its state record, and a separate slow pass to compare it with.

:class:`Core` is all that one partition knows. It learns from journal records alone, looks decisions up in the log
that it is given, and can be written to a :class:`StateRecord` and restored from it. :func:`oracle` arrives at the
same answers in one uninterrupted pass, with scans instead of tables. Weights are powers of two in exact fractions,
so that equality means equality.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

MODELS = 3
TICK = 40  # time steps after which evidence halves
JOIN_WINDOW = 60  # time steps that a parked record waits
QUALITY = ("thumb", "score")  # kinds that a voter may withdraw
SLOTS = 3  # slots of a decision
PARK = 6  # records that may be parked
CHECKPOINT = 5  # journal records between two anchors that are remembered


class Violation(Exception):
    """Something that the protocol promises cannot happen has happened."""


@dataclass(frozen=True)
class Rules:
    """The safeguards of the protocol, each of which can be removed, and how hostile the world is."""

    anchor_scan: bool = True
    """A restore re-reads [replay_from, j)."""
    decided_records: bool = True
    """Decisions become known by ``Decided`` records of the journal, and what came too early is parked."""
    decided_after_restore: bool = True
    """An owner announces decisions that it found in the log, not only those that it wrote."""
    gap_check: bool = True
    """An acknowledged offset other than the expected one makes the owner read the log first."""
    source_offsets: bool = True
    """A copy at or below the last offset of its feedback partition is dropped."""
    first_rule: bool = True
    """Only decisions at or above the running r are first."""
    expire_records: bool = True
    """Decisions are closed by records of the journal, not by their owner's clock."""
    control_cursor: bool = True
    """A control record at or below the cursor is ignored."""
    epoch_check: bool = True
    """A verdict that is not the next epoch of its model is ignored."""
    log_factor: bool = True
    """A vote is taken back at what decay and verdicts have left of it."""
    evict_oldest: bool = True
    """A full park gives up its oldest record (else: it refuses the newest, whatever the oldest waits for)."""
    one_batch_in_flight: bool = True
    """There is one unacknowledged batch per decisions partition."""
    stop_on_copy_failure: bool = True
    """A failed copy makes the feedback partition begin again at its last acknowledged offset."""
    board_guard: bool = True
    """The board never goes back to an older state record."""
    republish: bool = True
    """An owner that sees an older state record of its own partition publishes again."""
    anchor_fields: bool = True
    """The state record has its fields as of the anchor, not only as of j (all of the following)."""
    anchor_hi: bool = True
    anchor_d: bool = True
    anchor_factors: bool = True
    anchor_x: bool = True
    anchor_r: bool = True
    anchor_cursor: bool = True
    anchor_parked: bool = True
    """Parked records, too, hold the anchor back."""

    tailing: bool = True
    """Owners now and then read the end of their decisions partition; nothing depends on it."""
    zombies_commit: bool = False
    """Zombies still commit offsets."""
    late_fetch: bool = False
    """An owner fetches its committed offset some time after it has read the end of the decisions."""

    def without(self, *safeguards: str) -> Rules:
        """The same rules with some safeguards removed."""
        return replace(self, **dict.fromkeys(safeguards, False))

    @property
    def complete(self) -> bool:
        """Whether every safeguard is there, however hostile the world is."""
        return replace(self, tailing=True, zombies_commit=False, late_fetch=False) == ALL_RULES


ALL_RULES = Rules()


class Decision(NamedTuple):
    """A record of the decisions log."""

    request_offset: int
    request_id: int
    model: int


class Feedback(NamedTuple):
    """A vote or a withdrawal; ``decision`` is the request offset of a decision_id.

    A withdrawal without ``request_id`` takes back all that its voter has said.
    """

    request_id: int | None
    decision: int | None
    feedback_id: int
    kind: str
    value: int
    voter: str
    served: int | None


class Copied(NamedTuple):
    """Journal: a feedback record, copied."""

    source: int
    offset: int
    feedback: Feedback


class Decided(NamedTuple):
    """Journal: decisions below ``upto`` exist."""

    upto: int


class Expire(NamedTuple):
    """Journal: decisions below ``upto`` are closed."""

    upto: int


class Edit(NamedTuple):
    """A control record: a ``price``, or ``changed`` whose value is the epoch."""

    kind: str
    model: int
    value: int


class Control(NamedTuple):
    """Journal: control record ``number``."""

    number: int
    edit: Edit


class Entry(NamedTuple):
    """A journal record and its time."""

    timestamp: int
    event: Copied | Decided | Expire | Control


class Parked(NamedTuple):
    """Feedback that waits for its decision."""

    journal_offset: int
    timestamp: int
    feedback: Feedback


@dataclass
class Slot:
    """What (kind, voter) has said about a decision."""

    feedback_ids: set[int]
    value: int
    model: int
    factor: int
    on: bool


Fields = dict[str, Any]
Evidence = list[list[Fraction]]


@dataclass(frozen=True)
class StateRecord:
    """What an owner publishes: statistics and offset in one record, the fields twice."""

    j: int
    replay_from: int
    anchor: Fields
    at: Fields
    evidence: Evidence
    ledger: dict[str, int]


def copied(value: Any) -> Any:
    """A list or dict of its own; anything else is immutable."""
    return value.copy() if isinstance(value, (list, dict)) else value


def no_evidence() -> Evidence:
    """Sum of weights and of weighted values, for every model."""
    return [[Fraction(0), Fraction(0)] for _ in range(MODELS)]


class Core:
    """All that one partition knows; :meth:`step` is the only way in which it learns."""

    FIELDS = ("j", "D", "rD", "X", "rX", "hi", "cursor", "epochs", "factors", "clock", "prices")

    def __init__(self, decisions: list[Decision], rules: Rules) -> None:
        self.decisions = decisions
        self.rules = rules
        self.j = self.D = self.rD = self.X = self.rX = self.clock = 0
        self.hi: dict[int, int] = {}
        self.cursor = -1
        self.epochs = [0] * MODELS
        self.factors = [0] * MODELS  # cumulative log2 of decay and verdicts
        self.prices = [0] * MODELS
        self.evidence = no_evidence()
        self.ledger: dict[str, int] = {}
        self.pending: dict[int, Decision] = {}  # by log offset
        self.slots: dict[int, dict[tuple[str, str], Slot]] = {}
        self.arrival: dict[int, int] = {}  # by log offset: lowest journal offset of its slots
        self.parked: list[Parked] = []
        self.frozen = False  # while a restore re-reads what evidence and ledger hold already
        self.checkpoints: list[tuple[int, Fields]] = []

    def fields(self) -> Fields:
        """Everything but evidence, ledger and tables."""
        return {name: copied(getattr(self, name)) for name in self.FIELDS}

    def load(self, fields: Fields) -> None:
        """Set fields."""
        for name, value in fields.items():
            setattr(self, name, copied(value))

    def count(self, outcome: str) -> None:
        """One more in the ledger."""
        if not self.frozen:
            self.ledger[outcome] = self.ledger.get(outcome, 0) + 1

    def add(self, model: int, weight: Fraction | int, value: int) -> None:
        """Add a vote, or take one back with a negative weight."""
        if not self.frozen:
            self.evidence[model][0] += weight
            self.evidence[model][1] += weight * value

    def halve(self, model: int, times: int) -> None:
        """Multiply a model's evidence by 2 ** -times."""
        self.factors[model] -= times
        if not self.frozen:
            self.evidence[model] = [v / 2**times for v in self.evidence[model]]

    def take_in(self, begin: int, end: int) -> None:
        """Decisions [begin, end) become known."""
        for log_offset in range(begin, end):
            decision = self.decisions[log_offset]
            if decision.request_offset >= self.rD or not self.rules.first_rule:
                self.rD = max(self.rD, decision.request_offset + 1)
                if log_offset >= self.X:
                    self.pending[log_offset] = decision

    def close(self, upto: int) -> None:
        """Close the known decisions below ``upto``."""
        upto = max(self.X, min(upto, self.D))
        for log_offset in range(self.X, upto):
            self.rX = max(self.rX, self.decisions[log_offset].request_offset + 1)
        self.X = upto
        for table in (self.pending, self.slots, self.arrival):
            for log_offset in [d for d in table if d < upto]:
                del table[log_offset]

    def settle(self, journal_offset: int, feedback: Feedback) -> str | None:
        """Settle feedback: its class, or None when its decision is not known."""
        if feedback.decision is not None:
            if feedback.decision < self.rX:
                return "late"
            found = [d for d, x in self.pending.items() if x.request_offset == feedback.decision]
        else:
            found = [d for d, x in self.pending.items() if x.request_id == feedback.request_id]
        if not found:
            return None
        log_offset = min(found)
        slots = self.slots.setdefault(log_offset, {})
        withdrawal = feedback.kind == "withdraw"
        key = ("thumb" if withdrawal else feedback.kind, feedback.voter)
        slot = slots.get(key)
        if slot and feedback.feedback_id in slot.feedback_ids:
            return "duplicate"
        if withdrawal and not (slot and slot.on):
            return "rejected"
        if slot is None and len(slots) >= SLOTS:
            return "rejected"
        self.arrival[log_offset] = min(self.arrival.get(log_offset, journal_offset), journal_offset)
        if slot and slot.on:
            lost = self.factors[slot.model] - slot.factor if self.rules.log_factor else 0
            self.add(slot.model, -(Fraction(2) ** lost), slot.value)
        if slot and withdrawal:
            slot.feedback_ids.add(feedback.feedback_id)
            slot.on = False
            return "revised"
        model = self.pending[log_offset].model if feedback.served is None else feedback.served
        self.add(model, 1, feedback.value)
        seen = (slot.feedback_ids if slot else set()) | {feedback.feedback_id}
        slots[key] = Slot(seen, feedback.value, model, self.factors[model], on=True)
        return "revised" if slot else "applied"

    def withdraw_voter(self, feedback: Feedback) -> str:
        """Take back every quality vote of a voter on open decisions, and drop those that are parked."""
        waiting, self.parked = self.parked, []
        for parked in waiting:
            if parked.feedback.kind in QUALITY and parked.feedback.voter == feedback.voter:
                self.count("withdrawn")
            else:
                self.parked.append(parked)
        found = len(self.parked) < len(waiting)
        for slots in self.slots.values():
            for (kind, voter), slot in slots.items():
                if slot.on and kind in QUALITY and voter == feedback.voter:
                    lost = self.factors[slot.model] - slot.factor if self.rules.log_factor else 0
                    self.add(slot.model, -(Fraction(2) ** lost), slot.value)
                    slot.on = False
                    slot.feedback_ids.add(feedback.feedback_id)
                    found = True
        return "revised" if found else "elsewhere"

    def step(self, journal: list[Entry], found: int) -> None:
        """Apply the next journal record; ``found`` is the end of the decisions as far as the owner knows."""
        if self.j % CHECKPOINT == 0 and (not self.checkpoints or self.checkpoints[-1][0] < self.j):
            self.checkpoints.append((self.j, self.fields()))
        journal_offset = self.j
        timestamp, event = journal[journal_offset]
        self.j += 1
        ticks = timestamp // TICK - self.clock
        if ticks > 0:
            self.clock += ticks
            for model in range(MODELS):
                self.halve(model, ticks)
        if not self.rules.decided_records and found > self.D:
            self.take_in(self.D, found)
            self.D = found
        if isinstance(event, Decided):
            self.decided(event.upto)
        elif isinstance(event, Expire):
            self.expire(event.upto, timestamp)
        elif isinstance(event, Control):
            self.control(event.number, event.edit)
        else:
            self.copy(journal_offset, timestamp, event)

    def decided(self, upto: int) -> None:
        """Decisions become known; what is parked is tried again, oldest first."""
        if upto <= self.D or not self.rules.decided_records:
            return
        if len(self.decisions) < upto:
            raise Violation("Decided beyond the log")
        self.take_in(self.D, upto)
        self.D = upto
        waiting, self.parked = self.parked, []
        for parked in waiting:
            outcome = self.settle(parked.journal_offset, parked.feedback)
            if outcome is None:
                self.parked.append(parked)
            else:
                self.count(outcome)

    def expire(self, upto: int, now: int) -> None:
        """Decisions are closed, and what was parked too long becomes an orphan."""
        if self.rules.expire_records:
            self.close(upto)
        waiting, self.parked = self.parked, []
        for parked in waiting:
            if now - parked.timestamp > JOIN_WINDOW:
                self.count("orphan")
            else:
                self.parked.append(parked)

    def control(self, number: int, edit: Edit) -> None:
        """An edit of the catalog, or a verdict."""
        if number <= self.cursor and self.rules.control_cursor:
            return
        if number > self.cursor + 1:
            raise Violation("control gap")
        self.cursor = max(number, self.cursor)
        if edit.kind == "price":
            self.prices[edit.model] = edit.value
        elif edit.value == self.epochs[edit.model] + 1 or not self.rules.epoch_check:
            self.epochs[edit.model] = edit.value
            self.halve(edit.model, 1)

    def copy(self, journal_offset: int, timestamp: int, event: Copied) -> None:
        """A copy of a feedback record: settled, parked, or dropped."""
        last = self.hi.get(event.source, -1)
        if event.offset <= last and self.rules.source_offsets:
            self.count("copied_twice")
            return
        self.hi[event.source] = max(event.offset, last)
        if event.feedback.request_id is None:
            self.count(self.withdraw_voter(event.feedback))
            return
        outcome = self.settle(journal_offset, event.feedback)
        if outcome is None and not self.rules.decided_records:
            outcome = "orphan"
        if outcome is not None:
            self.count(outcome)
        elif not self.rules.evict_oldest and len(self.parked) >= PARK:
            self.count("orphan")
        else:
            self.parked.append(Parked(journal_offset, timestamp, event.feedback))
            if len(self.parked) > PARK:
                self.parked.pop(0)
                self.count("orphan")

    def record(self) -> StateRecord:
        """The state record as of j, with the newest remembered anchor that is old enough."""
        needed = list(self.arrival.values())
        if self.rules.anchor_parked:
            needed += [parked.journal_offset for parked in self.parked]
        lowest = min(needed, default=self.j)
        while len(self.checkpoints) > 1 and self.checkpoints[1][0] <= lowest:
            self.checkpoints.pop(0)
        if self.checkpoints and self.checkpoints[0][0] <= lowest:
            replay_from, anchor = self.checkpoints[0]
        else:
            replay_from, anchor = self.j, self.fields()
        evidence = [list(v) for v in self.evidence]
        return StateRecord(self.j, replay_from, anchor, self.fields(), evidence, dict(self.ledger))


def anchor_of(record: StateRecord, rules: Rules) -> Fields:
    """The fields to begin the scan with; a removed safeguard takes some as of j instead."""
    anchor, at = dict(record.anchor), record.at
    if not rules.anchor_scan:
        anchor = dict(at)
    for kept, names in (
        (rules.anchor_hi, ("hi",)),
        (rules.anchor_d, ("D",)),
        (rules.anchor_factors, ("factors", "clock", "epochs", "cursor")),
        (rules.anchor_x, ("X", "rX")),
        (rules.anchor_cursor, ("cursor", "epochs")),
    ):
        if not kept:
            anchor.update({name: at[name] for name in names})
    if not rules.anchor_fields:
        anchor.update({name: at[name] for name in ("X", "rX", "factors", "clock", "cursor", "epochs")})
        anchor.update(D=at["X"], hi={})
    return anchor


def restore(
    record: StateRecord | None, decisions: list[Decision], journal: list[Entry], rules: Rules
) -> Core:
    """Load the anchor, re-read [replay_from, j) with evidence and ledger frozen, and compare with the fields at j."""
    core = Core(decisions, rules)
    if record is None:
        return core
    core.load(anchor_of(record, rules))
    core.D = max(core.D, core.X)
    core.rD = core.rX if rules.anchor_r else record.at["rD"]
    core.take_in(core.X, core.D)
    if not rules.anchor_scan:
        core.j = record.j
    core.frozen = True
    core.checkpoints = [(record.replay_from, record.anchor)]
    while core.j < record.j:
        core.step(journal, core.D)
    core.frozen = False
    of_j = (rules.anchor_hi, rules.anchor_d, rules.anchor_factors, rules.anchor_x, rules.anchor_cursor)
    if not all(of_j) or not rules.anchor_r or not rules.anchor_fields:
        core.load({n: record.at[n] for n in ("hi", "cursor", "epochs", "factors", "clock", "prices")})
    elif rules.complete and core.fields() != record.at:
        raise Violation("the fields after the scan are not those of the record")
    core.evidence = [list(v) for v in record.evidence]
    core.ledger = dict(record.ledger)
    return core


class Truth(NamedTuple):
    """What an uninterrupted pass arrives at."""

    evidence: Evidence
    ledger: dict[str, int]
    fields: Fields
    parked: list[Feedback]


@dataclass
class Vote:
    """A slot of the oracle."""

    feedback_ids: list[int]
    on: bool
    value: int
    model: int
    factor: int


class Oracle:
    """One uninterrupted pass: scans instead of tables, evidence summed at the end from the votes that are on."""

    def __init__(self, decisions: list[Decision], evict_oldest: bool) -> None:
        self.decisions = decisions
        self.evict_oldest = evict_oldest
        self.first: list[bool] = []
        highest = -1
        for decision in decisions:
            self.first.append(decision.request_offset > highest)
            highest = max(highest, decision.request_offset)
        self.X = self.D = self.clock = 0
        self.hi: dict[int, int] = {}
        self.cursor = -1
        self.epochs, self.factors, self.prices = [0] * MODELS, [0] * MODELS, [0] * MODELS
        self.votes: dict[tuple[int, str, str], Vote] = {}
        self.parked: list[tuple[int, Feedback]] = []
        self.ledger: dict[str, int] = {}

    def count(self, outcome: str) -> None:
        """One more in the ledger."""
        self.ledger[outcome] = self.ledger.get(outcome, 0) + 1

    def settle(self, feedback: Feedback) -> str | None:
        """The class of a feedback record, None when its decision is not known."""
        closed = max((x.request_offset + 1 for x in self.decisions[: self.X]), default=0)
        if feedback.decision is not None and feedback.decision < closed:
            return "late"
        found = None
        for d in range(self.X, self.D):
            decision = self.decisions[d]
            if feedback.decision is not None:
                match = decision.request_offset == feedback.decision
            else:
                match = decision.request_id == feedback.request_id
            if self.first[d] and match:
                found = d
                break
        if found is None:
            return None
        key = (found, "thumb" if feedback.kind == "withdraw" else feedback.kind, feedback.voter)
        vote = self.votes.get(key)
        if vote and feedback.feedback_id in vote.feedback_ids:
            return "duplicate"
        if feedback.kind == "withdraw":
            if not vote or not vote.on:
                return "rejected"
            vote.on = False
            vote.feedback_ids.append(feedback.feedback_id)
            return "revised"
        if vote is None and sum(d == found for d, _, _ in self.votes) >= SLOTS:
            return "rejected"
        model = self.decisions[found].model if feedback.served is None else feedback.served
        seen = [*(vote.feedback_ids if vote else []), feedback.feedback_id]
        self.votes[key] = Vote(seen, True, feedback.value, model, self.factors[model])
        return "revised" if vote else "applied"

    def withdraw_voter(self, gone: Feedback) -> str:
        """Turn off what a voter has said of decisions that are not closed, and forget what waits."""
        stay = [(t, vote) for t, vote in self.parked if vote.kind not in QUALITY or vote.voter != gone.voter]
        for _ in range(len(self.parked) - len(stay)):
            self.count("withdrawn")
        found = len(stay) < len(self.parked)
        self.parked = stay
        for (d, kind, voter), vote in self.votes.items():
            if d >= self.X and kind != "usage" and voter == gone.voter and vote.on:
                vote.on = False
                vote.feedback_ids.append(gone.feedback_id)
                found = True
        return "revised" if found else "elsewhere"

    def read(self, entry: Entry) -> None:
        """Apply a journal record."""
        now, event = entry
        while self.clock < now // TICK:
            self.clock += 1
            self.factors = [g - 1 for g in self.factors]
        if isinstance(event, Decided):
            if event.upto > self.D:
                self.D = event.upto
                waiting, self.parked = self.parked, []
                for timestamp, feedback in waiting:
                    outcome = self.settle(feedback)
                    if outcome is None:
                        self.parked.append((timestamp, feedback))
                    else:
                        self.count(outcome)
        elif isinstance(event, Expire):
            self.X = max(self.X, min(event.upto, self.D))
            stay = [(t, feedback) for t, feedback in self.parked if now - t <= JOIN_WINDOW]
            for _ in range(len(self.parked) - len(stay)):
                self.count("orphan")
            self.parked = stay
        elif isinstance(event, Control):
            self.control(event)
        elif event.offset <= self.hi.get(event.source, -1):
            self.count("copied_twice")
        else:
            self.hi[event.source] = event.offset
            if event.feedback.request_id is None:
                self.count(self.withdraw_voter(event.feedback))
                return
            outcome = self.settle(event.feedback)
            if outcome is not None:
                self.count(outcome)
                return
            self.parked.append((now, event.feedback))
            if len(self.parked) > PARK:
                self.parked.pop(0 if self.evict_oldest else -1)
                self.count("orphan")

    def control(self, event: Control) -> None:
        """Apply the next control record; any other was there already."""
        if event.number != self.cursor + 1:
            return
        self.cursor += 1
        kind, model, value = event.edit
        if kind == "price":
            self.prices[model] = value
        elif value == self.epochs[model] + 1:
            self.epochs[model] += 1
            self.factors[model] -= 1


def oracle(decisions: list[Decision], journal: list[Entry], evict_oldest: bool = True) -> Truth:
    """Evidence, ledger, fields and parked feedback of a partition, from its logs."""
    one = Oracle(decisions, evict_oldest)
    for entry in journal:
        one.read(entry)
    evidence = no_evidence()
    for vote in one.votes.values():
        if vote.on:
            weight = Fraction(2) ** (one.factors[vote.model] - vote.factor)
            evidence[vote.model][0] += weight
            evidence[vote.model][1] += weight * vote.value
    fields = {name: getattr(one, name) for name in ("X", "D", "hi", "cursor", "epochs", "factors", "prices")}
    return Truth(evidence, one.ledger, fields, [feedback for _, feedback in one.parked])
