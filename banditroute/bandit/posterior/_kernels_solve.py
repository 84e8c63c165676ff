"""Compiled kernels of the posterior: plain arrays in, plain arrays out.

No kernel here sums with a reassociated reduction, a fused multiply-add or BLAS. Eight models are worked on side by
side, every sum in the order of its index, so a posterior is the same on every processor that runs the same code.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute.bandit.arithmetic._kernels_lanes import TILE
from banditroute.bandit.arithmetic._kernels_tiles import (
    mirror_tile,
    multiply_4,
    negate_tile,
    reduce_1,
    reduce_4,
    reduce_block,
    reduce_tile,
    subtract_row,
)
from banditroute_features.compile import njit_cached

kernel = njit_cached(error_model="numpy")  # the branch of a checked division would keep loops scalar

LANES = 8  # models that are worked on side by side
TINY = 1e-9  # evidence with a smaller sum of weights is what rounding left of a withdrawal


@kernel
def _factor(p: Any, diagonal: Any, inverse: Any) -> None:
    """Overwrite the lower triangles of eight symmetric matrices ``p[D, D + 1, 8]`` by their Cholesky factors.

    ``diagonal[D, 8]`` is a copy of the diagonals and ``inverse[D, 8]`` receives the inverse pivots. D is a multiple of
    four; rows are one element longer, because rows at a power of two would share few cache lines. A
    pivot below rounding error says that a direction is known better than float64 can tell: it is raised to 1e-13 of its
    diagonal element, so the factor always exists.
    """
    d, step = p.shape[0], p.shape[1]
    flat, pivots = p.reshape(-1), inverse.reshape(-1)
    for left in range(0, d, TILE):
        for i in range(left, d, TILE):
            reduce_tile(
                flat, i * step, step, flat, left * step, step, left, pivots, 0, flat, i * step + left, step
            )
        for j in range(left, left + TILE):
            inverse[j] = 1.0
            at, n = j * step + left, j - left
            reduce_1(flat, at, step, flat, at, step, n, pivots, j, flat, j * step + j, step)
            for lane in range(LANES):
                pivot = math.sqrt(max(p[j, j, lane], 1e-13 * diagonal[j, lane], 1e-300))
                p[j, j, lane] = pivot
                inverse[j, lane] = 1.0 / pivot
            for i in range(j + 1, left + TILE):
                reduce_1(flat, i * step + left, step, flat, at, step, n, pivots, j, flat, i * step + j, step)
            for i in range(left + TILE, d, TILE):
                reduce_4(flat, i * step + left, step, flat, at, step, n, pivots, j, flat, i * step + j, step)


@kernel
def _invert(p: Any, root: Any, diagonal: Any, inverse: Any) -> None:
    """Write the inverses of eight symmetric matrices over them; only the lower triangles of ``p`` are read.

    ``root[D, D + 1, 8]`` receives L⁻ᵀ: its rows are the columns of L⁻¹. Both triangles of a result are written from
    one value. See `_factor`.
    """
    d, step = p.shape[0], p.shape[1]
    _factor(p, diagonal, inverse)
    flat, across, pivots = p.reshape(-1), root.reshape(-1), inverse.reshape(-1)
    for top in range(0, d, TILE):
        root[top : top + TILE, top : top + TILE] = 0.0
        for j in range(0, top, TILE):
            negate_tile(
                across,
                j * step + j,
                step,
                flat,
                top * step + j,
                step,
                top - j,
                pivots,
                0,
                across,
                j * step + top,
                step,
            )
        for i in range(top, top + TILE):
            for j in range(0, i, TILE):
                reduce_4(
                    across,
                    j * step + top,
                    step,
                    flat,
                    i * step + top,
                    step,
                    i - top,
                    pivots,
                    i,
                    across,
                    j * step + i,
                    step,
                )
            root[i, i] = inverse[i]
    for i in range(0, d, TILE):
        for j in range(0, i + 1, TILE):
            at, to, over = i * step + i, i * step + j, j * step + i
            mirror_tile(across, at, step, across, over, step, d - i, pivots, over, flat, to, step)


@kernel
def lane_times(v: Any, x: Any, out: Any) -> None:
    """Write V x for eight matrices ``v[D, D + 1, 8]`` and vectors ``x[D, 8]``."""
    d, step = v.shape[0], v.shape[1]
    matrix, vector, result = v.reshape(-1), x.reshape(-1), out.reshape(-1)
    for i in range(0, d, TILE):
        multiply_4(matrix, i * step, step, vector, 0, 0, d, vector, 0, result, i, 1)


@kernel
def _covariances(a: Any, kappa: Any, root: Any, diagonal: Any, inverse: Any, v: Any) -> None:
    """Write (diag(kappa) + A)⁻¹ of eight models; the prior and a diagonal A where A is no sum of squares.

    Rounding can leave such an A after heavy withdrawals. Then the inverse would claim less than the prior knows
    (V_ii > 1/kappa_i, which no evidence can do), and only the diagonal is believed.
    """
    d = kappa.shape[0]
    for i in range(v.shape[0]):
        v[i, :i] = a[i, :i]
        for lane in range(LANES):
            v[i, i, lane] = max(a[i, i, lane], 0.0) + kappa[i] if i < d else 1.0  # the padding knows nothing
        diagonal[i] = v[i, i]
    _invert(v, root, diagonal, inverse)
    for lane in range(LANES):
        sane = True
        for i in range(d):
            sane = sane and 0.0 <= v[i, i, lane] <= (1.0 + 1e-6) / kappa[i]
        if not sane:
            v[:, :, lane] = 0.0
            for i in range(d):
                v[i, i, lane] = 1.0 / (max(a[i, i, lane], 0.0) + kappa[i])


@kernel
def _pool(v: Any, seen: Any, part: Any, kappa: Any, p: Any, m: Any) -> None:
    """Add eight models to the equations of the pooled mean: ``p`` += Λ − ΛVΛ, ``m`` += ΛV(b − A e₀ offset).

    ``part`` holds V(b − A e₀ offset). Only the upper triangle of ``p`` is written.
    Models that are not seen add exactly nothing.
    """
    d = kappa.shape[0]
    for i in range(d):
        for j in range(i + 1):
            total = 0.0
            for lane in range(LANES):
                total += seen[lane] * v[i, j, lane]
            p[j, i] -= kappa[i] * total * kappa[j]
        known = total = 0.0
        for lane in range(LANES):
            known += seen[lane]
            total += seen[lane] * part[i, lane]
        p[i, i] += known * kappa[i]
        m[i] += kappa[i] * total


@kernel
def _cholesky(p: Any, d: int) -> None:
    """Overwrite the upper triangle of one matrix ``p[D, D]``, padded to a multiple of eight, by U with p = Uᵀ U.

    A pivot below rounding error is raised as in `_factor`.
    """
    wide = p.shape[1]
    flat = p.reshape(-1)
    diagonal = np.empty(d)
    for k in range(d):
        diagonal[k] = p[k, k]
    for top in range(0, d, TILE):
        for start in range(top // LANES * LANES, wide, LANES):
            reduce_block(flat, wide, top, start)
        for k in range(top, min(top + TILE, d)):
            line = p[k]
            pivot = math.sqrt(max(line[k], 1e-13 * diagonal[k], 1e-300))
            for j in range(k, d):
                line[j] /= pivot
            line[k] = pivot
            for i in range(k + 1, min(top + TILE, d)):
                start = i // LANES * LANES
                subtract_row(flat, i * wide + start, flat, k * wide + start, line[i], wide - start)


@kernel
def _solve(p: Any, rest: Any, m: Any) -> None:
    """Write the solution of Uᵀ U m = rest, which is destroyed; ``p`` holds U."""
    d = m.shape[0]
    for i in range(d):
        line = p[i]
        m[i] = c = rest[i] / line[i]
        for j in range(i + 1, d):
            rest[j] -= line[j] * c
    for i in range(d - 1, -1, -1):
        total = m[i]
        line = p[i]
        for j in range(i + 1, d):
            total -= line[j] * m[j]
        m[i] = total / line[i]


@kernel
def _squares(amu: Any, b: Any, q2: Any, offset: Any, seen: Any, kappa: Any, m: Any, mu: Any) -> float:
    """Return Σ_a [Σwq² − 2 bᵀμ + μᵀAμ + (μ − m)ᵀΛ(μ − m)] of eight models, each one's term at least 0.

    That equals Σ e²/(1 + q), the one-step prediction errors e of all votes over their own uncertainty, but needs the
    sums only.
    """
    total = 0.0
    for lane in range(LANES):
        if seen[lane] == 0.0:
            continue
        s = q2[lane]
        for i in range(kappa.shape[0]):
            delta = mu[i, lane] - m[i] - (offset[lane] if i == 0 else 0.0)
            s += mu[i, lane] * (amu[i, lane] - 2.0 * b[i, lane]) + kappa[i] * delta * delta
        total += max(s, 0.0)  # rounding takes a sum of equal votes a little below 0
    return total


@kernel
def _spread(v: Any, offset: Any, seen: Any, kappa: Any, m: Any, mu: Any, blocks: Any, sums: Any) -> None:
    """Add eight models to the sums of MacKay's fixed point: squared distances, and numbers of well-known weights."""
    for block in range(sums.shape[0]):
        for lane in range(LANES):
            if seen[lane] == 0.0:
                continue
            for j in range(blocks[block, 0], blocks[block, 1]):
                delta = mu[j, lane] - m[j] - (offset[lane] if j == 0 else 0.0)
                sums[block, 0] += delta * delta
                sums[block, 1] += min(max(1.0 - kappa[j] * v[j, j, lane], 0.0), 1.0)


# fmt: off
@kernel
def quality(
    a: Any, b: Any, n: Any, q2: Any, offset: Any, blocks: Any, base2: Any, constants: Any,
    s2: Any, m: Any, mu: Any, v: Any,
) -> float:
    # fmt: on
    """Fixed-point iterations of the hierarchical posterior; write ``s2, m, mu, v`` and return the noise variance.

    Models come in groups of eight side by side: ``a`` and ``v`` are float64[groups, D, D + 1, 8], ``b`` and ``mu``
    [groups, D, 8], the others [groups, 8], zero where there is no model, D being d padded to a multiple of four.
    ``constants``: pool precision of the intercept and of the rest, pool mean, noise count, noise variance, scale count,
    iterations. The block scales follow MacKay's fixed point for the prior variance (Bayesian interpolation, 1992,
    eq. 4.9).
    """
    groups, d, tall = b.shape[0], m.shape[0], b.shape[1]
    kappa, rest = np.empty(d), np.empty(d)
    wide = -(-d // LANES) * LANES
    p, root = np.empty((wide, wide)), np.empty((tall, tall + 1, LANES))
    diagonal, inverse = np.empty((tall, LANES)), np.empty((tall, LANES))
    right, part = np.zeros((tall, LANES)), np.zeros((tall, LANES))
    sums = np.empty((s2.shape[0], 2))
    seen = np.where(n > TINY, 1.0, 0.0)
    sigma2 = constants[4]
    s2[:] = base2
    steps = int(constants[6])
    for step in range(steps + 1):
        for block in range(s2.shape[0]):
            kappa[blocks[block, 0] : blocks[block, 1]] = sigma2 / s2[block]
        p[:] = 0.0
        rest[:] = 0.0
        for g in range(groups):
            _covariances(a[g], kappa, root, diagonal, inverse, v[g])
            for i in range(d):
                for lane in range(LANES):
                    right[i, lane] = b[g, i, lane] - a[g, i, 0, lane] * offset[g, lane]
            lane_times(v[g], right, part)
            _pool(v[g], seen[g], part, kappa, p, rest)
        for i in range(d):
            p[i, i] = max(p[i, i], 0.0) + (constants[0] if i == 0 else constants[1])
        rest[0] += constants[0] * constants[2]
        _cholesky(p, d)
        _solve(p, rest, m)
        squares = 0.0
        sums[:, 0], sums[:, 1] = constants[5] * base2, constants[5]
        for g in range(groups):
            for i in range(d):
                for lane in range(LANES):
                    right[i, lane] = kappa[i] * m[i] + b[g, i, lane]
            for lane in range(LANES):
                right[0, lane] += kappa[0] * offset[g, lane]
            lane_times(v[g], right, mu[g])
            if step < steps:
                lane_times(a[g], mu[g], part)
                squares += _squares(part, b[g], q2[g], offset[g], seen[g], kappa, m, mu[g])
                _spread(v[g], offset[g], seen[g], kappa, m, mu[g], blocks, sums)
        if step < steps:
            sigma2 = (constants[3] * constants[4] + squares) / (constants[3] + n.sum())
            sigma2 = min(max(sigma2, 1e-9), 1e6)
            for block in range(s2.shape[0]):
                s2[block] = min(max(sums[block, 0] / sums[block, 1], 1e-8), 1e4)
    return sigma2


@kernel
def invert(p: Any, out: Any) -> None:
    """Write the inverse of one symmetric positive definite matrix ``p[d, d]`` to ``out``; see `_factor`."""
    d = p.shape[0]
    tall = -(-d // TILE) * TILE
    group, root = np.zeros((tall, tall + 1, LANES)), np.empty((tall, tall + 1, LANES))
    diagonal, inverse = np.ones((tall, LANES)), np.empty((tall, LANES))
    for i in range(tall):
        group[i, i] = 1.0
    for i in range(d):
        for j in range(d):
            group[i, j, 0] = p[i, j]
        diagonal[i, 0] = p[i, i]
    _invert(group, root, diagonal, inverse)
    for i in range(d):
        for j in range(d):
            out[i, j] = group[i, j, 0]


@kernel
def ridge(packed: Any, b: Any, precision: Any, prior: Any, out: Any) -> None:
    """Write the ridge solution prior + (A + diag(precision))⁻¹ (b − A prior), A being a packed lower triangle.

    Only the diagonal of A is believed where it is not positive semidefinite, as in `_covariances`.
    """
    d = precision.shape[0]
    wide = -(-d // LANES) * LANES
    p, inverse = np.zeros((wide, wide)), np.zeros((wide, wide))
    rest = b.copy()
    diagonal, variance = np.empty(d), np.zeros(d)
    start = 0
    for i in range(d):
        for j in range(i + 1):
            value = packed[start + j]
            p[j, i] = value
            rest[i] -= value * prior[j]
            if j < i:
                rest[j] -= value * prior[i]
        start += i + 1
        diagonal[i] = p[i, i] = max(p[i, i], 0.0) + precision[i]
    _cholesky(p, d)
    rows = inverse.reshape(-1)
    for i in range(d):
        for k in range(i):
            subtract_row(rows, i * wide, rows, k * wide, p[k, i], (k // LANES + 1) * LANES)
        inverse[i, i] = 1.0
        for j in range(i + 1):
            inverse[i, j] /= p[i, i]
            variance[j] += inverse[i, j] * inverse[i, j]
    sane = True
    for i in range(d):
        sane = sane and variance[i] <= (1.0 + 1e-6) / precision[i]  # false for NaN
    for i in range(d):
        diagonal[i] = rest[i] / diagonal[i]
    _solve(p, rest, out)
    for i in range(d):
        out[i] = prior[i] + (out[i] if sane else diagonal[i])
