"""The baselines in a compiled loop, choosing as their step-by-step forms in `banditroute_sim.policies` do.

A numpy generator is handed in: numba draws from it the numbers that numpy would draw.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute_features.compile import njit_cached
from banditroute_sim.policies._kernels_ridge import add, expect
from banditroute_sim.simulate._kernels_queue import (
    AT_ONCE,
    DONE,
    FREE,
    FULL,
    LOST,
    ROW,
    arrive,
    arriving,
    fate,
    take_place,
)

kernel = njit_cached()
UNIFORM, FIXED, ORACLE, EPSILON, UCB1, BETA, LINUCB, LINTS = range(8)
LARGEST = 1e100  # a vote beyond this is cut, so that sums of them stay finite


@kernel
def _lot(rng: Any, available: Any) -> int:
    """Return one of the models that may serve, each with the same probability."""
    place = rng.integers(0, available.sum())
    for k in range(available.shape[0]):
        if available[k]:
            if place == 0:
                return k
            place -= 1
    return -1


@kernel
def _largest(score: Any, available: Any) -> int:
    """Return the first of the largest scores among the models that may serve."""
    best = -1
    for k in range(score.shape[0]):
        if available[k] and (best < 0 or score[k] > score[best]):
            best = k
    return best


# fmt: off
@kernel
def _choose(
    which: int, setting: float, rng: Any, t: int, x: Any, cost: Any, truth: Any, available: Any,
    merit: Any, n: Any, total: Any, v: Any, mu: Any, score: Any, vx: Any,
) -> int:
    # fmt: on
    """Return the model that a baseline chooses."""
    models = score.shape[0]
    if which == UNIFORM:
        return _lot(rng, available)
    if which == FIXED:
        return _largest(merit, available)
    if which == EPSILON and rng.random() < setting:
        return _lot(rng, available)
    for k in range(models):
        if which == ORACLE:
            score[k] = truth[k] - cost[k]
        elif which == EPSILON:
            score[k] = (total[k] / n[k] if n[k] > 0.0 else 1.0) - cost[k]
        elif which == UCB1:
            width = math.sqrt(2.0 * math.log(max(t, 2)) / n[k]) if n[k] > 0.0 else math.inf
            score[k] = (total[k] / n[k] + width if n[k] > 0.0 else math.inf) - cost[k]
        elif which == BETA:
            wins = min(max(total[k], 0.0), n[k])
            score[k] = rng.beta(1.0 + wins, 1.0 + n[k] - wins) - cost[k]
        elif which == LINUCB:
            mean, width = expect(x, v[k], mu[k], vx)
            score[k] = mean - cost[k] + setting * width
        else:
            mean, width = expect(x, v[k], mu[k], vx)
            score[k] = mean - cost[k] + setting * width * rng.standard_normal()
    return _largest(score, available)


@kernel
def _learn(which: int, x: Any, k: int, quality: float, n: Any, total: Any, v: Any, b: Any, mu: Any, vx: Any) -> None:
    """Learn one vote."""
    quality = min(max(quality, -LARGEST), LARGEST)
    if which < LINUCB:
        n[k] += 1.0
        total[k] += quality
        return
    add(x, quality, v[k], b[k], mu[k], vx)


# fmt: off
@kernel
def play_baseline(
    which: int, setting: float, rng: Any, merit: Any, n: Any, total: Any, v: Any, b: Any, mu: Any,
    start: int, horizon: int, x: Any, cost: Any, truth: Any, quality: Any, available: Any, delay: Any, chosen: Any,
    heap: Any, free: Any, cursor: Any, open_x: Any, open_model: Any, open_numbers: Any,
) -> int:
    # fmt: on
    """Decide and learn the rows of a piece from ``cursor[ROW]`` on; return why it came back.

    The first line is the policy, then the piece, then votes on their way.
    """
    wide, other = np.empty(x.shape[1]), np.empty(x.shape[1])
    score, vx = np.empty(cost.shape[1]), np.empty(x.shape[1])
    deaf = which <= ORACLE
    while cursor[ROW] < x.shape[0]:
        i = cursor[ROW]
        t = start + i
        while arriving(heap, cursor, t):
            slot = arrive(heap, free, cursor)
            other[:] = open_x[slot]
            _learn(which, other, open_model[slot], open_numbers[slot, 0], n, total, v, b, mu, vx)
        if cursor[FREE] == 0:
            return FULL
        wide[:] = x[i]
        k = _choose(which, setting, rng, t, wide, cost[i], truth[i], available[i], merit, n, total, v, mu, score, vx)
        chosen[i] = k
        cursor[ROW] += 1
        becomes = LOST if deaf else fate(heap, cursor, t, delay[i, k], horizon)
        if becomes == LOST:
            continue
        if becomes == AT_ONCE:
            _learn(which, wide, k, quality[i, k], n, total, v, b, mu, vx)
            continue
        slot = take_place(heap, free, cursor, t, delay[i, k])
        open_x[slot] = x[i]
        open_model[slot] = k
        open_numbers[slot, 0] = quality[i, k]
    return DONE
