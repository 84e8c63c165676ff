"""A decision depends on its request and the posterior, and on nothing else; every number in it can be recomputed."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from banditroute.bandit.arithmetic.chance import model_key
from banditroute.bandit.choice.change import ChangeDetector
from banditroute.bandit.choice.policy import Choices, DecideBatch, Policy
from banditroute.bandit.choice.state_layout import QBAR, tail_of
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, RowKey, Vote
from banditroute.bandit.posterior.posterior import ModelPrior
from tests import naive_bandit as naive

D, K = 6, 5
BLOCKS = [(0, 1), (1, 3), (3, D)]
PRICES = np.array([[1.0, 2.0], [3.0, 15.0], [0.1, 0.4], [0.5, 1.5], [10.0, 30.0]])


def models(offset=0.0):
    return [ModelPrior(ModelKey(f"m{k}", k % 2), offset * k, [math.nan, 700.0][k % 2]) for k in range(K)]


def contexts(rng, n, d=D):
    x = (rng.normal(size=(n, d)) / math.sqrt(d)).astype(np.float32)
    x[:, 0] = 1.0
    return x


def evidence_of(seed, catalog, votes=200, d=D):
    rng = np.random.default_rng(seed)
    evidence = Evidence(d)
    for x in contexts(rng, votes, d):
        k = int(rng.integers(len(catalog) - 1))
        tokens, latency = float(rng.integers(1, 900)), float(rng.uniform(100, 5000))
        reported = float(rng.integers(100, 900))
        vote = Vote(
            float(rng.random()), 0.5, 0.3, tokens, 5.0, 0.01, 0.02, latency, reported, 400.0 - 90.0 * k
        )
        evidence.add(catalog[k].key, x, vote, 1.0)
    return evidence


def batch_of(seed, n, d=D, count=K):
    rng = np.random.default_rng(seed)
    return DecideBatch.of(
        contexts(rng, n, d),
        rng.integers(0, 2**63, n).astype(np.uint64),
        PRICES[:count],
        eligible=rng.random((n, count)) < 0.8,
        input_tokens=rng.integers(1, 5000, n),
        input_estimated=rng.random(n) < 0.5,
        max_output_tokens=np.where(rng.random(n) < 0.5, np.inf, 50.0),
        cost_weight=rng.uniform(0, 50, n),
        latency_weight=rng.uniform(0, 0.05, n),
        max_cost_usd=np.where(rng.random(n) < 0.6, np.inf, 0.004),
        max_latency_ms=np.where(rng.random(n) < 0.6, np.inf, 900.0),
    )


@pytest.fixture
def policy():
    made = Policy(models(0.05), BLOCKS, seed=9)
    made.derive(evidence_of(1, made.models))
    return made


def columns(choices: Choices):
    return [choices.info, choices.candidates, choices.score, choices.rank, choices.chance]


def same(first, second):
    return all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def test_every_number_of_a_decision_equals_the_plain_formula(policy):
    batch = batch_of(2, 200)
    got, post = policy.decide(batch), policy.posterior
    sigma = math.sqrt(post.sigma2)
    blocked_seen = set()
    for r in range(200):
        x = batch.x[r].astype(float)
        n_in, most, cost_weight, latency_weight, max_cost, max_ms, _, _, estimated = batch.limits[r]
        utility, center, spread, costs, logs = [], [], [], [], []
        for k in range(K):
            q = x @ post.V[k] @ x
            log_tokens = min(max(x @ post.token_beta + post.token_offset[k], 0), math.log1p(most))
            tokens = min(post.token_ratio[k] * math.expm1(log_tokens), most)
            ratio = post.input_ratio[k] if estimated else 1.0
            cost = (PRICES[k, 0] * n_in * ratio + PRICES[k, 1] * tokens) / 1e6
            log_ms = post.latency_intercept[k] + post.latency_slope[k] * log_tokens
            known = post.latency_pool if math.isnan(log_ms) else log_ms
            utility.append(x @ post.mu[k] - cost_weight * cost - latency_weight * math.exp(known) / 1000)
            center.append(utility[k] + 2 * sigma * q)
            spread.append(0.5 * sigma * math.sqrt(post.qbar[k]))
            costs.append(cost)
            logs.append(log_ms)
            want = [x @ post.mu[k], sigma * math.sqrt(1 + q), log_tokens, cost, log_ms]
            np.testing.assert_allclose(got.candidates[r, k], want, rtol=2e-6, atol=1e-12)
            z = naive.normal(9, int(batch.keys[r]), model_key(*policy.models[k].key))
            assert got.score[r, k] == pytest.approx(center[k] + spread[k] * z, rel=1e-5, abs=1e-6)
        ok, blocked = batch.eligible[r].copy(), 0
        for code, bad in (
            (1, [False] * K),
            (2, np.array(costs) > max_cost),
            (3, np.array(logs) > math.log(max_ms)),
        ):
            ok &= ~np.array(bad)
            blocked = blocked or (0 if ok.any() else code)
        blocked_seen.add(blocked)
        assert got.blocked[r] == blocked
        if blocked:
            assert got.chosen[r] == -1
            assert (got.rank[r] == -1).all()
            assert math.isnan(got.propensity[r])
            assert not got.explored[r]
            continue
        chosen = max(np.nonzero(ok)[0], key=lambda k: got.score[r, k])
        rest = sorted((k for k in np.nonzero(ok)[0] if k != chosen), key=lambda k: -utility[k])
        assert got.chosen[r] == chosen
        assert [k for k in got.rank[r] if k >= 0] == [chosen, *rest]
        assert got.explored[r] == (bool(rest) and utility[rest[0]] > utility[chosen])
        want = naive.propensity(np.array(center), np.array(spread), chosen, ok)
        assert got.propensity[r] == pytest.approx(want, rel=5e-4)  # scores themselves hold float32 products
        if ok.sum() == 1:
            assert got.propensity[r] == 1.0
    assert blocked_seen == {0, 1, 2, 3} or blocked_seen >= {0, 2}


@pytest.mark.parametrize("d", [1, 6, 7, 33])
def test_decisions_do_not_depend_on_how_requests_are_split_into_batches(d):
    catalog = models()
    blocks = [(0, 1)] if d == 1 else [(0, 1), (1, d)]
    policy = Policy(catalog, blocks, seed=3)
    policy.derive(evidence_of(4, catalog, d=d))
    batch = batch_of(5, 64, d)
    whole = columns(policy.decide(batch))
    rng = np.random.default_rng(6)
    for _ in range(5):
        cuts = [0, *sorted(rng.choice(np.arange(1, 64), 7, replace=False)), 64]
        parts = [columns(policy.decide(batch[a:b])) for a, b in pairwise(cuts)]
        assert same(whole, [np.concatenate(group) for group in zip(*parts, strict=True)])


def test_permuting_the_catalog_permutes_every_decision(policy):
    order = np.array([4, 2, 0, 3, 1])
    other = Policy([policy.models[k] for k in order], BLOCKS, seed=9)
    other.derive(evidence_of(1, policy.models))
    batch = batch_of(2, 200)
    permuted = DecideBatch(batch.x, batch.keys, batch.limits, batch.eligible[:, order].copy(), PRICES[order])
    first, second = policy.decide(batch), other.decide(permuted)
    back = np.append(order, -1)
    assert (first.chosen == back[second.chosen]).all()
    assert (first.rank == back[second.rank]).all()
    assert first.score[:, order].tobytes() == second.score.tobytes()
    assert first.candidates[:, order].tobytes() == second.candidates.tobytes()
    np.testing.assert_allclose(first.propensity, second.propensity, rtol=1e-12)


def test_ties_go_to_the_same_model_wherever_it_stands_in_the_catalog():
    catalog = [ModelPrior(ModelKey(name)) for name in "abcd"]
    winners = set()
    for shift in range(4):
        rotated = catalog[shift:] + catalog[:shift]
        policy = Policy(rotated, [(0, 1)], greedy=True)
        batch = DecideBatch.of(np.ones((1, 1)), np.zeros(1), np.zeros((4, 2)))
        choices = policy.decide(batch)
        winners.add(tuple(rotated[k].key.name for k in choices.rank[0]))
    assert len(winners) == 1


def test_sampled_choices_match_the_propensity_within_4_sigma():
    catalog = models()
    policy = Policy(catalog, BLOCKS, seed=1)
    policy.derive(evidence_of(8, catalog, 40))
    n = 20_000
    x = np.repeat(contexts(np.random.default_rng(3), 1), n, axis=0)
    choices = policy.decide(DecideBatch.of(x, np.arange(n), PRICES))
    frequency = np.bincount(choices.chosen, minlength=K) / n
    for k in np.unique(choices.chosen):
        p = choices.propensity[choices.chosen == k]
        assert (p == p[0]).all()
        assert abs(frequency[k] - p[0]) < 4 * math.sqrt(p[0] * (1 - p[0]) / n)


def test_the_frozen_mode_takes_the_largest_expected_utility_with_propensity_one(policy):
    frozen = Policy(policy.models, BLOCKS, seed=9, greedy=True)
    frozen.derive(evidence_of(1, policy.models))
    choices = frozen.decide(batch_of(2, 100))
    served = choices.chosen >= 0
    assert (choices.propensity[served] == 1.0).all()
    assert not choices.explored.any()
    assert (choices.rank[served, 0] == choices.chosen[served]).all()


def test_what_models_report_rescales_estimates_and_never_counts():
    policy = Policy(models(), BLOCKS)
    x = contexts(np.random.default_rng(0), 2)
    batch = DecideBatch.of(x, np.arange(2), PRICES, input_tokens=500.0, input_estimated=[1.0, 0.0])
    before = policy.decide(batch).cost.copy()
    assert policy.posterior.input_ratio.tolist() == [1.0] * K
    evidence = Evidence(D)
    for _ in range(100):
        evidence.add(policy.models[1].key, x[0], Vote(input_tokens=200.0, input_pred=100.0), 1.0)
    policy.derive(evidence)
    ratio = (20_000 + 900) / (10_000 + 900)
    assert policy.posterior.input_ratio.tolist() == [1.0, ratio, 1.0, 1.0, 1.0]
    after = policy.decide(batch).cost
    assert after[1].tobytes() == before[1].tobytes()
    others = [0, 2, 3, 4]
    assert after[0, others].tobytes() == before[0, others].tobytes()
    assert after[0, 1] - before[0, 1] == pytest.approx(PRICES[1, 0] * 500.0 * (ratio - 1.0) / 1e6)
    policy.set_models(policy.models[1:3])
    assert policy.posterior.input_ratio.tolist() == [ratio, 1.0]


@pytest.mark.parametrize("price", [0.0, 1.0])
@pytest.mark.parametrize("reported", [(1e300, 1e-300), (1e-300, 1e300)])
def test_hostile_reports_of_input_tokens_never_give_nan(price, reported):
    policy = Policy(models(), BLOCKS)
    x = contexts(np.random.default_rng(0), 4)
    evidence = Evidence(D)
    for weight in (1.0, 1e300, -1.0):
        vote = Vote(input_tokens=reported[0], input_pred=reported[1])
        with np.errstate(all="ignore"):
            evidence.add(policy.models[0].key, x[0], vote, weight)
        policy.derive(evidence)
        batch = DecideBatch.of(
            x,
            np.arange(4),
            price * PRICES,
            input_tokens=1e8,
            input_estimated=1.0,
            cost_weight=[0.0, 1.0, 1e6, 1e300],
        )
        choices = policy.decide(batch, every=True)
        assert np.isfinite(choices.score).all()
        assert np.isfinite(choices.cost).all()
        assert np.isfinite(choices.chance).all()


def test_a_price_acts_on_the_very_next_decision(policy):
    batch = DecideBatch.of(contexts(np.random.default_rng(0), 50), np.arange(50), PRICES, cost_weight=1000.0)
    before = policy.decide(batch)
    favourite = int(np.bincount(before.chosen).argmax())
    batch.prices = PRICES.copy()
    batch.prices[favourite] *= 1000.0
    assert (policy.decide(batch).chosen != favourite).all()


def test_feedback_moves_the_working_copy_as_the_formula_says_and_derive_throws_it_away(policy):
    rng = np.random.default_rng(4)
    v, mu = policy.posterior.V[1].copy(), policy.posterior.mu[1].copy()
    before = [columns(policy.decide(batch_of(2, 20)))]
    for x in contexts(rng, 30):
        quality, weight = float(rng.random()), float(rng.uniform(0.5, 1.5))
        policy.observe(policy.models[1].key, x, quality, weight)
        xd = x.astype(float)
        inverse = np.linalg.inv(v) + weight * np.outer(xd, xd)
        mu = np.linalg.solve(inverse, np.linalg.solve(v, mu) + weight * quality * xd)
        v = np.linalg.inv(inverse)
    got_mu, got_v = policy.working
    np.testing.assert_allclose(got_v[1], v, rtol=1e-4, atol=1e-6)  # float32
    np.testing.assert_allclose(got_mu[1], mu, rtol=1e-4)
    assert (got_v[1] == got_v[1].T).all()
    xbar = policy.posterior.xbar
    assert tail_of(policy._state)[0][QBAR, 1] == pytest.approx(xbar @ v @ xbar, rel=1e-4)
    assert not same(columns(policy.decide(batch_of(2, 20))), before[0])
    policy.derive(evidence_of(1, policy.models))
    assert same(columns(policy.decide(batch_of(2, 20))), before[0])


def test_a_long_working_copy_stays_symmetric_and_true():
    policy = Policy(models(), BLOCKS)
    rng = np.random.default_rng(0)
    precision = np.linalg.inv(policy.working[1][0])
    for x in contexts(rng, 20_000):
        policy.observe(0, x, 1.0)
        precision += np.outer(x.astype(float), x.astype(float))
    v = policy.working[1][0]
    assert (v == v.T).all()
    np.testing.assert_allclose(v, np.linalg.inv(precision), rtol=1e-3, atol=1e-8)


def test_a_derive_is_due_after_a_tenth_more_feedback():
    catalog = models()
    policy = Policy(catalog, BLOCKS)
    x = contexts(np.random.default_rng(0), 1)[0]
    assert not policy.due
    policy.observe(0, x, math.nan)
    assert policy.due
    policy.derive(evidence_of(1, catalog, 200))
    for count in range(20):
        assert not policy.due, count
        policy.observe(0, x, 0.5)
    assert policy.due


def test_withdrawals_nan_and_unknown_models_never_break_the_working_copy():
    policy = Policy(models(), BLOCKS)
    x = contexts(np.random.default_rng(0), 1)[0]
    before = policy.working[0]
    policy.observe(ModelKey("gone", 3), x, 1.0)
    policy.observe(0, x, math.nan)
    policy.observe(0, x, math.inf)
    policy.observe(0, x, 1.0, -1e9)
    assert policy.working[0].tobytes() == before.tobytes()
    policy.observe(0, x, 1.0, 1.0)
    policy.observe(0, x, 1.0, -1.0)
    np.testing.assert_allclose(policy.working[0], before, rtol=1e-5, atol=1e-7)


def test_models_come_and_go_at_any_time(policy):
    batch = batch_of(2, 50)
    before = policy.decide(batch)
    newcomer = ModelPrior(ModelKey("new"), 0.1)
    policy.set_models([*policy.models, newcomer])
    assert policy.due
    wider = DecideBatch(
        batch.x,
        batch.keys,
        batch.limits,
        np.pad(batch.eligible, ((0, 0), (0, 1))),
        np.vstack([PRICES, [1.0, 1.0]]),
    )
    after = policy.decide(wider)
    assert after.candidates[:, :K].tobytes() == before.candidates.tobytes()
    assert (after.chosen == before.chosen).all()
    policy.set_models([newcomer])
    only = policy.decide(DecideBatch.of(batch.x, batch.keys, [[1.0, 1.0]]))
    assert (only.chosen == 0).all()
    assert (only.propensity == 1.0).all()
    policy.set_models([])
    none = policy.decide(DecideBatch.of(batch.x, batch.keys, np.empty((0, 2))))
    assert (none.chosen == -1).all()
    assert (none.blocked == 1).all()
    with pytest.raises(ValueError, match="twice"):
        policy.set_models([newcomer, newcomer])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38, -1e38, 1e-38])
def test_hostile_contexts_and_columns_never_give_nan(policy, value):
    x = contexts(np.random.default_rng(0), 20)
    x[:, 2] = value
    batch = DecideBatch.of(
        x,
        np.arange(20),
        PRICES,
        input_tokens=1e300,
        input_estimated=[0.0, 1.0] * 10,
        cost_weight=1e300,
        latency_weight=1e300,
        max_output_tokens=-5.0,
    )
    choices = policy.decide(batch)
    assert (choices.chosen >= 0).all()
    assert np.isfinite(choices.score).all()
    assert np.isfinite(choices.quality).all()
    assert np.isfinite(choices.sd).all()
    assert ((choices.propensity > 0) & (choices.propensity <= 1)).all()


def test_hostile_feedback_never_gives_nan():
    catalog = models()
    policy = Policy(catalog, BLOCKS)
    evidence = Evidence(D)
    for size in (1e-300, 1.0, 1e30):
        for quality in (1e300, -1e300, 1e-300, 0.0):
            x = np.full(D, size).astype(np.float32)
            with np.errstate(all="ignore"):
                policy.observe(0, x, quality)
                evidence.add(catalog[0].key, x, Vote(quality=quality), 1.0)
                choices = policy.decide(batch_of(1, 20))
                policy.derive(evidence)
                assert np.isfinite(choices.score).all()
                assert np.isfinite(policy.decide(batch_of(1, 20)).score).all()


@pytest.mark.parametrize("count", [1, 3, 4, 5, 16, 100])
@pytest.mark.parametrize("d", [1, 7, 8, 33])
@pytest.mark.parametrize(("floor", "greedy"), [(0.0, False), (0.3, False), (0.0, True)])
def test_one_request_alone_is_decided_as_in_a_batch_bit_for_bit(count, d, floor, greedy):
    rng = np.random.default_rng(d)
    catalog = [ModelPrior(ModelKey(f"m{k}"), 0.01 * (k % 3), [math.nan, 700.0][k % 2]) for k in range(count)]
    policy = Policy(catalog, [(0, 1)] if d == 1 else [(0, 1), (1, d)], seed=3, floor=floor, greedy=greedy)
    if count > 1:
        policy.derive(evidence_of(4, catalog, d=d))
    prices = rng.uniform(0.1, 10, (count, 2))
    some = batch_of(5, 21, d, min(count, K))
    eligible = rng.random((21, count)) < 0.8
    batch = DecideBatch(some.x, some.keys, some.limits, eligible, prices)
    batch.limits[:, 6], batch.limits[:, 7] = 30.0, 0.5  # two ends of a budget
    whole, quick = policy.decide(batch), policy.decide(batch, propensity=False)
    one = policy.single(prices)
    for propensity, want in ((True, whole), (False, quick)):
        for i in range(21):
            one.limits[:], one.eligible[:] = batch.limits[i], batch.eligible[i]
            assert policy.choose(one, batch.x[i], int(batch.keys[i]), propensity=propensity) == want.chosen[i]
            row = Choices(*(column[i : i + 1] for column in columns(want)))
            assert same(columns(one.choices()), columns(row))
    assert (whole.info == quick.info).all()
    assert whole.score.tobytes() == quick.score.tobytes()
    assert np.isnan(quick.propensity).all()
    assert (np.sort(quick.rank, axis=1) == np.sort(whole.rank, axis=1)).all()


def test_a_desk_or_a_context_of_another_shape_is_refused(policy):
    one = policy.single(PRICES)
    x = contexts(np.random.default_rng(0), 1)[0]
    assert policy.choose(one, x, 2**64 - 1) >= 0
    for bad in (x[:3].copy(), x.astype(np.float64)):
        with pytest.raises(ValueError, match="takes"):
            policy.choose(one, bad, 1)
    policy.set_models(policy.models[:2])
    with pytest.raises(ValueError, match="takes"):
        policy.choose(one, x, 1)
    with pytest.raises(ValueError, match="invalid value"):
        policy.choose(policy.single(PRICES[:2]), x, -1)
    policy.set_models([])
    none = policy.single(np.empty((0, 2)))
    assert policy.choose(none, x, 1) == -1
    assert none.info.tolist() == [-1, 1, 0]


@pytest.mark.parametrize("d", [1, 6, 8, 33])
def test_learning_in_one_call_equals_evidence_and_working_copy_bit_for_bit(d):
    catalog = models()
    blocks = [(0, 1)] if d == 1 else [(0, 1), (1, d)]
    fused, apart = Policy(catalog, blocks), Policy(catalog, blocks)
    first, second = Evidence(d), Evidence(d)
    rng = np.random.default_rng(0)
    for i, x in enumerate(contexts(rng, 60, d)):
        k = i % K
        quality, expected, sd = rng.random(3).tolist()
        fused.learn(first, k, x, quality, expected, sd)
        second.add(catalog[k].key, x, Vote(quality, expected, sd), 1.0)
        apart.observe(k, x, quality)
    assert first == second
    assert fused._state.tobytes() == apart._state.tobytes()
    assert fused._new == apart._new == 60
    one = fused.single(np.ones((K, 2)))
    for i, x in enumerate(contexts(rng, 10, d)):
        k = fused.choose(one, x, i)
        expected, sd = one.candidates[k, :2].tolist()
        fused.learn_served(first, one, k, x, 0.25)
        apart.learn(second, k, x, 0.25, expected, sd)
    assert first == second
    assert fused._state.tobytes() == apart._state.tobytes()
    before = first.copy()
    x = np.ones(d, np.float32)
    empty = Evidence(d)
    with pytest.raises(ValueError, match="finite"):
        fused.learn_served(empty, one, 0, x, math.inf)
    assert not empty.rows
    with pytest.raises(ValueError, match="finite"):
        fused.learn(empty, 0, x, math.inf)
    assert not empty.rows
    for bad in ((x, math.inf), (x * np.inf, 0.5), (x.astype(float), 0.5), (x[:0], 0.5)):
        with pytest.raises(ValueError, match=r"finite|context"):
            fused.learn(first, 0, *bad)
    fused.learn(first, 0, x, math.nan)
    assert first == before
    assert fused._new == 71


def test_a_batch_of_other_shapes_is_refused(policy):
    batch = batch_of(1, 4)
    for bad in (
        DecideBatch(batch.x[:, :3], batch.keys, batch.limits, batch.eligible, batch.prices),
        DecideBatch(batch.x, batch.keys, batch.limits, batch.eligible[:, :2], batch.prices),
        DecideBatch(batch.x, batch.keys[:2], batch.limits, batch.eligible, batch.prices),
        DecideBatch(batch.x, batch.keys, batch.limits, batch.eligible, batch.prices[:2]),
    ):
        with pytest.raises(ValueError, match="other shapes"):
            policy.decide(bad)
    assert len(policy.decide(batch[:0]).chosen) == 0


# -- indices and arrays from outside --------------------------------------------------------------------


def untouched(policy: Policy) -> tuple[Any, ...]:
    """All that a vote could have changed."""
    return policy.state.tobytes(), policy.cadence


NO_PLACES: list[Any] = [
    -1,
    -2,
    2,
    3,
    1 << 31,
    1 << 63,
    1 << 64,
    -(1 << 63),
    0.5,
    "0",
    None,
    np.int64(-1),
    [0],
]


@pytest.mark.parametrize("place", NO_PLACES, ids=repr)
def test_a_place_that_is_none_is_refused_before_compiled_code_sees_it(place: Any) -> None:
    policy = Policy([ModelPrior(ModelKey("a")), ModelPrior(ModelKey("b"))], [(0, 1), (1, 4)])
    evidence, x, one = Evidence(4), np.ones(4, np.float32), policy.single([[1.0, 1.0]] * 2)
    before = untouched(policy)
    for call in (
        lambda: policy.observe(place, x, 1.0),
        lambda: policy.observe(place, x, math.nan),
        lambda: policy.learn(evidence, place, x, 1.0),
        lambda: policy.learn_served(evidence, one, place, x, 1.0),
    ):
        with pytest.raises((ValueError, TypeError)):
            call()
    assert untouched(policy) == before
    assert not evidence.rows


def votes(**changes: Any) -> dict[str, Any]:
    """The columns of three votes, some of them changed."""
    columns: dict[str, Any] = {
        "models": np.array([0, 1, -1]), "x": np.ones((3, 4), np.float32), "qualities": np.ones(3),
        "weights": np.ones(3), "kinds": np.zeros(3, np.uint8), "names": ("score", "thumb"),
    }  # fmt: skip
    return columns | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"models": np.array([0, 1, 2])}, {"models": np.array([0, 1, -2])}, {"models": np.array([0, 1, 1 << 62])},
        {"models": np.array([0.0, 1.0, 0.0])}, {"models": np.array([0, 1])}, {"kinds": np.array([0, 0, 2], np.uint8)},
        {"kinds": np.array([0, 0, -1], np.int64)}, {"x": np.ones((3, 3), np.float32)}, {"x": np.ones((3, 4))},
        {"x": np.ones((2, 4), np.float32)}, {"x": np.ones((6, 4), np.float32)[::2]}, {"qualities": np.ones(2)},
        {"weights": np.ones(4)}, {"kinds": np.zeros(1, np.uint8)},
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_are_refused_before_compiled_code_sees_them(changes: dict[str, Any]) -> None:
    policy = Policy([ModelPrior(ModelKey("a")), ModelPrior(ModelKey("b"))], [(0, 1), (1, 4)])
    before = untouched(policy)
    with pytest.raises(ValueError, match=r"votes|contexts|places"):
        policy.observe_many(**votes(**changes))
    with pytest.raises(ValueError, match=r"votes|contexts|places"):
        policy.observe_until_changed(**votes(**changes), detector=ChangeDetector())
    assert untouched(policy) == before
    policy.observe_many(**votes())


def test_contexts_evidence_and_numbers_that_do_not_fit_are_refused() -> None:
    policy = Policy([ModelPrior(ModelKey("a")), ModelPrior(ModelKey("b"))], [(0, 1), (1, 4)])
    one, x = policy.single([[1.0, 1.0]] * 2), np.ones(4, np.float32)
    before = untouched(policy)
    for wrong in (
        np.ones(4),
        np.ones(3, np.float32),
        np.ones(4000, np.float32),
        np.ones((1, 4), np.float32),
        [1.0] * 4,
    ):
        with pytest.raises(ValueError, match="a context is"):
            policy.observe(0, wrong, 1.0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="a context is"):
            policy.surprise(ModelKey("a"), wrong, 1.0)  # type: ignore[arg-type]
    for d in (1, 3, 5, 400):
        with pytest.raises(ValueError, match="evidence is for contexts of 4"):
            policy.learn(Evidence(d), 0, x, 1.0)
        with pytest.raises(ValueError, match="evidence is for contexts of 4"):
            policy.learn_served(Evidence(d), one, 0, x, 1.0)
    for resting in (np.zeros(3, np.bool_), np.zeros(2), [True]):
        with pytest.raises(ValueError, match=r"bool\[2\]"):
            policy.rest(resting)  # type: ignore[arg-type]
    assert untouched(policy) == before


@pytest.mark.parametrize("which", [[0, 1], [-1, 0], [0, 1 << 40]])
def test_votes_of_a_key_that_is_not_there_are_refused_before_evidence_is_written(which: list[int]) -> None:
    evidence = Evidence(2)
    numbers = np.full((2, len(Vote._fields)), math.nan)
    numbers[:, 0] = 1.0
    with pytest.raises(ValueError, match="a place among 1 keys"):
        evidence.add_many([RowKey("a")], np.array(which), np.ones((2, 2), np.float32), numbers, np.ones(2))
    assert not evidence.rows
