"""The product's policy in an episode: the code and the cadence of the engine, one request at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.change import ChangeDetector, verdict
from banditroute.bandit.evidence import Evidence, ModelKey, Vote
from banditroute.bandit.layout import RES_N, RES_Z, N
from banditroute.bandit.posterior import ModelPrior, PriorConfig
from banditroute.bandit.thompson import DecideBatch, Policy
from banditroute_sim.policies.base import Floats
from banditroute_sim.scenarios.episode import Episode

_MICRO = 1e6  # prices are per million tokens; a request here has one token


class Banditroute:
    """Evidence, posterior, Thompson sampling and change detection, wired as in `Router`.

    Parameters
    ----------
    episode : Episode
        Its models, blocks and declared qualities are read, nothing else.
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
        count, d = episode.mean.shape[1], episode.x.shape[1]
        self.keys = [ModelKey(f"model-{k:03d}") for k in range(count)]
        models = [
            ModelPrior(key, quality_offset=float(offset))
            for key, offset in zip(self.keys, episode.declared, strict=True)
        ]
        self.policy = Policy(models, episode.blocks, config, seed=seed)
        self.evidence = Evidence(d)
        self.detector = ChangeDetector() if detect else None
        self.alarms: list[tuple[int, int]] = []  # round, model
        self._predicted: dict[int, tuple[float, float]] = {}
        self._limits = np.array([[1.0, np.inf, 1.0, 0.0, np.inf, np.inf, 0.0, 0.0]])
        self._key = np.zeros(1, np.uint64)
        self._prices = np.zeros((count, 2))

    def choose(self, t: int, x: NDArray[np.float32], cost: Floats, available: NDArray[np.bool_]) -> int:
        """See `Chooser.choose`."""
        self._key[0] = t
        self._prices[:, 0] = _MICRO * cost
        batch = DecideBatch(x[None], self._key, self._limits, available[None], self._prices)
        choices = self.policy.decide(batch)
        model = int(choices.info[0, 0])
        self._predicted[t] = (choices.candidates[0, model, 0], choices.candidates[0, model, 1])
        return model

    def learn(self, t: int, x: NDArray[np.float32], model: int, quality: float) -> None:
        """See `Chooser.learn`."""
        key = self.keys[model]
        expected, sd = self._predicted.pop(t)
        self.evidence.add(key, x, Vote(quality=quality, quality_pred=expected, sd_pred=sd), 1.0)
        self.policy.observe(model, x, quality)
        if self._changed(key):
            self.alarms.append((t, model))
            self.policy.derive(self.evidence)
        elif self.policy.due:
            self.policy.derive(self.evidence)

    def _changed(self, key: ModelKey) -> bool:
        row = self.evidence.rows[key]
        if self.detector is None or not self.detector.look(key, row[RES_N], row[RES_Z]):
            return False
        factors = verdict(key, {one: float(other[N]) for one, other in self.evidence.rows.items()})
        if factors is None:
            return False
        for one in list(self.evidence.rows):
            self.evidence.scale(one, factors[one.name])
        return True
