"""Runs a policy through an episode and measures what it missed."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.policies.base import Chooser
from banditroute_sim.scenarios.episode import NEVER, Episode

_WINDOW, _SHARE = 100, 0.8  # recovered: this share of best picks over this many rounds, in expectation


@dataclass(frozen=True, slots=True)
class Run:
    """What a policy did in an episode.

    Attributes
    ----------
    chosen : int64[T]
        The model of every round.
    regret : float64[T]
        Expected utility of the best available model minus that of the chosen one.
    """

    chosen: NDArray[np.int64]
    regret: NDArray[np.float64]

    @property
    def total(self) -> float:
        """Cumulative regret."""
        return float(self.regret.sum())


def run(episode: Episode, policy: Chooser) -> Run:
    """Let a policy decide every round; a vote arrives after its delay, before the decision of that round."""
    rounds = len(episode)
    chosen = np.empty(rounds, np.int64)
    waiting: list[tuple[int, int]] = []
    x, delay = episode.x, episode.delay
    for t in range(rounds):
        while waiting and waiting[0][0] <= t:
            _, asked = heapq.heappop(waiting)
            model = int(chosen[asked])
            policy.learn(asked, x[asked], model, float(episode.quality[asked, model]))
        chosen[t] = policy.choose(t, x[t], episode.cost[t], episode.available[t])
        rest = int(delay[t, chosen[t]])
        if rest != NEVER:
            heapq.heappush(waiting, (t + 1 + rest, t))
    utility = episode.utility
    regret = utility.max(axis=1) - utility[np.arange(rounds), chosen]
    return Run(chosen, regret)


def recovery(episode: Episode, result: Run, change: int) -> int:
    """Return the rounds from a change to the first one from which the last 100 rounds hold 80 % best picks.

    At least 100; the rounds that are left when it never recovers.
    """
    best = result.regret[change:] <= 0.0
    held = np.convolve(best, np.ones(_WINDOW), mode="valid") >= _SHARE * _WINDOW
    after = len(episode) - change
    if not held.any():
        return after
    return int(held.argmax()) + _WINDOW
