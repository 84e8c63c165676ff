"""The bandit learns: regret on seeded worlds, with the bounds that were promised."""

from __future__ import annotations

import numpy as np
import pytest

from banditroute.bandit.choice.policy import DecideBatch, Policy
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, Vote
from banditroute.bandit.posterior.posterior import ModelPrior

MEANS = np.array([0.9, 0.5, 0.1])


def regret(means, steps, seed, contexts=None, offsets=None):
    """Quality of the best model's draws minus quality received, one request after the other."""
    rng = np.random.default_rng(seed)
    count = means.shape[-1]
    keys = [ModelKey(f"m{k}") for k in range(count)]
    x = np.ones((steps, 1), np.float32) if contexts is None else contexts(rng, steps)
    d = x.shape[1]
    mean = np.broadcast_to(means, (steps, count)) if contexts is None else means[x[:, 1:].argmax(axis=1)]
    draws = (rng.random((steps, count)) < mean).astype(float)
    requests = DecideBatch.of(x, rng.integers(0, 2**63, steps), np.zeros((count, 2)))
    priors = [ModelPrior(key, 0.0 if offsets is None else offsets[k]) for k, key in enumerate(keys)]
    policy = Policy(priors, [(0, 1)] if d == 1 else [(0, 1), (1, d)], seed=seed)
    evidence = Evidence(d)
    total = 0.0
    for t in range(steps):
        choices = policy.decide(requests[t : t + 1])
        k = int(choices.chosen[0])
        vote = Vote(draws[t, k], choices.quality[0, k], choices.sd[0, k])
        evidence.add(keys[k], x[t], vote, 1.0)
        policy.observe(k, x[t], draws[t, k])
        if policy.due:
            policy.derive(evidence)
        total += draws[t, mean[t].argmax()] - draws[t, k]
    return total


def clusters(rng, steps):
    which = rng.integers(2, size=steps)
    return np.stack([np.ones(steps), which == 0, which == 1], axis=1).astype(np.float32)


def test_a_stationary_world_costs_little():
    assert np.mean([regret(MEANS, 2000, seed) for seed in range(3)]) <= 8


@pytest.mark.slow
def test_the_stationary_workload_of_10_000_costs_at_most_8_on_average():
    assert np.mean([regret(MEANS, 10_000, seed) for seed in range(10)]) <= 8


@pytest.mark.slow
def test_declared_qualities_make_a_world_cheaper_to_learn():
    offsets = np.array([0.85, 0.5, 0.15]) - 0.5
    assert np.mean([regret(MEANS, 10_000, seed, offsets=offsets) for seed in range(5)]) <= 3


@pytest.mark.slow
def test_a_context_that_decides_which_model_is_best_is_learned():
    means = np.array([[0.85, 0.5, 0.15], [0.15, 0.5, 0.85]])
    assert np.median([regret(means, 10_000, seed, contexts=clusters) for seed in range(5)]) <= 20
