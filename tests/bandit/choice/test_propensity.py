"""The propensity of a choice is exact: relative error <= 1e-4 against adaptive quadrature, and against frequencies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from banditroute.bandit.choice import _kernels_propensity
from tests import naive_bandit as naive


def propensity(mean, sd, chosen, eligible=None):
    mean, sd = np.asarray(mean, float), np.asarray(sd, float)
    ok = np.ones(len(mean), bool) if eligible is None else np.asarray(eligible, bool)
    names = np.arange(len(mean), dtype=np.uint64)
    return _kernels_propensity.propensity(
        mean, sd, ok, names, chosen, np.empty(len(mean)), np.empty(len(mean))
    )


def nasty(seed):
    """K = 2..50, sd ratios up to 1e4, near ties, exact ties, hopeless choices, constants, ineligible models."""
    rng = np.random.default_rng(seed)
    k = int(rng.choice([2, 3, 4, 8, 16, 50]))
    sd = [10 ** rng.uniform(-4, 0, k), 10 ** rng.uniform(-1, 0, k), np.full(k, 0.3)][seed % 3]
    mean = rng.normal(size=k) * 10 ** rng.uniform(-6, 1) * (sd if seed % 2 else 1)
    if seed % 5 == 0:
        mean[:] = 0.5
    if seed % 7 == 0:
        sd[rng.integers(k)] = 0.0
    eligible = rng.random(k) < 0.7 if seed % 4 == 0 else np.ones(k, bool)
    chosen = int(rng.integers(k)) if seed % 11 == 0 else int(np.argmax(mean + 2 * sd * rng.normal(size=k)))
    eligible[chosen] = True
    return mean, sd, chosen, eligible


@pytest.mark.parametrize("seed", range(120))
def test_propensity_agrees_with_quadrature_on_a_nasty_grid(seed):
    mean, sd, chosen, eligible = nasty(seed)
    want = naive.propensity(mean, sd, chosen, eligible)
    got = propensity(mean, sd, chosen, eligible)
    assert got == pytest.approx(max(want, 1e-300), rel=1e-4, abs=1e-290)


@pytest.mark.parametrize("models", [2, 3, 8, 50])
def test_equal_models_share_the_probability_equally(models):
    for chosen in range(models):
        assert propensity([0.3] * models, [0.1] * models, chosen) == pytest.approx(1 / models, rel=1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_probabilities_of_all_models_sum_to_one(seed):
    mean, sd, _, _ = nasty(7 * seed + 1)
    sd = np.maximum(sd, 1e-5)
    assert sum(propensity(mean, sd, k) for k in range(len(mean))) == pytest.approx(1, abs=1e-4)


def test_propensity_matches_sampled_frequencies_within_4_sigma():
    rng = np.random.default_rng(5)
    mean, sd = np.array([0.5, 0.45, 0.4, 0.3]), np.array([0.02, 0.1, 0.2, 0.05])
    n = 200_000
    counts = np.bincount((mean + sd * rng.normal(size=(n, 4))).argmax(axis=1), minlength=4)
    for k in range(4):
        p = propensity(mean, sd, k)
        assert abs(counts[k] / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_a_single_eligible_model_has_propensity_exactly_one():
    assert propensity([0.1, 0.9], [0.1, 0.1], 0, [True, False]) == 1.0
    assert propensity([0.1], [0.0], 0) == 1.0


def test_constants_hopeless_choices_and_huge_numbers_give_probabilities():
    assert propensity([1.0, 0.0], [0.0, 0.0], 0) == 1.0
    assert propensity([1.0, 1.0], [0.0, 0.0], 0) == 1.0
    assert propensity([1.0, 1.0], [0.0, 0.0], 1) == 1e-300
    assert propensity([0.0, 1.0], [0.0, 0.0], 0) == 1e-300
    assert propensity([0.0, 1e30, -1e30], [1e-3, 1e-3, 1e-3], 0) == 1e-300
    for scale in (1e-20, 1e20):
        for chosen in range(3):
            want = propensity([0.1, 0.2, 0.3], [0.1, 0.2, 0.1], chosen)
            got = propensity(np.array([0.1, 0.2, 0.3]) * scale, np.array([0.1, 0.2, 0.1]) * scale, chosen)
            assert got == pytest.approx(want, rel=1e-9)
