"""Kinds of feedback have noise and bias of their own, and both are learned."""

from __future__ import annotations

import numpy as np
import pytest

from banditroute.bandit.choice.policy import Policy
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, Vote
from banditroute.bandit.posterior.kinds import BIAS_SD, TRUST, Kind, trusted_first
from banditroute.bandit.posterior.posterior import ModelPrior, derive

D, MODELS = 6, 4
BLOCKS = [(0, 1), (1, D)]
PRIORS = [ModelPrior(ModelKey(f"m{k}")) for k in range(MODELS)]
# name: (noise sd, bias, votes)
FOUR = {
    "outcome": (0.3, 0.0, 400),
    "score": (0.1, 0.15, 400),
    "judge": (0.2, -0.1, 400),
    "thumb": (0.8, 0.05, 2000),
}


def world(seed, kinds, priors=PRIORS):
    """Votes of several kinds on one linear world; returns evidence, the true weights and every vote."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(0, 0.2, (MODELS, D))
    theta[:, 0] = rng.normal(0.5, 0.1, MODELS)
    evidence, votes = Evidence(D), []
    for kind, (sd, bias, count) in kinds.items():
        for _ in range(count):
            k = int(rng.integers(MODELS))
            x = rng.normal(0, (D - 1) ** -0.5, D).astype(np.float32)
            x[0] = 1.0
            quality = float(theta[k] @ x + bias + rng.normal(0, sd))
            evidence.add(priors[k].key, x, Vote(quality), 1.0, kind=kind)
            votes.append((kind, k, x.astype(np.float64), quality))
    return evidence, theta, votes


def test_the_most_trusted_kind_is_the_yardstick():
    evidence, _, _ = world(1, FOUR)
    posterior = derive(evidence, PRIORS, BLOCKS)
    assert [kind.name for kind in posterior.kinds] == list(TRUST)
    assert posterior.kinds[0] == Kind("outcome", 1.0, 0.0)
    assert trusted_first(["thumb", "zebra", "ape", "score"]) == ["score", "thumb", "ape", "zebra"]


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_bias_of_every_kind_are_found(seed):
    evidence, _, _ = world(seed, FOUR)
    posterior = derive(evidence, PRIORS, BLOCKS)
    for name, (sd, bias, _) in FOUR.items():
        kind = posterior.kind(name)
        assert kind.bias == pytest.approx(bias, abs=0.06)
        assert kind.weight == pytest.approx((0.3 / sd) ** 2, rel=0.35)
    assert posterior.sigma2 == pytest.approx(0.09, rel=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_means_are_nearer_the_truth_than_with_all_votes_taken_alike(seed):
    kinds = {"outcome": (0.1, 0.0, 200), "thumb": (0.6, -0.2, 800)}
    evidence, theta, votes = world(seed, kinds)
    alike = Evidence(D)
    for _, k, x, quality in votes:
        alike.add(PRIORS[k].key, x.astype(np.float32), Vote(quality), 1.0)
    told, blind = derive(evidence, PRIORS, BLOCKS), derive(alike, PRIORS, BLOCKS)
    assert np.square(told.mu - theta).sum() < 0.5 * np.square(blind.mu - theta).sum()


def test_biases_are_those_of_one_regression_with_a_column_per_kind():
    evidence, _, votes = world(3, FOUR)
    posterior = derive(evidence, PRIORS, BLOCKS)
    others = [kind.name for kind in posterior.kinds[1:]]
    size = MODELS * D + len(others)
    left, right = np.zeros((size, size)), np.zeros(size)
    for kind, k, x, quality in votes:
        row = np.zeros(size)
        row[k * D : (k + 1) * D] = x
        if kind in others:
            row[MODELS * D + others.index(kind)] = 1.0
        weight = posterior.kind(kind).weight
        left += weight * np.outer(row, row)
        right += weight * (quality * row)
    precision = posterior.sigma2 / posterior.pool_scale2
    for k in range(MODELS):
        span = slice(k * D, (k + 1) * D)
        left[span, span] += np.diag(precision)
        right[span] += precision * posterior.pool_mean
    left[MODELS * D :, MODELS * D :] += posterior.sigma2 / BIAS_SD**2 * np.eye(len(others))
    expected = np.linalg.solve(left, right)
    found = [posterior.kind(name).bias for name in others]
    np.testing.assert_allclose(found, expected[MODELS * D :], atol=2e-3)
    np.testing.assert_allclose(posterior.mu.ravel(), expected[: MODELS * D], atol=2e-3)


def test_a_single_kind_is_the_yardstick_whatever_its_name():
    posteriors = []
    for name in ("thumb", "score", "something"):
        evidence, _, _ = world(7, {name: (0.3, 0.1, 300)})
        posteriors.append(derive(evidence, PRIORS, BLOCKS))
        assert posteriors[-1].kinds == (Kind(name, 1.0, 0.0),)
    assert all(np.array_equal(posteriors[0].mu, other.mu) for other in posteriors[1:])


def test_usage_is_no_kind_of_vote_and_counts_for_its_model():
    evidence, _, _ = world(7, {"score": (0.3, 0.0, 300)})
    before = derive(evidence, PRIORS, BLOCKS)
    x = np.ones(D, np.float32)
    evidence.add(PRIORS[0].key, x, Vote(output_tokens=500.0, latency_ms=900.0), 1.0, kind="usage")
    after = derive(evidence, PRIORS, BLOCKS)
    assert [kind.name for kind in after.kinds] == ["score"]
    assert np.array_equal(after.mu, before.mu)
    assert np.isnan(before.latency_intercept[0])
    assert not np.isnan(after.latency_intercept[0])


def test_permuting_the_catalog_permutes_the_posterior_and_changes_no_bit_of_it():
    evidence, _, _ = world(2, FOUR)
    order = [2, 0, 3, 1]
    straight = derive(evidence, PRIORS, BLOCKS)
    permuted = derive(evidence, [PRIORS[k] for k in order], BLOCKS)
    assert permuted.kinds == straight.kinds
    assert np.array_equal(permuted.mu, straight.mu[order])
    assert np.array_equal(permuted.V, straight.V[order])


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e15, 1e150, 1e300])
def test_hostile_votes_never_give_nan(size):
    evidence, _, _ = world(2, {"score": (0.3, 0.0, 20), "thumb": (0.3, 0.0, 20)})
    for kind in ("outcome", "thumb"):
        for sign in (1.0, -1.0):
            evidence.add(PRIORS[1].key, np.ones(D, np.float32), Vote(sign * size), 1.0, kind=kind)
    posterior = derive(evidence, PRIORS, BLOCKS)
    assert np.isfinite(posterior.mu).all()
    assert np.isfinite([kind[1:] for kind in posterior.kinds]).all()


def test_the_working_copy_weighs_a_vote_as_the_next_derive_does():
    evidence, _, _ = world(4, FOUR)
    policy = Policy(PRIORS, BLOCKS)
    policy.derive(evidence)
    x = np.array([1, 0.5, -0.5, 0.2, 0, 0.1], np.float32)
    kind = policy.posterior.kind("thumb")
    other = Policy(PRIORS, BLOCKS)
    other.derive(evidence)
    policy.observe(1, x, 1.0, kind="thumb")
    other.observe(1, x, 1.0 - kind.bias, weight=kind.weight, kind="outcome")
    assert policy.surprise(PRIORS[1].key, x, 0.5) == other.surprise(PRIORS[1].key, x, 0.5)
    weight, residual, variance = policy.surprise(PRIORS[2].key, x, 0.9, "thumb")
    assert weight == kind.weight
    expected = kind.weight * (0.9 - kind.bias - policy.posterior.mu[2] @ x) / policy.posterior.sigma2**0.5
    assert residual == pytest.approx(expected)
    spread = x @ policy.posterior.V[2] @ x
    assert variance == pytest.approx(kind.weight + kind.weight**2 * spread, rel=1e-5)
