"""Compiled kernels of learning: one call adds one vote to evidence, to a policy's working copy, or to both.

Evidence is added element by element, in the order that the format fixes.
Products and sums are rounded one by one: no fused multiply-add, no reassociation, so an oracle in plain Python reaches
the same bits. Kernels that call each other live in one file, because numba's cache does not notice a changed callee in
another one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute.bandit._kernels_lanes import BLOCK, TILE, downdate_row, half_row, triangle_size
from banditroute.bandit.packing import BONUS, COLUMNS, HEADER, NOISE, QBAR
from banditroute_features.compile import njit_cached

kernel = njit_cached(_nrt=False)  # nothing is allocated, so no references are counted
CLIP = 2.5  # a standardised residual beyond this counts as this much


@kernel
def _any_infinite(x: Any, values: Any) -> bool:
    """Return whether the context holds a non-finite number or any of ``values`` is infinite (NaN means absent)."""
    for i in range(x.shape[0]):
        if not math.isfinite(x[i]):
            return True
    for v in values:
        if math.isinf(v):
            return True
    return False


@kernel
def _add_outer(packed: Any, x: Any, w: float) -> None:
    """Do A[i, j] += (w * x_i) * x_j on a packed lower triangle."""
    start = 0
    for i in range(x.shape[0]):
        line = packed[start : start + i + 1]
        wx = w * np.float64(x[i])
        for j in range(i + 1):
            line[j] += wx * np.float64(x[j])
        start += i + 1


@kernel
def _add_quality(row: Any, x: Any, q: float, q_pred: float, sd: float, w: float, count: float) -> None:
    d = x.shape[0]
    wq = w * q
    row[0] += w
    row[1] += wq * q
    row[2] += w
    row[3] += wq
    row[4] += wq * q
    b = row[24 : 24 + d]
    sx = row[24 + d : 24 + 2 * d]
    for i in range(d):
        xi = np.float64(x[i])
        b[i] += wq * xi
        sx[i] += w * xi
    _add_outer(row[24 + 3 * d :], x, w)
    if sd > 0.0 and not math.isnan(q_pred):  # NaN > 0 is false
        row[5] += count
        row[6] += count * min(max((q - q_pred) / sd, -CLIP), CLIP)


@kernel
def _add_tokens(
    row: Any, shared: Any, x: Any, tokens: float, y: float, pred: float, w: float, ws: float
) -> None:
    d = x.shape[0]
    row[7] += w
    row[8] += w * y
    row[9] += (w * y) * y
    row[10] += w * tokens
    row[11] += w * (tokens if math.isnan(pred) else pred)
    tx = row[24 + 2 * d : 24 + 3 * d]
    shared[0] += ws
    tb = shared[1 : 1 + d]
    for i in range(d):
        xi = np.float64(x[i])
        tx[i] += w * xi
        tb[i] += (ws * y) * xi
    _add_outer(shared[1 + d :], x, ws)


@kernel
def add_vote(
    row: Any,
    shared: Any,
    x: Any,
    quality: float,
    quality_pred: float,
    sd_pred: float,
    tokens: float,
    y: float,
    tokens_pred: float,
    cost: float,
    cost_pred: float,
    log_latency: float,
    t: float,
    input_tokens: float,
    input_pred: float,
    weight: float,
    shared_weight: float,
    count: float,
) -> bool:
    """Add one vote to the evidence of its model; return False, and write nothing, if any number is infinite."""
    if _any_infinite(x, (quality, quality_pred, sd_pred, tokens, y, tokens_pred, cost, cost_pred)):
        return False
    if math.isinf(input_tokens) or math.isinf(input_pred):
        return False
    if not math.isfinite(weight + shared_weight + count) or math.isinf(log_latency) or math.isinf(t):
        return False
    if not math.isnan(quality):
        _add_quality(row, x, quality, quality_pred, sd_pred, weight, count)
    if not math.isnan(tokens):
        _add_tokens(row, shared, x, tokens, y, tokens_pred, weight, shared_weight)
    if not math.isnan(cost):
        row[12] += weight
        row[13] += weight * cost
        row[14] += weight * (cost if math.isnan(cost_pred) else cost_pred)
    if not math.isnan(log_latency):
        row[15] += weight
        row[16] += weight * log_latency
        row[17] += (weight * log_latency) * log_latency
        row[18] += weight * t
        row[19] += (weight * t) * t
        row[20] += (weight * log_latency) * t
    if input_tokens > 0.0 and input_pred > 0.0:  # NaN > 0 is false
        row[21] += weight * input_tokens
        row[22] += weight * input_pred
    return True


@kernel
def _widen(x: Any, out: Any) -> None:
    """Copy a context to float64 and pad it with zeros."""
    for i in range(x.shape[0]):
        out[i] = x[i]
    out[x.shape[0] :] = 0.0


@kernel
def _half_times(w: Any, x: Any, out: Any, own: Any) -> None:
    """Write (W + Wᵀ) x for a packed half matrix; ``own`` is scratch space."""
    out[:] = 0.0
    at = 0
    for i in range(x.shape[0]):
        n = (i // BLOCK + 1) * BLOCK
        own[i] = half_row(w, at, x, x[i], n, out)
        at += n
    for i in range(x.shape[0]):  # not at once: vectors of ``out`` are on their way
        out[i] += own[i]


@kernel
def _expect(state: Any, w: Any, x: Any, k: int) -> tuple[float, float]:
    """Return xᵀmu and xᵀVx of model k under the working copy; the end of ``state`` receives x and Vx, padded."""
    wide = int(state[2])
    size = triangle_size(wide)
    wx, vx, own = state[-3 * wide : -2 * wide], state[-2 * wide : -wide], state[-wide:]
    _widen(x, wx)
    _half_times(w[k * size : (k + 1) * size], wx, vx, own)
    mu = state[HEADER + k * wide : HEADER + (k + 1) * wide]
    mean = q = 0.0
    for i in range(x.shape[0]):
        mean += wx[i] * mu[i]
        q += wx[i] * vx[i]
    return mean, q


@kernel
def surprise(state: Any, w: Any, x: Any, k: int, quality: float) -> tuple[float, float]:
    """Return how far a vote is from what the working copy expects, and the variance of that, in units of the noise."""
    mean, q = _expect(state, w, x, k)
    return (quality - mean) / state[3], 1.0 + max(q, 0.0)


@kernel
def follow(state: Any, w: Any, t: Any, x: Any, k: int, quality: float, weight: float) -> bool:
    """Fold one vote into the working copy; return whether that was done.

    V ← V − c (Vx)(Vx)ᵀ and mu ← mu + c (q − xᵀmu) Vx with c = w / (1 + w xᵀVx) (Sherman and Morrison, 1950). ``w``
    holds, per model, the lower triangle of V with half of the diagonal: with two triangles, their difference grows
    without bound. ``t`` is twice that in float32.
    """
    mean, q = _expect(state, w, x, k)
    error = quality - mean
    bottom = 1.0 + weight * max(q, 0.0)
    if not (bottom > 0.05) or not math.isfinite(bottom) or not math.isfinite(error):
        return False  # taking back more than is known: left to the next derive
    models, wide = int(state[0]), int(state[2])
    size = triangle_size(wide)
    vx = state[-2 * wide : -wide]
    c = weight / bottom
    mu = state[HEADER + k * wide : HEADER + (k + 1) * wide]
    tail = HEADER + (models // TILE + 1) * TILE * wide
    xbar = state[tail + COLUMNS * models :]
    project = 0.0
    at = k * size
    for i in range(x.shape[0]):
        mu[i] += c * error * vx[i]
        project += xbar[i] * vx[i]
        downdate_row(w, t, at, i, vx, c * vx[i])
        at += (i // BLOCK + 1) * BLOCK
    qbar = state[tail + QBAR * models : tail + (QBAR + 1) * models]
    qbar[k] = max(qbar[k] - c * project * project, 0.0)
    if state[tail + BONUS * models + k] > 0.0:  # else it is not explored
        state[tail + k] = NOISE * state[3] * math.sqrt(qbar[k])
    return True


# fmt: off
@kernel
def learn_quality(
    row: Any, state: Any, w: Any, t: Any, x: Any, k: int, quality: float, quality_pred: float, sd_pred: float,
    weight: float, bias: float,
) -> bool:
    # fmt: on
    """Add a vote that holds nothing but a quality to the evidence of its model and to the working copy.

    ``weight`` and ``bias`` are those of its kind. Return False, and write nothing, if a number is infinite or the
    context has another length.
    """
    if x.shape[0] != int(state[1]) or not 0 <= k < int(state[0]):
        return False
    if _any_infinite(x, (quality, quality_pred, sd_pred)):
        return False
    _add_quality(row, x, quality, quality_pred, sd_pred, 1.0, 1.0)
    follow(state, w, t, x, k, quality - bias, weight)
    return True
