"""A model that is like another starts where that one stands, is never surer than it, and is taught by its own votes."""

from __future__ import annotations

import itertools
from dataclasses import fields

import numpy as np
import pytest

from banditroute.bandit.evidence.evidence import Evidence, ModelKey, RowKey, Vote
from banditroute.bandit.posterior import likeness
from banditroute.bandit.posterior.posterior import ModelPrior, derive

D = 6
BLOCKS = [(0, 1), (1, 3), (3, D)]
OLD, OTHER, NEW, NEWER = (ModelKey(name) for name in ("old", "other", "new", "newer"))
CATALOG = [ModelPrior(OLD), ModelPrior(OTHER), ModelPrior(NEW, like=OLD)]


def taught(votes=400, own=0, quality=0.2):
    """Votes of two models, and `own` of the new one."""
    rng, evidence = np.random.default_rng(1), Evidence(D)
    for i in range(votes + own):
        x = rng.normal(0.0, 0.4, D).astype(np.float32)
        x[0] = 1.0
        key = NEW if i >= votes else (OLD, OTHER)[i % 2]
        level = {OLD: 0.9 + 0.3 * x[1], OTHER: 0.4, NEW: quality}[key]
        tokens = float(rng.lognormal(7.0 if key == OLD else 4.0, 0.3))
        vote = Vote(level + rng.normal(0.0, 0.1), output_tokens=tokens, latency_ms=tokens)
        evidence.add(key, x, vote, 1.0)
    return evidence


def arrays(posterior):
    names = [field.name for field in fields(posterior) if field.name not in ("models", "kinds")]
    return {name: getattr(posterior, name) for name in names}


def test_a_new_model_starts_at_the_mean_of_the_one_it_is_like():
    posterior = derive(taught(), CATALOG, BLOCKS)
    assert posterior.mu[2].tolist() == posterior.mu[0].tolist()
    for name in ("token_offset", "token_ratio", "latency_intercept", "latency_slope"):
        values = getattr(posterior, name)
        assert values[2] == values[0]


def test_it_is_less_sure_than_the_one_it_is_like_and_surer_than_one_that_is_like_none():
    posterior = derive(taught(), CATALOG, BLOCKS)
    unlike = derive(taught(), [*CATALOG[:2], ModelPrior(NEW)], BLOCKS)
    assert (posterior.V[2].diagonal() > posterior.V[0].diagonal()).all()
    assert (posterior.V[2].diagonal() < unlike.V[2].diagonal()).all()
    assert posterior.qbar[0] < posterior.qbar[2] < unlike.qbar[2]


def test_nothing_changes_for_the_others():
    likes = derive(taught(own=50), CATALOG, BLOCKS)
    plain = derive(taught(own=50), [*CATALOG[:2], ModelPrior(NEW)], BLOCKS)
    assert likes.mu[:2].tobytes() == plain.mu[:2].tobytes()
    assert likes.V[:2].tobytes() == plain.V[:2].tobytes()
    assert likes.sigma2 == plain.sigma2


def test_its_own_votes_take_over():
    true = np.array([0.2, 0, 0, 0, 0, 0])
    few, many = (derive(taught(own=own), CATALOG, BLOCKS).mu[2] for own in (5, 600))
    start = derive(taught(), CATALOG, BLOCKS).mu[2]
    assert abs(many - true).max() < 0.05 < abs(start - true).max()
    assert abs(few[0] - 0.2) < abs(start[0] - 0.2)


def test_the_posterior_is_that_of_a_gaussian_prior_around_the_one_it_is_like():
    evidence = taught(own=20)
    posterior = derive(evidence, CATALOG, BLOCKS)
    row, layout = evidence.rows[RowKey(*NEW)], evidence.layout
    a, lower = np.zeros((D, D)), np.tril_indices(D)
    a[lower] = row[layout.a]
    a = a + np.tril(a, -1).T
    difference = np.diag(likeness.SHARE**2 * posterior.pool_scale2 / posterior.sigma2)
    prior = np.linalg.inv(posterior.V[0] + difference)
    want = np.linalg.inv(prior + a)
    np.testing.assert_allclose(posterior.V[2], want, rtol=1e-9, atol=1e-12)
    mean = want @ (prior @ posterior.mu[0] + row[layout.b])
    np.testing.assert_allclose(posterior.mu[2], mean, rtol=1e-9)


def test_permuting_the_catalog_permutes_the_posterior_and_no_bit_of_it():
    evidence = taught(own=7)
    catalog = [*CATALOG, ModelPrior(NEWER, like=NEW)]
    first = derive(evidence, catalog, BLOCKS)
    for order in itertools.permutations(range(4)):
        other = derive(evidence, [catalog[k] for k in order], BLOCKS)
        for name, value in arrays(first).items():
            per_model = isinstance(value, np.ndarray) and len(value) == 4
            want = value[list(order)] if per_model else value
            assert np.asarray(want).tobytes() == np.asarray(getattr(other, name)).tobytes(), name


def test_likeness_is_passed_on_and_widens_at_each_step():
    posterior = derive(taught(), [*CATALOG, ModelPrior(NEWER, like=NEW)], BLOCKS)
    assert posterior.mu[3].tolist() == posterior.mu[0].tolist()
    assert (posterior.V[3].diagonal() > posterior.V[2].diagonal()).all()


def test_a_model_like_one_without_evidence_starts_at_the_pooled_mean():
    posterior = derive(Evidence(D), CATALOG, BLOCKS)
    np.testing.assert_allclose(posterior.mu[2], posterior.pool_mean, rtol=1e-12)


def test_a_newcomer_is_put_in_without_evidence_as_derive_would():
    evidence = taught()
    selected = derive(evidence, CATALOG[:2], BLOCKS).select([CATALOG[2], *CATALOG[:2]])
    derived = derive(evidence, [CATALOG[2], *CATALOG[:2]], BLOCKS)
    for name, value in arrays(derived).items():
        np.testing.assert_allclose(arrays(selected)[name], value, rtol=1e-12, err_msg=name)


def test_hostile_evidence_never_gives_a_number_that_is_not_finite():
    evidence = taught()
    x = np.full(D, 1e6, np.float32)
    for weight in (1e12, -1e12, 1.0):
        evidence.add(NEW, x, Vote(1e30, output_tokens=1e9), weight)
        posterior = derive(evidence, CATALOG, BLOCKS)
        assert all(np.isfinite(value).all() for value in arrays(posterior).values())
        assert (posterior.V[2].diagonal() >= 0.0).all()


@pytest.mark.parametrize(
    ("catalog", "message"),
    [
        ([ModelPrior(NEW, like=OLD)], "not listed"),
        ([ModelPrior(NEW, like=NEW)], "circle"),
        ([ModelPrior(NEW, like=OLD), ModelPrior(OLD, like=NEW)], "circle"),
    ],
)
def test_a_likeness_that_leads_nowhere_or_in_a_circle_is_refused(catalog, message):
    with pytest.raises(ValueError, match=message):
        derive(Evidence(D), catalog, BLOCKS)
