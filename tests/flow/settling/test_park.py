"""What waits, and what a voter said, is found by index: many of them change no bit and cost later records nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from banditroute.events import Expire, decode_journal
from banditroute.flow.partition import Partition, genesis_state
from banditroute.flow.pending.slots import SlotTable
from banditroute.flow.records.position import LearnerSettings
from banditroute.flow.records.snapshot import Genesis, encode_state
from banditroute.flow.settling.learner import Learner
from tests import naive
from tests.wire import SPEC_ID, DecisionLog, Journal, Model

D = 3
SPEC = SPEC_ID.hex()
MODELS = [Model("a", 0, 0.5, 0.3, 4.0, 0.01, 6.0), Model("b", 0, 0.4, 0.3, 4.0, 0.02, 6.0)]
MAX_PARKED = 10_000
WEIGHTS = {"thumb": 1.0, "score": 0.7, "judge": 1.5, "outcome": 2.0}


def partition_of(decisions: DecisionLog, settings: LearnerSettings) -> Partition:
    """A new partition that knows all decisions and has applied nothing."""
    state = genesis_state(0, D, SPEC, settings, Genesis(log_epoch=1, hash_key="k"))
    partition = Partition(state, D, SPEC, settings)
    for record in decisions.records:
        partition.read_decision(record.offset, record.timestamp, record.value, record.headers)
    partition.begin()
    partition.finish()
    return partition


def apply(partition: Partition, records: Sequence[naive.Record]) -> None:
    for record in records:
        partition.apply(record.offset, record.timestamp, record.value)


def withdraw(journal: Journal, source: int, **fields: object) -> None:
    """All that a voter said; from a feedback partition of its own."""
    event = {"v": 1, "kind": "withdraw", **fields}
    journal.append({"type": "feedback", "src": [9, source], "feedback": event, "everywhere": True})


@pytest.mark.parametrize("seed", range(12))
def test_a_crowded_park_equals_the_oracle_bit_for_bit(seed: int) -> None:
    chance = random.Random(seed)
    most = chance.choice([5, 60, 400])
    settings = LearnerSettings(
        half_life_ms=None,
        thumb_weight=1.0,
        score_weight=0.7,
        judge_weight=1.5,
        outcome_weight=2.0,
        max_parked=most,
    )
    decisions, journal = DecisionLog(0, MODELS, [1.0, 0.5, -0.25]), Journal()
    offset = 0
    for _ in range(120):
        offset += chance.choice([1, 1, 1, 3])
        x = [1.0, chance.uniform(-1, 1), chance.uniform(-1, 1)]
        request_id = (
            f"r{offset if chance.random() < 0.9 else chance.randrange(offset)}"  # an id may come again
        )
        decisions.add(offset, request_id, chance.choice("ab"), tenant=chance.choice([None, "t"]), x=x)
    known = closed = gone = 0
    for _ in range(900):
        journal.now += chance.choice([0, 0, 1000, -500])
        event = chance.random()
        if event < 0.10:
            known = min(len(decisions.records), known + chance.randrange(8))
            journal.decided(known)
        elif event < 0.13:
            closed = chance.randrange(closed, known + 1)
            journal.expire(closed, journal.now - chance.choice([0, 5_000, 100_000]))
        elif event < 0.17:
            gone += 1
            only = {"tenant": "t"} if chance.random() < 0.3 else {}
            withdraw(journal, gone, voter=chance.choice("uvw"), **only)
        else:
            target = chance.randrange(offset + 20)
            fields: dict[str, object] = {"decision_id": f"0-{target}"} if chance.random() < 0.5 else {}
            if chance.random() < 0.8:
                fields["voter"] = chance.choice("uvw")
            if chance.random() < 0.2:
                fields["tenant"] = chance.choice(["t", "other"])
            kind = chance.choice(["score", "outcome", "withdraw"])
            if kind != "withdraw":
                fields["value"] = chance.random()
            everywhere = chance.random() < 0.3
            journal.feedback(f"r{target}", kind, everywhere=everywhere, **fields)
    partition = partition_of(decisions, settings)
    apply(partition, journal.records)
    expected = naive.recompute(
        0, decisions.records, journal.records, naive.Settings(None, WEIGHTS, most), d=D
    )
    assert naive.differences(expected, naive.parse_state(encode_state(partition.snapshot()))) == []
    assert {"orphan", "elsewhere", "late", "withdrawn", "applied", "foreign"} <= expected.ledger.keys()


def test_a_decision_looks_at_no_feedback_but_that_which_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    decisions, journal = DecisionLog(0, MODELS, [1.0, 0.5, -0.25]), Journal()
    for offset in range(200):
        decisions.add(offset)
    for number in range(MAX_PARKED):
        by_offset = {"decision_id": f"0-{100_000 + number}"} if number % 2 else {}
        journal.feedback(f"never-{number}", "score", value=1.0, model="a", **by_offset)
    journal.feedback("r150", "score", value=0.5)
    for upto in range(1, 201):
        journal.decided(upto)
    partition = partition_of(decisions, LearnerSettings(max_parked=MAX_PARKED + 1))
    apply(partition, journal.records[: MAX_PARKED + 1])
    tried = []
    find = Learner._find

    def counted(self: Learner, feedback: object, *rest: object) -> object:
        tried.append(feedback)
        return find(self, feedback, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "_find", counted)
    apply(partition, journal.records[MAX_PARKED + 1 :])
    assert len(tried) == 1
    assert partition.learner.ledger["applied"] == 1
    assert len(partition.learner.parked) == MAX_PARKED


def test_a_withdrawal_by_voter_reads_no_decision_but_those_that_the_voter_voted_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decisions, journal = DecisionLog(0, MODELS, [1.0, 0.5, -0.25]), Journal()
    for offset in range(500):
        decisions.add(offset)
    journal.decided(500)
    for offset in range(500):
        journal.feedback(f"r{offset}", "score", value=0.5, voter=f"v{offset % 100}", source="app")
    withdraw(journal, 0, voter="v7")
    withdraw(journal, 1, voter="v7")  # nothing is left
    withdraw(journal, 2, voter="nobody")
    partition = partition_of(decisions, LearnerSettings())
    apply(partition, journal.records[:-3])
    read = []
    chain = SlotTable.chain

    def counted(self: SlotTable, head: int) -> object:
        read.append(head)
        return chain(self, head)

    monkeypatch.setattr(SlotTable, "chain", counted)
    apply(partition, journal.records[-3:])
    assert len(read) == 5
    assert partition.learner.ledger["revised"] == 1
    assert partition.learner.ledger["elsewhere"] == 2


@pytest.mark.parametrize("most", [1, 7, 50, None])
def test_expiring_in_steps_closes_what_one_step_would_and_no_step_more_than_it_may(most: int | None) -> None:
    settings = LearnerSettings()
    decisions, journal = DecisionLog(0, MODELS, [1.0, 0.5, -0.25]), Journal(now=1000)
    for offset in range(120):
        decisions.add(offset, timestamp=1000 + offset)
    journal.decided(120)
    for number in range(100):
        journal.now = 1000 + number // 2
        journal.feedback(f"never-{number}", "score", value=1.0)
    partition = partition_of(decisions, settings)
    apply(partition, journal.records)
    steps = []
    while True:
        record = partition.expiry(1000.0 + 101.0, 1.0, 1_000_000, most)
        if record is None:
            break
        expire = decode_journal(record.value)
        assert isinstance(expire, Expire)
        before = len(partition.learner.pending), len(partition.learner.parked)
        partition.apply(partition.learner.j, 10_000, record.value)
        after = len(partition.learner.pending), len(partition.learner.parked)
        steps.append((before[0] - after[0], before[1] - after[1]))
        assert partition.expires_more == (most is not None and after != (20, 0)), steps
    assert (len(partition.learner.pending), len(partition.learner.parked)) == (20, 0)
    if most is None:
        assert steps == [(100, 100)]
    else:  # two have the same timestamp, and leave together
        assert max(closed for closed, _ in steps) == most
        assert max(left for _, left in steps) == max(2, most - most % 2)
