"""Decisions read back many at once are known as if each had been read by itself, whatever the log holds."""

from __future__ import annotations

import json
import random

import pytest

from banditroute.flow.partition import Partition, genesis_state
from banditroute.flow.records.position import LearnerSettings
from banditroute.flow.records.read_back import read_back
from banditroute.flow.records.snapshot import Genesis
from tests.naive import Record
from tests.wire import SPEC_ID, DecisionLog, Model

SPEC = SPEC_ID.hex()
D = 3
SETTINGS = LearnerSettings(
    half_life_ms=None, thumb_weight=1.0, score_weight=1.0, judge_weight=1.0, outcome_weight=1.0, max_parked=6
)


def logged(seed: int, odd: float) -> list[Record]:
    """Return decisions of which a share is unlike the others: repeated requests, shadow mode, other catalogs."""
    draw = random.Random(seed)
    models = [Model(name, 0, *(draw.uniform(0.1, 1) for _ in range(5))) for name in ("a", "b", "c")]
    log = DecisionLog(0, models, [1.0, 0.5, -0.25])
    offset, now = 0, 1_000
    for _ in range(400):
        offset += draw.choice((1, 1, 1, 5))
        now += draw.choice((0, 0, 7, 60_000))
        strange = draw.random() < odd
        log.add(
            max(0, offset - draw.randrange(9)) if strange else offset,
            draw.choice((None, "again")) if strange else None,
            draw.choice(("a", "b", "c", None, "gone" if strange else "a")),
            tenant=draw.choice((None, "t")),
            shadow=strange and draw.random() < 0.3,
            models=models[:2] if strange and draw.random() < 0.3 else None,
            x=[1.0, draw.uniform(-1, 1), draw.uniform(-1, 1)],
            timestamp=now,
            input_tokens=draw.choice((0.0, 100.1)),
            counted=draw.random() < 0.3,
        )
    return log.records


def partition() -> Partition:
    start = genesis_state(0, D, SPEC, SETTINGS, Genesis(log_epoch=1, hash_key="ab"))
    return Partition(start, D, SPEC, SETTINGS, keep=None)


def seen(one: Partition, records: list[Record]) -> list[object]:
    """Return all that can be told of the decisions that are known."""
    learner = one.learner
    learner.take_in(learner.end)
    found: list[object] = [learner.end, learner.r, len(learner.pending), dict(learner.ledger)]
    for record in records:
        request = int(str(json.loads(record.value or b"")["decision_id"]).partition("-")[2])
        decision = learner.pending.at_request_offset(request)
        if decision is not None:
            told = learner.pending.predicted(decision, "b")
            found.append(
                (decision.number, decision.offset, decision.identity, decision.tenant, decision.kind)
            )
            found.append(
                (decision.segment, decision.x.tobytes(), repr(decision.decided), decision.input_tokens)
            )
            found.append(repr(told))
    found.append(learner.pending.due(50_000, 0))
    return found


@pytest.mark.parametrize("odd", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_decisions_read_in_any_pieces_are_known_as_one_by_one(seed: int, odd: float) -> None:
    records = logged(seed, odd)
    alone, together = partition(), partition()
    for record in records:
        alone.read_decision(record.offset, record.timestamp, record.value, record.headers)
    draw, at = random.Random(seed), 0
    while at < len(records):
        stop = at + draw.choice((1, 3, 40, 200))
        together.read_decisions(records[max(0, at - draw.choice((0, 0, 2))) : stop])  # some come twice
        at = stop
    assert seen(together, records) == seen(alone, records)


def test_a_batch_of_alike_decisions_is_read_in_columns() -> None:
    records = [record for record in logged(1, 0.0) if b'"gone"' not in (record.value or b"")]
    batch = read_back(records, SPEC, 0)
    assert batch is not None
    assert len(batch.ids) == len(records)
    assert read_back(records, "0" * 16, 0) is None, "another feature spec"
    assert read_back(records, SPEC, int(batch.request_offsets[0]) + 1) is None, (
        "not the first of their requests"
    )
    assert read_back(records[::-1], SPEC, 0) is None, "request offsets that descend"
