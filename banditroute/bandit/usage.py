"""Tokens and latency: the side models of the posterior, each from sums of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit import _kernels
from banditroute.bandit import layout as at
from banditroute.bandit.evidence import Evidence
from banditroute.bandit.prior import ModelPrior, PriorConfig

Floats = NDArray[np.float64]

LARGEST = 1e100  # evidence beyond this is scaled down as a whole, so that squares of it stay finite


def bounded(row: Floats) -> Floats:
    """Return ``row``, or, if a number in it is beyond 1e100, the row scaled down so that none is.

    Scaling as a whole keeps A a sum of squares and keeps the mean; an infinite element becomes the bound.
    """
    peak = float(np.abs(row).max())
    if peak <= LARGEST:
        return row
    if not math.isfinite(peak):
        row = np.nan_to_num(row, nan=0.0, posinf=1e300, neginf=-1e300)
        peak = float(np.abs(row).max())
    return row * (LARGEST / peak)


def derive_latency(
    rows: Floats, models: Sequence[ModelPrior], config: PriorConfig
) -> tuple[Floats, Floats, float]:
    """Return (intercept[K], slope[K], pool): log latency per model, with one slope on tokens for all models.

    The slope is the within-model least-squares slope, shrunk to 0 and kept in 0..1: an answer does not arrive sooner
    for being longer, nor later than in proportion.
    """
    count = len(models)
    declared = np.array([math.log(max(m.latency_ms, 1e-3)) if m.latency_ms > 0 else math.nan for m in models])
    n = np.maximum(rows[:, at.LAT_N], 0.0)
    known = n > _kernels.TINY
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
    return intercept, slopes, pool


def derive_tokens(evidence: Evidence, rows: Floats, config: PriorConfig) -> tuple[Floats, Floats, Floats]:
    """Return (beta[d], offset[K], ratio[K]) of the output-token model."""
    layout = evidence.layout
    shared = bounded(evidence.shared)
    precision = np.full(layout.d, config.token_precision)
    precision[0] = config.token_precision_intercept
    prior, beta = np.zeros(layout.d), np.empty(layout.d)
    prior[0] = math.log1p(config.token_prior)
    _kernels.ridge(shared[layout.shared_ta], shared[layout.shared_tb], precision, prior, beta)
    n = np.maximum(rows[:, at.TOK_N], 0.0)
    residual = rows[:, at.TOK_Y] - (rows[:, layout.tx] * beta).sum(axis=1)
    offset = np.where(n > _kernels.TINY, residual / (n + 1.0), 0.0)
    c = config.token_calibration
    actual, predicted = np.maximum(rows[:, at.TOK_SUM], 0.0), np.maximum(rows[:, at.TOK_PRED], 0.0)
    return beta, offset, (actual + c) / (predicted + c)


def derive_input(rows: Floats, config: PriorConfig) -> Floats:
    """Return ratio[K], reported against estimated input tokens: tokenizers and templates differ between models."""
    c = config.input_calibration
    reported, estimated = np.maximum(rows[:, at.IN_SUM], 0.0), np.maximum(rows[:, at.IN_PRED], 0.0)
    ratio: Floats = (reported + c) / (estimated + c)
    return ratio
