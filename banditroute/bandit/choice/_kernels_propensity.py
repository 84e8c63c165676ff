"""Compiled kernels of propensity: the probability that one of several independent normal scores is the largest."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute.bandit.arithmetic._kernels_chance import kernel

SQRT_HALF = math.sqrt(0.5)
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
LEAST_PROPENSITY = 1e-300
CELLS = 64.0  # table cells per unit
TABLE_LOW, TABLE_HIGH = -8.0, 6.0
_GRID = TABLE_LOW + np.arange(int((TABLE_HIGH - TABLE_LOW) * CELLS) + 2) / CELLS
TABLE = np.column_stack(
    [
        [0.5 * math.erfc(-t * SQRT_HALF) for t in _GRID],
        [math.exp(-0.5 * t * t - LOG_SQRT_2PI) / CELLS for t in _GRID],
    ]
)


@kernel
def _cdf(t: float) -> float:
    return 0.5 * math.erfc(-t * SQRT_HALF)


@kernel
def _quick_cdf(t: float) -> float:
    """Return Φ(t) for t < 6 by cubic Hermite interpolation, absolute error below 1e-9."""
    if t <= TABLE_LOW:
        return 0.0
    place = (t - TABLE_LOW) * CELLS
    cell = int(place)
    s = place - cell
    f0, g0, f1, g1 = TABLE[cell, 0], TABLE[cell, 1], TABLE[cell + 1, 0], TABLE[cell + 1, 1]
    rise = f1 - f0
    return f0 + s * (g0 + s * (3.0 * rise - 2.0 * g0 - g1 + s * (g0 + g1 - 2.0 * rise)))


@kernel
def _tail_series(t: float) -> float:
    """Return Φ(t)·(−t)/φ(t) for t < −8 (Abramowitz and Stegun 26.2.12), error below 1e-6."""
    r = 1.0 / (t * t)
    return 1.0 - r * (1.0 - 3.0 * r * (1.0 - 5.0 * r * (1.0 - 7.0 * r)))


@kernel
def _log_cdf(t: float) -> float:
    if t > -8.0:
        return math.log(_cdf(t))
    return -0.5 * t * t - LOG_SQRT_2PI - math.log(-t) + math.log(_tail_series(t))


@kernel
def _hazard(t: float) -> float:
    """Return φ(t)/Φ(t), the slope of log Φ."""
    if t > -8.0:
        return math.exp(-0.5 * t * t - LOG_SQRT_2PI) / _cdf(t)
    return -t / _tail_series(t)


@kernel
def _log_integrand(t: float, u: Any, w: Any, count: int) -> float:
    total = -0.5 * t * t - LOG_SQRT_2PI
    for b in range(count):
        total += _log_cdf((t - u[b]) / w[b])
    return total


@kernel
def _panel_sum(low: float, width: float, u: Any, w: Any, count: int, shift: float) -> float:
    """Return the integral of φ(t) Π Φ((t − u_b)/w_b) · exp(−shift) over one panel, by Gauss and Legendre."""
    total = 0.0
    half = 0.5 * width
    for i in range(8):
        t = low + half * (1.0 + NODES[i])
        if shift == 0.0:
            value = math.exp(-0.5 * t * t - LOG_SQRT_2PI)
            for b in range(count):
                z = (t - u[b]) / w[b]
                if z < 6.0:
                    value *= _quick_cdf(z)
        else:
            value = math.exp(_log_integrand(t, u, w, count) - shift)
        total += WEIGHTS[i] * value
    return total * half


@kernel
def _march(low: float, high: float, u: Any, w: Any, count: int, shift: float) -> float:
    """Integrate from ``low`` to ``high`` in panels as wide as the curvature at their left end allows.

    The curvature of −log of the integrand is 1 + Σ c((t − u_b)/w_b)/w_b² with c falling from 1 to 0 through the
    transition of each other model, so it is largest at the left end, and panels grow as transitions are passed.
    """
    total = 0.0
    t = low
    while t < high:
        curvature = 1.0
        for b in range(count):
            z = (t - u[b]) / w[b]
            if z < 6.0:
                curvature += 1.0 / ((1.0 + 0.57 * math.exp(1.35 * z)) * w[b] * w[b])
        width = min(3.5 / math.sqrt(curvature), high - t)
        total += _panel_sum(t, width, u, w, count, shift)
        t += width
        if high - t < 1e-12 * (1.0 + abs(high)):
            break
    return total


@kernel
def _slope(t: float, u: Any, w: Any, count: int) -> tuple[float, float]:
    """Return first and (negated) second derivative of the log integrand, a concave function."""
    first, second = -t, 1.0
    for b in range(count):
        z = (t - u[b]) / w[b]
        h = _hazard(z)
        first += h / w[b]
        second += max(h * (z + h), 0.0) / (w[b] * w[b])
    return first, second


@kernel
def _rare(cut: float, u: Any, w: Any, count: int) -> float:
    """Return the propensity of an improbable choice to the same relative error: integrate around the mode."""
    low, high = max(cut, 0.0), 38.0
    mode = low
    first, second = _slope(mode, u, w, count)
    if first > 0.0:
        for _ in range(60):
            mode = min(max(mode + first / second, low + 0.1 * (high - low)), high - 0.1 * (high - low))
            first, second = _slope(mode, u, w, count)
            if abs(first) < 0.1 * math.sqrt(second):
                break
            if first > 0.0:
                low = mode
            else:
                high = mode
    top = _log_integrand(mode, u, w, count)
    step = 1.0 / max(math.sqrt(second), abs(first))
    left, right = mode - step, mode + step
    while left > cut and _log_integrand(left, u, w, count) > top - 16.0:
        left -= 0.5 * (mode - left)
    while right < 40.0 and _log_integrand(right, u, w, count) > top - 16.0:
        right += 0.5 * (right - mode)
    if top < -690.0:
        return LEAST_PROPENSITY
    return math.exp(top) * _march(max(left, cut), right, u, w, count, top)


@kernel
def _certain(mean: Any, sd: Any, ok: Any, names: Any, chosen: int) -> float:
    """Return the propensity of a model whose own score is not random; as in `_best`, the smaller name wins a tie."""
    p = 1.0
    for b in range(mean.shape[0]):
        if b != chosen and ok[b]:
            difference = mean[chosen] - mean[b]
            if sd[b] > 0.0:
                p *= _cdf(difference / sd[b])
            elif difference < 0.0 or (difference == 0.0 and names[b] < names[chosen]):
                return LEAST_PROPENSITY
    return max(p, LEAST_PROPENSITY)


@kernel
def propensity(mean: Any, sd: Any, ok: Any, names: Any, chosen: int, u: Any, w: Any) -> float:
    """Return P(chosen has the largest score) for independent scores N(mean, sd²) of the models in ``ok``.

    ∫ φ(t) Π_b Φ((t − u_b)/w_b) dt with u_b = (mean_b − mean)/sd and w_b = sd_b/sd. A model that is ahead of the chosen
    one with probability below 2e-8 is left out (given that the chosen one beats the rest it is rarer still).
    ``u`` and ``w`` are scratch space.
    """
    own = sd[chosen]
    if own <= 1e-25:
        return _certain(mean, sd, ok, names, chosen)
    count = 0
    cut = -50.0
    for b in range(mean.shape[0]):
        if b == chosen or not ok[b]:
            continue
        difference = mean[b] - mean[chosen]
        both = math.sqrt(own * own + sd[b] * sd[b])
        if difference < -5.5 * both:
            continue
        if sd[b] < 1e-7 * own:  # as good as a constant
            cut = max(cut, difference / own)
            continue
        u[count] = difference / own
        w[count] = sd[b] / own
        count += 1
    if count == 0:
        return 1.0 if cut == -50.0 else max(_cdf(-cut), LEAST_PROPENSITY)
    if count == 1 and cut == -50.0:
        return max(_cdf(-u[0] / math.sqrt(1.0 + w[0] * w[0])), LEAST_PROPENSITY)
    low = max(cut, -6.0)
    top = low
    for b in range(count):
        low = max(low, u[b] - 5.5 * w[b])
        top = max(top, u[b] + 5.0 * w[b])
    p = 0.0
    if low < 6.0:
        p = _cdf(-top) if top < 6.0 else 0.0  # above the last transition the product is 1
        p += _march(low, min(top, 6.0), u, w, count, 0.0)
    return min(p, 1.0) if p > 1e-3 else max(_rare(cut, u, w, count), LEAST_PROPENSITY)
