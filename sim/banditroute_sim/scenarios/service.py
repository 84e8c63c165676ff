"""What models cost, how long they take, when they cannot serve: each function takes an episode and returns another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from banditroute_sim.scenarios.episode import Episode

Rows = NDArray[np.bool_] | slice


def priced(rng: np.random.Generator, episode: Episode, expected: ArrayLike, spread: float = 0.0) -> Episode:
    """Let models cost something.

    Parameters
    ----------
    rng : Generator
    episode : Episode
    expected : array_like, [K]
        Expected cost of a request, in units of utility: what a policy is told.
    spread : float
        Standard deviation of the logarithm of what is paid; its mean stays. Long answers make a heavy tail.
    """
    cost = np.broadcast_to(np.asarray(expected, np.float64), episode.mean.shape).copy()
    paid = cost * rng.lognormal(-0.5 * spread * spread, spread, cost.shape) if spread else cost
    return replace(episode, cost=cost, paid=paid)


def timed(rng: np.random.Generator, episode: Episode, median_ms: ArrayLike, tail: float = 2.5) -> Episode:
    """Let models take their time: a Pareto tail of index ``tail`` above half of the median, in milliseconds."""
    median = np.asarray(median_ms, np.float64)
    scale = median / 2.0 ** (1.0 / tail)
    return replace(episode, latency_ms=scale * (1.0 + rng.pareto(tail, episode.mean.shape)))


def away(episode: Episode, model: int, rows: Rows) -> Episode:
    """Take a model away for some rounds: an outage, or for good where it is retired."""
    available = episode.available.copy()
    available[rows, model] = False
    return replace(episode, available=available)


def limited(
    rng: np.random.Generator, episode: Episode, model: int, rows: NDArray[np.bool_], share: float
) -> Episode:
    """Let a model refuse a share of the requests in some rounds: a rate limit."""
    return away(episode, model, rows & (rng.random(len(episode)) < share))
