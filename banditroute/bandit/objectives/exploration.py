"""What exploration costs, and where it stops: a model that cannot win is not explored.

A model that would be best for fewer than one request in a thousand, at the weights and prices in force, *rests*: it is
given neither bonus nor noise. It still serves where its expected utility is the largest, and wakes up when a derive
(votes elsewhere, forgetting, a verdict, new weights or prices) makes it possible again that it wins. The judgement is
made on recent requests, so a model that is best for a few kinds of request is judged on these, too.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from banditroute.bandit.choice.batch import LIMITS, Choices, DecideBatch
from banditroute.bandit.choice.policy import Policy
from banditroute.bandit.objectives._kernels_exploration import given_up
from banditroute.bandit.objectives.recent import Recent

Floats = NDArray[np.float64]

FLOOR: Final = 0.001  # share of the requests that a model is best for, below which it rests
SIZE: Final = 128  # requests it is judged on
LEAST: Final = 32  # with fewer nothing is judged
SAMPLED: Final = 8  # one request of so many is kept, by its key
_COST, _LATENCY = LIMITS.index("cost_weight"), LIMITS.index("latency_weight")
_HIGH_SHARE = LIMITS.index("high_share")


class Exploration:
    """Watches decisions: counts exploration, and sends models to rest.

    Attributes
    ----------
    decisions, explored : int
        Decisions that a model served, and those whose model was not the one of largest expected utility.
    forgone : float
        Sum over them of the expected utility that was given up.
    resting : bool[K]
        Models that are not explored.
    """

    def __init__(self) -> None:
        self.decisions = self.explored = 0
        self.forgone = 0.0
        self.resting = np.zeros(0, np.bool_)
        self._recent: Recent | None = None
        self._prices: Floats = np.zeros((0, 2))

    def decided(self, policy: Policy, batch: DecideBatch, choices: Choices) -> None:
        """Count the decisions of a batch, and keep a sample of its requests."""
        served, explored, forgone = given_up(
            choices.info, choices.rank, choices.candidates, choices.chance, batch.limits, _LATENCY,
            policy.posterior.latency_pool,
        )  # fmt: skip
        self.decisions += served
        self.explored += explored
        self.forgone += forgone
        self.keep(batch, choices)

    def keep(self, batch: DecideBatch, choices: Choices) -> None:
        """Keep a sample of the requests of a batch, with the cost weights that were in use."""
        rows = np.flatnonzero(batch.keys % SAMPLED == 0)
        if not len(rows):
            return
        shape = batch.eligible.shape[1], batch.x.shape[1]
        if self._recent is None or self._recent.shape != shape:
            self._recent = Recent(*shape, SIZE)
        limits = batch.limits.copy()
        limits[:, _COST], limits[:, _HIGH_SHARE] = choices.cost_weight, 0.0
        self._recent.add(DecideBatch(batch.x, batch.keys, limits, batch.eligible, batch.prices), rows)
        self._prices = batch.prices.copy()

    def rest(self, policy: Policy) -> None:
        """Judge anew which models rest; called after every derive, which wakes them all."""
        recent = self._recent
        if recent is None or recent.count < LEAST or recent.shape[0] != len(policy.models):
            return
        batch = recent.batch(self._prices)
        choices = policy.decide(batch, propensity=False)
        utility = utilities(policy, choices, batch.limits[:, _COST], batch.limits[:, _LATENCY])
        allowed = choices.allowed
        utility = np.where(allowed, utility, -np.inf)
        rows = np.flatnonzero(allowed.any(axis=1))
        if not len(rows):
            return
        utility, sd = utility[rows], choices.sd[rows]
        best = utility.argmax(axis=1)
        every = np.arange(len(rows))
        # sd² is that of a vote, noise included; twice the noise comes off the variance of the difference of two means
        spread = sd**2 + sd[every, best][:, None] ** 2 - 2.0 * policy.posterior.sigma2
        gap = utility - utility[every, best][:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            chance = np.where(gap < 0.0, ndtr(gap / np.sqrt(np.maximum(spread, 0.0))), 1.0)
        asked = np.maximum(allowed[rows].sum(axis=0), 1)
        share = np.where(allowed[rows], chance, 0.0).sum(axis=0) / asked
        self.resting = (share < FLOOR) & allowed[rows].any(axis=0)
        policy.rest(self.resting)


def utilities(policy: Policy, choices: Choices, cost_weight: Floats, latency_weight: Floats) -> Floats:
    """Return every model's expected utility at the given weights; float64[n, K]."""
    utility: Floats = choices.quality - cost_weight[:, None] * choices.cost
    if latency_weight.any():
        log_ms = np.where(np.isnan(choices.log_latency), policy.posterior.latency_pool, choices.log_latency)
        utility = utility - np.nan_to_num(latency_weight[:, None] * 1e-3 * np.exp(log_ms))
    return utility
