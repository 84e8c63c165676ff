"""Compiled kernels of a decision: predictions, choice, ranking.

One call decides a batch, one request after the other with the same operations, so a decision does not depend on what
else was in its batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute.bandit.arithmetic._kernels_chance import kernel, outer, stream_of, uniform
from banditroute.bandit.arithmetic._kernels_eight import BOUND, central_normals, expectations, scores
from banditroute.bandit.arithmetic._kernels_lanes import (
    BLOCK,
    TILE,
    dots_4,
    dots_4_4,
    quadratics_4,
    quadratics_4_4,
    quadratics_8,
    triangle_size,
)
from banditroute.bandit.choice._kernels_propensity import propensity
from banditroute.bandit.choice.state_layout import (
    BONUS,
    COVARIANCE_AT,
    HEADER,
    INPUT_RATIO,
    LANES_AT,
    LATENCY,
    LATENCY_SLOPE,
    NAME,
    SPREAD,
    TOKEN_OFFSET,
    TOKEN_RATIO,
)  # fmt: skip
from banditroute.bandit.posterior._kernels_solve import kernel as allocating

SALT_END, SALT_FLOOR = np.uint64(0x6C616D626461), np.uint64(0x666C6F6F72)
LOW, HIGH, HIGH_SHARE = 2, 6, 7  # columns of a request's limits
ESTIMATED = 8  # and one that tells whether its input tokens are an estimate
PLAIN = 2  # numbers per model in a table of prices without a price per request and tiers
LEAST_LOG_MS, MOST_LOG_MS = -7.0, 21.0  # 0.001 ms to two weeks
LARGEST = np.float32(np.finfo(np.float32).max)


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
def _normals(stream: Any, names: Any, p: Any, z: Any) -> None:
    """Write the normal number of every model; arrays are padded to a multiple of eight, ``p`` is scratch space."""
    for k in range(0, names.shape[0], BLOCK):
        central_normals(stream, names, k, p, k, z, k)
    for k in range(names.shape[0]):
        if abs(p[k] - 0.5) > 0.425:
            z[k] = outer(p[k])


@kernel
def _tiered(row: Any, given: float, written: float) -> float:
    """Return the cost in USD of a request to a model with a price per request and tiers."""
    price_in, price_out = row[0], row[1]
    for t in range(PLAIN + 1, row.shape[0], 3):
        if given > row[t]:
            price_in, price_out = row[t + 1], row[t + 2]
    cost: float = row[PLAIN] + 1e-6 * (price_in * given + price_out * written)
    return cost


# fmt: off
@kernel
def _predict(
    means: Any, q: Any, weight: float, limits: Any, prices: Any, state: Any, tail: Any, lanes: int,
    cand: Any, utility: Any, logs: Any, tokens: Any, sd: Any,
) -> None:
    # fmt: on
    """Write every candidate's quality, sd, log tokens, cost and log latency, and its utility at a cost weight.

    ``tail`` holds the columns of the state; ``logs``, ``tokens`` and ``sd`` are scratch space. ``prices`` has as many
    numbers per model as `batch.DecideBatch` says.
    """
    models = cand.shape[0] // 5
    width = prices.shape[0] // models
    ratio, inputs = tail[TOKEN_RATIO * lanes :], tail[INPUT_RATIO * lanes :]
    latency, slope = tail[LATENCY * lanes :], tail[LATENCY_SLOPE * lanes :]
    most = limits[1] if limits[1] > 0.0 else 0.0
    offset = TOKEN_OFFSET * lanes
    for k in range(0, lanes, BLOCK):
        expectations(means[models], state[3], tail, offset + k, q, k, logs, k, tokens, k, sd, k)
    estimated = limits[ESTIMATED] != 0.0
    for k in range(models):
        output, log_tokens = tokens[k], logs[k]
        if output > most:
            output, log_tokens = most, math.log1p(most)
        output *= ratio[k]
        given = prices[width * k] * limits[0]
        given = given * inputs[k] if estimated else given
        tokens[k] = output if output < most else most
        cost = 1e-6 * (given + prices[width * k + 1] * tokens[k])
        log_ms = latency[k] + slope[k] * log_tokens  # NaN is unknown and stays so
        log_ms = LEAST_LOG_MS if log_ms < LEAST_LOG_MS else log_ms
        log_ms = MOST_LOG_MS if log_ms > MOST_LOG_MS else log_ms
        quality = means[k] if means[k] > -BOUND else -BOUND
        quality = quality if quality < BOUND else BOUND
        cand[5 * k], cand[5 * k + 1] = quality, sd[k]
        cand[5 * k + 2], cand[5 * k + 3], cand[5 * k + 4] = log_tokens, cost, log_ms
        utility[k] = quality - weight * cost
    if width > PLAIN:
        for k in range(models):
            given = limits[0] * inputs[k] if estimated else limits[0]
            cost = _tiered(prices[width * k : width * (k + 1)], given, tokens[k])
            cand[5 * k + 3], utility[k] = cost, cand[5 * k] - weight * cost
    if limits[3] != 0.0:
        for k in range(models):
            stand_in = state[4] if math.isnan(cand[5 * k + 4]) else cand[5 * k + 4]
            if not math.isnan(stand_in):
                utility[k] -= limits[3] * 1e-3 * math.exp(stand_in)


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
    k: int, limits: Any, used: float, floor: float, cand: Any, spread: Any, ok: Any, names: Any, work: Any, lanes: int
) -> float:  # fmt: skip
    """Return P(k is chosen) over everything random: noise, the two cost weights, the floor.

    ``work`` holds the centres of the scores at the cost weight ``used`` in its second column; further ones are
    overwritten.
    """
    n = ok.shape[0]
    center, other = work[lanes : lanes + n], work[2 * lanes : 2 * lanes + n]
    u, w = work[3 * lanes : 3 * lanes + n], work[4 * lanes : 4 * lanes + n]
    p = propensity(center, spread, ok, names, k, u, w)
    share = limits[HIGH_SHARE]
    if share > 0.0 and limits[HIGH] != limits[LOW]:
        high = used == limits[HIGH]
        shift = limits[LOW] - used if high else limits[HIGH] - used
        for b in range(n):
            other[b] = min(max(center[b] - shift * cand[5 * b + 3], -2.0 * BOUND), 2.0 * BOUND)
        rest = propensity(other, spread, ok, names, k, u, w)
        p = share * p + (1.0 - share) * rest if high else (1.0 - share) * p + share * rest
    if floor > 0.0:
        p = (1.0 - floor) * p + floor / ok.sum()
    return p


# fmt: off
@kernel
def _score(
    state: Any, key: Any, used: float, limits: Any, prices: Any, means: Any, q: Any, lanes: int,
    cand: Any, score: Any, work: Any,
) -> None:
    # fmt: on
    """Write what is expected of every model, and its score. ``work`` is five columns of scratch space.

    Utility and the centre of the score stay in the first two.
    """
    tail = state[HEADER + (cand.shape[0] // 5 // TILE + 1) * TILE * int(state[2]) :]
    column = work[lanes:], work[2 * lanes :], work[3 * lanes :], work[4 * lanes :]
    _predict(means, q, used, limits, prices, state, tail, lanes, cand, work, column[0], column[1], column[2])
    z = column[2]
    if state[5] == 0.0:
        bits = state.view(np.uint64)
        names = tail.view(np.uint64)[NAME * lanes : (NAME + 1) * lanes]
        _normals(stream_of(bits[7], key), names, column[1], z)
        for k in range(0, lanes, BLOCK):
            bonus, spread = BONUS * lanes + k, SPREAD * lanes + k
            scores(work, k, q, k, tail, bonus, tail, spread, z, k, column[0], k, score, k)
    else:  # greedy: neither bonus nor noise
        nothing = column[3]
        nothing[:lanes] = 0.0
        for k in range(0, lanes, BLOCK):
            scores(work, k, q, k, nothing, k, nothing, k, nothing, k, column[0], k, score, k)


# fmt: off
@kernel
def _decide(
    state: Any, key: Any, limits: Any, eligible: Any, prices: Any, means: Any, q: Any, ask: int, lanes: int,
    cand: Any, score: Any, rank: Any, info: Any, chance: Any, ok: Any, work: Any,
) -> None:
    # fmt: on
    """Decide one request, given every model's mean quality and half of xᵀVx.

    ``ask`` says how much is wanted: 0 the choice, 1 also its propensity and the ranking.
    """
    models = ok.shape[0]
    tail = state[HEADER + (models // TILE + 1) * TILE * int(state[2]) :]
    names = tail.view(np.uint64)[NAME * lanes : NAME * lanes + models]
    greedy, floor, seed = state[5] != 0.0, state[6], state.view(np.uint64)[7]
    used = limits[LOW]
    if limits[HIGH_SHARE] > 0.0 and uniform(seed, key, SALT_END) < limits[HIGH_SHARE]:
        used = limits[HIGH]
    _score(state, key, used, limits, prices, means, q, lanes, cand, score, work)
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
    info[2] = chosen != _best(work, ok, names)
    chance[1:] = math.nan
    if ask == 0:
        _list(chosen, ok, rank)
        return
    _rank(chosen, work, ok, names, rank)
    spread = tail[SPREAD * lanes : SPREAD * lanes + models]
    for k in range(chance.shape[0] - 2):
        chance[2 + k] = 0.0
        if ok[k]:
            chance[2 + k] = (
                np.float64(k == chosen)
                if greedy
                else _chance(k, limits, used, floor, cand, spread, ok, names, work, lanes)
            )
    chance[1] = 1.0 if greedy else _chance(chosen, limits, used, floor, cand, spread, ok, names, work, lanes)


@kernel
def _multiply(state: Any, small: Any, x64: Any, clean: Any, means: Any, q: Any) -> None:
    """Write xᵀmu of every model and of log tokens, and half of xᵀVx; the same sums as four requests at once have."""
    models, wide, start = int(state[0]), int(state[2]), int(state[COVARIANCE_AT])
    size, rows, tall = triangle_size(wide), (models // TILE + 1) * TILE, -(-models // TILE) * TILE
    for k in range(0, rows, TILE):
        dots_4(x64, 0, 0, state, HEADER + k * wide, wide, means, k, 0)
    for k in range(0, tall - TILE, 2 * TILE):
        quadratics_8(clean, 0, 0, wide, small, start + k * size, size, q, k, 0)
    if tall // TILE % 2 == 1:
        quadratics_4(clean, 0, 0, wide, small, start + (tall - TILE) * size, size, q, tall - TILE, 0)


# fmt: off
@kernel
def _decide_rows(
    state: Any, x: Any, keys: Any, limits: Any, eligible: Any, prices: Any, ask: int,
    cand: Any, score: Any, rank: Any, info: Any, chance: Any,
    clean: Any, x64: Any, means: Any, q: Any, score_one: Any, ok: Any, work: Any,
) -> None:
    # fmt: on
    """Decide every request of a batch, four at a time; from ``clean`` on the arrays are scratch space."""
    models, wide, lanes = int(state[0]), int(state[2]), int(state[LANES_AT])
    size, tall, rows = triangle_size(wide), -(-models // TILE) * TILE, (models // TILE + 1) * TILE
    small, covariance = state.view(np.float32), int(state[COVARIANCE_AT])
    for start in range(0, x.shape[0], TILE):
        together = min(TILE, x.shape[0] - start)
        for r in range(together):
            _load(x[start + r], clean[r * wide :], x64[r * wide :])
        if together == TILE:
            for k in range(0, rows, TILE):
                dots_4_4(x64, 0, wide, state, HEADER + k * wide, wide, means, k, lanes + TILE)
            for k in range(0, tall, TILE):
                quadratics_4_4(clean, 0, wide, wide, small, covariance + k * size, size, q, k, lanes)
        else:
            for r in range(together):
                _multiply(
                    state, small, x64[r * wide :], clean[r * wide :], means[r * (lanes + TILE) :], q[r * lanes :]
                )
        for r in range(together):
            i = start + r
            _decide(
                state, keys[i], limits[i], eligible[i], prices, means[r * (lanes + TILE) :], q[r * lanes :], ask,
                lanes, cand[i], score_one, rank[i], info[i], chance[i], ok, work,
            )  # fmt: skip
            for k in range(models):
                score[i, k] = score_one[k]


# fmt: off
@allocating
def decide_batch(
    state: Any, x: Any, keys: Any, limits: Any, eligible: Any, prices: Any, ask: int,
    cand: Any, score: Any, rank: Any, info: Any, chance: Any,
) -> None:
    # fmt: on
    """Decide every request of a batch; see ``thompson.Policy.decide`` for the meaning of each array."""
    models, wide, lanes = int(state[0]), int(state[2]), int(state[LANES_AT])
    _decide_rows(
        state, x, keys, limits, eligible, prices, ask, cand, score, rank, info, chance,
        np.zeros(TILE * wide, np.float32), np.zeros(TILE * wide),
        np.zeros(TILE * (lanes + TILE)), np.zeros(TILE * lanes), np.empty(lanes), np.empty(models, np.bool_),
        np.zeros(5 * lanes),
    )  # fmt: skip


@kernel
def decide_one(state: Any, x: Any, desk: Any, ask: int) -> int:
    """Decide one request whose columns are on a desk (`single.Single`); return the chosen model.

    Return -2 if the desk or the context is for other numbers of models or columns.
    """
    models, wide, lanes = int(state[0]), int(state[2]), int(state[LANES_AT])
    if desk[14] != state[0] or desk[15] != state[1] or x.shape[0] != int(state[1]):
        return -2
    narrow, words, flags = desk.view(np.float32), desk.view(np.int32), desk.view(np.bool_)
    score = desk[16 : 16 + lanes]
    at = 16 + lanes
    work = desk[at : at + 5 * lanes]
    at += 5 * lanes
    means, q = desk[at : at + lanes + BLOCK], desk[at + lanes + BLOCK : at + 2 * lanes + BLOCK]
    at += 2 * lanes + BLOCK
    x64, clean = desk[at : at + wide], narrow[2 * (at + wide) : 2 * (at + wide) + wide]
    at += 2 * wide
    width = int(words[23])
    prices, cand = desk[at : at + width * models], desk[at + width * models : at + (width + 5) * models]
    at += (width + 5) * models
    rank = words[2 * at : 2 * at + models]
    at += (models + 1) // 2
    eligible, ok = flags[8 * at : 8 * at + models], flags[8 * (at + lanes // 8) : 8 * (at + lanes // 8) + models]
    _load(x, clean, x64)
    _multiply(state, state.view(np.float32), x64, clean, means, q)
    info = words[20:23]
    _decide(
        state, desk.view(np.uint64)[9], desk[:9], eligible, prices, means, q, ask, lanes,
        cand, score, rank, info, desk[12:14], ok, work,
    )  # fmt: skip
    return info[0]
