"""Compiled count of what exploration gives up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute_features.compile import njit_cached

kernel = njit_cached(_nrt=False)  # nothing is allocated, so no references are counted


@kernel
def _utility(prediction: Any, cost_weight: float, latency_weight: float, pool: float) -> float:
    """Return the expected utility of one model."""
    utility = prediction[0] - cost_weight * prediction[3]
    if latency_weight != 0.0:
        log_ms = pool if math.isnan(prediction[4]) else prediction[4]
        if not math.isnan(log_ms):
            utility -= latency_weight * 1e-3 * math.exp(log_ms)
    return utility


@kernel
def given_up(
    info: Any, rank: Any, candidates: Any, chance: Any, limits: Any, latency: int, pool: float
) -> tuple[int, int, float]:
    """Count the decisions that a model serves and those that explore; sum up the expected utility forgone.

    Parameters
    ----------
    info, rank, candidates, chance
        As in `batch.Choices`.
    limits, latency
        As in `batch.DecideBatch`, and which of its columns is the latency weight.
    pool : float
        Mean log(ms) for models without a latency of their own, NaN if nothing is known.
    """
    served = explored = 0
    forgone = np.float64(0.0)
    for row in range(info.shape[0]):
        if info[row, 0] < 0:
            continue
        served += 1
        if info[row, 2] == 0:
            continue  # the model of largest expected utility
        explored += 1
        own = _utility(candidates[row, info[row, 0]], chance[row, 0], limits[row, latency], pool)
        best = own
        for place in range(rank.shape[1]):
            model = rank[row, place]
            if model < 0:
                break
            best = max(best, _utility(candidates[row, model], chance[row, 0], limits[row, latency], pool))
        forgone += best - own
    return served, explored, forgone
