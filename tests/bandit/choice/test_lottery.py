"""Everything random in a decision is in its propensity: noise, two cost weights, and the floor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from banditroute.bandit.choice.policy import DecideBatch, Policy
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, Vote
from banditroute.bandit.posterior.posterior import ModelPrior

K, D = 4, 3
PRICES = np.array([[1.0, 0.0], [3.0, 0.0], [8.0, 0.0], [20.0, 0.0]])
BLOCKS = [(0, 1), (1, D)]


def policy_with(floor=0.0, seed=3):
    made = Policy([ModelPrior(ModelKey(f"m{k}")) for k in range(K)], BLOCKS, seed=seed, floor=floor)
    rng = np.random.default_rng(1)
    evidence = Evidence(D)
    for t in range(60):
        x = np.array([1.0, *rng.normal(size=D - 1) / 2], np.float32)
        evidence.add(ModelKey(f"m{t % K}"), x, Vote(quality=float(rng.random() < 0.4 + 0.15 * (t % K))), 1.0)
    made.derive(evidence)
    return made


def batch_of(n, low=0.0, high=0.0, share=0.0, eligible=None):
    x = np.tile(np.array([1.0, 0.3, -0.4], np.float32), (n, 1))
    keys = np.arange(n, dtype=np.uint64) * np.uint64(7919) + np.uint64(5)
    # 10,000 input tokens: 0.01 to 0.2 USD
    return DecideBatch.of(
        x,
        keys,
        PRICES,
        eligible=eligible,
        input_tokens=1e4,
        cost_weight=low,
        high_cost_weight=high,
        high_share=share,
    )


def by_quadrature(center, spread, k):
    def integrand(s):
        value = stats.norm.pdf(s, center[k], spread[k])
        for b in range(len(center)):
            if b != k:
                value *= stats.norm.cdf(s, center[b], spread[b])
        return value

    low, high = center[k] - 9 * spread[k], center[k] + 9 * spread[k]
    points = sorted(min(max(c, low), high) for c in center)
    return integrate.quad(integrand, low, high, points=points, limit=400, epsabs=1e-13, epsrel=1e-10)[0]


def centres(policy, batch):
    post = policy.posterior
    x = batch.x[0].astype(float)
    q = np.array([x @ v @ x for v in post.V])
    sigma = math.sqrt(post.sigma2)
    spread = 0.5 * sigma * np.sqrt(post.qbar)
    return post.mu @ x + 2.0 * sigma * q, spread, 1e-6 * PRICES[:, 0] * 1e4


def test_the_propensity_of_every_model_agrees_with_quadrature_over_both_cost_weights_and_the_floor():
    policy = policy_with(floor=0.1)
    batch = batch_of(1, low=0.5, high=4.0, share=0.3)
    center, spread, cost = centres(policy, batch)
    expected = [
        0.9
        * (
            0.7 * by_quadrature(center - 0.5 * cost, spread, k)
            + 0.3 * by_quadrature(center - 4.0 * cost, spread, k)
        )
        + 0.1 / K
        for k in range(K)
    ]
    got = policy.decide(batch, every=True)
    np.testing.assert_allclose(got.propensities[0], expected, rtol=1e-4)
    assert got.propensity[0] == got.propensities[0, got.chosen[0]]


@pytest.mark.parametrize("floor", [0.0, 0.2])
@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
def test_sampled_frequencies_match_the_propensities_within_4_sigma(floor, share):
    n = 40_000
    policy = policy_with(floor)
    eligible = [True, True, False, True]
    choices = policy.decide(batch_of(n, 0.2, 2.0, share, eligible), every=True)
    p = choices.propensities.mean(axis=0)
    assert p.sum() == pytest.approx(1.0, abs=1e-4)
    assert p[2] == 0.0
    counts = np.bincount(choices.chosen, minlength=K)
    assert (abs(counts - n * p) <= 4.0 * np.sqrt(n * p * (1.0 - p)) + 1e-9).all()
    highs = (choices.cost_weight == 2.0).sum()
    assert abs(highs - n * share) <= 4.0 * math.sqrt(n * share * (1.0 - share)) + 1e-9


def test_a_floor_bounds_every_propensity_from_below():
    choices = policy_with(floor=0.08).decide(batch_of(500, low=50.0), every=True)
    assert choices.propensities.min() >= 0.08 / K


def test_one_cost_weight_given_twice_changes_nothing():
    policy = policy_with()
    once, twice = policy.decide(batch_of(200, 2.0)), policy.decide(batch_of(200, 2.0, 2.0, 0.4))
    assert once.info.tobytes() == twice.info.tobytes()
    assert once.chance.tobytes() == twice.chance.tobytes()


def test_permuting_the_catalog_permutes_the_lottery():
    policy = policy_with(floor=1.0)
    choices = policy.decide(batch_of(300))
    order = np.array([2, 0, 3, 1])
    other = Policy([policy.models[k] for k in order], BLOCKS, seed=3, floor=1.0)
    again = other.decide(batch_of(300))
    assert (order[again.chosen] == choices.chosen).all()


def test_the_frozen_mode_has_no_lottery():
    policy = Policy([ModelPrior(ModelKey(f"m{k}")) for k in range(K)], BLOCKS, greedy=True, floor=0.5)
    choices = policy.decide(batch_of(50), every=True)
    assert (choices.propensity == 1.0).all()
    assert len(set(choices.chosen.tolist())) == 1


@pytest.mark.parametrize("floor", [-0.1, 1.1, math.nan])
def test_a_floor_that_is_no_probability_is_refused(floor):
    with pytest.raises(ValueError, match="floor is a probability"):
        policy_with(floor)
