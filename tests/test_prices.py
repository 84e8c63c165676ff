"""Prices beyond one per token: tiers, prices per request and of cached input, and how much a model writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from banditroute import ConfigError, PriceEdit, Router
from banditroute.bandit.choice.policy import DecideBatch, Policy
from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.bandit.posterior.prior import ModelPrior
from banditroute.catalog import Catalog, Model, Tier
from banditroute.config import from_dict, warnings

LONG = [
    {"above_input_tokens": 128_000, "input_usd_per_mtok": 3.0, "output_usd_per_mtok": 12.0},
    {"above_input_tokens": 200_000, "input_usd_per_mtok": 6.0, "output_usd_per_mtok": 20.0},
]
TIERED: dict[str, Any] = {
    "name": "tiered",
    "input_usd_per_mtok": 2.0,
    "output_usd_per_mtok": 10.0,
    "tiers": LONG,
}
PLAIN: dict[str, Any] = {"name": "plain", "input_usd_per_mtok": 4.0, "output_usd_per_mtok": 10.0}


def expected(router: Router, tokens: int, **fields: Any) -> float:
    """The expected cost of a request whose tokens are counted."""
    request = {
        "request_id": f"r{tokens}",
        "prompt": "hello",
        "input_tokens": tokens,
        "max_output_tokens": 1000,
    }
    decision = router.decide({**request, **fields})
    assert decision.expected is not None
    return decision.expected.cost_usd


@pytest.mark.parametrize(
    ("tokens", "price_in", "price_out"),
    [
        (0, 2.0, 10.0),
        (128_000, 2.0, 10.0),
        (128_001, 3.0, 12.0),
        (200_000, 3.0, 12.0),
        (200_001, 6.0, 20.0),
        (10_000_000, 6.0, 20.0),
    ],
)
def test_a_request_is_expected_to_cost_what_its_tier_costs(
    tokens: int, price_in: float, price_out: float
) -> None:
    paid = 1e-6 * (price_in * tokens + price_out * 300)
    assert expected(Router.from_dict({"models": [TIERED]}), tokens) == pytest.approx(paid)


def test_a_price_per_request_is_in_the_expected_cost() -> None:
    router = Router.from_dict({"models": [{**PLAIN, "request_usd": 0.02}]})
    assert expected(router, 100) == pytest.approx(0.02 + 1e-6 * (4.0 * 100 + 10.0 * 300))


def test_a_limit_of_cost_is_held_against_the_price_of_the_tier() -> None:
    router = Router.from_dict({"models": [TIERED]})
    request = {"prompt": "hello", "input_tokens": 250_000, "max_output_tokens": 300}
    assert router.decide({**request, "request_id": "a", "max_cost_usd": 1.6}).model == "tiered"
    decision = router.decide({**request, "request_id": "b", "max_cost_usd": 1.0})
    assert (decision.model, decision.reason) == (None, "none-eligible: max_cost_usd")


def test_a_long_request_goes_where_it_is_cheaper() -> None:
    router = Router.from_dict({"models": [TIERED, PLAIN], "engine": {"mode": "frozen"}})
    request = {"prompt": "hello", "cost_weight": 1000.0}
    assert router.decide({**request, "request_id": "a", "input_tokens": 100_000}).model == "tiered"
    assert router.decide({**request, "request_id": "b", "input_tokens": 250_000}).model == "plain"


def test_a_price_edit_moves_the_tiers_in_proportion() -> None:
    router = Router.from_dict({"models": [TIERED, PLAIN]})
    router.control(PriceEdit("tiered", 1.0, 20.0))
    allow = {"allow": ["tiered"]}
    assert expected(router, 100_000, **allow) == pytest.approx(1e-6 * (1.0 * 100_000 + 20.0 * 300))
    assert expected(router, 250_000, **allow) == pytest.approx(1e-6 * (3.0 * 250_000 + 40.0 * 300))
    assert expected(router, 250_001, allow=["plain"]) == pytest.approx(1e-6 * (4.0 * 250_001 + 10.0 * 300))


@pytest.mark.parametrize("most", [None, 16_384])
def test_a_request_for_more_than_a_model_writes_goes_to_another(most: int | None) -> None:
    writes = {} if most is None else {"max_output_tokens": most}
    router = Router.from_dict({"models": [{**TIERED, **writes}]})
    request = {"request_id": "r", "prompt": "hello", "max_output_tokens": 100_000}
    decision = router.decide(request)
    assert (decision.model, decision.reason) == (
        ("tiered", "only-eligible") if most is None else (None, "none-eligible: request")
    )
    assert router.decide({**request, "request_id": "s", "max_output_tokens": 16_384}).model == "tiered"


@pytest.mark.parametrize("count", [1, 5, 9])
def test_prices_with_tiers_decide_the_same_alone_in_a_batch_and_from_plain_prices(count: int) -> None:
    rng = np.random.default_rng(count)
    priors = [ModelPrior(ModelKey(f"m{k}")) for k in range(count)]
    policy = Policy(priors, [(0, 1), (1, 4)], seed=3)
    table = np.zeros((count, 9))
    table[:, 0:2], table[:, 2] = rng.uniform(0.1, 10, (count, 2)), rng.uniform(0, 0.01, count)
    table[:, 3], table[:, 6] = rng.uniform(10, 500, count), rng.uniform(500, 1000, count)
    table[:, 4:6], table[:, 7:9] = rng.uniform(0.1, 10, (count, 2)), rng.uniform(0.1, 10, (count, 2))
    x = rng.normal(size=(11, 4)).astype(np.float32)
    keys = rng.integers(1 << 60, size=11).astype(np.uint64)
    tokens = rng.uniform(0, 1500, 11)
    batch = DecideBatch.of(x, keys, table, input_tokens=tokens, cost_weight=50.0, max_output_tokens=900.0)
    together = policy.decide(batch)
    one = policy.single(table)
    for i in range(11):
        one.limits[:] = batch.limits[i]
        assert policy.choose(one, x[i], int(keys[i]), propensity=True) == together.chosen[i]
        assert one.choices().cost.tolist() == [together.cost[i].tolist()]
        assert one.choices().propensity.tolist() == [together.propensity[i]]
        # the same request at the prices that hold for it
        tier = np.where(tokens[i] > table[:, 6], 7, np.where(tokens[i] > table[:, 3], 4, 0))
        held = np.stack([table[np.arange(count), tier], table[np.arange(count), tier + 1]], axis=1)
        plain = DecideBatch.of(
            x[i : i + 1],
            keys[i : i + 1],
            held,
            input_tokens=tokens[i],
            cost_weight=50.0,
            max_output_tokens=900.0,
        )
        assert together.cost[i] == pytest.approx(policy.decide(plain).cost[0] + table[:, 2], rel=1e-12)


@pytest.mark.parametrize("columns", [0, 1, 3 + 1, 3 + 2])
def test_a_table_of_prices_of_another_shape_is_refused(columns: int) -> None:
    policy = Policy([ModelPrior(ModelKey("a"))], [(0, 1)])
    batch = DecideBatch.of(np.ones((1, 1), np.float32), np.array([1], np.uint64), np.zeros((1, columns)))
    with pytest.raises(ValueError, match="other shapes"):
        policy.decide(batch)


def test_plain_prices_need_two_columns_and_tiers_are_padded() -> None:
    plain = Model(name="plain", input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
    tier = Tier(above_input_tokens=10, input_usd_per_mtok=3.0, output_usd_per_mtok=4.0)
    tiered = Model(name="tiered", input_usd_per_mtok=1.0, output_usd_per_mtok=2.0, tiers=(tier,))
    assert Catalog([plain]).price_table() == [[1.0, 2.0]]
    assert Catalog([plain, tiered]).price_table() == [
        [1.0, 2.0, 0.0, np.inf, 0.0, 0.0],
        [1.0, 2.0, 0.0, 10.0, 3.0, 4.0],
    ]


@pytest.mark.parametrize(
    ("tiers", "sentence"),
    [
        ([LONG[1], LONG[0]], "do not rise"),
        ([LONG[0], LONG[0]], "do not rise"),
        ([{**LONG[0], "above": 1}], "unknown key 'models[0].tiers[0].above'"),
        ([{**LONG[0], "above_input_tokens": 0}], "models[0].tiers[0].above_input_tokens"),
        ([{"above_input_tokens": 5}], "models[0].tiers[0]"),
        ([{**LONG[0], "input_usd_per_mtok": -1.0}], "models[0].tiers[0].input_usd_per_mtok"),
    ],
)
def test_tiers_that_cannot_be_meant_are_refused(tiers: Any, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Router.from_dict({"models": [{**TIERED, "tiers": tiers}]})
    assert sentence in str(refused.value)


def test_prices_of_tiers_and_of_cached_input_in_another_unit_are_told() -> None:
    cheap = {**LONG[0], "output_usd_per_mtok": 1.2e-5}
    told = warnings(from_dict({"models": [{**TIERED, "tiers": [cheap], "cached_input_usd_per_mtok": 2e-7}]}))
    assert [text.partition(" of ")[0] for text in told] == [
        "models[0].cached_input_usd_per_mtok",
        "models[0].tiers[0].output_usd_per_mtok",
    ]
