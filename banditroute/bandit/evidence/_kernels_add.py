"""Compiled kernels of learning: one call adds one vote to evidence, to a policy's working copy, or to both.

Evidence is added element by element, in the order that the format fixes.
Products and sums are rounded one by one: no fused multiply-add, no reassociation, so an oracle in plain Python reaches
the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute.bandit.arithmetic._kernels_lanes import (
    TILE,
    add_row,
    dot,
    downdate,
    half_times,
    triangle_size,
)
from banditroute.bandit.arithmetic._kernels_memory import carray, pointer
from banditroute.bandit.choice import _kernels_change
from banditroute.bandit.choice.state_layout import BONUS, COVARIANCE_AT, HEADER, LANES_AT, NOISE, QBAR, SPREAD
from banditroute_features.compile import njit_cached

kernel = njit_cached(_nrt=False)  # nothing is allocated, so no references are counted
counting = njit_cached()  # of kernels that take arrays by their address
LARGEST = 1e100  # a quality beyond this counts as this: its square and its product with a context stay finite
MOST_LOG = 700.0  # of a prediction of tokens
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
def _add_tokens(row: Any, shared: Any, x: Any, tokens: float, y: float, w: float, ws: float) -> None:
    d = x.shape[0]
    row[7] += w
    row[8] += w * y
    row[9] += (w * y) * y
    row[10] += w * tokens
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
    if _any_infinite(x, (quality, quality_pred, sd_pred, tokens, y, cost, cost_pred)):
        return False
    if math.isinf(input_tokens) or math.isinf(input_pred):
        return False
    if not math.isfinite(weight + shared_weight + count) or math.isinf(log_latency) or math.isinf(t):
        return False
    if not math.isnan(quality):
        _add_quality(row, x, quality, quality_pred, sd_pred, weight, count)
    if not math.isnan(tokens):
        _add_tokens(row, shared, x, tokens, y, weight, shared_weight)
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


@counting
def add_votes(
    addresses: Any, which: Any, size: int, shared: Any, x: Any, votes: Any, logs: Any, weights: Any
) -> int:
    """Add votes float64[n, 10] in their order, number i to the row of ``size`` at ``addresses[which[i]]``.

    ``logs`` holds log(1 + tokens) and log latency of each. Return how many were added before one that cannot be.
    """
    for i in range(votes.shape[0]):
        quality, quality_pred, sd, tokens, log_tokens_pred, cost, cost_pred, _, given, given_pred = votes[i]
        y, log_latency, t = logs[i, 0], logs[i, 1], math.nan
        if tokens < 0.0 or log_tokens_pred > MOST_LOG or given < 0.0:
            return i
        if not math.isnan(log_latency):
            t = 0.0 if math.isnan(log_tokens_pred) else log_tokens_pred
            if not math.isnan(y):
                t = y
        if LARGEST < abs(quality) < math.inf:
            quality = math.copysign(LARGEST, quality)
        if not add_vote(
            carray(pointer(addresses[which[i]]), size, np.float64), shared, x[i], quality, quality_pred, sd, tokens, y,
            cost, cost_pred, log_latency, t, given, given_pred, weights[i], weights[i], 1.0,
        ):  # fmt: skip
            return i
    return votes.shape[0]


@kernel
def _load(state: Any, x: Any) -> bool:
    """Copy a context to the scratch space of a state, in float64 and float32; return whether all of it is finite."""
    wide, start = int(state[2]), int(state[COVARIANCE_AT])
    at = start // 2 - 3 * wide
    wide_x, narrow_x = state[at : at + wide], state.view(np.float32)[start - 2 * wide : start - wide]
    for i in range(x.shape[0]):  # the padding is and stays 0
        wide_x[i] = x[i]
        narrow_x[i] = x[i]
    return math.isfinite(dot(state, at, state, at, wide))  # a square of float32 is no infinity of float64


@kernel
def _expect(state: Any, k: int) -> tuple[float, float]:
    """Return xᵀmu and xᵀVx of model k under the working copy, x being in the scratch space, which receives Vx."""
    wide, start = int(state[2]), int(state[COVARIANCE_AT])
    at, small = start // 2 - 3 * wide, state.view(np.float32)
    half_times(small, start + k * triangle_size(wide), small, start - 2 * wide, wide, small, start - wide)
    vx, narrow_vx = state[at + wide : at + 2 * wide], small[start - wide : start]
    for i in range(wide):
        vx[i] = narrow_vx[i]
    return dot(state, at, state, HEADER + k * wide, wide), dot(state, at, state, at + wide, wide)


@kernel
def surprise(state: Any, x: Any, k: int, quality: float) -> tuple[float, float]:
    """Return how far a vote is from what the working copy expects, and the variance of that, in units of the noise."""
    _load(state, x)
    mean, q = _expect(state, k)
    return (quality - mean) / state[3], 1.0 + max(q, 0.0)


@kernel
def _update(state: Any, k: int, quality: float, weight: float) -> bool:
    """Fold a vote on the context in the scratch space into the working copy; return whether that was done.

    V ← V − c (Vx)(Vx)ᵀ and mu ← mu + c (q − xᵀmu) Vx with c = w / (1 + w xᵀVx) (Sherman and Morrison, 1950). V is kept
    as its lower triangle: with two triangles, their difference grows without bound.
    """
    mean, q = _expect(state, k)
    error = quality - mean
    bottom = 1.0 + weight * max(q, 0.0)
    if not (bottom > 0.05) or not math.isfinite(bottom) or not math.isfinite(error):
        return False  # taking back more than is known: left to the next derive
    models, wide, start = int(state[0]), int(state[2]), int(state[COVARIANCE_AT])
    lanes, vx = int(state[LANES_AT]), start // 2 - 2 * wide
    c = weight / bottom
    add_row(state, HEADER + k * wide, state, vx, c * error, wide)
    small = state.view(np.float32)
    downdate(small, start + k * triangle_size(wide), small, start - wide, wide, np.float32(c))
    project = dot(state, start // 2 - 4 * wide, state, vx, wide)
    tail = state[HEADER + (models // TILE + 1) * TILE * wide :]
    qbar = max(tail[QBAR * lanes + k] - c * project * project, 0.0)
    tail[QBAR * lanes + k] = qbar
    if tail[BONUS * lanes + k] > 0.0:  # else it is not explored
        tail[SPREAD * lanes + k] = NOISE * state[3] * math.sqrt(qbar)
    return True


@kernel
def follow(state: Any, x: Any, k: int, quality: float, weight: float) -> bool:
    """Fold one vote into the working copy; return whether that was done."""
    return _load(state, x) and _update(state, k, quality, weight)


@kernel
def follow_votes(state: Any, x: Any, models: Any, qualities: Any, weights: Any) -> None:
    """Fold votes into the working copy one after the other; a model -1 or a quality NaN is none."""
    for i in range(models.shape[0]):
        if models[i] >= 0 and not math.isnan(qualities[i]):
            follow(state, x[i], models[i], qualities[i], weights[i])


@kernel
def judge_votes(
    state: Any, x: Any, models: Any, qualities: Any, worth: Any, weights: Any, sums: Any, rows: Any
) -> int:
    """Do what `follow_votes` does, with weights times worth, after a look at each vote that is not taken back.

    Model k has row ``rows[k]`` in the ``sums`` of a change detector. Return the place of the vote that says that its
    model has changed, the last one that was folded in, or -1.
    """
    for i in range(models.shape[0]):
        k, alarm = models[i], False
        if k < 0 or math.isnan(qualities[i]):
            continue
        if weights[i] > 0.0:
            residual, variance = surprise(state, x[i], k, qualities[i])
            weight = worth[i]
            spread = weight + weight * weight * (variance - 1.0)
            alarm = _kernels_change.observe(sums, rows[k], weight, weight * residual, spread)
        follow(state, x[i], k, qualities[i], weights[i] * worth[i])
        if alarm:
            return i
    return -1


@kernel
def learn_quality(
    row: Any, state: Any, x: Any, k: int, quality: float, quality_pred: float, sd_pred: float, weight: float,
    bias: float,
) -> bool:  # fmt: skip
    """Add a vote that holds nothing but a quality to the evidence of its model and to the working copy.

    ``weight`` and ``bias`` are those of its kind. A quality beyond 1e100 counts as that. Return False, and write
    nothing, if a number is infinite or the context has another length.
    """
    d = x.shape[0]
    if d != int(state[1]) or not 0 <= k < int(state[0]):
        return False
    if math.isinf(quality) or math.isinf(quality_pred) or math.isinf(sd_pred) or not _load(state, x):
        return False
    at = int(state[COVARIANCE_AT]) // 2 - 3 * int(state[2])
    quality = min(max(quality, -LARGEST), LARGEST)
    _add_quality(row, state[at : at + d], quality, quality_pred, sd_pred, 1.0, 1.0)
    _update(state, k, quality - bias, weight)
    return True


@kernel
def learn_served(
    row: Any, state: Any, x: Any, k: int, expected: Any, quality: float, weight: float, bias: float
) -> bool:
    """Do what `learn_quality` does, with the prediction that ``expected`` holds: the candidates of a decision, flat."""
    if not 0 <= 5 * k < expected.shape[0]:
        return False
    return learn_quality(row, state, x, k, quality, expected[5 * k], expected[5 * k + 1], weight, bias)
