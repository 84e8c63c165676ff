"""Compiled kernel of change detection: the cumulative sums of one model; see `change`."""

from __future__ import annotations

from typing import Any

from banditroute_features.compile import njit_cached

kernel = njit_cached(_nrt=False)
SHIFTS = (1.0, 0.4)  # sizes of the shifts looked for, in standard deviations of the noise of one vote
THRESHOLD = 13.0  # of a cumulative log-likelihood ratio: a false alarm per exp(13) votes or fewer
LARGEST = 2.5  # residuals are clipped here, on average over the votes learned together


@kernel
def observe(sums: Any, row: int, votes: float, residual: float, variance: float) -> bool:
    """Take votes into the sums of a model, float64[models, 4]; return whether it has changed, and start again then."""
    most = LARGEST * votes
    residual = max(residual, -most)
    residual = min(residual, most)
    alarm = False
    for i in range(len(SHIFTS)):
        size = SHIFTS[i] * votes
        for j in range(2):
            signed = residual if j == 0 else -residual
            total = sums[row, 2 * i + j] + (size * signed - 0.5 * size * size) / variance
            sums[row, 2 * i + j] = total if total > 0.0 else 0.0
            alarm = alarm or total > THRESHOLD
    if alarm:
        for i in range(2 * len(SHIFTS)):
            sums[row, i] = 0.0
    return alarm
