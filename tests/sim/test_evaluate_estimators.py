"""Estimators agree with their published formulas, intervals and sums with slow ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banditroute_sim.evaluate.estimators import Statistic, terms
from banditroute_sim.evaluate.intervals import bootstrap, empirical_bernstein, freedom
from banditroute_sim.evaluate.sums import Blocks, Moments, Weights, pareto_shape
from tests import naive_offpolicy as naive


def _log(seed: int, n: int = 200, k: int = 4):
    rng = np.random.default_rng(seed)
    policy, logged = rng.dirichlet(np.ones(k), n), rng.dirichlet(2.0 * np.ones(k), n)
    action = np.array([rng.choice(k, p=p) for p in logged])
    at = np.arange(n), action
    return policy, rng.random((n, k)), action, logged[at], rng.random(n)


@pytest.mark.parametrize("seed", range(20))
def test_estimators_are_those_of_the_papers(seed: int) -> None:
    policy, model, action, propensity, reward = _log(seed)
    at = np.arange(len(action)), action
    chance = policy[at]
    rows = terms(chance / propensity, reward, model[at], (policy * model).sum(axis=1))
    sums = rows.sum(axis=0)
    expected = {
        "ips": naive.ips(chance, propensity, reward),
        "snips": naive.snips(chance, propensity, reward),
        "dm": naive.direct(policy, model),
        "dr": naive.doubly_robust(policy, model, action, propensity, reward),
        "logged": reward.mean(),
    }
    for name, value in expected.items():
        assert float(Statistic.of(name, 0).value(sums)) == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_an_unknown_outcome_adds_nothing() -> None:
    policy, model, action, propensity, reward = _log(1)
    at = np.arange(len(action)), action
    reward[::3] = np.nan
    rows = terms(policy[at] / propensity, reward, model[at], (policy * model).sum(axis=1))
    known = ~np.isnan(reward)
    assert not rows[~known].any()
    value = float(Statistic.of("snips", 0).value(rows.sum(axis=0)))
    assert value == pytest.approx(naive.snips(policy[at][known], propensity[known], reward[known]), rel=1e-9)


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_blocks_keep_the_sums_of_consecutive_rows(parts: list[int], limit: int) -> None:
    rows = np.random.default_rng(3).random((sum(parts), 2))
    blocks = Blocks(2, limit)
    for part in np.split(rows, np.cumsum(parts)[:-1]):
        blocks.add(part)
    kept = blocks.rows
    assert len(kept) <= 2 * limit + 1
    expected = [rows[start : start + blocks.size].sum(axis=0) for start in range(0, len(rows), blocks.size)]
    np.testing.assert_allclose(kept, np.array(expected).reshape(-1, 2), rtol=1e-12)


def test_weight_diagnostics_are_those_of_all_weights_together() -> None:
    weights = np.random.default_rng(2).lognormal(0.0, 1.5, 10_000)
    weights[::7] = 0.0
    kept = Weights()
    for part in np.array_split(weights, 13):
        kept.add(part)
    assert kept.ess == pytest.approx(naive.effective_sample_size(weights))
    assert kept.largest == weights.max()
    assert kept.mean == pytest.approx(weights.mean())
    assert kept.zeros == np.count_nonzero(weights == 0.0)
    top = np.sort(weights)[-100:].sum() / weights.sum()
    assert kept.top_share == pytest.approx(top, abs=0.01)


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_the_shape_of_a_pareto_tail_is_found(shape: float) -> None:
    u = np.random.default_rng(5).random(4000)
    assert pareto_shape(np.sort((u**-shape - 1.0) / shape)) == pytest.approx(shape, abs=0.1)


def test_moments_of_parts_are_moments_of_the_whole() -> None:
    rows = 1e6 + np.random.default_rng(1).random((500, 2))
    rows[::4, 1] = np.nan
    moments = Moments(2)
    for part in np.array_split(rows, 7):
        moments.add(part)
    for column in range(2):
        known = rows[:, column][~np.isnan(rows[:, column])]
        assert moments.n[column] == len(known)
        assert moments.mean(column) == pytest.approx(known.mean(), rel=1e-14)
        assert moments.variance(column) == pytest.approx(known.var(ddof=1), rel=1e-9)


def test_empirical_bernstein_is_that_of_the_paper() -> None:
    values = np.random.default_rng(9).random(60) * 3.0
    got = empirical_bernstein(values.mean(), values.var(ddof=1), 60, 3.0, 0.95)
    assert got == pytest.approx(naive.empirical_bernstein(values.tolist(), 3.0, 0.05), rel=1e-9)


def test_empirical_bernstein_of_one_number_says_nothing() -> None:
    assert empirical_bernstein(0.5, 0.0, 1, 1.0, 0.95) == (-math.inf, math.inf)


def test_a_bootstrap_repeats_with_its_seed_and_pairs_its_statistics() -> None:
    rows = np.abs(np.random.default_rng(4).normal(1.0, 0.3, (300, 12)))
    one = Statistic.of("ips", 0)
    wanted = {"one": one, "twice": one.plus(1.0, one), "nothing": one.plus(-1.0, one)}
    got = bootstrap(rows, wanted, replicates=400, seed=1, confidence=0.9)
    assert got == bootstrap(rows, wanted, replicates=400, seed=1, confidence=0.9)
    assert got != bootstrap(rows, wanted, replicates=400, seed=2, confidence=0.9)
    assert got["twice"] == pytest.approx([2.0 * end for end in got["one"]])
    assert got["nothing"] == (0.0, 0.0)


def test_a_variance_is_known_by_as_many_degrees_of_freedom_as_its_terms_are_normal() -> None:
    rng = np.random.default_rng(8)
    assert freedom(rng.normal(size=20_000)) == pytest.approx(20_000, rel=0.1)
    assert freedom(rng.standard_t(3, size=20_000)) < 2000
    assert freedom(np.array([1.0, -1.0] * 50)) > 1e8  # whichever come, the variance is the same
    assert freedom(np.zeros(5)) > 1e8
    assert freedom(np.array([0.0])) > 1e8


def test_bootstrap_intervals_of_a_skewed_mean_cover_it() -> None:
    rng = np.random.default_rng(6)
    hits = 0
    for seed in range(300):
        rows = np.zeros((150, 12))
        rows[:, 0], rows[:, 2] = 1.0, rng.exponential(1.0, 150)
        low, high = bootstrap(
            rows, {"mean": Statistic.of("ips", 0)}, replicates=500, seed=seed, confidence=0.95
        )["mean"]
        hits += low <= 1.0 <= high
    assert 0.92 <= hits / 300 <= 0.98
