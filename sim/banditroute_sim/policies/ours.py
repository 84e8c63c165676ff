"""The product's policy in an episode."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence import ModelKey
from banditroute.bandit.pacing import Fixed
from banditroute.bandit.posterior import ModelPrior, PriorConfig
from banditroute_sim.policies.base import Floats
from banditroute_sim.scenarios.episode import Episode
from banditroute_sim.session import Session

_MICRO = 1e6  # prices are per million tokens; a request here has one token, and a dollar is a unit of utility


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
    """

    def __init__(
        self, episode: Episode, seed: int, config: PriorConfig | None = None, *, detect: bool = True
    ) -> None:
        models = [
            ModelPrior(ModelKey(f"model-{k:03d}"), quality_offset=float(offset))
            for k, offset in enumerate(episode.declared)
        ]
        self.session = Session(models, episode.blocks, seed, pacer=Fixed(1.0), config=config, detect=detect)
        self._prices = np.zeros((len(models), 2))

    def choose(self, t: int, x: NDArray[np.float32], cost: Floats, available: NDArray[np.bool_]) -> int:
        """See `Chooser.choose`."""
        self._prices[:, 0] = _MICRO * cost
        choices = self.session.decide(t, x, self._prices, 1.0, available, propensity=False)
        return int(choices.info[0, 0])

    def learn(self, t: int, x: NDArray[np.float32], model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        self.session.learn(t, model, quality)
