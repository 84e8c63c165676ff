"""Policies that meet the worlds: ours, and what it is compared with."""

from __future__ import annotations

from typing import Final

from banditroute_sim.policies.base import Chooser, PolicyFactory
from banditroute_sim.policies.baselines import (
    BetaThompson,
    EpsilonGreedy,
    Oracle,
    Ucb1,
    Uniform,
    best_fixed,
    cheapest,
)
from banditroute_sim.policies.ours import Banditroute
from banditroute_sim.policies.peers import (
    MabWiser,
    RiverLinUcb,
    RiverThompson,
    VowpalWabbit,
    river_bayes_ucb,
    river_epsilon_greedy,
    river_ucb,
)
from banditroute_sim.policies.regressions import LinTs, LinUcb
from banditroute_sim.policies.through_router import ThroughRouter

__all__ = ["POLICIES", "Banditroute", "Chooser", "PolicyFactory"]

POLICIES: Final[dict[str, PolicyFactory]] = {
    "banditroute": Banditroute,
    "router": ThroughRouter,
    "uniform": Uniform,
    "best-fixed": best_fixed,
    "cheapest": cheapest,
    "oracle": Oracle,
    "epsilon-greedy": EpsilonGreedy,
    "ucb1": Ucb1,
    "beta-ts": BetaThompson,
    "linucb": LinUcb,
    "lints": LinTs,
    "river": RiverThompson,
    "river-linucb": RiverLinUcb,
    "river-epsilon-greedy": river_epsilon_greedy,
    "river-ucb": river_ucb,
    "river-bayes-ucb": river_bayes_ucb,
    "vw": VowpalWabbit,
    "mabwiser": MabWiser,
}
