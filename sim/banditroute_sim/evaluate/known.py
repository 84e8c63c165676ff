"""Logs of a world that we know: the engine's policy decides, and what any fixed policy is worth can be told exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.bandit.objectives.pacing import Fixed, Pacer
from banditroute.bandit.posterior.posterior import ModelPrior
from banditroute_sim.data.dropped import Dropped
from banditroute_sim.evaluate.log import Batch
from banditroute_sim.evaluate.targets import ByCell
from banditroute_sim.session import Session

Floats = NDArray[np.float64]
_MICRO = 1e6  # prices are per million tokens, and a request here has one token


@dataclass(frozen=True, slots=True)
class KnownWorld:
    """A few kinds of requests, thumbs whose chance depends on kind and model, log-normal costs.

    Attributes
    ----------
    x : float32[C, d]
        Context of each kind.
    quality, cost : float64[C, K]
        Means of each kind and model; cost in USD.
    """

    x: NDArray[np.float32]
    quality: Floats
    cost: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator, kinds: int = 6, models: int = 4, d: int = 5) -> KnownWorld:
        """Draw a world in which dearer models tend to be better."""
        z = rng.normal(0.0, 1.0 / np.sqrt(d - 1), (kinds, d - 1))
        level = np.linspace(0.0, 1.2, models) + rng.normal(0.0, 0.2, models)
        logit = level + z @ rng.normal(0.0, 1.0, (d - 1, models))
        cost = 0.001 * np.geomspace(1.0, 8.0, models) * np.exp(0.3 * rng.normal(size=(kinds, 1)))
        return cls(
            np.column_stack([np.ones(kinds), z]).astype(np.float32), 1.0 / (1.0 + np.exp(-logit)), cost
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(f"model-{k}" for k in range(self.quality.shape[1]))

    def softmax(self, cost_weight: float, scale: float) -> ByCell:
        """Return a fixed policy: chances in proportion to exp(utility / scale), the best model alone for scale 0."""
        utility = self.quality - cost_weight * self.cost
        if scale > 0.0:
            chance = np.exp((utility - utility.max(axis=1, keepdims=True)) / scale)
        else:
            chance = (utility == utility.max(axis=1, keepdims=True)).astype(np.float64)
        chance /= chance.sum(axis=1, keepdims=True)
        return ByCell("known", dict(enumerate(chance)))

    def worth(self, chance: Mapping[int, Floats]) -> tuple[float, float]:
        """Return the mean quality and cost of a fixed policy; every kind of request is equally frequent."""
        kinds = range(len(self.quality))
        return (
            float(np.mean([chance[c] @ self.quality[c] for c in kinds])),
            float(np.mean([chance[c] @ self.cost[c] for c in kinds])),
        )


@dataclass
class KnownLog:
    """What a `Session` logged in a world.

    Attributes
    ----------
    world : KnownWorld
    batch : Batch
        All its decisions; ``cell`` is the kind of request.
    every : float64[n, K]
        Propensity of every model.
    """

    world: KnownWorld
    batch: Batch
    every: Floats
    left_out: dict[str, int] = field(default_factory=dict)
    dropped: Dropped = field(default_factory=lambda: Dropped("decisions"))

    def batches(self) -> Iterator[Batch]:
        """See `Log.batches`."""
        yield self.batch

    def truth(self, chance: Floats) -> tuple[float, float]:
        """Return mean quality and cost of a policy with these chances, over requests as the world sends them.

        The kinds of a log are not quite equally frequent, those of the world are, and an interval is about the world.
        """
        kinds, world = self.batch.cell, self.world
        count = np.bincount(kinds, minlength=len(world.quality))
        means = []
        for table in (world.quality, world.cost):
            sums = np.bincount(kinds, (chance * table[kinds]).sum(axis=1), len(count))
            means.append(float((sums[count > 0] / count[count > 0]).mean()))
        return means[0], means[1]


def known_log(
    world: KnownWorld,
    seed: int,
    decisions: int,
    *,
    floor: float = 0.0,
    pacer: Pacer | None = None,
    answered: float = 1.0,
    blocks: Sequence[tuple[int, int]] | None = None,
    every: bool = False,
) -> KnownLog:
    """Let the engine's policy decide and learn, from nothing.

    Parameters
    ----------
    world : KnownWorld
        Where.
    seed : int
        Of requests, outcomes and the policy.
    decisions : int
        How many.
    floor : float
        Exploration floor.
    pacer : Pacer, optional
        Gives the cost weight; default: none.
    answered : float
        Share of the decisions that are answered.
    blocks : sequence of (start, stop), optional
        Blocks of the context.
    every : bool
        Whether to work out the propensities of all models.
    """
    rng = np.random.default_rng([seed, 3])
    kinds, models = world.quality.shape
    session = Session(
        [ModelPrior(ModelKey(name)) for name in world.names],
        blocks or ((0, 1), (1, world.x.shape[1])),
        seed,
        pacer=pacer or Fixed(0.0),
        floor=floor,
    )
    cell = rng.integers(kinds, size=decisions)
    thumbs = (rng.random((decisions, models)) < world.quality[cell]).astype(np.float64)
    paid = world.cost[cell] * np.exp(0.5 * rng.normal(size=(decisions, models)) - 0.125)
    heard = rng.random(decisions) < answered
    chosen, propensity, weight = np.empty(decisions, np.int64), np.empty(decisions), np.empty(decisions)
    candidates, chances = np.empty((decisions, models, 5)), np.zeros((decisions, models if every else 0))
    allowed = np.ones(models, np.bool_)
    prices = np.zeros((models, 2))
    for t in range(decisions):
        prices[:, 0] = _MICRO * world.cost[cell[t]]
        x = world.x[cell[t]].copy()
        choices = session.decide(t, x, prices, 1.0, allowed)
        chosen[t], propensity[t], weight[t] = choices.chosen[0], choices.propensity[0], choices.cost_weight[0]
        candidates[t] = choices.candidates[0]
        if every:
            one = session.policy.decide(session.last(x), every=True)
            chances[t] = one.propensities[0]
        if heard[t]:
            k = int(chosen[t])
            session.learn(t, k, float(thumbs[t, k]), cost_usd=float(paid[t, k]))
    at = np.arange(decisions), chosen
    unknown = np.full(decisions, np.nan)
    outcome = np.where(heard[:, None], np.column_stack([thumbs[at], paid[at], unknown, unknown]), np.nan)
    batch = Batch(
        names=world.names,
        chosen=chosen,
        eligible=np.ones((decisions, models), np.bool_),
        propensity=propensity,
        quality=candidates[:, :, 0],
        sd=candidates[:, :, 1],
        cost=candidates[:, :, 3],
        log_tokens=candidates[:, :, 2],
        log_latency=candidates[:, :, 4],
        input_tokens=np.ones(decisions),
        cost_weight=weight,
        latency_weight=np.zeros(decisions),
        outcome=outcome,
        cell=cell,
    )
    return KnownLog(world, batch, chances)
