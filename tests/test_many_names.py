"""Many models, and names that never come twice: what is kept of them is bounded, and all feedback counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from banditroute import InputError, Router, aliases
from banditroute.catalog import MAX_MODELS, Catalog, Model
from banditroute.router import make_encoder

BOUND = 64


def catalog_of(count: int) -> list[dict[str, Any]]:
    """So many models, as configuration."""
    return [
        {
            "name": f"lab/model-{k}-2024-08-06",
            "input_usd_per_mtok": 0.1 + 0.01 * k,
            "output_usd_per_mtok": 1.0,
        }
        for k in range(count)
    ]


def test_names_that_never_come_twice_leave_no_more_than_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banditroute.flow.pending.interning.MOST_SEGMENTS", BOUND)
    monkeypatch.setattr("banditroute.flow.pending.identity._MOST_NAMES", BOUND)
    monkeypatch.setattr("banditroute.catalog._MOST_RESOLVED", BOUND)
    router = Router.from_dict({"models": catalog_of(2), "feedback": {"max_open": 100}})
    for number in range(0, 2000, 20):
        ids = [f"r{number + i}" for i in range(20)]
        router.decide_many(
            [
                {"request_id": one, "prompt": "hi", "tags": [f"tag {one}"], "session_id": f"session {one}"}
                for one in ids
            ]
        )
        votes = [
            {"request_id": one, "kind": "score", "value": 0.5, "source": f"app {one}", "voter": f"v {one}"}
            for one in ids
        ]
        assert router.learn_many(votes) == ["applied"] * 20
        with pytest.raises(InputError, match="not in the catalog"):
            router.learn({"request_id": ids[0], "kind": "thumb", "value": True, "model": f"other-{number}"})
    pending = router._partition.learner.pending
    assert len(pending) <= 120
    assert len(pending._segments._segments) <= BOUND
    assert len(pending.identifier._names) <= BOUND
    assert len(router._catalog._resolved) <= BOUND


def test_names_of_the_catalog_are_taken_apart_once_however_many_unknown_ones_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalog = Catalog(
        [Model(name=f"lab/model-{k}", input_usd_per_mtok=1.0, output_usd_per_mtok=1.0) for k in range(50)]
    )
    catalog.resolve("unknown-0")
    asked: list[str] = []
    plain = aliases.take_apart
    monkeypatch.setattr(aliases, "take_apart", lambda name: asked.append(name) or plain(name))
    for number in range(1, 200):
        assert catalog.resolve(f"unknown-{number}") == ()
    assert len(asked) == 199


def test_as_many_models_as_there_may_be_are_decided_on_and_learned_from() -> None:
    config = {"models": catalog_of(MAX_MODELS), "features": {"chars": 32}}
    router = Router.from_dict(config)
    assert make_encoder(router._config).spec.d >= 64
    decisions = router.decide_many([{"request_id": f"r{i}", "prompt": "hello"} for i in range(8)])
    assert all(len(decision.fallbacks) == MAX_MODELS - 1 for decision in decisions)
    assert all(0.0 < (decision.propensity or 0.0) <= 1.0 for decision in decisions)
    votes = [
        {"request_id": decision.request_id, "kind": "score", "value": 0.9, "model": f"model-{i}"}
        for i, decision in enumerate(decisions)
    ]
    assert router.learn_many(votes) == ["applied"] * 8
    expected = router.decide({"request_id": "last", "prompt": "hello"}).expected
    assert expected is not None
    assert np.isfinite(expected.quality)
