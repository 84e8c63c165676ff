"""What happens to votes on their way back: each function takes an episode and returns it with other feedback.

They compose, because none of them changes what is true: `mean`, and with it every regret, stays.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from banditroute_sim.scenarios.episode import NEVER, Episode

_VOTERS = 100


def late(episode: Episode, rounds: NDArray[np.float64]) -> Episode:
    """Let votes wait for more rounds: float64[T] whichever model served, or float64[T, K]."""
    more = np.minimum(rounds if rounds.ndim == 2 else rounds[:, None], 1e9).astype(np.int64)
    return replace(episode, delay=np.where(episode.delay == NEVER, NEVER, episode.delay + more))


def lognormal_delay(
    rng: np.random.Generator,
    episode: Episode,
    median: ArrayLike,
    spread: float,
    displeased: float = 1.0,
) -> Episode:
    """Let votes wait for a log-normal number of rounds.

    Parameters
    ----------
    rng : Generator
    episode : Episode
    median : array_like, [] or [K]
        Rounds; slow models are answered late.
    spread : float
        Standard deviation of the logarithm.
    displeased : float
        What the wait is multiplied by where the vote is below a half: who is displeased answers sooner or later.
    """
    base = rng.lognormal(0.0, spread, len(episode))[:, None] * np.asarray(median, np.float64)
    wait = np.where(episode.quality < 0.5, displeased, 1.0) * base
    return late(episode, np.broadcast_to(wait, episode.quality.shape))


def answered(rng: np.random.Generator, episode: Episode, share: ArrayLike) -> Episode:
    """Keep a vote with probability ``share``; a number, or one per round and model (it may depend on the vote).

    One random number decides a round, so a vote that two models have in common is kept for both or for neither.
    """
    kept = rng.random((len(episode), 1)) < np.broadcast_to(share, episode.quality.shape)
    return replace(episode, delay=np.where(kept, episode.delay, NEVER))


def opposed(rng: np.random.Generator, episode: Episode, share: float) -> Episode:
    """Let this share of a hundred voters, who ask in random order, always vote the opposite: 1 - quality."""
    voter = rng.integers(0, _VOTERS, len(episode))
    hostile = (voter < round(share * _VOTERS))[:, None]
    return replace(episode, quality=np.where(hostile, 1.0 - episode.quality, episode.quality))


def judged(rng: np.random.Generator, episode: Episode, noise: float, bias: ArrayLike) -> Episode:
    """Let a judge vote in place of users: expected quality plus a bias per model and Gaussian noise."""
    wrong = np.asarray(bias) + rng.normal(0.0, noise, episode.mean.shape)
    return replace(episode, quality=episode.mean + wrong)
