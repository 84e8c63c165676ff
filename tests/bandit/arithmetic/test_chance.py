"""Random numbers belong to (seed, request, model), look normal and are independent. Seeded; bounds are 4 sigma."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from scipy import special, stats

from banditroute.bandit.arithmetic import _kernels_chance
from banditroute.bandit.arithmetic.chance import model_key, normal, request_key, request_keys
from tests import naive_bandit as naive

N = 20_000
LIMIT = 4 / math.sqrt(N)


def draws(seed, requests, models):
    return np.array([normal(seed, r, m) for r, m in zip(requests, models, strict=True)])


def test_keys_are_stable_and_tell_generations_apart():
    assert request_key("r-1") == 0xEADBB760EA8997D
    assert request_key("") == int.from_bytes(bytes.fromhex("e4a6a0577479b2b4"), "little")
    assert len({model_key("a", 0), model_key("a", 1), model_key("b", 0)}) == 3


def test_keys_of_a_batch_are_those_of_each_request():
    rng = np.random.default_rng(5)
    sizes = [0, 1, 127, 128, 129, 255, 256, 257, *rng.integers(0, 600, 200)]
    ids = ["".join(map(chr, rng.integers(32, 0x250, size))) for size in sizes]
    assert request_keys([one.encode() for one in ids]).tolist() == [request_key(one) for one in ids]
    assert request_keys([]).tolist() == []


@pytest.mark.parametrize("keys", [(0, 0, 0), (1, 2, 3), (2**64 - 1,) * 3, (7, 0xEADBB760EA8997D, 2**63)])
def test_numbers_equal_the_plain_python_oracle(keys):
    assert normal(*keys) == pytest.approx(naive.normal(*keys), rel=1e-13, abs=1e-15)


def test_golden_numbers_never_change():
    assert normal(1, 2, 3) == pytest.approx(0.8937008379324025, rel=1e-13)


@pytest.mark.parametrize("consecutive", [True, False])
def test_numbers_are_standard_normal_for_hashed_and_for_consecutive_keys(consecutive):
    requests = range(N) if consecutive else [request_key(f"r-{i}") for i in range(N)]
    z = draws(11, requests, [model_key("a")] * N)
    assert stats.kstest(z, "norm").pvalue > 1e-4
    assert abs(z.mean()) < LIMIT
    assert abs(z.var() - 1) < LIMIT * math.sqrt(2)
    assert abs(stats.kurtosis(z)) < LIMIT * math.sqrt(24)


def test_numbers_of_two_models_two_seeds_and_two_requests_are_uncorrelated():
    requests = range(N)
    a, b = model_key("a"), model_key("b")
    first = draws(1, requests, [a] * N)
    for other in (draws(1, requests, [b] * N), draws(2, requests, [a] * N), np.roll(first, 1)):
        assert abs(np.corrcoef(first, other)[0, 1]) < LIMIT
        assert abs(np.corrcoef(first**2, other**2)[0, 1]) < LIMIT


def test_four_million_numbers_have_the_moments_and_the_tails_of_a_normal_one():
    @numba.njit
    def sums(count):
        powers, beyond = np.zeros(8), np.zeros(6)
        for i in range(count):
            z = _kernels_chance.normal(np.uint64(5), np.uint64(i // 8), np.uint64(i % 8))
            value = 1.0
            for p in range(8):
                value *= z
                powers[p] += value
            for s in range(6):
                beyond[s] += abs(z) > s
        return powers / count, beyond / count

    count = 4_000_000
    powers, beyond = sums(count)
    for p, (got, want) in enumerate(zip(powers, [0, 1, 0, 3, 0, 15, 0, 105], strict=True), start=1):
        variance = stats.norm.moment(2 * p) - want**2
        assert abs(got - want) < 4 * math.sqrt(variance / count), p
    for s, got in enumerate(beyond):
        want = 2 * stats.norm.sf(s)
        assert abs(got - want) <= 4 * math.sqrt(want * (1 - want) / count) + 1e-12, s


def test_the_extreme_probabilities_have_finite_and_opposite_quantiles():
    quantile = _kernels_chance._quantile
    for p in (2.0**-53, 2.0**-52, 1e-12, 0.01, 0.075, 0.0751, 0.3):
        assert quantile(p) == pytest.approx(special.ndtri(p), rel=1e-14)
    assert quantile(1 - 2.0**-53) == -quantile(2.0**-53)
    assert quantile(0.5) == 0.0


def test_keys_out_of_range_are_refused():
    with pytest.raises(OverflowError):
        normal(-1, 0, 0)
