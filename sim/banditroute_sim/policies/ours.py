"""The product's policy in an episode."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np

from banditroute.bandit.choice.batch import DecideBatch
from banditroute.bandit.evidence.evidence import ModelKey, RowKey
from banditroute.bandit.objectives.pacing import BudgetPacer, Fixed, Pacer
from banditroute.bandit.posterior.posterior import ModelPrior, PriorConfig
from banditroute_sim.policies.base import Bools, Context, Floats, State
from banditroute_sim.scenarios.episode import Episode
from banditroute_sim.session import Session

_MICRO = 1e6  # prices are per million tokens; a request here has one token, and a dollar is a unit of utility
_SHARED = "shared"
_ROW = "model "


class Banditroute:
    """A `Session` that reads the models, blocks and declared qualities of an episode, and nothing else.

    Parameters
    ----------
    episode : Episode
        The world.
    seed : int
        Of the random numbers.
    config : PriorConfig, optional
        Constants of the prior.
    detect : bool
        Whether changes are looked for.
    budget : float, optional
        Mean cost of a request that is to be met, in units of utility; default: the cost weight is 1.
    """

    ORDER: ClassVar[float | None] = 1e-9

    def __init__(
        self,
        episode: Episode,
        seed: int,
        config: PriorConfig | None = None,
        *,
        detect: bool = True,
        budget: float | None = None,
    ) -> None:
        models = [
            ModelPrior(ModelKey(name), quality_offset=float(offset))
            for name, offset in zip(episode.names, episode.declared, strict=True)
        ]
        self._begin = partial(Session, models, episode.blocks, seed, config=config, detect=detect)
        self._budget = budget
        self.session = self._begin(pacer=self._pacer())
        self._prices = np.zeros((len(models), 2))

    def _pacer(self) -> Pacer:
        return Fixed(1.0) if self._budget is None else BudgetPacer(self._budget)

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:
        """See `Chooser.choose`."""
        self._prices[:, 0] = _MICRO * cost
        choices = self.session.decide(t, x.copy(), self._prices, 1.0, available, propensity=False)
        return int(choices.info[0, 0])

    def probabilities(self, t: int, x: Context, cost: Floats, available: Bools) -> Floats:
        """See `Chooser.probabilities`."""
        prices = np.column_stack([_MICRO * cost, np.zeros(len(cost))])
        key = np.array([t], np.uint64)
        batch = DecideBatch.of(x[None], key, prices, eligible=available, input_tokens=1.0, cost_weight=1.0)
        return self.session.policy.decide(batch, every=True).propensities[0]

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        self.session.learn(t, model, quality)

    def state(self) -> State:
        """See `Chooser.state`: the evidence, one row per model that anything is known about."""
        evidence = self.session.evidence
        rows = {f"{_ROW}{key.name}": row.copy() for key, row in evidence.rows.items()}
        return rows | {_SHARED: evidence.shared.copy()}

    def restore(self, state: State) -> None:
        """See `Chooser.restore`: the posterior is derived anew, and the search for changes starts again."""
        self.session = self._begin(pacer=self._pacer())
        evidence = self.session.evidence
        evidence.shared[:] = state[_SHARED]
        for name in sorted(state.keys() - {_SHARED}):
            evidence.row(RowKey(name.removeprefix(_ROW)))[:] = state[name]
        self.session.policy.derive(evidence)
