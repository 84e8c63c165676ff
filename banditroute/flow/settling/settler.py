"""Settling: what one feedback does to the votes on an open decision, and to evidence."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from banditroute.bandit.evidence.evidence import Evidence
from banditroute.events import QUALITY_KINDS, Copied, Feedback
from banditroute.flow.pending.identity import Identifier, Identity
from banditroute.flow.pending.open_decision import Open
from banditroute.flow.pending.pending import KEPT_WHOLE, Pending
from banditroute.flow.pending.slots import KINDS, MAX_SLOTS, NONE, Slot
from banditroute.flow.records.position import Fields, LearnerSettings
from banditroute.flow.settling.effects import REASONS, Learned, Refused, withdraws
from banditroute.flow.settling.park import Park
from banditroute.flow.settling.votes import has_usage, numbers_of, say_the_same, vote_of


class Settler:
    """Open decisions, the votes on them, and the evidence and the ledger that follow.

    Parameters
    ----------
    partition : int
        The partition number.
    d : int
        Columns of the context.
    spec_id : str
        The feature spec whose decisions count.
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
        self.settings = settings
        self.fields = Fields()
        self.evidence = Evidence(d)
        self.ledger: Counter[str] = Counter()
        self.pending = Pending(d, spec_id, Identifier(hash_key), keep)
        self.parked = Park(self.pending.identifier)
        self.frozen = False  # re-reading what the evidence already holds
        self._weights = {kind: settings.weight(kind) for kind in KINDS}
        self._weight_of_kind = np.array([self._weights[kind] for kind in KINDS])
        self._learned: list[Learned] = []
        self._refused: list[Refused] = []

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
            found = self.pending.of_request_id(feedback.request_id or "", upto, feedback.tenant)
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
        found = False
        for parked in self.parked.by_voter(feedback.voter):
            waits = parked.copied.feedback
            if withdraws(feedback, waits.kind, waits.source, waits.voter) and feedback.tenant in (
                None,
                waits.tenant,
            ):
                self.parked.remove(parked.journal_offset)
                self._outcome(parked.copied, "withdrawn")
                found = True
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

    def _outcome(self, copied: Copied, outcome: str) -> str:
        kind, _, reason = outcome.partition(": ")
        self._count(kind)
        if kind in REASONS and not self.frozen:
            self._refused.append(Refused(copied, reason or REASONS[kind]))
        return kind

    def _count(self, name: str, by: int = 1) -> None:
        if not self.frozen and by:
            self.ledger[name] += by
