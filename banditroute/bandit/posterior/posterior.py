"""Posterior: what the evidence says about quality, output tokens and latency of every model.

``derive`` is a pure function: it starts from fixed values and does a fixed number of steps, so the same evidence,
models and configuration give the same bytes. Models are taken in the order of their keys, whatever their order in the
catalog, so permuting a catalog permutes the posterior and changes no bit of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence import row_layout as at
from banditroute.bandit.evidence.evidence import Evidence
from banditroute.bandit.evidence.row_layout import Layout
from banditroute.bandit.posterior import _kernels_solve as _kernels
from banditroute.bandit.posterior import likeness
from banditroute.bandit.posterior.kinds import PASSES, Kind, estimated, pooled, trusted_first
from banditroute.bandit.posterior.prior import (
    Block,
    ModelPrior,
    PriorConfig,
    check_blocks,
    check_models,
    same_prior,
)
from banditroute.bandit.posterior.sums import Sums, gather, grouped, one_by_one, scattered, side_by_side
from banditroute.bandit.posterior.usage import derive_input, derive_latency, derive_tokens

Floats = NDArray[np.float64]

__all__ = ["Block", "ModelPrior", "Posterior", "PriorConfig", "derive"]


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """An immutable posterior over K models and contexts of d numbers; every array is write-protected.

    Attributes
    ----------
    models : tuple[ModelPrior, ...]
        In catalog order; index k below.
    mu : float64[K, d]
        Mean of the quality weights.
    V : float64[K, d, d]
        Their covariance in units of ``sigma2``.
    sigma2 : float
        Noise variance of one vote, one value for all models.
    qbar : float64[K]
        x̄ᵀ V_k x̄ at the mean context ``xbar``: how much is unknown about the model as a whole.
    n : float64[K]
        Sum of weights of the model's quality votes.
    kinds : tuple[Kind, ...]
        What a vote of each kind of feedback is worth; those without votes are left out.
    xbar, pool_mean, pool_scale2 : float64[d]
        Mean context; pooled mean m; prior variance of a weight around it (its block's scale squared).
    scales : float64[B]
        Prior standard deviation of each block.
    token_beta : float64[d]
    token_offset, token_ratio : float64[K]
        log(1 + tokens) = xᵀbeta + offset; tokens are then multiplied by the ratio.
    input_ratio : float64[K]
        What an estimate of input tokens is multiplied by; a count is not.
    latency_intercept, latency_slope : float64[K]
        log(ms) = intercept + slope * log(1 + tokens); the intercept is NaN when nothing is known.
    latency_pool : float
        Mean log(ms) of the models that something is known about, NaN if there is none.
    """

    models: tuple[ModelPrior, ...]
    mu: Floats
    V: Floats
    sigma2: float
    qbar: Floats
    n: Floats
    xbar: Floats
    pool_mean: Floats
    pool_scale2: Floats
    scales: Floats
    token_beta: Floats
    token_offset: Floats
    token_ratio: Floats
    input_ratio: Floats
    latency_intercept: Floats
    latency_slope: Floats
    latency_pool: float
    kinds: tuple[Kind, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value.setflags(write=False)

    @property
    def d(self) -> int:
        """Length of a context."""
        return self.mu.shape[1]

    def kind(self, name: str) -> Kind:
        """Return what a vote of a kind is worth; as much as one of the yardstick's while nothing is known."""
        return next((kind for kind in self.kinds if kind.name == name), Kind(name))

    def select(self, models: Sequence[ModelPrior]) -> Posterior:
        """Return the posterior for another list of models, without looking at evidence.

        A model that stays keeps what is known about it. A new one gets what ``derive`` gives to a model without
        evidence: the pooled mean and the prior covariance, or what follows from the model it is like.

        Raises
        ------
        ValueError
            If a model is listed twice, or like one that is not listed or, in a circle, itself.
        """
        check_models(models)
        old = {model.key: (k, model) for k, model in enumerate(self.models)}
        found = [old.get(model.key) for model in models]
        count, d = len(models), self.d
        fresh = self.pool_scale2 / self.sigma2
        mu, v = np.empty((count, d)), np.zeros((count, d, d))
        flat = np.zeros((7, count))
        qbar, n, offset, ratio, input_ratio, intercept, slope = flat
        for k, (model, before) in enumerate(zip(models, found, strict=True)):
            if before is not None and same_prior(before[1], model):
                i = before[0]
                mu[k], v[k], qbar[k], n[k] = self.mu[i], self.V[i], self.qbar[i], self.n[i]
                offset[k], ratio[k] = self.token_offset[i], self.token_ratio[i]
                input_ratio[k] = self.input_ratio[i]
                intercept[k], slope[k] = self.latency_intercept[i], self.latency_slope[i]
                continue
            mu[k] = self.pool_mean
            mu[k, 0] += model.quality_offset
            np.fill_diagonal(v[k], fresh)
            qbar[k], ratio[k], input_ratio[k] = float((fresh * self.xbar) @ self.xbar), 1.0, 1.0
            intercept[k] = math.log(max(model.latency_ms, 1e-3)) if model.latency_ms > 0 else math.nan
        for k, like in likeness.pairs(models):
            before = found[k]
            if before is not None and same_prior(before[1], models[k]):
                continue
            mu[k], v[k] = mu[like], likeness.start(v[like], self.pool_scale2, self.sigma2)
            qbar[k] = float((v[k] * self.xbar).sum(axis=1) @ self.xbar)
            offset[k], ratio[k] = offset[like], ratio[like]
            if math.isnan(intercept[k]):
                intercept[k], slope[k] = intercept[like], slope[like]
        pool = self.latency_pool
        if math.isnan(pool) and not np.isnan(intercept).all():
            pool = math.fsum(intercept[~np.isnan(intercept)]) / int((~np.isnan(intercept)).sum())
        # fmt: off
        return Posterior(
            tuple(models), mu, v, self.sigma2, qbar, n, self.xbar, self.pool_mean, self.pool_scale2, self.scales,
            self.token_beta, offset, ratio, input_ratio, intercept, slope, pool, self.kinds,
        )
        # fmt: on


def derive(
    evidence: Evidence,
    models: Sequence[ModelPrior],
    blocks: Sequence[Block],
    config: PriorConfig | None = None,
) -> Posterior:
    """Derive the posterior of ``models`` from evidence.

    Quality is a hierarchical linear model: q = xᵀθ_a + ε, θ_a ~ N(m + offset_a e₀, diag(s²)), with the pooled mean m
    integrated exactly and the block scales s and the noise variance σ² set by empirical Bayes (MacKay, Bayesian
    interpolation, 1992), a fixed number of steps from fixed values. Column 0 of a context is the intercept and is 1.
    Votes without context (``Evidence.add_free``) count as intercept evidence. Where there are several kinds of
    feedback, their noise and bias are estimated in turn with the rest (`kinds`).

    Parameters
    ----------
    evidence : Evidence
        Merged evidence; rows of models that are not listed are left out.
    models : sequence of ModelPrior
        The catalog, in its order.
    blocks : sequence of (start, stop)
        Blocks of the context that share a scale; they tile 0..d and the first is (0, 1).
    config : PriorConfig, optional
        Constants of the prior.

    Returns
    -------
    Posterior
        Finite for every evidence, also beyond what float64 can square.

    Raises
    ------
    ValueError
        If a model is listed twice, is like one that is not listed or, in a circle, like itself, or the blocks do not
        tile the context.

    Examples
    --------
    >>> import numpy as np
    >>> evidence = Evidence(1)
    >>> from banditroute.bandit.evidence.evidence import ModelKey, Vote
    >>> evidence.add(ModelKey("a"), np.ones(1, dtype=np.float32), Vote(quality=1.0), weight=100.0)
    >>> posterior = derive(evidence, [ModelPrior(ModelKey("a")), ModelPrior(ModelKey("b"))], [(0, 1)])
    >>> bool(0.95 < posterior.mu[0, 0] < 1.0), bool(posterior.qbar[1] > posterior.qbar[0])
    (True, True)
    """
    config = config or PriorConfig()
    layout = evidence.layout
    check_models(models)
    spans = check_blocks(blocks, layout.d)
    order = sorted(range(len(models)), key=lambda k: models[k].key)
    place = np.array(order, dtype=np.intp)
    ranked = [models[k] for k in order]
    count = len(ranked)
    rows, by_kind = gather(evidence, [model.key for model in ranked])
    sums = side_by_side(rows, layout)
    offset = np.zeros_like(sums.n)
    offset.ravel()[: len(ranked)] = [model.quality_offset for model in ranked]
    base = np.array([config.scale_intercept if start == 0 else config.scale_context for start, _ in spans])
    # fmt: off
    constants = np.array([
        config.pool_precision_intercept, config.pool_precision, config.pool_mean, config.noise_count,
        config.noise_variance, config.scale_count, float(config.iterations),
    ])
    # fmt: on
    s2, m = np.empty(len(spans)), np.empty(layout.d)
    means, covariances = np.zeros_like(sums.b), np.empty_like(sums.a)
    xbar = _mean_context(rows, layout)

    def solve(sums: Sums, place: NDArray[np.intp]) -> tuple[float, Floats, Floats, Floats]:
        sigma2 = _kernels.quality(*sums, offset, spans, base**2, constants, s2, m, means, covariances)
        return float(sigma2), *scattered(means, covariances, xbar, place)

    kinds = [Kind(name) for name in trusted_first(list(by_kind))]
    likes = likeness.pairs(ranked)
    plain = len(kinds) < 2 and not likes
    ranks = np.arange(count)
    sigma2, mu, v, qbar = solve(sums, place if plain else ranks)
    if len(kinds) > 1:
        parts = [one_by_one(side_by_side(by_kind[kind.name], layout), count, layout.d) for kind in kinds]
        for _ in range(PASSES):
            kinds = estimated(kinds, parts, mu, v, sigma2)
            sums = grouped(pooled(kinds, parts))
            sigma2, mu, v, qbar = solve(sums, ranks)
    pool_scale2 = np.repeat(s2, spans[:, 1] - spans[:, 0])
    if likes:
        likeness.apply(likes, *one_by_one(sums, count, layout.d)[:3], pool_scale2, sigma2, mu, v)
        qbar = np.maximum(((v * xbar).sum(axis=2) * xbar).sum(axis=1), 0.0)
    n = sums.n.ravel()[:count]
    inverse = np.argsort(place)
    if not plain:
        mu, v, qbar = mu[inverse], v[inverse], qbar[inverse]
    beta, token_offset, ratio = derive_tokens(evidence, rows, config, likes)
    input_ratio = derive_input(rows, config)
    intercept, slope, pool = derive_latency(rows, ranked, config, likes)
    # fmt: off
    return Posterior(
        tuple(models), mu, v, sigma2, qbar, n[inverse], xbar, m, pool_scale2, np.sqrt(s2),
        beta, token_offset[inverse], ratio[inverse], input_ratio[inverse], intercept[inverse], slope[inverse], pool,
        tuple(kinds),
    )
    # fmt: on


def _mean_context(rows: Floats, layout: Layout) -> Floats:
    """Return the mean context of all votes, or the bare intercept before the first."""
    total = math.fsum(np.maximum(rows[:, at.N], 0.0))
    if total > _kernels.TINY:
        mean: Floats = np.clip(rows[:, layout.sx].sum(axis=0) / total, -1e6, 1e6)
        return mean
    mean = np.zeros(layout.d)
    mean[0] = 1.0
    return mean
