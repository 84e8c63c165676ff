"""Compiled kernels of the posterior: plain arrays in, plain arrays out.

No kernel here sums with a reassociated reduction, a fused multiply-add or BLAS: inner loops run over independent
elements of one contiguous row (which vectorises without changing a result), so a posterior is the same on every
processor that runs the same code. Kernels that call each other live in this one file, because numba's cache does not
notice a changed callee in another one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute_features.compile import njit_cached

kernel = njit_cached()

TINY = 1e-9  # evidence with a smaller sum of weights is what rounding left of a withdrawal


@kernel
def _cholesky(p: Any) -> None:
    """Overwrite the upper triangle of ``p`` by U with p = Uᵀ U (right-looking; every inner loop is one row).

    A pivot below rounding error says that a direction is known better than float64 can tell: it is raised to
    1e-13 of its diagonal element, so the factor always exists.
    """
    d = p.shape[0]
    for k in range(d):
        top = p[k]
        floor = 1e-13 * top[k]
        for i in range(k):
            floor += 1e-13 * p[i, k] * p[i, k]  # what elimination took off this diagonal element
        pivot = math.sqrt(max(top[k], floor, 1e-300))
        for j in range(k, d):
            top[j] /= pivot
        top[k] = pivot
        for i in range(k + 1, d):
            line = p[i]
            c = top[i]
            for j in range(i, d):
                line[j] -= c * top[j]


@kernel
def invert(p: Any, work: Any, out: Any) -> None:
    """Write the inverse of the symmetric positive definite ``p[d, d]`` (upper triangle read, destroyed) to ``out``.

    Both triangles of ``out`` are written from one value. ``work[d, d]`` receives L⁻¹.
    """
    d = p.shape[0]
    _cholesky(p)
    for i in range(d):
        line = work[i]
        line[:] = 0.0
        for k in range(i):
            above = work[k]
            c = p[k, i]
            for j in range(k + 1):
                line[j] -= c * above[j]
        line[i] = 1.0
        for j in range(i + 1):
            line[j] /= p[i, i]
    out[:] = 0.0
    for k in range(d):
        line = work[k]
        for i in range(k + 1):
            target = out[i]
            c = line[i]
            for j in range(i + 1):
                target[j] += c * line[j]
    for i in range(d):
        for j in range(i):
            out[j, i] = out[i, j]


@kernel
def _times(v: Any, x: Any, out: Any) -> None:
    """Write V x for a symmetric ``v``, row by row, so that the loop vectorises without reordering a sum."""
    out[:] = 0.0
    for j in range(x.shape[0]):
        line = v[j]
        c = x[j]
        for i in range(x.shape[0]):
            out[i] += c * line[i]


@kernel
def _covariance(a: Any, kappa: Any, p: Any, work: Any, out: Any) -> None:
    """Write (diag(kappa) + A)⁻¹; the prior alone on the diagonal where ``a`` is not positive semidefinite.

    After heavy withdrawals rounding can leave an ``a`` that is no sum of squares. Then the inverse would claim less
    than the prior knows (V_ii > 1/kappa_i, which no evidence can do), and only the diagonal is believed.
    """
    d = kappa.shape[0]
    for i in range(d):
        for j in range(i, d):
            p[i, j] = a[i, j]
        p[i, i] = max(a[i, i], 0.0) + kappa[i]
    invert(p, work, out)
    sane = True
    for i in range(d):
        sane = sane and 0.0 <= out[i, i] <= (1.0 + 1e-6) / kappa[i]
    if not sane:
        out[:] = 0.0
        for i in range(d):
            out[i, i] = 1.0 / (max(a[i, i], 0.0) + kappa[i])


@kernel
def _pool(v: Any, a: Any, b: Any, offset: Any, seen: Any, kappa: Any, p: Any, m: Any) -> None:
    """Add the models' part to the equations of the pooled mean: ``p`` += Λ − ΛVΛ, ``m`` += ΛV(b − A e₀ offset)."""
    d = kappa.shape[0]
    part = np.empty(d)
    rest = np.empty(d)
    for k in range(v.shape[0]):
        if not seen[k]:
            continue  # Λ − ΛVΛ and ΛVb are exactly zero
        for i in range(d):
            rest[i] = b[k, i] - a[k, i, 0] * offset[k]
        _times(v[k], rest, part)
        for i in range(d):
            line = p[i]
            c = kappa[i]
            source = v[k, i]
            for j in range(i, d):
                line[j] -= c * source[j] * kappa[j]
            line[i] += c
            m[i] += c * part[i]


@kernel
def _means(v: Any, b: Any, offset: Any, kappa: Any, m: Any, mu: Any) -> None:
    """Write mu_a = V_a (Λ (m + offset_a e₀) + b_a)."""
    d = kappa.shape[0]
    rest = np.empty(d)
    for k in range(v.shape[0]):
        for i in range(d):
            rest[i] = kappa[i] * m[i] + b[k, i]
        rest[0] += kappa[0] * offset[k]
        _times(v[k], rest, mu[k])


@kernel
def _squares(a: Any, b: Any, q2: Any, offset: Any, seen: Any, kappa: Any, m: Any, mu: Any) -> float:
    """Return Σ_a [Σwq² − 2 bᵀμ + μᵀAμ + (μ − m)ᵀΛ(μ − m)], each model's term at least 0.

    That equals Σ e²/(1 + q), the one-step prediction errors e of all votes over their own uncertainty, but needs the
    sums only.
    """
    d = kappa.shape[0]
    amu = np.empty(d)
    total = 0.0
    for k in range(mu.shape[0]):
        if not seen[k]:
            continue
        _times(a[k], mu[k], amu)
        s = q2[k]
        for i in range(d):
            delta = mu[k, i] - m[i] - (offset[k] if i == 0 else 0.0)
            s += mu[k, i] * (amu[i] - 2.0 * b[k, i]) + kappa[i] * delta * delta
        total += max(s, 0.0)  # rounding takes a sum of equal votes a little below 0
    return total


@kernel
def _scales(
    v: Any,
    offset: Any,
    seen: Any,
    kappa: Any,
    m: Any,
    mu: Any,
    blocks: Any,
    base2: Any,
    count: float,
    s2: Any,
) -> None:
    """MacKay's fixed point for the prior variance of each block (Bayesian interpolation, 1992, eq. 4.9)."""
    for block in range(s2.shape[0]):
        top = count * base2[block]
        bottom = count
        for k in range(mu.shape[0]):
            if not seen[k]:
                continue
            for j in range(blocks[block, 0], blocks[block, 1]):
                delta = mu[k, j] - m[j] - (offset[k] if j == 0 else 0.0)
                top += delta * delta
                bottom += min(max(1.0 - kappa[j] * v[k, j, j], 0.0), 1.0)
        s2[block] = min(max(top / bottom, 1e-8), 1e4)


# fmt: off
@kernel
def quality(
    a: Any, b: Any, n: Any, q2: Any, offset: Any, blocks: Any, base2: Any, constants: Any,
    s2: Any, m: Any, mu: Any, v: Any,
) -> float:
    # fmt: on
    """Fixed-point iterations of the hierarchical posterior; write ``s2, m, mu, v`` and return the noise variance.

    ``constants``: pool precision of the intercept and of the rest, pool mean, noise count, noise variance, scale
    count, iterations.
    """
    d = m.shape[0]
    kappa = np.empty(d)
    p = np.empty((d, d))
    work = np.empty((d, d))
    inverse = np.empty((d, d))
    rest = np.empty(d)
    seen = n > TINY
    sigma2 = constants[4]
    s2[:] = base2
    steps = int(constants[6])
    for step in range(steps + 1):
        for block in range(s2.shape[0]):
            kappa[blocks[block, 0] : blocks[block, 1]] = sigma2 / s2[block]
        for k in range(n.shape[0]):
            if seen[k]:
                _covariance(a[k], kappa, p, work, v[k])
            else:
                v[k] = np.diag(1.0 / kappa)
        p[:] = 0.0
        rest[:] = 0.0
        _pool(v, a, b, offset, seen, kappa, p, rest)
        for i in range(d):
            p[i, i] = max(p[i, i], 0.0) + (constants[0] if i == 0 else constants[1])
        rest[0] += constants[0] * constants[2]
        invert(p, work, inverse)
        _times(inverse, rest, m)
        _means(v, b, offset, kappa, m, mu)
        if step < steps:
            squares = _squares(a, b, q2, offset, seen, kappa, m, mu)
            sigma2 = (constants[3] * constants[4] + squares) / (constants[3] + n.sum())
            sigma2 = min(max(sigma2, 1e-9), 1e6)
            _scales(v, offset, seen, kappa, m, mu, blocks, base2, constants[5], s2)
    return sigma2


@kernel
def unpack(packed: Any, out: Any) -> None:
    """Write a packed lower triangle to both triangles of ``out[d, d]``."""
    start = 0
    for i in range(out.shape[0]):
        for j in range(i + 1):
            out[i, j] = packed[start + j]
            out[j, i] = packed[start + j]
        start += i + 1


@kernel
def ridge(a: Any, b: Any, precision: Any, prior: Any, out: Any) -> None:
    """Write the ridge solution prior + (A + diag(precision))⁻¹ (b − A prior)."""
    d = b.shape[0]
    p, work, v = np.empty((d, d)), np.empty((d, d)), np.empty((d, d))
    rest = np.empty(d)
    _times(a, prior, rest)
    for i in range(d):
        rest[i] = b[i] - rest[i]
    _covariance(a, precision, p, work, v)
    _times(v, rest, out)
    for i in range(d):
        out[i] += prior[i]
