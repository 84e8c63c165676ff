"""Numbers of usage that are no measurement: they do not reach the journal, and are counted."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from banditroute import Feedback, Router
from banditroute.config import from_dict
from banditroute.events import decode_journal, measured, unmeasured
from banditroute.flow.copying.copier import Copier
from banditroute.flow.copying.partitioner import PartitionerWatch
from banditroute.flow.records.kafka_records import InputRecord

MODELS = [{"name": "one", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 4.0}]


def expected_latency(latencies: Sequence[float]) -> float:
    """What a router expects of a model of whom so much was reported."""
    router = Router.from_dict({"models": MODELS})
    for number, latency in enumerate(latencies):
        router.decide({"request_id": f"r{number}", "prompt": "hello"})
        router.learn({"request_id": f"r{number}", "kind": "usage", "latency_ms": latency})
    expected = router.decide({"request_id": "last", "prompt": "hello"}).expected
    assert expected is not None
    assert expected.latency_ms is not None
    return expected.latency_ms


def mixed(latency: float, share: float, usual: float = 1000.0) -> list[float]:
    """Reports of which a share is something else."""
    rng = random.Random(7)
    return [latency if rng.random() < share else usual * rng.uniform(0.9, 1.1) for _ in range(300)]


@pytest.mark.parametrize("instead", [0.0, 1e-9, 0.3, 1e9, 1e12])
@pytest.mark.parametrize("share", [0.1, 0.2])
def test_a_fifth_of_latencies_that_are_no_measurement_is_hardly_felt(instead: float, share: float) -> None:
    assert expected_latency(mixed(instead, share)) == pytest.approx(1000.0, rel=0.05)


def test_zeros_do_not_let_a_slow_model_pass_a_limit_of_latency() -> None:
    router = Router.from_dict({"models": MODELS})
    for number, latency in enumerate(mixed(0.0, 0.2, usual=5000.0)):
        router.decide({"request_id": f"r{number}", "prompt": "hello"})
        router.learn({"request_id": f"r{number}", "kind": "score", "value": 0.5, "latency_ms": latency})
    decision = router.decide({"request_id": "last", "prompt": "hello", "max_latency_ms": 3000.0})
    assert decision.reason == "none-eligible: max_latency_ms"


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("latency_ms", 0.0, 1.0),
        ("latency_ms", 86_400_001.0, 86_400_000.0),
        ("cost_usd", 10_001.0, 10_000.0),
        ("input_tokens", 10_000_001, 10_000_000),
        ("output_tokens", 100_000_000, 10_000_000),
    ],
)
def test_what_no_answer_has_is_absent_and_the_bound_itself_counts(
    field: str, wrong: float, right: float
) -> None:
    event: dict[str, Any] = {"request_id": "r", "kind": "score", "value": 0.5}
    assert unmeasured(Feedback(**event, **{field: wrong})) == (field,)
    assert measured(Feedback(**event, **{field: wrong})) == Feedback(**event)
    fine = Feedback(**event, **{field: right})
    assert measured(fine) is fine


@pytest.mark.parametrize("field", ["cost_usd", "input_tokens", "output_tokens"])
def test_a_cost_and_tokens_of_nothing_are_measurements(field: str) -> None:
    assert unmeasured(Feedback(request_id="r", kind="usage", **{field: 0})) == ()


def test_one_absurd_count_of_tokens_does_not_make_a_model_expensive() -> None:
    router = Router.from_dict({"models": MODELS})
    for number in range(200):
        tokens = 100_000_000 if number == 100 else 300
        router.decide({"request_id": f"r{number}", "prompt": "hello"})
        router.learn({"request_id": f"r{number}", "kind": "usage", "output_tokens": tokens})
    expected = router.decide({"request_id": "last", "prompt": "hello"}).expected
    assert expected is not None
    assert expected.cost_usd == pytest.approx(300 * 4e-6, rel=0.1)


def test_many_at_once_learn_what_one_by_one_learns() -> None:
    rng = random.Random(3)
    events = [
        {
            "request_id": f"r{number}",
            "kind": rng.choice(["score", "usage"]),
            "value": rng.random(),
            "latency_ms": rng.choice([0.0, 900.0, 1e12]),
            "model": rng.choice(["one", "ONE"]),
        }
        for number in range(60)
    ]
    routers = [Router.from_dict({"models": MODELS}) for _ in range(2)]
    for router in routers:
        router.decide_many([{"request_id": f"r{number}", "prompt": "hello"} for number in range(60)])
    outcomes = [routers[0].learn(event) for event in events]
    assert routers[1].learn_many(events) == outcomes == ["applied"] * 60
    assert routers[0].evidence == routers[1].evidence


def test_the_copier_writes_no_unmeasured_number_and_counts_them_by_field() -> None:
    copier = Copier(
        from_dict({"models": MODELS}).catalog, PartitionerWatch("murmur2", 1), {}, lambda _id, _tenant: 0
    )
    events = [
        {"request_id": "a", "kind": "usage", "latency_ms": 0, "output_tokens": 5},
        {"request_id": "b", "kind": "score", "value": 0.5, "latency_ms": 0.0, "cost_usd": 1e12},
        {"request_id": "c", "kind": "usage", "latency_ms": 0},
    ]
    records = [
        InputRecord(offset, 0, None, json.dumps(event).encode()) for offset, event in enumerate(events)
    ]
    batch = copier.copy(0, records)
    assert batch.unmeasured == {"latency_ms": 3, "cost_usd": 1}
    assert not batch.poison
    written = [decode_journal(record.value) for record in batch.targets[0]]
    assert [record.feedback.latency_ms for record in written] == [None] * 3  # type: ignore[union-attr]
    assert written[0].feedback.output_tokens == 5  # type: ignore[union-attr]


def test_a_latency_that_is_not_known_stays_so() -> None:
    assert math.isnan(expected_or_nan([0.0] * 20))


def expected_or_nan(latencies: Sequence[float]) -> float:
    """As `expected_latency`, NaN where nothing is known."""
    try:
        return expected_latency(latencies)
    except AssertionError:
        return math.nan
