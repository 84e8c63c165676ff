"""Many feedback events at once do what they do one by one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from banditroute import InputError, Router

MODELS = [
    {"name": name, "input_usd_per_mtok": price, "output_usd_per_mtok": 4 * price}
    for name, price in (("small", 0.1), ("middle", 0.5), ("large", 2.0))
]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "budget": {"objective": {"budget_usd_per_request": 0.0004}},
    "half-life": {"learning": {"half_life": "5m", "judge_weight": 0.5}},
    "weak-thumbs": {"learning": {"thumb_weight": 0.01}},
    "frozen": {"engine": {"mode": "frozen"}},
    "shadow": {"engine": {"mode": "shadow"}},
    "few-parked": {"feedback": {"max_parked": 3, "max_open": 120}},
}


def make(case: str) -> Router:
    return Router.from_dict({"models": MODELS} | CASES[case])


def story(seed: int, polls: int = 30) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]], float]]:
    """Polls of requests and of feedback, with the time at which they come."""
    rng = random.Random(seed)
    told, count = [], 0
    for poll in range(polls):
        requests = [
            {
                "request_id": f"r{count + i}",
                "prompt": rng.choice(["Translate", "Sum up", "2 + 2"]) * (1 + i % 3),
            }
            for i in range(rng.randrange(1, 25))
        ]
        count += len(requests)
        feedback = []
        for _ in range(rng.randrange(40)):
            kind = rng.choice(["score", "score", "score", "judge", "thumb", "usage", "withdraw"])
            event: dict[str, Any] = {"request_id": f"r{max(0, count - rng.randrange(-2, 30))}", "kind": kind}
            good = 0.9 if poll < polls // 2 else 0.1
            if kind in ("score", "judge"):
                event["value"] = min(1.0, max(0.0, rng.gauss(good, 0.05)))
            elif kind == "thumb":
                event["value"] = rng.random() < good
            elif kind == "usage":
                event["output_tokens"] = rng.randrange(500)
            if rng.random() < 0.3:
                event |= {"cost_usd": 1e-4 * rng.random(), "latency_ms": 900 * rng.random()}
            if rng.random() < 0.5:
                event["voter"] = rng.choice("uvw")
            if rng.random() < 0.1:
                event["model"] = rng.choice(["small", "large"])
            if rng.random() < 0.1:
                event["feedback_id"] = f"f{rng.randrange(50)}"
            if rng.random() < 0.05:
                event["tenant"] = "somebody"
            feedback.append(event)
        told.append((requests, feedback, 20.0 * poll))
    return told


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_learning_many_events_is_learning_one_after_the_other(case: str, seed: int) -> None:
    one, many = make(case), make(case)
    for requests, feedback, now in story(seed):
        assert one.decide_many(requests, now) == many.decide_many(requests, now)
        alone = [one.learn(event, now) for event in feedback]
        assert many.learn_many(feedback, now) == alone
        assert many.ledger == one.ledger
        assert many.evidence == one.evidence
        for mine, other in zip(many._policy.working, one._policy.working, strict=True):
            assert mine.tobytes() == other.tobytes()
    if case != "frozen":
        assert one.ledger["applied"] > 40
    np.testing.assert_array_equal(many.posterior.mu, one.posterior.mu)


def test_a_model_that_changes_within_many_votes_is_found_at_the_same_vote() -> None:
    one, many = make("plain"), make("plain")
    rng, changes = random.Random(5), 0
    for poll in range(40):
        requests = [{"request_id": f"{poll}-{i}", "prompt": "?"} for i in range(60)]
        decisions = one.decide_many(requests)
        assert decisions == many.decide_many(requests)
        level = 0.9 if poll < 20 else 0.2
        feedback = [
            {
                "request_id": decision.request_id,
                "kind": "score",
                "value": min(1.0, max(0.0, rng.gauss(level if decision.model == "small" else 0.5, 0.05))),
            }
            for decision in decisions
        ]
        assert [one.learn(event) for event in feedback] == many.learn_many(feedback)
        assert many.evidence == one.evidence
        changes = one.ledger.get("control", 0)
        assert many.ledger == one.ledger
    assert changes > 0


def test_nothing_is_learned_if_one_of_many_events_is_not_valid() -> None:
    router = make("plain")
    router.decide_many([{"request_id": f"r{i}", "prompt": "?"} for i in range(9)])
    good = [{"request_id": f"r{i}", "kind": "thumb", "value": True} for i in range(8)]
    before = router.ledger
    with pytest.raises(InputError, match="feedback 8 is not valid: a thumb's value"):
        router.learn_many([*good, {"request_id": "r8", "kind": "thumb", "value": 0.5}])
    with pytest.raises(InputError, match="feedback 8 is not valid: feedback names model 'other'"):
        router.learn_many([*good, {"request_id": "r8", "kind": "thumb", "value": True, "model": "other"}])
    assert router.ledger == before
    assert router.learn_many([]) == []
    assert router.learn_many(iter(good)) == ["applied"] * 8
