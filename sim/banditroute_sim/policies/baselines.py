"""What a bandit has to beat: fixed choices, and textbook policies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.policies.base import Floats
from banditroute_sim.scenarios.episode import Episode

Bools = NDArray[np.bool_]
Context = NDArray[np.float32]


class Uniform:
    """Chooses by lot."""

    def __init__(self, episode: Episode, seed: int) -> None:  # noqa: ARG002 - every policy is made the same way
        self._rng = np.random.default_rng([seed, 11])

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        return int(self._rng.choice(np.flatnonzero(available)))

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:
        """See `Chooser.learn`."""


class Fixed:
    """Always the same model while it is available, else the next best; `merit` says which."""

    def __init__(self, merit: Floats) -> None:
        self._merit = merit

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        return int(np.where(available, self._merit, -np.inf).argmax())

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:
        """See `Chooser.learn`."""


def best_fixed(episode: Episode, seed: int) -> Fixed:  # noqa: ARG001
    """Return the model that is best in hindsight, over the rounds in which it was available."""
    utility = episode.mean - episode.cost
    return Fixed(np.where(episode.available, utility, utility.min(axis=1, keepdims=True)).mean(axis=0))


def cheapest(episode: Episode, seed: int) -> Fixed:  # noqa: ARG001
    """Return the model of lowest mean cost."""
    return Fixed(-episode.cost.mean(axis=0))


class Oracle:
    """Knows the expected utility of every model in every round."""

    def __init__(self, episode: Episode, seed: int) -> None:  # noqa: ARG002
        self._utility = episode.utility

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        return int(self._utility[t].argmax())

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:
        """See `Chooser.learn`."""


class _Means:
    """Counts and sums per model."""

    def __init__(self, episode: Episode, seed: int) -> None:
        models = episode.mean.shape[1]
        self.n, self.total = np.zeros(models), np.zeros(models)
        self.rng = np.random.default_rng([seed, 13])

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        self.n[model] += 1.0
        self.total[model] += quality


class EpsilonGreedy(_Means):
    """The best mean, or, one time in twenty, a model by lot."""

    EPSILON = 0.05

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        if self.rng.random() < self.EPSILON:
            return int(self.rng.choice(np.flatnonzero(available)))
        score = np.where(self.n > 0, self.total / np.maximum(self.n, 1.0), 1.0) - cost
        return int(np.where(available, score, -np.inf).argmax())


class Ucb1(_Means):
    """Auer, Cesa-Bianchi and Fischer, Finite-time analysis of the multiarmed bandit problem (2002)."""

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        safe = np.maximum(self.n, 1e-9)
        width = np.sqrt(2.0 * np.log(max(t, 2)) / safe)
        score = np.where(self.n > 0, self.total / safe + width, np.inf) - cost
        return int(np.where(available, score, -np.inf).argmax())


class BetaThompson(_Means):
    """Beta-Bernoulli Thompson sampling; a quality between 0 and 1 counts as a share of a success."""

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        wins = np.clip(self.total, 0.0, self.n)
        score = self.rng.beta(1.0 + wins, 1.0 + self.n - wins) - cost
        return int(np.where(available, score, -np.inf).argmax())


class _Linear:
    """A ridge regression per model, kept by its inverse."""

    def __init__(self, episode: Episode, seed: int, precision: float = 1.0) -> None:
        models, d = episode.mean.shape[1], episode.x.shape[1]
        self.v = np.tile(np.eye(d) / precision, (models, 1, 1))
        self.b = np.zeros((models, d))
        self.mu = np.zeros((models, d))
        self.rng = np.random.default_rng([seed, 17])

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        wide = x.astype(np.float64)
        v = self.v[model]
        vx = v @ wide
        v -= np.outer(vx, vx) / (1.0 + wide @ vx)
        self.b[model] += quality * wide
        self.mu[model] = v @ self.b[model]


class LinUcb(_Linear):
    """Li, Chu, Langford and Schapire, A contextual-bandit approach to personalized news (2010), disjoint."""

    ALPHA = 0.5

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        wide = x.astype(np.float64)
        width = np.sqrt(np.maximum((self.v @ wide) @ wide, 0.0))
        score = self.mu @ wide + self.ALPHA * width - cost
        return int(np.where(available, score, -np.inf).argmax())


class LinTs(_Linear):
    """Agrawal and Goyal, Thompson sampling for contextual bandits with linear payoffs (2013)."""

    NOISE = 0.3

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        wide = x.astype(np.float64)
        width = np.sqrt(np.maximum((self.v @ wide) @ wide, 0.0))
        score = self.mu @ wide + self.NOISE * width * self.rng.normal(size=len(width)) - cost
        return int(np.where(available, score, -np.inf).argmax())
