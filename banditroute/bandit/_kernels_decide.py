"""Compiled kernels of a decision: random numbers, predictions, choice, ranking, propensity.

One call decides a batch, one request after the other with the same operations, so a decision does not depend on what
else was in its batch. Kernels that call each other live in this one file, because numba's cache does not notice a
changed callee in another one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute.bandit._kernels import kernel

SQRT_HALF = math.sqrt(0.5)
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S11, S27, S30, S31 = np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31)
SALT_END, SALT_FLOOR = np.uint64(0x6C616D626461), np.uint64(0x666C6F6F72)
LOW, HIGH, HIGH_SHARE = 2, 6, 7  # columns of a request's limits
ESTIMATED = 8  # and one that tells whether its input tokens are an estimate
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
BONUS = 2.0  # curiosity bonus in units of sigma * xᵀVx
NOISE = 0.5  # model-level noise in units of sigma * sqrt(qbar)
MOST_LOG_TOKENS = 16.0  # predictions end at e**16 = 8.9 million output tokens
LEAST_LOG_MS, MOST_LOG_MS = -7.0, 21.0  # 0.001 ms to two weeks
BOUND = 1e30  # utilities beyond this are cut, so that differences of them stay finite
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
def _mix(z: Any) -> Any:
    z = (z ^ (z >> S30)) * MIX1
    z = (z ^ (z >> S27)) * MIX2
    return z ^ (z >> S31)


@kernel
def normal(seed: Any, request_key: Any, model_key: Any) -> float:
    """Return the standard normal number of (seed, request, model): splitmix64 as a hash, then Box and Muller."""
    h = _mix(seed + GOLDEN)
    h = _mix((h ^ request_key) + GOLDEN)
    h = _mix((h ^ model_key) + GOLDEN)
    first = (np.float64(_mix(h + GOLDEN) >> S11) + 1.0) * 2.0**-53  # in (0, 1], so the logarithm is finite
    second = np.float64(_mix(h + GOLDEN + GOLDEN) >> S11) * 2.0**-53
    return math.sqrt(-2.0 * math.log(first)) * math.cos(2.0 * math.pi * second)


@kernel
def uniform(seed: Any, request_key: Any, salt: Any) -> float:
    """Return the number in [0, 1) of (seed, request, salt), independent of every normal one."""
    h = _mix(seed + GOLDEN)
    h = _mix((h ^ request_key) + GOLDEN)
    h = _mix((h ^ salt) + GOLDEN)
    return np.float64(_mix(h + GOLDEN + GOLDEN + GOLDEN) >> S11) * 2.0**-53


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
def _certain(mean: Any, sd: Any, ok: Any, chosen: int) -> float:
    """Return the propensity of a model whose own score is not random."""
    p = 1.0
    for b in range(mean.shape[0]):
        if b != chosen and ok[b]:
            difference = mean[chosen] - mean[b]
            if sd[b] > 0.0:
                p *= _cdf(difference / sd[b])
            elif difference < 0.0:
                return LEAST_PROPENSITY
    return max(p, LEAST_PROPENSITY)


@kernel
def propensity(mean: Any, sd: Any, ok: Any, chosen: int, u: Any, w: Any) -> float:
    """Return P(chosen has the largest score) for independent scores N(mean, sd²) of the models in ``ok``.

    ∫ φ(t) Π_b Φ((t − u_b)/w_b) dt with u_b = (mean_b − mean)/sd and w_b = sd_b/sd. A model that is ahead of the chosen
    one with probability below 2e-8 is left out (given that the chosen one beats the rest it is rarer still).
    ``u`` and ``w`` are scratch space.
    """
    own = sd[chosen]
    if own <= 1e-25:
        return _certain(mean, sd, ok, chosen)
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


@kernel
def _load(x: Any, state: Any, clean: Any, means: Any) -> None:
    """Copy one context and write every model's mean quality and (last) the common log tokens.

    An entry that is not finite counts as 0: it must not make every score NaN.
    """
    means[:] = 0.0
    for i in range(x.shape[0]):
        xi: float = np.float64(x[i])
        if not math.isfinite(xi):
            xi = 0.0
        xi = min(max(xi, -1e6), 1e6)
        clean[i] = xi
        if xi != 0.0:
            line = state[i]
            for k in range(means.shape[0]):
                means[k] += xi * line[k]


@kernel
def _quadratic(v: Any, x: Any, u: Any) -> float:
    """Return xᵀVx in float32: four rows at a time, so that the inner loop is wide and its order fixed."""
    d = x.shape[0]
    u[:] = np.float32(0.0)
    for i in range(0, d, 4):
        v0, v1, v2, v3 = v[i], v[i + 1], v[i + 2], v[i + 3]
        x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(d):
            u[j] += (v0[j] * x0 + v1[j] * x1) + (v2[j] * x2 + v3[j] * x3)
    s0 = s1 = s2 = s3 = np.float32(0.0)
    for j in range(0, d, 4):
        s0 += u[j] * x[j]
        s1 += u[j + 1] * x[j + 1]
        s2 += u[j + 2] * x[j + 2]
        s3 += u[j + 3] * x[j + 3]
    return max(np.float64((s0 + s1) + (s2 + s3)), 0.0)


@kernel
def _predict(
    k: int, q: float, weight: float, means: Any, limits: Any, prices: Any, tail: Any, cand: Any
) -> float:
    """Write one candidate's quality, sd, log tokens, cost and log latency; return its utility at a cost weight.

    ``tail`` holds, per model, noise sd, token offset, token ratio, latency intercept and slope, and input ratio; in its
    last column sigma and the mean log latency that stands in for an unknown one.
    """
    last = means.shape[0] - 1
    most = max(limits[1], 0.0)
    quality = min(max(means[k], -BOUND), BOUND)
    log_tokens = min(max(means[last] + tail[1, k], 0.0), MOST_LOG_TOKENS, math.log1p(most))
    tokens = min(tail[2, k] * math.expm1(log_tokens), most)
    given = prices[k, 0] * limits[0]
    if limits[ESTIMATED] != 0.0:
        given *= tail[5, k]
    cost = 1e-6 * (given + prices[k, 1] * tokens)
    log_ms = tail[3, k] + tail[4, k] * log_tokens
    if not math.isnan(log_ms):
        log_ms = min(max(log_ms, LEAST_LOG_MS), MOST_LOG_MS)
    cand[0], cand[1] = quality, tail[0, last] * math.sqrt(1.0 + q)
    cand[2], cand[3], cand[4] = log_tokens, cost, log_ms
    utility = quality - weight * cost
    if limits[3] != 0.0:
        stand_in = tail[1, last] if math.isnan(log_ms) else log_ms
        if not math.isnan(stand_in):
            utility -= limits[3] * 1e-3 * math.exp(stand_in)
    return -BOUND if math.isnan(utility) else min(max(utility, -BOUND), BOUND)


@kernel
def _filter(cand: Any, limits: Any, eligible: Any, ok: Any) -> int:
    """Write which models may be chosen; return which filter left none (0: some are left).

    1 eligibility, 2 cost, 3 latency. An unknown latency passes: nothing says that it is too long.
    """
    left = False
    for k in range(ok.shape[0]):
        ok[k] = eligible[k]
        left = left or ok[k]
    if not left:
        return 1
    log_most = math.log(limits[5]) if limits[5] > 0.0 else -math.inf
    for stage in range(2, 4):
        left = False
        for k in range(ok.shape[0]):
            bad = cand[k, 3] > limits[4] if stage == 2 else cand[k, 4] > log_most
            ok[k] = ok[k] and not bad
            left = left or ok[k]
        if not left:
            return stage
    return 0


@kernel
def _best(values: Any, ok: Any, names: Any) -> int:
    """Return the index of the largest value; the smaller name key wins a tie, wherever it stands."""
    best = -1
    for k in range(ok.shape[0]):
        if ok[k] and (
            best < 0 or values[k] > values[best] or (values[k] == values[best] and names[k] < names[best])
        ):
            best = k
    return best


@kernel
def _rank(chosen: int, utility: Any, ok: Any, names: Any, rank: Any) -> None:
    """Write the chosen model, then the others that may be chosen by falling utility, then -1."""
    rank[:] = -1
    rank[0] = chosen
    count = 1
    for k in range(ok.shape[0]):
        if not ok[k] or k == chosen:
            continue
        at = count
        while at > 1:
            other = rank[at - 1]
            if utility[other] > utility[k] or (utility[other] == utility[k] and names[other] < names[k]):
                break
            rank[at] = other
            at -= 1
        rank[at] = k
        count += 1


@kernel
def _lottery(seed: Any, key: Any, ok: Any, names: Any) -> int:
    """Return one of the models that may serve, each with the same probability, wherever it stands."""
    best, least = -1, 2.0
    for k in range(ok.shape[0]):
        if ok[k]:
            ticket = uniform(seed, key, names[k])
            if ticket < least or (ticket == least and names[k] < names[best]):
                best, least = k, ticket
    return best


@kernel
def _chance(
    k: int, limits: Any, used: float, floor: float, cand: Any, spread: Any, ok: Any, scratch: Any
) -> float:
    """Return P(k is chosen) over everything random: noise, the two cost weights, the floor.

    ``scratch[1]`` holds the centres of the scores at the cost weight ``used``; the rest is overwritten.
    """
    center, other, u, w = scratch[1], scratch[2], scratch[3], scratch[4]
    p = propensity(center, spread, ok, k, u, w)
    share = limits[HIGH_SHARE]
    if share > 0.0 and limits[HIGH] != limits[LOW]:
        high = used == limits[HIGH]
        shift = limits[LOW] - used if high else limits[HIGH] - used
        for b in range(ok.shape[0]):
            other[b] = min(max(center[b] - shift * cand[b, 3], -2.0 * BOUND), 2.0 * BOUND)
        rest = propensity(other, spread, ok, k, u, w)
        p = share * p + (1.0 - share) * rest if high else (1.0 - share) * p + share * rest
    if floor > 0.0:
        p = (1.0 - floor) * p + floor / ok.sum()
    return p


# fmt: off
@kernel
def decide_batch(
    seed: Any, greedy: bool, floor: float, x: Any, keys: Any, limits: Any, eligible: Any, prices: Any, state: Any,
    v: Any, names: Any, cand: Any, score: Any, rank: Any, info: Any, chance: Any,
) -> None:
    # fmt: on
    """Decide every request of a batch; see ``thompson.Policy.decide`` for the meaning of each array.

    ``chance`` has 2 + K columns or 2: the cost weight in use, the propensity of the choice, and of every model.
    """
    d, models, wide = x.shape[1], names.shape[0], v.shape[1]
    clean, u32 = np.zeros(wide, np.float32), np.empty(wide, np.float32)
    means, ok = np.empty(models + 1), np.empty(models, np.bool_)
    scratch = np.empty((5, models))
    utility, center = scratch[0], scratch[1]
    tail = state[d:]
    sigma, spread = tail[0, models], tail[0]
    for r in range(x.shape[0]):
        _load(x[r], state, clean, means)
        used = limits[r, LOW]
        if limits[r, HIGH_SHARE] > 0.0 and uniform(seed, keys[r], SALT_END) < limits[r, HIGH_SHARE]:
            used = limits[r, HIGH]
        for k in range(models):
            q = _quadratic(v[k], clean, u32)
            utility[k] = _predict(k, q, used, means, limits[r], prices, tail, cand[r, k])
            center[k] = utility[k] if greedy else utility[k] + min(BONUS * sigma * q, BOUND)
            score[r, k] = center[k]
            if not greedy and spread[k] > 0.0:
                score[r, k] += spread[k] * normal(seed, keys[r], names[k])
        info[r, 1] = _filter(cand[r], limits[r], eligible[r], ok)
        chance[r, 0] = used
        if info[r, 1] > 0:
            info[r, 0], info[r, 2] = -1, 0
            chance[r, 1:] = math.nan
            rank[r] = -1
            continue
        chosen = _best(score[r], ok, names)
        if not greedy and floor > 0.0 and uniform(seed, keys[r], SALT_FLOOR) < floor:
            chosen = _lottery(seed, keys[r], ok, names)
        info[r, 0] = chosen
        info[r, 2] = chosen != _best(utility, ok, names)
        _rank(chosen, utility, ok, names, rank[r])
        for k in range(chance.shape[1] - 2):
            chance[r, 2 + k] = 0.0
            if ok[k]:
                chance[r, 2 + k] = (
                    np.float64(k == chosen) if greedy
                    else _chance(k, limits[r], used, floor, cand[r], spread, ok, scratch)
                )
        chance[r, 1] = 1.0 if greedy else _chance(chosen, limits[r], used, floor, cand[r], spread, ok, scratch)
