"""Compiled kernels of a decision: random numbers, predictions, choice, ranking, propensity.

One call decides a batch, one request after the other with the same operations, so a decision does not depend on what
else was in its batch. Kernels that call each other live in this one file, because numba's cache does not notice a
changed callee in another one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute.bandit._kernels import kernel as allocating
from banditroute.bandit._kernels_lanes import TILE, dots_1, dots_4, products, triangle_size
from banditroute.bandit.packing import (
    BONUS,
    HEADER,
    INPUT_RATIO,
    LATENCY,
    LATENCY_SLOPE,
    NAME,
    SPREAD,
    TOKEN_OFFSET,
    TOKEN_RATIO,
)  # fmt: skip
from banditroute_features.compile import njit_cached

# No references are counted in a kernel that allocates nothing; those of slices took a third of a decision.
kernel = njit_cached(_nrt=False)
SQRT_HALF = math.sqrt(0.5)
LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S11, S12, S27, S30, S31 = np.uint64(11), np.uint64(12), np.uint64(27), np.uint64(30), np.uint64(31)
SALT_END, SALT_FLOOR = np.uint64(0x6C616D626461), np.uint64(0x666C6F6F72)
LOW, HIGH, HIGH_SHARE = 2, 6, 7  # columns of a request's limits
ESTIMATED = 8  # and one that tells whether its input tokens are an estimate
# Coefficients of AS 241, highest power first: |p − ½| <= 0.425, then by r = sqrt(−log(tail)) up to 5 and beyond.
# fmt: off
CENTRE = (
    2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
    1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0,
)
CENTRE_BELOW = (
    5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
    5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0,
)
SIDE = (
    7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
    3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0,
)
SIDE_BELOW = (
    1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
    6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0,
)
FAR = (
    2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
    2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0,
)
FAR_BELOW = (
    2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
    1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0,
)
# fmt: on
NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
MOST_LOG_TOKENS = 16.0  # predictions end at e**16 = 8.9 million output tokens
LEAST_LOG_MS, MOST_LOG_MS = -7.0, 21.0  # 0.001 ms to two weeks
BOUND = 1e30  # utilities beyond this are cut, so that differences of them stay finite
LEAST_PROPENSITY = 1e-300
LOG2_E, LOG_2_HIGH, LOG_2_LOW = 1.0 / math.log(2.0), 0.6931471803691238, 1.9082149292705877e-10
TAYLOR = tuple(1.0 / math.factorial(n) for n in range(13, -1, -1))
LARGEST = np.float32(np.finfo(np.float32).max)
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
def _horner(c: Any, r: float) -> float:
    return ((((((c[0] * r + c[1]) * r + c[2]) * r + c[3]) * r + c[4]) * r + c[5]) * r + c[6]) * r + c[7]


@kernel
def _central(q: float) -> float:
    """Return the normal quantile of q + ½ for |q| <= 0.425: algorithm AS 241, PPND16 (Wichura, 1988)."""
    r = 0.180625 - q * q
    return q * _horner(CENTRE, r) / _horner(CENTRE_BELOW, r)


@kernel
def _outer(p: float) -> float:
    """Return the normal quantile of p farther than 0.425 from ½, by the same algorithm; relative error about 1e-16."""
    r = math.sqrt(-math.log(p if p < 0.5 else 1.0 - p))
    if r <= 5.0:
        z = _horner(SIDE, r - 1.6) / _horner(SIDE_BELOW, r - 1.6)
    else:
        z = _horner(FAR, r - 5.0) / _horner(FAR_BELOW, r - 5.0)
    return -z if p < 0.5 else z


@kernel
def _quantile(p: float) -> float:
    return _central(p - 0.5) if abs(p - 0.5) <= 0.425 else _outer(p)


@kernel
def _stream(seed: Any, request_key: Any) -> Any:
    """Return the hash that all normal numbers of a request share."""
    return _mix((_mix(seed + GOLDEN) ^ request_key) + GOLDEN)


@kernel
def _probability(stream: Any, model_key: Any) -> float:
    # 52 bits and a half: the probability is exact, symmetric, and neither 0 nor 1.
    return (np.float64(_mix((stream ^ model_key) + GOLDEN) >> S12) + 0.5) * 2.0**-52


@kernel
def _normals(stream: Any, names: Any, p: Any, z: Any) -> None:
    """Write the normal number of every model; ``p`` is scratch space. The first two loops do several models at once."""
    for k in range(names.shape[0]):
        p[k] = _probability(stream, names[k])
    for k in range(names.shape[0]):
        z[k] = _central(p[k] - 0.5)
    for k in range(names.shape[0]):
        if abs(p[k] - 0.5) > 0.425:
            z[k] = _outer(p[k])


@kernel
def normal(seed: Any, request_key: Any, model_key: Any) -> float:
    """Return the standard normal number of (seed, request, model): splitmix64 as a hash, then the normal quantile."""
    return _quantile(_probability(_stream(seed, request_key), model_key))


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


@kernel
def _load(x: Any, clean: Any, wide: Any) -> None:
    """Copy one context to float32 and to float64; the padding stays as it is.

    An entry that is not finite counts as 0: it must not make every score NaN.
    """
    for i in range(x.shape[0]):
        xi = x[i]
        xi = xi if abs(xi) <= LARGEST else np.float32(0.0)  # false for NaN
        xi = min(max(xi, np.float32(-1e6)), np.float32(1e6))
        clean[i] = xi
        wide[i] = xi


@kernel
def _exp(x: float) -> float:
    """Return exp(x) for 0 <= x <= 16 by its Taylor series about the nearest multiple of log 2, error below 3e-16.

    Straight arithmetic, which the compiler does for several models at once.
    """
    n = math.floor(x * LOG2_E + 0.5)
    r = (x - n * LOG_2_HIGH) - n * LOG_2_LOW
    p = TAYLOR[0]
    for c in TAYLOR[1:]:
        p = p * r + c
    return p * np.float64(np.int64(1) << np.int64(n))


@kernel
def _predict(
    means: Any,
    q: Any,
    weight: float,
    limits: Any,
    prices: Any,
    state: Any,
    tail: Any,
    cand: Any,
    utility: Any,
    tokens: Any,
) -> None:
    """Write every candidate's quality, sd, log tokens, cost and log latency, and its utility at a cost weight.

    ``tail`` holds the columns of the state. Comparisons are written so that NaN takes the bound.
    ``tokens`` is scratch space.
    """
    models = utility.shape[0]
    offset, ratio = tail[TOKEN_OFFSET * models :], tail[TOKEN_RATIO * models :]
    latency, slope = tail[LATENCY * models :], tail[LATENCY_SLOPE * models :]
    inputs = tail[INPUT_RATIO * models :]
    most = limits[1] if limits[1] > 0.0 else 0.0
    log_most = min(MOST_LOG_TOKENS, math.log1p(most))
    common, sigma, estimated = means[models], state[3], limits[ESTIMATED] != 0.0
    for k in range(models):
        log_tokens = common + offset[k]
        log_tokens = log_tokens if log_tokens > 0.0 else 0.0
        utility[k] = log_tokens if log_tokens < log_most else log_most
    for k in range(models):
        tokens[k] = ratio[k] * (_exp(utility[k]) - 1.0)
    for k in range(models):
        log_tokens = utility[k]
        given = prices[2 * k] * limits[0]
        given = given * inputs[k] if estimated else given
        cost = 1e-6 * (given + prices[2 * k + 1] * (tokens[k] if tokens[k] < most else most))
        log_ms = latency[k] + slope[k] * log_tokens  # NaN is unknown and stays so
        log_ms = LEAST_LOG_MS if log_ms < LEAST_LOG_MS else log_ms
        log_ms = MOST_LOG_MS if log_ms > MOST_LOG_MS else log_ms
        quality = means[k] if means[k] > -BOUND else -BOUND
        quality = quality if quality < BOUND else BOUND
        cand[5 * k], cand[5 * k + 1] = quality, sigma * math.sqrt(1.0 + q[k])
        cand[5 * k + 2], cand[5 * k + 3], cand[5 * k + 4] = log_tokens, cost, log_ms
        utility[k] = quality - weight * cost
    if limits[3] != 0.0:
        for k in range(models):
            stand_in = state[4] if math.isnan(cand[5 * k + 4]) else cand[5 * k + 4]
            if not math.isnan(stand_in):
                utility[k] -= limits[3] * 1e-3 * math.exp(stand_in)
    for k in range(models):
        bounded = utility[k] if utility[k] > -BOUND else -BOUND
        utility[k] = bounded if bounded < BOUND else BOUND


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
        if limits[stage + 2] == math.inf:
            continue
        left = False
        for k in range(ok.shape[0]):
            bad = cand[5 * k + 3] > limits[4] if stage == 2 else cand[5 * k + 4] > log_most
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
def _list(chosen: int, ok: Any, rank: Any) -> None:
    """Write the chosen model, then the others that may be chosen as they stand in the catalog, then -1."""
    rank[0] = chosen
    count = 1
    for k in range(ok.shape[0]):
        if ok[k] and k != chosen:
            rank[count] = k
            count += 1
    rank[count:] = -1


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
    k: int, limits: Any, used: float, floor: float, cand: Any, spread: Any, ok: Any, names: Any, scratch: Any
) -> float:
    """Return P(k is chosen) over everything random: noise, the two cost weights, the floor.

    ``scratch`` holds, from K on, the centres of the scores at the cost weight ``used``; from 2 K on it is overwritten.
    """
    n = ok.shape[0]
    center, other = scratch[n : 2 * n], scratch[2 * n : 3 * n]
    u, w = scratch[3 * n : 4 * n], scratch[4 * n :]
    p = propensity(center, spread, ok, names, k, u, w)
    share = limits[HIGH_SHARE]
    if share > 0.0 and limits[HIGH] != limits[LOW]:
        high = used == limits[HIGH]
        shift = limits[LOW] - used if high else limits[HIGH] - used
        for b in range(ok.shape[0]):
            other[b] = min(max(center[b] - shift * cand[5 * b + 3], -2.0 * BOUND), 2.0 * BOUND)
        rest = propensity(other, spread, ok, names, k, u, w)
        p = share * p + (1.0 - share) * rest if high else (1.0 - share) * p + share * rest
    if floor > 0.0:
        p = (1.0 - floor) * p + floor / ok.sum()
    return p


# fmt: off
@kernel
def _decide(
    state: Any, key: Any, limits: Any, eligible: Any, prices: Any, means: Any, q: Any, ask: int,
    cand: Any, score: Any, rank: Any, info: Any, chance: Any, ok: Any, scratch: Any,
) -> None:
    # fmt: on
    """Decide one request, given every model's mean quality and xᵀVx.

    ``ask`` says how much is wanted: 0 the choice, 1 also its propensity and the ranking.
    """
    models = ok.shape[0]
    bits = state.view(np.uint64)
    tail = state[HEADER + (models // TILE + 1) * TILE * int(state[2]) :]
    names = bits[HEADER + (models // TILE + 1) * TILE * int(state[2]) + NAME * models :][:models]
    greedy, floor, seed = state[5] != 0.0, state[6], bits[7]
    spread = tail[SPREAD * models : (SPREAD + 1) * models]
    utility, center = scratch[:models], scratch[models : 2 * models]
    used = limits[LOW]
    if limits[HIGH_SHARE] > 0.0 and uniform(seed, key, SALT_END) < limits[HIGH_SHARE]:
        used = limits[HIGH]
    for k in range(models):
        q[k] = q[k] if q[k] > 0.0 else 0.0  # NaN is no uncertainty
    _predict(means, q, used, limits, prices, state, tail, cand, utility, scratch[2 * models : 3 * models])
    bonus = tail[BONUS * models : (BONUS + 1) * models]
    for k in range(models):
        extra = 0.0 if greedy else bonus[k] * q[k]
        score[k] = center[k] = utility[k] + (extra if extra < BOUND else BOUND)
    if not greedy:
        z = scratch[3 * models : 4 * models]
        _normals(_stream(seed, key), names, scratch[2 * models : 3 * models], z)
        for k in range(models):
            score[k] += spread[k] * z[k]
    info[1] = _filter(cand, limits, eligible, ok)
    chance[0] = used
    if info[1] > 0:
        info[0], info[2] = -1, 0
        chance[1:] = math.nan
        rank[:] = -1
        return
    chosen = _best(score, ok, names)
    if not greedy and floor > 0.0 and uniform(seed, key, SALT_FLOOR) < floor:
        chosen = _lottery(seed, key, ok, names)
    info[0] = chosen
    info[2] = chosen != _best(utility, ok, names)
    chance[1:] = math.nan
    if ask == 0:
        _list(chosen, ok, rank)
        return
    _rank(chosen, utility, ok, names, rank)
    for k in range(chance.shape[0] - 2):
        chance[2 + k] = 0.0
        if ok[k]:
            chance[2 + k] = (
                np.float64(k == chosen) if greedy else _chance(k, limits, used, floor, cand, spread, ok, names, scratch)
            )
    chance[1] = 1.0 if greedy else _chance(chosen, limits, used, floor, cand, spread, ok, names, scratch)


# fmt: off
@kernel
def _decide_rows(
    state: Any, t: Any, x: Any, keys: Any, limits: Any, eligible: Any, prices: Any, ask: int,
    cand: Any, score: Any, rank: Any, info: Any, chance: Any,
    clean: Any, x64: Any, pairs: Any, means: Any, q: Any, ok: Any, scratch: Any,
) -> None:
    # fmt: on
    """Decide every request of a batch, four at a time; from ``clean`` on the arrays are scratch space."""
    models, wide = int(state[0]), int(state[2])
    size, tall, rows = triangle_size(wide), -(-models // TILE) * TILE, (models // TILE + 1) * TILE
    for start in range(0, x.shape[0], TILE):
        together = min(TILE, x.shape[0] - start)
        for r in range(together):
            _load(x[start + r], clean[r * wide :], x64[r * wide :])
            products(clean, r * wide, wide, pairs, r * size)
        # a request alone and one of four: the same sums in the same order
        if together == TILE:
            for k in range(0, rows, TILE):
                dots_4(x64, 0, wide, state, HEADER + k * wide, wide, means, k, rows)
            for k in range(0, tall, TILE):
                dots_4(pairs, 0, size, t, k * size, size, q, k, tall)
        else:
            for r in range(together):
                for k in range(0, rows, TILE):
                    dots_1(x64, r * wide, 0, state, HEADER + k * wide, wide, means, r * rows + k, 0)
                for k in range(0, tall, TILE):
                    dots_1(pairs, r * size, 0, t, k * size, size, q, r * tall + k, 0)
        for r in range(together):
            i = start + r
            _decide(
                state, keys[i], limits[i], eligible[i], prices, means[r * rows :], q[r * tall :], ask,
                cand[i], score[i], rank[i], info[i], chance[i], ok, scratch,
            )  # fmt: skip


# fmt: off
@allocating
def decide_batch(
    state: Any, t: Any, x: Any, keys: Any, limits: Any, eligible: Any, prices: Any, ask: int,
    cand: Any, score: Any, rank: Any, info: Any, chance: Any,
) -> None:
    # fmt: on
    """Decide every request of a batch; see ``thompson.Policy.decide`` for the meaning of each array."""
    models, wide = int(state[0]), int(state[2])
    rows, tall = (models // TILE + 1) * TILE, -(-models // TILE) * TILE
    _decide_rows(
        state, t, x, keys, limits, eligible, prices, ask, cand, score, rank, info, chance,
        np.zeros(TILE * wide, np.float32), np.zeros(TILE * wide), np.empty(TILE * triangle_size(wide), np.float32),
        np.empty(TILE * rows), np.empty(TILE * tall), np.empty(models, np.bool_), np.empty(5 * models),
    )  # fmt: skip


@kernel
def decide_one(state: Any, t: Any, x: Any, desk: Any, ask: int) -> int:
    """Decide one request whose columns are on a desk (`single.Single`); return the chosen model.

    Return -2 if the desk or the context is for other numbers of models or columns.
    """
    models, wide = int(state[0]), int(state[2])
    if desk[14] != state[0] or desk[15] != state[1] or x.shape[0] != int(state[1]):
        return -2
    size, tall, rows = triangle_size(wide), -(-models // TILE) * TILE, (models // TILE + 1) * TILE
    small, words, flags = desk.view(np.float32), desk.view(np.int32), desk.view(np.bool_)
    at = 16
    prices = desk[at : at + 2 * models]
    at += 2 * models
    cand = desk[at : at + 5 * models]
    at += 5 * models
    score = desk[at : at + models]
    at += models
    rank = words[2 * at : 2 * at + models]
    at += (models + 1) // 2
    eligible = flags[8 * at : 8 * at + models]
    at += (models + 7) // 8
    ok = flags[8 * at : 8 * at + models]
    at += (models + 7) // 8
    scratch = desk[at : at + 5 * models]
    at += 5 * models
    means = desk[at : at + rows]
    at += rows
    q = desk[at : at + tall]
    at = -(-(at + tall) // 8) * 8
    x64 = desk[at : at + wide]
    at += wide
    clean = small[2 * at : 2 * at + wide]
    at = -(-(2 * at + wide) // 16) * 8
    pairs = small[2 * at : 2 * at + size]
    _load(x, clean, x64)
    products(clean, 0, wide, pairs, 0)
    for k in range(0, rows, TILE):
        dots_1(x64, 0, 0, state, HEADER + k * wide, wide, means, k, 0)
    for k in range(0, tall, TILE):
        dots_1(pairs, 0, 0, t, k * size, size, q, k, 0)
    info = words[20:23]
    _decide(
        state, desk.view(np.uint64)[9], desk[:9], eligible, prices, means, q, ask,
        cand, score, rank, info, desk[12:14], ok, scratch,
    )
    return info[0]
