"""Compiled kernel of the budget: what a window of requests would cost at a cost weight."""

from __future__ import annotations

import math
from typing import Any

from banditroute.bandit.posterior._kernels_solve import kernel

STEPS = 40  # bisections of the logarithm of the cost weight: 1e-11 of it is left
MOST_WEIGHT = 1e12


@kernel
def _spend(score: Any, cost: Any, weight: float) -> float:
    """Return the mean cost when every request of the window goes to the largest score − weight · cost."""
    total = 0.0
    for r in range(score.shape[0]):
        best, top = -1, -math.inf
        for k in range(score.shape[1]):
            value = score[r, k] - weight * cost[r, k]
            if value > top:
                best, top = k, value
        if best >= 0:
            total += cost[r, best]
    return total / score.shape[0]


@kernel
def bracket(score: Any, cost: Any, rate: float, out: Any) -> None:
    """Write two neighbouring cost weights between which the mean cost passes ``rate``, and the share of the higher.

    ``score[W, K]`` is without cost, −inf where a model may not serve. With no cost weight that is low enough, all three
    are those of no weight at all; with none that is high enough, of the largest one.
    """
    out[:] = 0.0
    dear = _spend(score, cost, 0.0)
    if dear <= rate:
        return
    low, high = 0.0, 1.0 / max(dear, 1e-12)
    cheap = _spend(score, cost, high)
    while cheap > rate and high < MOST_WEIGHT:
        low, dear = high, cheap
        high *= 4.0
        cheap = _spend(score, cost, high)
    if cheap > rate:
        out[0], out[1], out[2] = high, high, 0.0
        return
    for _ in range(STEPS):
        middle = 0.5 * high if low == 0.0 else math.sqrt(low * high)
        value = _spend(score, cost, middle)
        if value > rate:
            low, dear = middle, value
        else:
            high, cheap = middle, value
    out[0], out[1] = low, high
    out[2] = 1.0 if dear <= cheap else (dear - rate) / (dear - cheap)
