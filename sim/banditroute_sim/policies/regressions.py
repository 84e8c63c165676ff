"""Textbook policies with one ridge regression per model."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from banditroute.bandit.choice._kernels_propensity import propensity
from banditroute_sim.policies._kernels_ridge import add, expect_all
from banditroute_sim.policies.base import Bools, Context, Floats, Memory
from banditroute_sim.policies.baselines import LARGEST, Greedy
from banditroute_sim.scenarios.episode import Episode


class _Linear(Memory):
    """A ridge regression per model, kept by its inverse."""

    ARRAYS: ClassVar[tuple[str, ...]] = ("v", "b", "mu")
    ORDER: ClassVar[float | None] = 1e-9

    def __init__(self, episode: Episode, seed: int, precision: float) -> None:
        models, d = episode.mean.shape[1], episode.x.shape[1]
        self.v = np.tile(np.eye(d) / precision, (models, 1, 1))
        self.b = np.zeros((models, d))
        self.mu = np.zeros((models, d))
        self._scratch = np.empty(d)
        self.rng: np.random.Generator = np.random.default_rng([seed, 17])

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        quality = min(max(quality, -LARGEST), LARGEST)
        add(x.astype(np.float64), quality, self.v[model], self.b[model], self.mu[model], self._scratch)

    def estimate(self, x: Context, cost: Floats) -> tuple[Floats, Floats]:
        """Return expected utility and √(xᵀVx) of every model."""
        mean, width = np.empty((2, len(self.mu)))
        expect_all(x.astype(np.float64), self.v, self.mu, self._scratch, mean, width)
        return mean - cost, width


class LinUcb(_Linear, Greedy):
    """Li, Chu, Langford and Schapire, A contextual-bandit approach to personalized news (2010), disjoint.

    Of alpha = 0.05, 0.1, 0.2, 0.3, 0.5, 1 with precision = 0.3, 1, 3, 10, and, around the best of these, alpha =
    0.7, 1, 1.5 with precision = 0.1, 0.3, 1, the defaults have the least mean log regret over the worlds of
    `bench.regret`, three seeds below 1000 each.
    """

    ALPHA, PRECISION = 1.0, 0.3

    def __init__(
        self, episode: Episode, seed: int, alpha: float = ALPHA, precision: float = PRECISION
    ) -> None:
        super().__init__(episode, seed, precision)
        self._alpha = alpha

    def score(self, t: int, x: Context, cost: Floats) -> Floats:  # noqa: ARG002
        """See `Greedy.score`."""
        mean, width = self.estimate(x, cost)
        return mean + self._alpha * width


class LinTs(_Linear):
    """Agrawal and Goyal, Thompson sampling for contextual bandits with linear payoffs (2013).

    Of noise = 0.05, 0.1, 0.15, 0.2, 0.3, 0.5 and precision = 0.3, 1, 3, 10 the defaults have the least mean log regret
    over the worlds of `bench.regret`, three seeds below 1000 each.
    """

    NOISE, PRECISION = 0.3, 1.0

    def __init__(
        self, episode: Episode, seed: int, noise: float = NOISE, precision: float = PRECISION
    ) -> None:
        super().__init__(episode, seed, precision)
        self._noise = noise

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        mean, width = self.estimate(x, cost)
        score = mean + self._noise * width * self.rng.normal(size=len(width))
        return int(np.where(available, score, -np.inf).argmax())

    def probabilities(self, t: int, x: Context, cost: Floats, available: Bools) -> Floats:  # noqa: ARG002
        """See `Chooser.probabilities`."""
        mean, width = self.estimate(x, cost)
        chance, scratch = np.zeros(len(mean)), np.empty((2, len(mean)))
        places = np.arange(
            len(mean), dtype=np.uint64
        )  # of scores that are equal and certain the first is taken
        for k in np.flatnonzero(available).tolist():
            chance[k] = propensity(mean, self._noise * width, available, places, k, scratch[0], scratch[1])
        return chance
