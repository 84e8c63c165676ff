"""Slow, obvious oracles for ``banditroute.bandit``: plain Python and NumPy, nothing shared with the kernels.

Evidence is a dict of lists of Python floats, so that ``==`` against the engine means equality bit for bit.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import integrate
from scipy.special import log_ndtr, ndtr, ndtri

MASK = (1 << 64) - 1


def row_size(d):
    return 24 + 3 * d + d * (d + 1) // 2


def shared_size(d):
    return 1 + d + d * (d + 1) // 2


def add(row, shared, x, vote, weight, shared_weight, count):
    """Add one vote to ``row`` and ``shared`` (lists of floats), in the order of operations of the wire format."""
    d = len(x)
    xs = [float(v) for v in x]
    w = weight
    quality, quality_pred, sd_pred, tokens, log_tokens_pred, cost, cost_pred, latency, given, given_pred = (
        vote
    )
    b, sx, tx, packed = 24, 24 + d, 24 + 2 * d, 24 + 3 * d
    if not math.isnan(quality):
        wq = w * quality
        row[0] += w
        row[1] += wq * quality
        row[2] += w
        row[3] += wq
        row[4] += wq * quality
        for i in range(d):
            wx = w * xs[i]
            row[b + i] += wq * xs[i]
            row[sx + i] += wx
            for j in range(i + 1):
                row[packed + i * (i + 1) // 2 + j] += wx * xs[j]
        if not math.isnan(quality_pred) and not math.isnan(sd_pred) and sd_pred > 0:
            row[5] += count
            row[6] += count * min(max((quality - quality_pred) / sd_pred, -2.5), 2.5)
    y = math.nan
    if not math.isnan(tokens):
        y = math.log1p(tokens)
        row[7] += w
        row[8] += w * y
        row[9] += (w * y) * y
        row[10] += w * tokens
        shared[0] += shared_weight
        for i in range(d):
            row[tx + i] += w * xs[i]
            shared[1 + i] += (shared_weight * y) * xs[i]
            for j in range(i + 1):
                shared[1 + d + i * (i + 1) // 2 + j] += (shared_weight * xs[i]) * xs[j]
    if not math.isnan(cost):
        row[12] += w
        row[13] += w * cost
        row[14] += w * (cost if math.isnan(cost_pred) else cost_pred)
    if not math.isnan(latency):
        ll = math.log(max(latency, 1e-3))
        t = y if not math.isnan(y) else (0.0 if math.isnan(log_tokens_pred) else log_tokens_pred)
        row[15] += w
        row[16] += w * ll
        row[17] += (w * ll) * ll
        row[18] += w * t
        row[19] += (w * t) * t
        row[20] += (w * ll) * t
    if not math.isnan(given) and not math.isnan(given_pred) and given > 0 and given_pred > 0:
        row[21] += w * given
        row[22] += w * given_pred


def unpack(packed, d):
    a = np.zeros((d, d))
    a[np.tril_indices(d)] = packed
    return a + np.tril(a, -1).T


def derive(rows, offsets, blocks, d, config):
    """The hierarchical quality posterior by ``np.linalg.solve``; ``rows[a]`` is one evidence row, in name order."""
    k = len(rows)
    n = np.array([r[0] for r in rows])
    a_mats, bs, q2 = [], [], []
    for r in rows:
        a = unpack(r[24 + 3 * d :], d)
        b = np.array(r[24 : 24 + d])
        extra = r[2] - r[0]
        a[0, 0] += extra
        b[0] += r[3] - b[0] if extra else 0.0
        a_mats.append(a)
        bs.append(b)
        q2.append(r[4] if extra else r[1])
    n = np.array([r[2] for r in rows])
    lam0 = np.full(d, config.pool_precision)
    lam0[0] = config.pool_precision_intercept
    m0 = np.zeros(d)
    m0[0] = config.pool_mean
    base = np.array([config.scale_intercept if s == 0 else config.scale_context for s, _ in blocks])
    s2, sigma2 = base**2, config.noise_variance
    e0 = np.eye(d)[0]
    for step in range(config.iterations + 1):
        kappa = np.empty(d)
        for (start, stop), s in zip(blocks, s2, strict=True):
            kappa[start:stop] = sigma2 / s
        lam = np.diag(kappa)
        v = [np.linalg.solve(lam + a, np.eye(d)) for a in a_mats]
        left, right = np.diag(lam0), lam0 * m0
        for vi, a, b, off in zip(v, a_mats, bs, offsets, strict=True):
            left = left + lam - lam @ vi @ lam
            right = right + lam @ vi @ (b - a @ e0 * off)
        m = np.linalg.solve(left, right)
        mu = [vi @ (lam @ (m + off * e0) + b) for vi, b, off in zip(v, bs, offsets, strict=True)]
        if step == config.iterations:
            break
        s_sum = sum(
            config_sum(q, b, a, u, m, off, lam, e0)
            for q, b, a, u, off in zip(q2, bs, a_mats, mu, offsets, strict=True)
        )
        sigma2 = (config.noise_count * config.noise_variance + s_sum) / (config.noise_count + n.sum())
        for block, (start, stop) in enumerate(blocks):
            top, bottom = config.scale_count * base[block] ** 2, config.scale_count
            for i in range(k):
                if n[i] <= 0:
                    continue
                for j in range(start, stop):
                    top += (mu[i][j] - m[j] - (offsets[i] if j == 0 else 0.0)) ** 2
                    bottom += 1 - kappa[j] * v[i][j, j]
            s2[block] = top / bottom
    served = sum(r[0] for r in rows)
    xbar = sum(np.array(r[24 + d : 24 + 2 * d]) for r in rows) / served if served > 0 else e0
    qbar = np.array([xbar @ vi @ xbar for vi in v])
    return {"mu": np.array(mu), "V": np.array(v), "m": m, "sigma2": sigma2, "s2": s2, "qbar": qbar}


def config_sum(q2, b, a, mu, m, offset, lam, e0):
    """Sum of squared one-step prediction errors over one model's votes, each over 1 + its own uncertainty."""
    delta = mu - m - offset * e0
    return q2 - 2 * b @ mu + mu @ a @ mu + delta @ lam @ delta


def tokens(shared, rows, d, config):
    """(beta, offset, ratio) of the output-token model: beta and all offsets from one linear system."""
    k = len(rows)
    prior = np.zeros(d + k)
    prior[0] = math.log1p(config.token_prior)
    precision = np.diag([config.token_precision_intercept, *[config.token_precision] * (d - 1), *[1.0] * k])
    tx = np.array([r[24 + 2 * d : 24 + 3 * d] for r in rows])
    n, y = np.array([r[7] for r in rows]), np.array([r[8] for r in rows])
    a = np.block([[unpack(shared[1 + d :], d), tx.T], [tx, np.diag(n)]])
    right = np.concatenate([shared[1 : 1 + d], y])
    both = np.linalg.solve(a + precision, right + precision @ prior)
    beta, offset = both[:d], both[d:]
    ratio = np.ones(k)
    for i, r in enumerate(rows):
        if r[7] == 0.0:
            continue
        spread = 0.0
        if r[0] > 0.0:
            mean = np.array(r[24 + d : 24 + 2 * d]) / r[0]
            spread = beta @ (unpack(r[24 + 3 * d :], d) / r[0] - np.outer(mean, mean)) @ beta
        level = tx[i] @ beta / r[7] + offset[i] + 0.5 * min(spread, 4.0)
        predicted = r[7] * math.expm1(min(level, 16.0))
        ratio[i] = (r[10] + config.token_calibration) / (predicted + config.token_calibration)
    return beta, offset, ratio


def input_ratio(rows, config):
    """What an estimate of input tokens is multiplied by, per model."""
    c = config.input_calibration
    return np.array([(r[21] + c) / (r[22] + c) for r in rows])


def mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def normal(seed, request, model):
    """One standard normal number that belongs to (seed, request, model)."""
    golden = 0x9E3779B97F4A7C15
    h = 0
    for word in (seed, request, model):
        h = mix(((h ^ word) + golden) & MASK)
    return float(ndtri(((h >> 12) + 0.5) / 2**52))


def propensity(mean, sd, chosen, eligible=None):
    """P(chosen is the largest of independent Gaussians), by adaptive quadrature on a scaled log integrand.

    Others with sd 0 cut the range; a chosen one with sd 0 leaves a product.
    """
    others = [b for b in range(len(mean)) if b != chosen and (eligible is None or eligible[b])]
    if sd[chosen] == 0:
        p = 1.0
        for b in others:
            p *= float(mean[chosen] >= mean[b]) if sd[b] == 0 else ndtr((mean[chosen] - mean[b]) / sd[b])
        return p
    u = np.array([(mean[b] - mean[chosen]) / sd[chosen] for b in others])
    w = np.array([sd[b] / sd[chosen] for b in others])
    low = max([-45.0, *u[w == 0]])
    u, w = u[w > 0], w[w > 0]

    def log_integrand(t):
        return -0.5 * t * t - 0.5 * math.log(2 * math.pi) + log_ndtr((t - u) / w).sum()

    if low >= 45:
        return 0.0
    grid = np.unique(
        np.clip(
            np.concatenate([np.linspace(low, 45, 400)] + [u + c * w for c in np.linspace(-9, 9, 37)]), low, 45
        )
    )
    values = np.array([log_integrand(t) for t in grid])
    top = values.max()
    total = 0.0
    keep = np.nonzero(values > top - 45)[0]
    first, last = max(keep[0] - 1, 0), min(keep[-1] + 1, len(grid) - 1)
    for left, right in zip(grid[first:last], grid[first + 1 : last + 1], strict=True):
        total += integrate.quad(lambda t: math.exp(log_integrand(t) - top), left, right, epsabs=1e-13)[0]
    return total * math.exp(top)
