"""Numbers of usage that are no measurement: they do not reach the journal, and are counted."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from banditroute import Feedback, InputError, Router
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


# -- counts of tokens -----------------------------------------------------------------------------------

PRICED: dict[str, Any] = {
    "name": "cached",
    "input_usd_per_mtok": 3.0,
    "output_usd_per_mtok": 15.0,
    "cached_input_usd_per_mtok": 0.3,
    "cache_write_input_usd_per_mtok": 3.75,
    "request_usd": 0.001,
    "tiers": [
        {
            "above_input_tokens": 200_000,
            "input_usd_per_mtok": 6.0,
            "output_usd_per_mtok": 22.5,
            "cached_input_usd_per_mtok": 0.6,
        }
    ],
}
PLAIN: dict[str, Any] = {"name": "plain", "input_usd_per_mtok": 3.0, "output_usd_per_mtok": 15.0}
# the same request, as providers count it: 10,000 input tokens, of them 8,000 read from a cache and 500 written to it;
# 1,000 output tokens, of them 700 of thinking
WHOLE = {
    "input_tokens": 10_000,
    "cached_input_tokens": 8_000,
    "cache_write_input_tokens": 500,
    "output_tokens": 1_000,
    "reasoning_tokens": 700,
}
INPUT_APART = {
    "input_tokens": 1_500,
    "cache_read_input_tokens": 8_000,
    "cache_creation_input_tokens": 500,
    "output_tokens": 1_000,
    "reasoning_tokens": 700,
}
THOUGHTS_APART = {**WHOLE, "reasoning_tokens": None, "output_tokens": 300, "thoughts_tokens": 700}


def reported(model: str | None = "cached", **counts: Any) -> Feedback:
    """What the journal takes of a report of usage."""
    catalog = from_dict({"models": [PRICED, PLAIN]}).catalog
    found = catalog.reported(Feedback(request_id="r", kind="usage", model=model, **counts))
    assert isinstance(found, Feedback), found
    return found


@pytest.mark.parametrize("counts", [WHOLE, INPUT_APART, THOUGHTS_APART])
def test_however_a_provider_counts_the_journal_holds_all_tokens_and_what_was_paid(counts: Any) -> None:
    paid = 0.001 + 1e-6 * (3.0 * 1_500 + 0.3 * 8_000 + 3.75 * 500 + 15.0 * 1_000)
    found = reported(**counts)
    assert found.cost_usd == pytest.approx(paid)
    assert found == reported(**WHOLE)
    assert (found.input_tokens, found.output_tokens) == (10_000, 1_000)


def test_a_report_is_read_the_same_when_it_is_read_again() -> None:
    catalog = from_dict({"models": [PRICED, PLAIN]}).catalog
    found = reported(**INPUT_APART)
    assert catalog.reported(found) == found


def test_a_long_request_pays_the_prices_of_its_tier() -> None:
    found = reported(input_tokens=250_000, cached_input_tokens=200_000, output_tokens=100)
    assert found.cost_usd == pytest.approx(0.001 + 1e-6 * (6.0 * 50_000 + 0.6 * 200_000 + 22.5 * 100))


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        ("cached", {**WHOLE, "cost_usd": 0.5}),  # the bill knows better
        ("plain", WHOLE),  # its prices of cached tokens are not known
        (None, WHOLE),  # nor which model it was
        ("cached", {**WHOLE, "output_tokens": None}),
        ("cached", {"input_tokens": 10_000, "output_tokens": 1_000}),
        ("cached", {**WHOLE, "input_tokens": 300_000}),  # that tier has no price of writing to a cache
    ],
)
def test_no_cost_is_made_up(model: str | None, counts: dict[str, Any]) -> None:
    assert reported(model, **counts).cost_usd == counts.get("cost_usd")


@pytest.mark.parametrize(
    ("counts", "place", "instead"),
    [
        ({"input_tokens": 10, "cached_input_tokens": 11}, "cached_input_tokens", "cache_read_input_tokens"),
        (
            {"input_tokens": 10, "cached_input_tokens": 6, "cache_write_input_tokens": 6},
            "cached_input_tokens",
            "cache_creation_input_tokens",
        ),
        ({"output_tokens": 10, "reasoning_tokens": 11}, "reasoning_tokens", "thoughts_tokens"),
    ],
)
def test_a_part_that_is_more_than_the_whole_is_refused_with_what_to_send(
    counts: dict[str, int], place: str, instead: str
) -> None:
    router = Router.from_dict({"models": [PRICED]})
    with pytest.raises(InputError) as refused:
        router.learn({"request_id": "r", "kind": "usage", **counts})
    assert f"`$.{place}`" in str(refused.value)
    assert instead in str(refused.value)


def test_counts_apart_without_the_count_beside_them_say_nothing() -> None:
    found = reported(cost_usd=0.1, cache_read_input_tokens=5, thoughts_tokens=7)
    assert (found.input_tokens, found.output_tokens) == (None, None)


@pytest.mark.parametrize("apart", [{}, {"thoughts_tokens": 2_700}, {"reasoning_tokens": 2_700}])
def test_thinking_is_in_the_expected_cost_however_it_is_counted(apart: dict[str, int]) -> None:
    router = Router.from_dict({"models": [PLAIN]})
    output = 300 if "thoughts_tokens" in apart else 3_000
    for number in range(100):
        router.decide({"request_id": f"r{number}", "prompt": "hello"})
        router.learn({"request_id": f"r{number}", "kind": "usage", "output_tokens": output, **apart})
    expected = router.decide({"request_id": "last", "prompt": "hello"}).expected
    assert expected is not None
    assert expected.cost_usd == pytest.approx(15e-6 * 3_000, rel=0.05)
