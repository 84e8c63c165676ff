"""What a bandit has to beat without learning anything from contexts: fixed choices, means, counts."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from scipy.special import betainc, betaincinv

from banditroute_sim.policies.base import Bools, Context, Floats, Memory, only
from banditroute_sim.scenarios.episode import Episode

LARGEST = 1e100  # a vote beyond this is cut, so that sums of them stay finite
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)
_NODES, _WEIGHTS = 0.5 + 0.5 * _NODES, 0.5 * _WEIGHTS


class _Deaf(Memory):
    """Learns nothing."""

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:
        """See `Chooser.learn`."""


class Uniform(_Deaf):
    """Chooses by lot."""

    def __init__(self, episode: Episode, seed: int) -> None:  # noqa: ARG002 - every policy is made the same way
        self.rng: np.random.Generator = np.random.default_rng([seed, 11])

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        return int(self.rng.choice(np.flatnonzero(available)))

    def probabilities(self, t: int, x: Context, cost: Floats, available: Bools) -> Floats:  # noqa: ARG002
        """See `Chooser.probabilities`."""
        return available / available.sum()


class Greedy(Memory):
    """Takes the largest score; where two are equal, the first."""

    def score(self, t: int, x: Context, cost: Floats) -> Floats:
        """Return the score of every model; float64[K]."""
        raise NotImplementedError

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:
        """See `Chooser.choose`."""
        return int(np.where(available, self.score(t, x, cost), -np.inf).argmax())

    def probabilities(self, t: int, x: Context, cost: Floats, available: Bools) -> Floats:
        """See `Chooser.probabilities`."""
        return only(self.choose(t, x, cost, available), len(available))


class Fixed(Greedy, _Deaf):
    """Always the same model while it is available, else the next best; `merit` says which."""

    def __init__(self, merit: Floats) -> None:
        self._merit = merit

    def score(self, t: int, x: Context, cost: Floats) -> Floats:  # noqa: ARG002
        """See `Greedy.score`."""
        return self._merit


def best_fixed(episode: Episode, seed: int) -> Fixed:  # noqa: ARG001
    """Return the model that is best in hindsight, over the rounds in which it was available."""
    utility = episode.mean - episode.cost
    return Fixed(np.where(episode.available, utility, utility.min(axis=1, keepdims=True)).mean(axis=0))


def cheapest(episode: Episode, seed: int) -> Fixed:  # noqa: ARG001
    """Return the model of lowest mean cost."""
    return Fixed(-episode.cost.mean(axis=0))


class Oracle(Greedy, _Deaf):
    """Knows the expected quality of every model in every round."""

    def __init__(self, episode: Episode, seed: int) -> None:  # noqa: ARG002
        self._mean = episode.mean

    def score(self, t: int, x: Context, cost: Floats) -> Floats:  # noqa: ARG002
        """See `Greedy.score`."""
        return self._mean[t] - cost


class _Means(Memory):
    """Counts and sums per model."""

    ARRAYS: ClassVar[tuple[str, ...]] = ("n", "total")
    ORDER: ClassVar[float | None] = 1e-9

    def __init__(self, episode: Episode, seed: int) -> None:
        models = episode.mean.shape[1]
        self.n, self.total = np.zeros(models), np.zeros(models)
        self.rng: np.random.Generator = np.random.default_rng([seed, 13])

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        self.n[model] += 1.0
        self.total[model] += min(max(quality, -LARGEST), LARGEST)


class EpsilonGreedy(_Means):
    """The best mean, or, with a probability of epsilon, a model by lot.

    A model without votes counts as 1. Of epsilon = 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1 the default has the least
    mean log regret over the worlds of `bench.regret`, three seeds below 1000 each.
    """

    EPSILON = 0.001

    def __init__(self, episode: Episode, seed: int, epsilon: float = EPSILON) -> None:
        super().__init__(episode, seed)
        self._epsilon = epsilon

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        if self.rng.random() < self._epsilon:
            return int(self.rng.choice(np.flatnonzero(available)))
        return self._best(cost, available)

    def probabilities(self, t: int, x: Context, cost: Floats, available: Bools) -> Floats:  # noqa: ARG002
        """See `Chooser.probabilities`."""
        certain = only(self._best(cost, available), len(available))
        return (1.0 - self._epsilon) * certain + self._epsilon * available / available.sum()

    def _best(self, cost: Floats, available: Bools) -> int:
        score = np.where(self.n > 0, self.total / np.maximum(self.n, 1.0), 1.0) - cost
        return int(np.where(available, score, -np.inf).argmax())


class Ucb1(_Means, Greedy):
    """Auer, Cesa-Bianchi and Fischer, Finite-time analysis of the multiarmed bandit problem (2002); nothing to set."""

    def score(self, t: int, x: Context, cost: Floats) -> Floats:  # noqa: ARG002
        """See `Greedy.score`."""
        safe = np.maximum(self.n, 1e-9)
        width = np.sqrt(2.0 * np.log(max(t, 2)) / safe)
        return np.where(self.n > 0, self.total / safe + width, np.inf) - cost


class BetaThompson(_Means):
    """Beta-Bernoulli Thompson sampling; a quality between 0 and 1 counts as a share of a success.

    The prior is Beta(1, 1); there is nothing to set.
    """

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        wins, losses = self._counts()
        score = self.rng.beta(wins, losses) - cost
        return int(np.where(available, score, -np.inf).argmax())

    def probabilities(self, t: int, x: Context, cost: Floats, available: Bools) -> Floats:  # noqa: ARG002
        """See `Chooser.probabilities`; by quadrature over the quantiles of each model's own score."""
        wins, losses = self._counts()
        chance = np.zeros(len(wins))
        for k in np.flatnonzero(available):
            product = _WEIGHTS.copy()
            own = betaincinv(wins[k], losses[k], _NODES)
            for b in np.flatnonzero(available):
                if b != k:
                    product *= betainc(wins[b], losses[b], np.clip(own - cost[k] + cost[b], 0.0, 1.0))
            chance[k] = product.sum()
        return chance / chance.sum()

    def _counts(self) -> tuple[Floats, Floats]:
        wins = np.clip(self.total, 0.0, self.n)
        return 1.0 + wins, 1.0 + self.n - wins
