"""The product's policy in a compiled loop: its own kernels, called for one round after the other."""

from __future__ import annotations

from typing import Any

from banditroute.bandit.choice._kernels_decide import decide_one
from banditroute.bandit.choice.change import LARGEST, SHIFTS, THRESHOLD
from banditroute.bandit.evidence._kernels_add import learn_quality, surprise
from banditroute_features.compile import njit_cached
from banditroute_sim.simulate._kernels_queue import (
    ALARMED,
    AT_ONCE,
    DERIVE,
    DONE,
    FREE,
    FULL,
    LEARNED,
    LOST,
    ROW,
    arrive,
    arriving,
    fate,
    take_place,
)

kernel = njit_cached(_nrt=False)
MICRO = 1e6  # prices are per million tokens; a request here has one token, and a dollar is a unit of utility


@kernel
def _watch(sums: Any, residual: float, variance: float) -> bool:
    """Do what ``ChangeDetector.observe`` does with one vote; return whether its model has changed."""
    residual = min(max(residual, -LARGEST), LARGEST)
    alarm = False
    for i in range(2):
        size = SHIFTS[i]
        for j in range(2):
            signed = residual if j == 0 else -residual
            sums[2 * i + j] = max(0.0, sums[2 * i + j] + (size * signed - 0.5 * size * size) / variance)
            alarm = alarm or sums[2 * i + j] > THRESHOLD
    if alarm:
        sums[:] = 0.0
    return alarm


# fmt: off
@kernel
def _learn(
    state: Any, rows: Any, sums: Any, cursor: Any, needed: float,
    x: Any, k: int, quality: float, expected: float, sd: float,
) -> bool:
    # fmt: on
    """Learn one vote as `Session.learn` does; return whether the posterior may have to be derived."""
    residual, variance = surprise(state, x, k, quality)
    alarm = _watch(sums[k], residual, 1.0 + (variance - 1.0))
    learn_quality(rows[k], state, x, k, quality, expected, sd, 1.0, 0.0)
    cursor[LEARNED] += 1
    cursor[ALARMED] = k if alarm else -1
    return alarm or cursor[LEARNED] >= needed


# fmt: off
@kernel
def play_ours(
    state: Any, desk: Any, prices: Any, eligible: Any, key: Any, candidates: Any,
    chance: Any, rows: Any, sums: Any, needed: float, start: int, horizon: int, sampled: int,
    x: Any, cost: Any, quality: Any, available: Any, delay: Any, chosen: Any, said: Any,
    heap: Any, free: Any, cursor: Any, open_x: Any, open_model: Any, open_numbers: Any,
) -> int:
    # fmt: on
    """Decide and learn the rows of a piece from ``cursor[ROW]`` on, until a derive may be due or all are decided.

    The first line is the policy (`Policy.state`, a `Single` and views of it), the second evidence, cumulative sums,
    and votes until the next derive; then the piece, and votes on their way. Returns why it came back.
    """
    models = prices.shape[0]
    while cursor[ROW] < x.shape[0]:
        i = cursor[ROW]
        t = start + i
        while arriving(heap, cursor, t):
            slot = arrive(heap, free, cursor)
            numbers = open_numbers[slot]
            if _learn(
                state, rows, sums, cursor, needed,
                open_x[slot], open_model[slot], numbers[0], numbers[1], numbers[2],
            ):  # fmt: skip
                return DERIVE
        if cursor[FREE] == 0:
            return FULL
        for k in range(models):
            prices[k, 0] = MICRO * cost[i, k]
            eligible[k] = available[i, k]
        key[0] = t
        ask = 1 if sampled > 0 and t % sampled == 0 else 0
        k = decide_one(state, x[i], desk, ask)
        chosen[i] = k
        if ask:
            said[0, i], said[1, i] = candidates[k, 0], chance[1]
        cursor[ROW] += 1
        becomes = fate(heap, cursor, t, delay[i, k], horizon)
        if becomes == LOST:
            continue
        if becomes == AT_ONCE:
            if _learn(
                state, rows, sums, cursor, needed,
                x[i], k, quality[i, k], candidates[k, 0], candidates[k, 1],
            ):  # fmt: skip
                return DERIVE
            continue
        slot = take_place(heap, free, cursor, t, delay[i, k])
        for j in range(x.shape[1]):
            open_x[slot, j] = x[i, j]
        open_model[slot] = k
        numbers = open_numbers[slot]
        numbers[0], numbers[1], numbers[2] = quality[i, k], candidates[k, 0], candidates[k, 1]
    return DONE
