"""Many journal records at once against one by one: the same bits, whatever is in the journal and wherever it is cut."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from banditroute.flow.partition import Partition
from banditroute.flow.pending.pending import NeedPredictions
from banditroute.flow.records.snapshot import encode_state
from banditroute.flow.settling.chunk import Chunk
from banditroute.flow.settling.effects import Learned, LearnedRun, Refused
from banditroute.flow.settling.learner import Learner
from tests import naive
from tests.flow.test_partition_oracle import SPEC, D, History

Told = tuple[list[Learned], list[Refused], bool]


def restored(history: History, state: object, keep: int | None) -> Partition:
    partition = Partition(state, D, SPEC, history.settings, keep)  # type: ignore[arg-type]
    for record in history.decisions.records[partition.decisions_from :]:
        partition.read_decision(record.offset, record.timestamp, record.value, record.headers)
    partition.begin()
    return partition


def one_by_one(history: History, partition: Partition, records: Sequence[naive.Record]) -> Told:
    learned: list[Learned] = []
    refused: list[Refused] = []
    control = False
    for record in records:
        while True:
            try:
                ready = partition.apply(record.offset, record.timestamp, record.value)
            except NeedPredictions as need:
                partition.supply(need.offset, history.decisions.records[need.offset].headers)
            else:
                break
        assert all(isinstance(each, Learned) for each in ready.learned)
        learned += ready.learned  # type: ignore[arg-type]
        refused += ready.refused
        control = control or ready.control
    return learned, refused, control


def in_chunks(history: History, partition: Partition, records: Sequence[naive.Record], most: int) -> Told:
    learned: list[Learned] = []
    refused: list[Refused] = []
    control = False
    at = 0
    while at < len(records):
        stop = at + random.Random(at).randint(1, most)
        chunk = Chunk.of(records[at:stop])
        while True:
            try:
                partition.apply_many(chunk)
            except NeedPredictions as need:
                partition.supply(need.offset, history.decisions.records[need.offset].headers)
            else:
                break
        for each in chunk.learned:
            learned += each if isinstance(each, LearnedRun) else [each]
        assert len(chunk.outcomes) == len(chunk)
        refused += chunk.refused
        control = control or chunk.control
        at = stop
    return learned, refused, control


def bits(learned: Sequence[Learned]) -> list[object]:
    return [
        (each.key, each.x.tobytes(), np.array(each.vote).tobytes(), each.weight, each.kind, each.segment)
        for each in learned
    ]


def open_decisions(learner: Learner, requests: int) -> list[object]:
    """Everything that is kept of open decisions, but for where it is kept."""
    pending, found = learner.pending, []
    for number in range(requests + 3):
        decision = pending.of_request_id(f"r{number}")
        if decision is not None:
            slots = [
                (
                    s.kind,
                    s.on,
                    s.who,
                    s.seen,
                    s.key,
                    np.array(s.numbers).tobytes(),
                    s.predictions,
                    s.g,
                    s.g_shared,
                )
                for s in pending.slots_of(decision)
            ]
            found.append((number, decision.offset, decision.on, slots))
    return [*found, len(pending), pending.first_touch()]


def same(history: History, one: Partition, many: Partition) -> None:
    assert many.learner.evidence == one.learner.evidence
    assert many.learner.ledger == one.learner.ledger
    assert many.learner.fields == one.learner.fields
    assert list(many.learner.parked) == list(one.learner.parked)
    assert open_decisions(many.learner, history.requests) == open_decisions(one.learner, history.requests)
    assert encode_state(many.snapshot()) == encode_state(one.snapshot())


@pytest.mark.parametrize("half_life", [False, True], ids=["for-ever", "half-life"])
@pytest.mark.parametrize("block", range(6))
def test_many_records_at_once_do_what_they_do_one_by_one(
    block: int, half_life: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banditroute.flow.partition.CHECKPOINT_EVERY", 20)
    monkeypatch.setattr("banditroute.flow.settling.runs.LEAST_RUN", 2)
    if block % 2:  # decisions of one run are in several blocks
        monkeypatch.setattr("banditroute.flow.pending.blocks.BLOCK", 8)
        for module in ("pending", "rows"):
            monkeypatch.setattr(f"banditroute.flow.pending.{module}.BLOCK", 8)
            monkeypatch.setattr(f"banditroute.flow.pending.{module}.BITS", 3)
    for seed in range(3000 + 25 * block, 3000 + 25 * block + 25):
        history = History(seed, half_life, plain=seed % 2 == 0)
        records = history.journal.records
        one = restored(history, history.genesis(), 3)
        many = restored(history, history.genesis(), 3)
        alone = one_by_one(history, one, records)
        together = in_chunks(history, many, records, history.rng.choice([2, 20, 60, 500]))
        one.finish()
        many.finish()
        assert bits(alone[0]) == bits(together[0]), seed
        assert alone[1:] == together[1:], seed
        same(history, one, many)
        expected = naive.parse_state(encode_state(many.snapshot()))
        assert naive.differences(history.oracle(), expected) == [], seed


@pytest.mark.parametrize("half_life", [False, True], ids=["for-ever", "half-life"])
def test_many_records_at_once_restore_what_they_do_one_by_one(
    half_life: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banditroute.flow.partition.CHECKPOINT_EVERY", 7)
    monkeypatch.setattr("banditroute.flow.settling.runs.LEAST_RUN", 2)
    for seed in range(4000, 4040):
        history = History(seed, half_life, plain=seed % 2 == 0)
        records = history.journal.records
        first = restored(history, history.genesis(), 3)
        in_chunks(history, first, records[: len(records) // 2], 60)
        first.finish()
        state = first.snapshot()
        one, many = restored(history, state, 3), restored(history, state, 3)
        start = one.journal_from
        alone = one_by_one(history, one, records[start:])
        together = in_chunks(history, many, records[start:], 500)
        one.finish()
        many.finish()
        assert bits(alone[0]) == bits(together[0]), seed
        assert alone[1] == together[1], seed
        same(history, one, many)


def test_most_votes_of_a_plain_journal_are_settled_in_runs() -> None:
    history = History(5000, half_life=False, plain=True)
    partition = restored(history, history.genesis(), None)
    chunk = Chunk.of(history.journal.records)
    partition.apply_many(chunk)
    in_runs = sum(len(each) for each in chunk.learned if isinstance(each, LearnedRun))
    assert in_runs > 0.8 * chunk.outcomes.count("applied")
