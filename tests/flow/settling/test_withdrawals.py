"""What was taken back leaves nothing behind: one vote, everything of a voter, and what still waits."""

from __future__ import annotations

import random

import numpy as np
import pytest

from banditroute.flow.partition import Partition, genesis_state
from banditroute.flow.records.position import LearnerSettings
from banditroute.flow.records.snapshot import Genesis
from tests.wire import SPEC_ID, DecisionLog, Journal, Model

D, REQUESTS = 3, 40
HOUR = 3_600_000


def learned(seed: int, *, withdrawn: bool, by_voter: bool) -> Partition:
    """A partition that saw a story, with or without the votes of voter u, which are withdrawn at its end."""
    rng = random.Random(seed)
    models = [Model(name, 0, *(rng.uniform(0.1, 1) for _ in range(5))) for name in "ab"]
    decisions, journal = DecisionLog(0, models, [1.0, 0.5, -0.25]), Journal()
    for offset in range(REQUESTS):
        decisions.add(offset, f"r{offset}", rng.choice("ab"), x=[1.0, rng.uniform(-1, 1), rng.uniform(-1, 1)])
    journal.decided(REQUESTS - 5)
    theirs: set[int] = set()
    for step in range(400):
        journal.now += rng.choice([0, 1000, HOUR // 4])
        offset, value = rng.randrange(REQUESTS), rng.random()
        kind, tokens = rng.choice(["score", "judge"]), rng.randrange(500)
        if step in (150, 300):  # a verdict: the evidence of both models shrinks, of one by far more
            journal.changed(step // 300, "a", 1 + step // 300, {"a": 0.05, "b": 0.6})
        if rng.random() < 0.5:
            if withdrawn:
                journal.feedback(
                    f"r{offset}",
                    kind,
                    value=value,
                    voter="u",
                    source="s",
                    output_tokens=tokens,
                    latency_ms=5.0,
                )
                theirs.add(offset)
        else:
            journal.feedback(f"r{offset}", kind, value=value, voter="w", output_tokens=tokens)
    if by_voter and withdrawn:
        event = {"v": 1, "kind": "withdraw", "voter": "u"}
        journal.append({"type": "feedback", "src": [7, 0], "feedback": event, "everywhere": True})
    journal.decided(REQUESTS)
    if not by_voter:
        for offset in sorted(theirs):
            journal.feedback(f"r{offset}", "withdraw", voter="u", source="s")
    settings = LearnerSettings(half_life_ms=12.0 * HOUR, judge_weight=1.5)
    spec = SPEC_ID.hex()
    partition = Partition(
        genesis_state(0, D, spec, settings, Genesis(log_epoch=1, hash_key="")), D, spec, settings
    )
    for record in decisions.records:
        partition.read_decision(record.offset, record.timestamp, record.value, record.headers)
    partition.begin()
    for record in journal.records:
        partition.apply(record.offset, record.timestamp, record.value)
    partition.finish()
    return partition


@pytest.mark.parametrize("by_voter", [False, True], ids=["one by one", "by voter"])
@pytest.mark.parametrize("seed", range(10))
def test_a_withdrawn_vote_leaves_evidence_as_if_it_had_never_been_there(seed: int, by_voter: bool) -> None:
    got = learned(seed, withdrawn=True, by_voter=by_voter).learner
    want = learned(seed, withdrawn=False, by_voter=by_voter).learner
    assert got.fields.shrink == want.fields.shrink
    assert got.fields.decay == pytest.approx(want.fields.decay, rel=1e-12)  # steps of it fall elsewhere
    assert got.fields.decay < -1.0
    assert got.ledger["revised"] > want.ledger["revised"]
    assert got.evidence.rows.keys() == want.evidence.rows.keys()
    for key, row in want.evidence.rows.items():
        scale = float(np.abs(row).max())
        np.testing.assert_allclose(got.evidence.rows[key], row, rtol=1e-9, atol=1e-9 * scale)
    shared = want.evidence.shared
    np.testing.assert_allclose(got.evidence.shared, shared, rtol=1e-9, atol=1e-9 * float(shared.max()))


def test_a_withdrawal_by_voter_also_removes_what_waits_for_its_decision() -> None:
    ledger = learned(3, withdrawn=True, by_voter=True).learner.ledger
    assert ledger["withdrawn"] > 0
    assert ledger["orphan"] == ledger["elsewhere"] == 0
