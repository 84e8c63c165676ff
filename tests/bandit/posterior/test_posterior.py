"""derive() is a pure function that agrees with the textbook equations and never gives NaN."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.bandit.evidence.evidence import Evidence, ModelKey, RowKey, Vote
from banditroute.bandit.posterior.posterior import ModelPrior, PriorConfig, derive
from tests import naive_bandit as naive

CONFIG = PriorConfig()


def world(seed, d, models, votes):
    rng = np.random.default_rng(seed)
    priors = [ModelPrior(ModelKey(f"m{k}"), 0.1 * (k % 3 - 1)) for k in range(models)]
    evidence = Evidence(d)
    weights = rng.normal(size=(models, d)) * 0.2
    for _ in range(votes):
        x = (rng.normal(size=d) / math.sqrt(d)).astype(np.float32)
        x[0] = 1.0
        k = int(rng.integers(models - 1))  # the last model has no evidence
        quality = float(0.5 + x @ weights[k] + 0.2 * rng.normal())
        tokens, latency = float(rng.integers(1, 900)), float(rng.uniform(50, 5000))
        reported, estimated = float(rng.integers(0, 300)), float(rng.uniform(0, 300))
        vote = Vote(quality, 0.5, 0.3, tokens, 5.0, 0.01, 0.02, latency, reported, estimated)
        evidence.add(priors[k].key, x, vote, float(rng.choice([1.0, 0.3])))
    return evidence, priors


def arrays(posterior):
    found = {field.name: np.asarray(getattr(posterior, field.name)) for field in fields(posterior)[1:]}
    found["kinds"] = np.array([kind[1:] for kind in posterior.kinds])
    return found


def assert_finite(posterior):
    for name, value in arrays(posterior).items():
        if not name.startswith("latency"):
            assert np.isfinite(value).all(), name
        assert not np.isinf(value).any(), name
    assert (np.diagonal(posterior.V, axis1=1, axis2=2) >= 0).all()
    assert (posterior.qbar >= 0).all()
    assert posterior.sigma2 > 0


@pytest.mark.parametrize(("d", "models", "votes"), [(1, 2, 5), (6, 4, 200), (20, 8, 100), (32, 3, 2000)])
def test_derive_agrees_with_the_oracle_to_1e_9(d, models, votes):
    evidence, priors = world(d, d, models, votes)
    evidence.add_free(priors[0].key, Vote(quality=0.8), 7.0)
    blocks = [(0, 1)] if d == 1 else [(0, 1), (1, 3), (3, d)]
    got = derive(evidence, priors, blocks, CONFIG)
    rows = [evidence.row(RowKey(*model.key)).tolist() for model in priors]
    want = naive.derive(rows, [model.quality_offset for model in priors], blocks, d, CONFIG)
    for name, value in (
        ("mu", got.mu), ("V", got.V), ("m", got.pool_mean), ("sigma2", got.sigma2), ("s2", got.scales**2),
        ("qbar", got.qbar),
    ):  # fmt: skip
        scale = np.abs(want[name]).max()
        np.testing.assert_allclose(value, want[name], rtol=1e-9, atol=1e-11 * scale, err_msg=name)
    beta, offset, ratio = naive.tokens(evidence.shared.tolist(), rows, d, CONFIG)
    np.testing.assert_allclose(got.token_beta, beta, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(got.token_offset, offset, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(got.token_ratio, ratio, rtol=1e-9)
    assert got.input_ratio.tolist() == naive.input_ratio(rows, CONFIG).tolist()


def test_derive_is_pure_and_leaves_the_evidence_alone():
    evidence, priors = world(3, 8, 4, 300)
    before = evidence.copy()
    first, second = (derive(evidence, priors, [(0, 1), (1, 8)]) for _ in range(2))
    for name, value in arrays(first).items():
        assert value.tobytes() == arrays(second)[name].tobytes(), name
    assert evidence == before


def test_permuting_models_permutes_the_posterior_without_changing_a_bit():
    evidence, priors = world(4, 8, 5, 300)
    order = [3, 0, 4, 2, 1]
    first = derive(evidence, priors, [(0, 1), (1, 8)])
    second = derive(evidence, [priors[k] for k in order], [(0, 1), (1, 8)])
    for name, value in arrays(first).items():
        per_model = value.ndim and len(value) == 5 and name not in ("xbar", "token_beta")
        assert (value[order] if per_model else value).tobytes() == arrays(second)[name].tobytes(), name


def test_covariances_are_symmetric_bit_for_bit_and_arrays_are_write_protected():
    evidence, priors = world(5, 16, 4, 300)
    posterior = derive(evidence, priors, [(0, 1), (1, 16)])
    assert np.array_equal(posterior.V, posterior.V.transpose(0, 2, 1))
    for name, value in arrays(posterior).items():
        if value.ndim and name != "kinds":
            with pytest.raises(ValueError, match="read-only"):
                getattr(posterior, name)[...] = 0.0


def test_a_model_without_evidence_sits_at_the_pooled_mean_plus_its_declared_offset():
    evidence, priors = world(6, 4, 3, 400)
    posterior = derive(evidence, priors, [(0, 1), (1, 4)])
    expected = posterior.pool_mean + priors[2].quality_offset * np.eye(4)[0]
    np.testing.assert_allclose(posterior.mu[2], expected, rtol=1e-12, atol=1e-14)
    assert posterior.n[2] == 0
    assert posterior.token_offset[2] == 0
    assert posterior.token_ratio[2] == posterior.input_ratio[2] == 1
    assert (posterior.input_ratio[:2] != 1).all()


def test_votes_without_context_move_the_intercept_only_of_their_model():
    evidence = Evidence(3)
    keys = [ModelKey("a"), ModelKey("b")]
    for _ in range(200):
        evidence.add_free(keys[0], Vote(quality=0.9), 1.0)
    posterior = derive(evidence, [ModelPrior(key) for key in keys], [(0, 1), (1, 3)])
    assert abs(posterior.mu[0, 0] - 0.9) < 0.02
    assert posterior.mu[0, 1:].tolist() == [0.0, 0.0]
    assert posterior.n.tolist() == [200.0, 0.0]


def test_latency_is_nan_until_something_is_known_and_then_follows_evidence():
    keys = [ModelKey(name) for name in "abc"]
    evidence = Evidence(1)
    x = np.ones(1, np.float32)
    priors = [ModelPrior(keys[0]), ModelPrior(keys[1], latency_ms=500.0), ModelPrior(keys[2])]
    before = derive(evidence, priors, [(0, 1)])
    assert np.isnan(before.latency_intercept).tolist() == [True, False, True]
    assert before.latency_pool == pytest.approx(math.log(500))
    for tokens in (50.0, 100.0, 400.0, 900.0) * 50:
        evidence.add(keys[0], x, Vote(output_tokens=tokens, latency_ms=10.0 * (1 + tokens)), 1.0)
    after = derive(evidence, priors, [(0, 1)])
    assert 0.9 < after.latency_slope[0] <= 1.0
    predicted = after.latency_intercept[0] + after.latency_slope[0] * math.log1p(200.0)
    assert predicted == pytest.approx(math.log(2010.0), abs=0.1)
    assert after.latency_intercept[1] == pytest.approx(math.log(500))
    assert math.isnan(after.latency_intercept[2])


def test_selecting_models_keeps_what_is_known_and_gives_new_ones_what_derive_would():
    evidence, priors = world(7, 6, 4, 300)
    blocks = [(0, 1), (1, 6)]
    full = derive(evidence, priors[:3], blocks)
    wanted = [priors[2], ModelPrior(ModelKey("new"), 0.2, 800.0), priors[0]]
    selected = full.select(wanted)
    direct = derive(evidence, [*priors[:3], wanted[1]], blocks)
    for name in ("mu", "V", "qbar", "token_ratio", "token_offset", "input_ratio", "latency_intercept"):
        old, new = getattr(full, name), getattr(selected, name)
        assert new[0].tobytes() == old[2].tobytes()
        assert new[2].tobytes() == old[0].tobytes()
        np.testing.assert_allclose(new[1], getattr(direct, name)[3], rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match="twice"):
        full.select([priors[0], priors[0]])


@pytest.mark.parametrize("size", [1e-300, 1e-30, 1e15, 1e38])
@pytest.mark.parametrize("quality", [0.0, 1.0, -1e300, 1e-300, 1e300, 1e150])
@pytest.mark.parametrize("inputs", [(1e300, 1e-300), (1e-300, 1e300)])
def test_hostile_sizes_never_give_nan(size, quality, inputs):
    evidence = Evidence(4)
    keys = [ModelKey("a"), ModelKey("b")]
    x = np.array([1.0, size, -size, 0.0]).astype(np.float32)
    for weight in (1.0, 1.0, 1e-300, 1e300, -1.0):
        with np.errstate(all="ignore"):
            evidence.add(
                keys[0], x, Vote(quality, 0.5, 1e-300, 1e300, 3.0, 1e300, 1.0, 1e300, *inputs), weight
            )
    assert_finite(derive(evidence, [ModelPrior(key) for key in keys], [(0, 1), (1, 4)]))


def test_zero_contexts_equal_rewards_and_a_million_votes_never_give_nan():
    key = ModelKey("a")
    models = [ModelPrior(key), ModelPrior(ModelKey("b"))]
    for x in (np.zeros(3, np.float32), np.ones(3, np.float32)):
        evidence = Evidence(3)
        evidence.add(key, x, Vote(quality=1.0), 1.0)
        evidence.scale(RowKey(*key), 1e6)
        posterior = derive(evidence, models, [(0, 1), (1, 3)])
        assert_finite(posterior)
        assert posterior.sigma2 < 1e-5 or not x.any()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(1e-12, 1e12))
def test_what_rounding_leaves_of_withdrawn_votes_is_as_good_as_nothing(seed, weight):
    rng = np.random.default_rng(seed)
    key = ModelKey("a")
    evidence = Evidence(4)
    votes = [(rng.normal(size=4).astype(np.float32), Vote(quality=float(rng.normal()))) for _ in range(20)]
    for x, vote in votes:
        evidence.add(key, x, vote, weight * float(rng.uniform(0.1, 1)))
    for x, vote in rng.permutation(np.array(votes, dtype=object)):
        evidence.add(key, x, Vote(*vote), -weight * float(rng.uniform(0.1, 1)), None, -1.0)
    assert_finite(derive(evidence, [ModelPrior(key)], [(0, 1), (1, 4)]))


def test_wrong_blocks_models_and_constants_are_refused():
    evidence = Evidence(3)
    model = ModelPrior(ModelKey("a"))
    for blocks in (
        [],
        [(0, 2), (2, 3)],
        [(0, 1), (2, 3)],
        [(0, 1)],
        [(0, 1), (1, 1), (1, 3)],
        [(0, 1), (1, 4)],
    ):
        with pytest.raises(ValueError, match="blocks tile"):
            derive(evidence, [model], blocks)
    with pytest.raises(ValueError, match="twice"):
        derive(evidence, [model, model], [(0, 1), (1, 3)])
    with pytest.raises(ValueError, match="finite"):
        derive(evidence, [ModelPrior(ModelKey("a"), math.nan)], [(0, 1), (1, 3)])
    with pytest.raises(ValueError, match="noise_variance"):
        PriorConfig(noise_variance=0.0)


def test_a_verbose_model_that_gets_one_kind_of_request_does_not_make_them_look_long():
    keys, evidence = (ModelKey("terse"), ModelKey("verbose")), Evidence(2)
    rng = np.random.default_rng(5)
    for i in range(600):
        kind = i % 2
        model = int(rng.random() < (0.9 if kind else 0.1))
        tokens = float(rng.lognormal(math.log((100.0, 1000.0)[model]), 0.3))
        evidence.add(
            keys[model], np.array([1.0, 2 * kind - 1], np.float32), Vote(0.5, output_tokens=tokens), 1.0
        )
    posterior = derive(evidence, [ModelPrior(key) for key in keys], [(0, 1), (1, 2)])
    assert abs(posterior.token_beta[1]) < 0.05
    assert posterior.token_offset[1] - posterior.token_offset[0] == pytest.approx(math.log(10.0), rel=0.05)


def test_expected_tokens_are_right_after_a_few_answers_whatever_was_predicted_before_them():
    """The calibration may not make up a second time for what the offset has already made up for."""
    key, evidence, x = ModelKey("a"), Evidence(1), np.ones(1, np.float32)
    for _ in range(20):
        evidence.add(key, x, Vote(0.5, output_tokens=3000.0, log_tokens_pred=math.log1p(300.0)), 1.0)
    posterior = derive(evidence, [ModelPrior(key)], [(0, 1)])
    level = float(posterior.token_beta[0] + posterior.token_offset[0])
    assert posterior.token_ratio[0] * math.expm1(level) == pytest.approx(3000.0, rel=0.05)
