"""The library face: decide and learn in memory, with the code that the engine runs."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
import math
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import banditroute
from banditroute import (
    ConfigError,
    Decision,
    Feedback,
    InputError,
    PauseEdit,
    PriceEdit,
    Request,
    Router,
)
from banditroute.bandit.evidence.evidence import Evidence
from banditroute.bandit.posterior.posterior import Posterior
from banditroute.bandit.posterior.prior import PRICE_SLOPE, quality_offsets
from banditroute.events import Changed

MODELS: list[dict[str, Any]] = [
    {
        "name": "small",
        "input_usd_per_mtok": 0.1,
        "output_usd_per_mtok": 0.4,
        "tags": ["cheap"],
        "context_window": 10_000,
    },
    {"name": "large", "input_usd_per_mtok": 2.0, "output_usd_per_mtok": 8.0, "capabilities": ["vision"]},
]


def router(**tables: Any) -> Router:
    """A router of two models."""
    return Router.from_dict({"models": MODELS, **tables})


def request(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A request."""
    return {"request_id": f"r-{number}", "prompt": "Translate: good morning", **fields}


def thumb(number: int = 0, **fields: Any) -> dict[str, Any]:
    """A thumb up."""
    return {"request_id": f"r-{number}", "kind": "thumb", "value": True, **fields}


# -- deciding -------------------------------------------------------------------------------------------


def test_a_decision_says_what_and_why() -> None:
    decision = router(objective={"cost_weight": 2.0}).decide(request(tenant="acme"))
    assert isinstance(decision, Decision)
    assert (decision.v, decision.decision_id, decision.request_id) == (1, "0-0", "r-0")
    assert {decision.model, *decision.fallbacks} == {"small", "large"}
    assert decision.reason == "utility"
    assert decision.propensity is not None
    assert 0 < decision.propensity < 1
    assert decision.expected is not None
    assert decision.expected.cost_usd > 0
    assert decision.weights.cost == 2.0
    assert decision.tenant == "acme"
    assert decision.mode == "active"


def test_requests_are_objects_or_mappings() -> None:
    first = router().decide(Request(request_id="r-0", prompt="Translate: good morning"))
    assert first == router().decide(request())


def test_the_same_log_gives_the_same_decisions() -> None:
    def play() -> list[Any]:
        played = router()
        seen: list[Any] = []
        for number in range(30):
            seen.append(played.decide(request(number, tags=[f"t{number % 3}"])))
            seen.append(played.learn(thumb(number, value=bool(number % 2))))
        return [*seen, played.posterior.mu.tolist()]

    assert play() == play()


def test_deciding_many_is_deciding_one_by_one() -> None:
    one, many = router(), router()
    requests = [request(number, tags=[f"t{number % 5}"]) for number in range(40)]
    assert many.decide_many(requests) == [one.decide(event) for event in requests]
    assert many.decide_many([]) == []


def test_the_seed_changes_what_is_explored() -> None:
    requests = [request(number) for number in range(64)]
    models = [[d.model for d in router(learning={"seed": seed}).decide_many(requests)] for seed in (0, 1)]
    assert models[0] != models[1]


@pytest.mark.parametrize(
    ("fields", "model", "reason"),
    [
        ({"deny": ["small"]}, "large", "only-eligible"),
        ({"allow": ["cheap"]}, "small", "only-eligible"),
        ({"needs": ["vision"]}, "large", "only-eligible"),
        ({"input_tokens": 20_000}, "large", "only-eligible"),
        ({"input_tokens": 9_000, "max_output_tokens": 2_000}, "large", "only-eligible"),
        ({"max_cost_usd": 0.0005}, "small", "only-eligible"),
        ({"needs": ["audio"]}, None, "none-eligible: request"),
        ({"deny": ["small", "large"]}, None, "none-eligible: request"),
        ({"allow": ["nothing"]}, None, "none-eligible: request"),
        ({"max_cost_usd": 0}, None, "none-eligible: max_cost_usd"),
    ],
)
def test_a_hard_filter_decides_who_may_serve_and_is_named(
    fields: dict[str, Any], model: str | None, reason: str
) -> None:
    decision = router().decide(request(**fields))
    assert (decision.model, decision.reason) == (model, reason)
    assert decision.fallbacks == ()
    assert decision.propensity == (None if model is None else 1.0)
    assert (decision.expected is None) == (model is None)


def test_a_latency_limit_acts_once_latency_is_known() -> None:
    slow = [{**model, "prior_latency_ms": 1000.0} for model in MODELS]
    decision = Router.from_dict({"models": slow}).decide(request(max_latency_ms=1.0))
    assert (decision.model, decision.reason) == (None, "none-eligible: max_latency_ms")


def test_a_paused_model_is_not_chosen() -> None:
    paused = [{**MODELS[0], "paused": True}, MODELS[1]]
    assert Router.from_dict({"models": paused}).decide(request()).model == "large"


def test_a_stale_request_gets_the_default_model_at_once() -> None:
    stale = router(requests={"max_request_age": "5m", "default_model": "large"})
    decision = stale.decide(request(deadline=1000.0), now=1001.0)
    assert (decision.model, decision.reason, decision.fallbacks) == ("large", "stale", ("small",))
    assert decision.propensity is None
    assert decision.expected is None
    assert not decision.explored
    assert stale.decide(request(1, deadline=2000.0), now=1001.0).reason == "utility"


def test_a_request_may_weigh_cost_by_itself() -> None:
    decision = router(objective={"cost_weight": 1.0}).decide(request(cost_weight=1e6))
    assert decision.weights.cost == 1e6
    assert decision.model == "small"


# -- learning -------------------------------------------------------------------------------------------


def test_learning_improves_what_is_chosen() -> None:
    learner = router()
    good = 0
    for number in range(400):
        task = ["code", "chat"][number % 2]
        best = {"code": "large", "chat": "small"}[task]
        model = learner.decide(request(number, tags=[task])).model
        learner.learn({"request_id": f"r-{number}", "kind": "score", "value": 0.9 if model == best else 0.3})
        good += number >= 300 and model == best
    assert good > 85


def test_evidence_grows_by_what_is_applied() -> None:
    learner = router()
    assert not learner.evidence.rows
    learner.decide(request())
    assert learner.learn(thumb(output_tokens=10, cost_usd=0.1)) == "applied"
    evidence = learner.evidence
    assert isinstance(evidence, Evidence)
    assert isinstance(learner.posterior, Posterior)
    (row,) = evidence.rows.values()
    assert row[0] == 1.0
    row[:] = 0.0  # a copy: what the router knows is its own
    assert next(iter(learner.evidence.rows.values()))[0] == 1.0


def test_reported_input_tokens_move_the_cost_of_an_estimate_and_not_of_a_count() -> None:
    learner = router()
    only_input = {"allow": ["large"], "max_output_tokens": 0, "prompt": "word " * 200}

    def cost(number: int, **fields: Any) -> float:
        decision = learner.decide(request(number, **only_input, **fields))
        assert decision.expected is not None
        return decision.expected.cost_usd

    estimate = cost(0)
    for number in range(1, 41):  # counted requests report as well, and say nothing about estimates
        given = {} if number % 2 else {"input_tokens": 5}
        cost(number, **given)
        reported = round(3 * estimate / 2e-6) if number % 2 else 1_000_000
        learner.learn({"request_id": f"r-{number}", "kind": "usage", "input_tokens": reported})
    tokens = estimate / 2e-6
    ratio = (20 * round(3 * tokens) + 900) / (20 * tokens + 900)
    assert cost(41) == pytest.approx(estimate * ratio, rel=0.06)  # the last derive may be a tenth old
    assert cost(42, input_tokens=1000) == pytest.approx(2e-3)


def test_every_outcome_of_feedback_has_a_name() -> None:
    learner = router(feedback={"join_window": "10s"})
    learner.decide(request(0, tenant="acme"), now=100.0)
    assert learner.learn(thumb(0, tenant="other")) == "foreign"
    assert learner.learn(thumb(0, voter="u", feedback_id="one")) == "applied"
    assert learner.learn(thumb(0, voter="u", feedback_id="one")) == "duplicate"
    assert learner.learn(thumb(0, voter="u", feedback_id="two", value=False)) == "revised"
    assert learner.learn({"request_id": "r-0", "kind": "withdraw", "voter": "u"}) == "revised"
    assert learner.learn({"request_id": "r-0", "kind": "withdraw", "voter": "u"}) == "rejected"
    assert learner.learn(thumb(0, decision_id="7-0")) == "rejected"
    assert learner.learn(thumb(5)) == "parked"
    assert learner.learn(thumb(0, decision_id="0-0"), now=200.0) == "late"
    ledger = learner.ledger
    for name, count in {
        "applied": 1,
        "duplicate": 1,
        "revised": 2,
        "rejected": 2,
        "foreign": 1,
        "late": 1,
    }.items():
        assert ledger[name] == count


def test_parked_feedback_is_applied_when_its_request_is_decided() -> None:
    learner = router()
    assert learner.learn(thumb()) == "parked"
    learner.decide(request())
    assert learner.ledger["applied"] == 1


def test_feedback_goes_to_the_model_that_served() -> None:
    learner = router()
    decision = learner.decide(request())
    assert learner.learn(thumb(model=decision.fallbacks[0])) == "applied"
    assert [key.name for key in learner.evidence.rows] == [decision.fallbacks[0]]


def test_all_that_a_voter_said_is_withdrawn_without_naming_a_request() -> None:
    learner = router()
    for number in range(3):
        learner.decide(
            {"request_id": f"r-{number}", "prompt": "hello", "tenant": "acme" if number else "other"}
        )
        learner.learn({"request_id": f"r-{number}", "kind": "score", "value": 1.0, "voter": "u"})
    assert learner.learn({"request_id": "r-9", "kind": "thumb", "value": True, "voter": "u"}) == "parked"
    assert learner.learn({"kind": "withdraw", "voter": "u", "tenant": "acme"}) == "revised"
    assert sum(learner.evidence.votes().values()) == 1.0
    assert learner.learn({"kind": "withdraw", "voter": "u"}) == "revised"
    assert sum(learner.evidence.votes().values()) == 0.0
    assert learner.ledger["withdrawn"] == 1
    assert learner.learn({"kind": "withdraw", "voter": "u"}) == "elsewhere"
    with pytest.raises(InputError, match="request_id"):
        learner.learn({"kind": "score", "voter": "u", "value": 1.0})


def test_a_withdrawn_vote_leaves_nothing_behind() -> None:
    learner = router()
    learner.decide(request())
    learner.learn(thumb(voter="u"))
    learner.learn({"request_id": "r-0", "kind": "withdraw", "voter": "u"})
    (row,) = learner.evidence.rows.values()
    assert row[0] == 0.0


def test_beyond_max_open_the_oldest_decisions_are_closed() -> None:
    learner = router(feedback={"max_open": 3})
    for number in range(10):
        learner.decide(request(number))
    assert learner.learn(thumb(0, decision_id="0-0")) == "late"
    assert learner.learn(thumb(9)) == "applied"


def test_a_price_acts_on_the_very_next_decision() -> None:
    learner = router(objective={"cost_weight": 100.0})
    assert learner.decide(request()).model == "small"
    learner.control(PriceEdit("small", 500.0, 2000.0))
    assert learner.decide(request(1)).model == "large"


def test_what_is_dear_starts_better_and_what_is_declared_counts_instead() -> None:
    offsets = [prior.quality_offset for prior in router().posterior.models]
    assert offsets == quality_offsets([(0.1, 0.4), (2.0, 8.0)], slope=PRICE_SLOPE)
    assert offsets[1] - offsets[0] == pytest.approx(0.06 * math.log(20.0))
    flat = router(learning={"price_prior": 0.0})
    assert [prior.quality_offset for prior in flat.posterior.models] == [0.0, 0.0]
    declared = router(models=[{**MODELS[0], "prior_quality": 0.9}, {**MODELS[1], "prior_quality": 0.7}])
    offsets = [prior.quality_offset for prior in declared.posterior.models]
    assert offsets[0] - offsets[1] == pytest.approx(0.2)


def test_a_paused_model_gets_nothing_until_it_is_resumed_and_keeps_what_it_knows() -> None:
    learner = router()
    learner.control(PauseEdit("small", True))
    assert {learner.decide(request(number)).model for number in range(30)} == {"large"}
    assert learner.learn(thumb(0, model="small")) == "applied"
    assert learner.posterior.n.tolist() == [1.0, 0.0]
    learner.control(PauseEdit("small", False))
    assert {learner.decide(request(number)).model for number in range(30, 90)} == {"small", "large"}
    learner.control(PauseEdit("small", True))
    learner.control(PauseEdit("large", True))
    assert learner.decide(request(99)).reason == "none-eligible: request"


def test_a_model_paused_in_the_configuration_gets_nothing_until_an_edit_resumes_it() -> None:
    learner = router(models=[{**MODELS[0], "paused": True}, MODELS[1]])
    assert {learner.decide(request(number)).model for number in range(30)} == {"large"}
    assert learner.decide(request(30, allow=("small",))).reason == "none-eligible: request"
    learner.control(PauseEdit("small", False))
    assert {learner.decide(request(number)).model for number in range(31, 90)} == {"small", "large"}


def test_a_decision_names_the_first_tag_as_its_segment() -> None:
    learner = router()
    assert learner.decide(request(0, tags=("code", "python"))).segment == "code"
    assert learner.decide(request(1)).segment is None


def test_a_frozen_router_exploits_and_keeps_its_posterior() -> None:
    frozen = router(engine={"mode": "frozen"})
    before = frozen.posterior
    decision = frozen.decide(request())
    assert (decision.reason, decision.propensity, decision.explored) == ("greedy", 1.0, False)
    assert decision.mode == "frozen"
    for number in range(1, 30):
        frozen.decide(request(number))
        assert frozen.learn(thumb(number)) == "applied"
    assert frozen.posterior is before


def test_a_shadow_router_learns_from_the_incumbent_alone() -> None:
    shadow = router(engine={"mode": "shadow"})
    assert shadow.decide(request()).mode == "shadow"
    assert shadow.learn(thumb()) == "rejected"
    assert shadow.learn(thumb(model="large")) == "applied"
    assert [key.name for key in shadow.evidence.rows] == ["large"]


# -- wrong input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({"prompt": "x"}, "request 0 is not valid: Expected an object with `request_id`"),
        ({"request_id": "r"}, "request 0 is not valid: Expected one of"),
        ({"request_id": 5, "prompt": "x"}, "at `$.request_id`"),
        ({"request_id": "r", "context": [math.nan]}, "finite numbers"),
        ({"request_id": "r", "prompt": "x", "tags": ["t"] * 65}, "`$.tags`"),
        ("r", "Expected an object"),
        (Request(request_id=5, prompt="x"), "`$.request_id`"),  # type: ignore[arg-type]
        (Request(request_id="r", prompt="x", cost_weight=-1.0), "`$.cost_weight`"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_changes_nothing(event: Any, sentence: str) -> None:
    one = router()
    with pytest.raises(InputError, match=r"request 0 is not valid: ") as refused:
        one.decide(event)
    assert sentence in str(refused.value)
    assert one.decide(request()).decision_id == "0-0"


def test_one_wrong_request_refuses_the_whole_batch_and_is_numbered() -> None:
    one = router()
    with pytest.raises(InputError, match="request 2 is not valid"):
        one.decide_many([request(0), request(1), {}])
    assert len(one.decide_many([request(0), request(1)])) == 2


def test_the_very_same_request_sent_again_gets_its_decision_again() -> None:
    one = router()
    first, second = one.decide_many([request(), request(1)])
    assert one.decide(request()) == first
    again = one.decide_many([request(1), request(2), request(2), request()])
    assert again[0] == second
    assert again[1] == again[2]
    assert again[3] == first
    assert one.ledger["first"] == 3


def test_another_request_under_an_id_with_an_open_decision_is_refused() -> None:
    one = router()
    one.decide(request())
    other = request() | {"prompt": "something else"}
    for again in ([other], [request(1), request(1) | {"cost_weight": 3.0}]):
        with pytest.raises(InputError, match="already has an open decision: give each request its own id"):
            one.decide_many(again)
    assert one.ledger["first"] == 1


def test_request_ids_are_per_tenant_and_feedback_says_whose_it_is() -> None:
    one = router()
    ours, theirs, nobodys = one.decide_many(
        [request() | {"tenant": "a"}, request() | {"tenant": "b"}, request()]
    )
    assert len({ours.decision_id, theirs.decision_id, nobodys.decision_id}) == 3
    assert one.learn(thumb(tenant="b", decision_id=ours.decision_id)) == "foreign"
    assert one.learn(thumb(tenant="b", voter="u")) == "applied"
    assert one.learn(thumb(tenant="b", voter="u", decision_id=theirs.decision_id)) == "duplicate"
    assert one.learn(thumb(voter="u")) == "applied"  # without a tenant: the first of them
    assert one.learn(thumb(voter="u", decision_id=ours.decision_id)) == "duplicate"
    assert one.learn(thumb(tenant="c")) == "foreign"


def test_an_id_is_shared_by_sixteen_tenants_and_no_more() -> None:
    one = router()
    one.decide_many([request() | {"tenant": f"t{number}"} for number in range(10)])
    for number in range(10, 16):
        one.decide(request() | {"tenant": f"t{number}"})
    with pytest.raises(InputError, match="16 tenants"):
        one.decide(request() | {"tenant": "one more"})
    with pytest.raises(InputError, match="16 tenants"):
        router().decide_many([request() | {"tenant": f"t{number}"} for number in range(17)])


def test_an_id_may_come_again_once_its_decision_is_closed() -> None:
    one = router()
    first = one.decide(request(), now=0.0)
    second = one.decide(request(), now=30 * 86400.0)
    assert second.decision_id != first.decision_id


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        ({"request_id": "r-0", "kind": "applause"}, "feedback is not valid"),
        ({"request_id": "r-0", "kind": "score", "value": 2}, "`$.value`"),
        (Feedback(request_id="r-0", kind="score", value=7.0), "`$.value`"),
        (Feedback(request_id="r-0", kind="applause"), "`$.kind`"),  # type: ignore[arg-type]
        (thumb(model="huge"), "feedback names model 'huge', which is not in the catalog"),
    ],
)
def test_wrong_feedback_is_one_sentence_and_teaches_nothing(event: Any, sentence: str) -> None:
    one = router()
    one.decide(request())
    before = one.ledger
    with pytest.raises(InputError) as refused:
        one.learn(event)
    assert sentence in str(refused.value)
    assert one.ledger == before


@pytest.mark.parametrize(
    "edit", [PriceEdit("huge", 1.0, 1.0), PriceEdit("small", -1.0, 1.0), PriceEdit("small", math.nan, 1.0)]
)
def test_a_wrong_price_is_refused(edit: PriceEdit) -> None:
    one = router()
    with pytest.raises(InputError):
        one.control(edit)
    one.decide(request())
    assert one.ledger.get("unreadable", 0) == 0


def test_input_errors_are_value_errors() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(InputError, banditroute.BanditrouteError)


def test_a_wrong_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the catalog is empty"):
        Router.from_dict({})
    with pytest.raises(ConfigError, match="features"):
        router(features={"tags": -1})
    with pytest.raises(ConfigError, match="cannot read"):
        Router.from_config(tmp_path / "none.toml")


def test_a_router_is_built_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "banditroute.toml"
    path.write_text(
        '[[models]]\nname = "a"\ninput_usd_per_mtok = 1\noutput_usd_per_mtok = 2\n', encoding="utf-8"
    )
    assert Router.from_config(path).decide(request()).model == "a"


# -- what it is made of -----------------------------------------------------------------------------------


def test_the_public_names_are_these() -> None:
    assert banditroute.__all__ == [
        "BanditrouteError",
        "BrokerError",
        "Catalog",
        "Config",
        "ConfigError",
        "DataSetError",
        "Decision",
        "Feedback",
        "InputError",
        "Model",
        "PauseEdit",
        "PriceEdit",
        "Request",
        "Router",
        "StateError",
        "load",
    ]
    for name in banditroute.__all__:
        assert getattr(banditroute, name) is not None


def test_it_needs_no_threads_files_or_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    router().decide(request())  # compiles
    one = router()

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the library face is in memory alone")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(threading.Thread, "start", forbidden)
    monkeypatch.setattr("builtins.open", forbidden)
    monkeypatch.setattr(Path, "open", forbidden)
    one.decide(request())
    assert one.learn(thumb()) == "applied"
    one.control(PriceEdit("small", 1.0, 1.0))


def test_importing_it_brings_no_broker_client_and_no_event_loop() -> None:
    code = (
        "import sys, banditroute;"
        "print([m for m in ('aiokafka', 'asyncio', 'confluent_kafka', 'typer', 'pyarrow', 'banditroute.runtime')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def _environment() -> dict[str, str]:
    import os

    root = Path(__file__).resolve().parents[1]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(root / folder) for folder in (".", "features", "sim")),
    }


@pytest.mark.parametrize(("declared", "eligible"), [(True, {"sees"}), (False, {"sees", "blind"})])
def test_a_picture_needs_vision_where_a_model_declares_it(declared: bool, eligible: set[str]) -> None:
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
    sees = {"name": "sees", **price} | ({"capabilities": ["vision"]} if declared else {})
    router = Router.from_dict({"models": [{"name": "blind", **price}, sees]})
    parts = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]
    decision = router.decide({"request_id": "r", "messages": [{"role": "user", "content": parts}]})
    assert {decision.model, *decision.fallbacks} == eligible
    other = router.decide({"request_id": "s", "messages": [{"role": "user", "content": "hello"}]})
    assert {other.model, *other.fallbacks} == {"sees", "blind"}


# -- what is refused changes nothing ----------------------------------------------------------------


def seen(router: Router) -> tuple[Any, ...]:
    """All that a caller can see of what a router remembers."""
    decision = router.decide(request(10_000_000))
    return router.evidence, router.ledger, decision.model, decision.propensity, decision.decision_id


NO_SECONDS: list[Any] = [
    math.nan, math.inf, -math.inf, -1, -1e-9, 1_700_000_000_000, 1_700_000_000_000_000_000, 1.7e18, 10**400, 1 << 64,
    "1700000000", b"1", True, [1.0], {}, object(), 1j, dt.date(2026, 1, 1),
    np.int64(2**62), np.float64("nan"), np.array([1.0, 2.0]), Decimal("1e30"),
]  # fmt: skip


@pytest.mark.parametrize("now", NO_SECONDS, ids=lambda now: f"{type(now).__name__}-{str(now)[:12]}")
def test_a_time_that_is_no_unix_seconds_is_refused_and_nothing_has_changed(now: Any) -> None:
    one, other = router(), router()
    for each in (one, other):
        each.decide(request(1), now=1_700_000_000)
    calls: list[Callable[[], Any]] = [
        lambda: one.decide(request(2), now=now),
        lambda: one.decide_many([], now=now),
        lambda: one.learn(thumb(1), now=now),
        lambda: one.learn_many([thumb(1)], now=now),
        lambda: one.learn_many([], now=now),
        lambda: one.control(PauseEdit("small", True), now=now),
    ]
    for call in calls:
        with pytest.raises(InputError, match="expected Unix seconds"):
            call()
    assert seen(one) == seen(other)
    assert one.learn(thumb(1), now=1_700_000_001) == "applied"


@pytest.mark.parametrize(
    "now", [0, 0.5, 1_700_000_000, np.float32(1.7e9), np.int64(1_700_000_000), Fraction(3, 2)]
)
def test_unix_seconds_are_taken_as_any_real_number(now: Any) -> None:
    assert router().decide(request(), now=now).model in ("small", "large")


REFUSED: list[Callable[[Router], Any]] = [
    lambda r: r.decide({"request_id": "r-2"}, now=1_800_000_000),
    lambda r: r.decide(request(2, cost_weight=math.inf), now=1_800_000_000),
    lambda r: r.decide(request(2, input_tokens=1 << 64), now=1_800_000_000),
    lambda r: r.decide_many([request(2), request(2, prompt="Other")], now=1_800_000_000),
    lambda r: r.decide_many([request(2), None], now=1_800_000_000),  # type: ignore[list-item]
    lambda r: r.decide(Request(request_id="r-2", prompt="x", max_cost_usd=-1.0), now=1_800_000_000),
    lambda r: r.learn({"request_id": "r-1", "kind": "score", "value": 1.5}, now=1_800_000_000),
    lambda r: r.learn({"request_id": "r-1", "kind": "usage", "cost_usd": math.inf}, now=1_800_000_000),
    lambda r: r.learn(thumb(1, model="unknown"), now=1_800_000_000),
    lambda r: r.learn_many([thumb(1), thumb(1, model="unknown")], now=1_800_000_000),
    lambda r: r.control(PriceEdit("small", math.nan, 1.0), now=1_800_000_000),
    lambda r: r.control(PriceEdit("small", -1.0, 1.0), now=1_800_000_000),
    lambda r: r.control(PriceEdit("small", 10**400, 1.0), now=1_800_000_000),
    lambda r: r.control(PauseEdit("unknown", True), now=1_800_000_000),
    lambda r: r.control(Changed("small", 1, {"small": 0.0}), now=1_800_000_000),
    lambda r: r.control(Changed("small", 1, {"small": math.nan}), now=1_800_000_000),
    lambda r: r.control(Changed("small", 1, {"small": 1e300}), now=1_800_000_000),
    lambda r: r.control(Changed("small", "1", {}), now=1_800_000_000),  # type: ignore[arg-type]
    lambda r: r.control(object(), now=1_800_000_000),  # type: ignore[arg-type]
    lambda r: r.control(None, now=1_800_000_000),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_refused_does_not_move_time_either(number: int) -> None:
    one, other = router(), router()
    for each in (one, other):
        each.decide(request(1), now=1_700_000_000)
    with pytest.raises(InputError):
        REFUSED[number](one)
    assert one.learn(thumb(1)) == other.learn(thumb(1)) == "applied"
    assert seen(one) == seen(other)


def test_an_id_may_come_again_with_the_call_that_closes_its_decision() -> None:
    one = router()
    one.decide(request(1), now=1_700_000_000)
    with pytest.raises(InputError, match="already has an open decision"):
        one.decide(request(1, prompt="Other"), now=1_700_000_001)
    assert one.decide(request(1), now=1_700_000_000 + 40 * 86_400).decision_id == "0-1"


# -- sharing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_router_says_that_it_cannot_be_copied(way: Callable[[Any], Any]) -> None:
    one = router()
    one.decide(request(1))
    for part in (one, one._policy, one._partition, one._policy.single([[1.0, 1.0]] * 2)):
        with pytest.raises(TypeError, match=r"cannot be copied or pickled.*state export"):
            way(part)
    assert one.learn(thumb(1)) == "applied"


def test_threads_may_share_a_router() -> None:
    one, alone = router(), router()
    threads, each = 6, 40
    decided: list[Decision] = []
    outcomes: list[str] = []

    def work(number: int) -> None:
        for i in range(each):
            at = number * each + i
            decided.append(one.decide(request(at)))
            outcomes.append(one.learn(thumb(at)))
            outcomes.extend(one.learn_many([{"request_id": f"r-{at}", "kind": "score", "value": 0.5}]))

    switched = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(switched)
    total = threads * each
    assert sorted(int(decision.decision_id[2:]) for decision in decided) == list(range(total))
    assert outcomes == ["applied"] * (2 * total)
    assert one.ledger["first"] == total
    alone.decide_many([request(at) for at in range(total)])
    alone.learn_many([thumb(at) for at in range(total)])
    assert alone.learn(thumb(0)) == one.learn(thumb(0)) == "duplicate"


def test_the_same_request_from_many_threads_is_decided_once() -> None:
    one = router()
    decided: list[str] = []
    gate = threading.Barrier(8)

    def work() -> None:
        gate.wait()
        decided.append(one.decide(request(7)).decision_id)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert decided == ["0-0"] * 8
    assert one.ledger["first"] == 1


async def _in_threads(one: Router, count: int) -> list[Decision]:
    return await asyncio.gather(*(asyncio.to_thread(one.decide, request(at)) for at in range(count)))


@pytest.mark.timeout(60)
def test_decide_may_be_sent_to_threads_by_asyncio() -> None:
    decisions = asyncio.run(_in_threads(router(), 64))
    assert len({decision.decision_id for decision in decisions}) == 64


@pytest.mark.timeout(60)
def test_events_with_code_of_their_own_may_call_the_router() -> None:
    one = router()

    def requests() -> Iterator[dict[str, Any]]:
        for number in range(3):
            one.decide(request(100 + number))
            yield request(number)

    assert len({decision.decision_id for decision in one.decide_many(requests())}) == 3


def test_a_call_from_within_a_call_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    one = router()
    inner: list[str] = []

    def paid(*_: Any) -> None:
        try:
            one.decide(request(2))
        except RuntimeError as error:
            inner.append(str(error))

    one.decide(request(1))
    monkeypatch.setattr(one._pacer, "paid", paid)
    assert one.learn(thumb(1)) == "applied"
    assert "from within one of its own calls" in inner[0]
    monkeypatch.undo()
    assert one.decide(request(2)).decision_id == "0-1"
