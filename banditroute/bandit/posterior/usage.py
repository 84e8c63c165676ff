"""Tokens and latency: the side models of the posterior, each from sums of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence import row_layout as at
from banditroute.bandit.evidence.evidence import Evidence
from banditroute.bandit.evidence.row_layout import Layout
from banditroute.bandit.posterior import _kernels_solve as _kernels
from banditroute.bandit.posterior import _kernels_usage
from banditroute.bandit.posterior.likeness import Pairs
from banditroute.bandit.posterior.prior import ModelPrior, PriorConfig

Floats = NDArray[np.float64]

OFFSET_PRECISION = 1.0  # of a model's offset, in units of one vote
MOST_LOG_TOKENS = 16.0  # predictions end at e**16 = 8.9 million output tokens
MOST_SPREAD = 4.0  # of log tokens, squared
LARGEST = 1e100  # evidence beyond this is scaled down as a whole, so that squares of it stay finite


def bounded(row: Floats) -> Floats:
    """Return ``row``, or, if a number in it is beyond 1e100, the row scaled down so that none is.

    Scaling as a whole keeps A a sum of squares and keeps the mean; an infinite element becomes the bound.
    """
    peak = max(float(row.max()), -float(row.min()))
    if peak <= LARGEST:
        return row
    if not math.isfinite(peak):
        row = np.nan_to_num(row, nan=0.0, posinf=1e300, neginf=-1e300)
        peak = float(np.abs(row).max())
    return row * (LARGEST / peak)


def derive_latency(
    rows: Floats, models: Sequence[ModelPrior], config: PriorConfig, likes: Pairs
) -> tuple[Floats, Floats, float]:
    """Return (intercept[K], slope[K], pool): log latency per model, with one slope on tokens for all models.

    The slope is the within-model least-squares slope, shrunk to 0 and kept in 0..1: an answer does not arrive sooner
    for being longer, nor later than in proportion.
    """
    count = len(models)
    declared = np.array([math.log(max(m.latency_ms, 1e-3)) if m.latency_ms > 0 else math.nan for m in models])
    n = np.maximum(rows[:, at.LAT_N], 0.0)
    known = n > _kernels.TINY
    if not likes and not known.any():
        told = declared[~np.isnan(declared)]
        return declared, np.zeros(count), math.fsum(told) / len(told) if len(told) else math.nan
    safe = np.where(known, n, 1.0)
    mean_l, mean_t = rows[:, at.LAT_Y] / safe, rows[:, at.LAT_T] / safe
    stl = np.where(known, rows[:, at.LAT_TY] - n * mean_l * mean_t, 0.0)
    stt = np.where(known, rows[:, at.LAT_T2] - n * mean_t * mean_t, 0.0)
    slope = math.fsum(stl) / (max(math.fsum(stt), 0.0) + config.latency_slope_count)
    slope = min(max(slope, 0.0), 1.0)
    values = np.where(known, mean_l, declared)
    told = ~np.isnan(values)
    pool = math.fsum(values[told]) / int(told.sum()) if told.any() else math.nan
    target = np.where(np.isnan(declared), pool, declared)
    c = config.latency_count
    intercept, slopes = declared, np.zeros(count)
    if known.any():
        shrunk = (n * mean_l + c * target) / (n + c) - slope * mean_t
        intercept, slopes = np.where(known, shrunk, declared), np.where(known, slope, 0.0)
    for k, like in likes:
        if math.isnan(intercept[k]):
            intercept[k], slopes[k] = intercept[like], slopes[like]
    return intercept, slopes, pool


def derive_tokens(
    evidence: Evidence, rows: Floats, config: PriorConfig, likes: Pairs
) -> tuple[Floats, Floats, Floats]:
    """Return (beta[d], offset[K], ratio[K]) of the output-token model.

    log(1 + tokens) = xᵀbeta + offset: one ridge regression for all models, with a random offset of variance 1 (in units
    of a vote's) for each. The ratio makes the tokens of all votes equal to what the model of today says of them: the
    mean of a lognormal number is e^(level + variance / 2). What was predicted when they were decided would not do: the
    offset has since made up for the same error. A model that is like another is shrunk to that one's offset and ratio.
    """
    layout = evidence.layout
    precision = np.full(layout.d, config.token_precision)
    precision[0] = config.token_precision_intercept
    prior, beta = np.zeros(layout.d), np.empty(layout.d)
    prior[0] = math.log1p(config.token_prior)
    if not evidence.shared.any() and not (rows[:, at.TOK_N] > _kernels.TINY).any():
        return prior, np.zeros(len(rows)), np.ones(len(rows))  # which is what the rest would find
    shared = bounded(evidence.shared)
    ta, tb = shared[layout.shared_ta].copy(), shared[layout.shared_tb].copy()
    n, y = np.maximum(rows[:, at.TOK_N], 0.0), rows[:, at.TOK_Y]
    known = n > _kernels.TINY
    tx = np.where(known[:, None], rows[:, layout.tx], 0.0)
    _kernels_usage.take_offsets_out(ta, tb, tx, y, n, OFFSET_PRECISION)
    _kernels.ridge(ta, tb, precision, prior, beta)
    common = (tx * beta).sum(axis=1)
    offset = np.where(known, (y - common) / (n + OFFSET_PRECISION), 0.0)
    for k, like in likes:
        offset[k] += offset[like] * OFFSET_PRECISION / (n[k] + OFFSET_PRECISION)
    level = common / np.where(known, n, 1.0) + offset + 0.5 * _spreads(rows, known, beta, layout)
    predicted = n * np.maximum(np.expm1(np.minimum(level, MOST_LOG_TOKENS)), 0.0)
    actual = np.maximum(rows[:, at.TOK_SUM], 0.0)
    c = config.token_calibration
    ratio = np.where(known, (actual + c) / (predicted + c), 1.0)
    for k, like in likes:
        ratio[k] = (actual[k] + c * ratio[like]) / (predicted[k] + c) if known[k] else ratio[like]
    return beta, offset, ratio


def _spreads(rows: Floats, known: NDArray[np.bool_], beta: Floats, layout: Layout) -> Floats:
    """Return the variance of xᵀbeta over the contexts of each model's votes; float64[K]."""
    found = np.zeros(len(rows))
    for k, row in enumerate(rows):
        n = row[at.N]
        if known[k] and n > _kernels.TINY:
            found[k] = _kernels_usage.spread(row[layout.a], row[layout.sx] / n, n, beta)
    return np.minimum(found, MOST_SPREAD)


def derive_input(rows: Floats, config: PriorConfig) -> Floats:
    """Return ratio[K], reported against estimated input tokens: tokenizers and templates differ between models."""
    c = config.input_calibration
    reported, estimated = np.maximum(rows[:, at.IN_SUM], 0.0), np.maximum(rows[:, at.IN_PRED], 0.0)
    ratio: Floats = (reported + c) / (estimated + c)
    return ratio
