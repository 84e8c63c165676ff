"""Compiled players: they choose what their step-by-step forms choose, in loops that are compiled as a whole."""

from __future__ import annotations

from typing import Final

import numpy as np

from banditroute.bandit.choice.batch import LIMITS, Choices, DecideBatch
from banditroute.bandit.choice.change import verdict
from banditroute.bandit.choice.policy import Policy
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, RowKey
from banditroute.bandit.objectives.exploration import SAMPLED, SIZE, Exploration
from banditroute.bandit.posterior.posterior import ModelPrior
from banditroute_sim.policies.baselines import EpsilonGreedy
from banditroute_sim.policies.regressions import LinTs, LinUcb
from banditroute_sim.scenarios.episode import Episode
from banditroute_sim.simulate import _kernels_baselines as kernels
from banditroute_sim.simulate._kernels_ours import play_ours
from banditroute_sim.simulate._kernels_queue import ALARMED, DONE, FULL, LEARNED, ROW
from banditroute_sim.simulate.players import Floats, Played, Votes

MICRO: Final = (
    1e6  # prices are per million tokens; a request here has one token, and a dollar is a unit of utility
)
_COST_WEIGHT, _INPUT = LIMITS.index("cost_weight"), LIMITS.index("input_tokens")


class CompiledOurs:
    """The product's policy: the kernels of `Session`, with its derives, verdicts and rests, and the same numbers.

    Parameters
    ----------
    first : Episode
        The first piece: models, blocks and declared qualities are read.
    seed : int
        Of the random numbers.
    horizon : int
        Rounds of the episode.
    sampled : int
        Every so many rounds the propensity of the choice is worked out, too; 0: never.

    Attributes
    ----------
    policy : Policy
    evidence : Evidence
    changes : list of (int, str)
        Round and model of every verdict.
    derives : int
    """

    def __init__(self, first: Episode, seed: int, horizon: int, sampled: int = 0) -> None:
        models = [
            ModelPrior(ModelKey(name), quality_offset=float(offset))
            for name, offset in zip(first.names, first.declared, strict=True)
        ]
        self.policy = Policy(models, first.blocks, seed=seed)
        self.evidence = Evidence(self.policy.d)
        self.changes: list[tuple[int, str]] = []
        self.derives = 0
        count = len(models)
        self._rows = np.zeros((count, self.evidence.layout.row_size))
        for row, model in zip(self._rows, models, strict=True):
            self.evidence.rows[RowKey(*model.key)] = row
        self._sums = np.zeros((count, 4))
        self._one = self.policy.single(np.zeros((count, 2)))
        self._one.limits[_COST_WEIGHT] = self._one.limits[_INPUT] = 1.0
        self._exploration = Exploration()
        self._kept = 0  # rounds that exploration has seen
        self._votes = Votes(self.policy.d, 3)
        self._horizon = horizon
        self._sampled = sampled

    def play(self, piece: Episode) -> Played:
        """See `Player.play`."""
        chosen = np.empty(len(piece), np.int64)
        said = np.full((2, len(piece)), np.nan)
        one, votes = self._one, self._votes
        votes.cursor[ROW] = 0
        while True:
            new, needed = self.policy.cadence
            votes.cursor[LEARNED], votes.cursor[ALARMED] = new, -1
            # fmt: off
            why = play_ours(
                self.policy.state, one.desk, one.prices, one.eligible, one.keys, one.candidates, one.chance,
                self._rows, self._sums, needed, piece.start, self._horizon, self._sampled,
                piece.x, piece.cost, piece.quality, piece.available, piece.delay, chosen, said,
                *votes.arrays, *votes.contents,
            )
            # fmt: on
            self.policy.followed(int(votes.cursor[LEARNED]) - new)
            if why == DONE:
                self._keep(piece, len(piece))
                return Played(chosen, said[0], said[1])
            if why == FULL:
                votes.grow()
            else:
                self._derive(piece)

    def _derive(self, piece: Episode) -> None:
        """Judge an alarm, and derive if that is due."""
        alarmed, row = int(self._votes.cursor[ALARMED]), int(self._votes.cursor[ROW])
        factors = None
        if alarmed >= 0:
            changed = self.policy.models[alarmed].key
            factors = verdict(changed, self.evidence.votes())
            if factors is not None:
                self.changes.append((piece.start + row, changed.name))
                for key in list(self.evidence.rows):
                    self.evidence.scale(key, factors[key.name])
        if factors is not None or self.policy.due:
            self._keep(piece, row)
            self.policy.derive(self.evidence)
            self._exploration.rest(self.policy)
            self.derives += 1

    def _keep(self, piece: Episode, row: int) -> None:
        """Show exploration the sampled rounds before a row that it has not seen."""
        rounds = np.arange(self._kept, piece.start + row)
        rounds = rounds[rounds % SAMPLED == 0]
        self._kept = piece.start + row
        # What a ring of this size has forgotten need not be shown, but for its place in the ring.
        for part in np.split(rounds, range(SIZE, len(rounds), SIZE))[-2:] if len(rounds) else ():
            at = part - piece.start
            cost = np.column_stack([MICRO * piece.cost[at[-1]], np.zeros(piece.cost.shape[1])])
            limits = np.tile(self._one.limits, (len(at), 1))
            batch = DecideBatch(piece.x[at], part.astype(np.uint64), limits, piece.available[at], cost)
            nothing = np.empty(0)
            choices = Choices(
                np.empty((0, 3), np.int32), nothing, nothing, np.empty(0, np.int32), np.ones((len(at), 2))
            )
            self._exploration.keep(batch, choices)


BASELINES: Final = {
    "uniform": (kernels.UNIFORM, 0.0),
    "best-fixed": (kernels.FIXED, 0.0),
    "cheapest": (kernels.FIXED, 0.0),
    "oracle": (kernels.ORACLE, 0.0),
    "epsilon-greedy": (kernels.EPSILON, EpsilonGreedy.EPSILON),
    "ucb1": (kernels.UCB1, 0.0),
    "beta-ts": (kernels.BETA, 0.0),
    "linucb": (kernels.LINUCB, LinUcb.ALPHA),
    "lints": (kernels.LINTS, LinTs.NOISE),
}
_SALT: Final = {kernels.UNIFORM: 11, kernels.LINUCB: 17, kernels.LINTS: 17}
_PRECISION: Final = {kernels.LINUCB: LinUcb.PRECISION, kernels.LINTS: LinTs.PRECISION}


class CompiledBaseline:
    """A baseline of `banditroute_sim.policies`.

    Parameters
    ----------
    name : str
        One of `BASELINES`.
    first : Episode
        The first piece.
    seed : int
        Of the random numbers.
    horizon : int
        Rounds of the episode.
    merit : float64[K], optional
        Of the fixed choices: the available model of largest merit is chosen.
    """

    def __init__(
        self, name: str, first: Episode, seed: int, horizon: int, merit: Floats | None = None
    ) -> None:
        self._which, self._setting = BASELINES[name]
        models, d = first.mean.shape[1], first.x.shape[1]
        self._rng = np.random.default_rng([seed, _SALT.get(self._which, 13)])
        self._merit = np.zeros(models) if merit is None else np.array(merit, np.float64)
        linear = self._which in _PRECISION
        size = d if linear else 0
        precision = _PRECISION.get(self._which, 1.0)
        self._arrays = (
            np.zeros(models),
            np.zeros(models),
            np.tile(np.eye(size) / precision, (models, 1, 1)),
            np.zeros((models, size)),
            np.zeros((models, size)),
        )
        self._votes = Votes(d, 1)
        self._horizon = horizon

    def play(self, piece: Episode) -> Played:
        """See `Player.play`."""
        chosen = np.empty(len(piece), np.int64)
        votes = self._votes
        votes.cursor[ROW] = 0
        # fmt: off
        while kernels.play_baseline(
            self._which, self._setting, self._rng, self._merit, *self._arrays, piece.start, self._horizon,
            piece.x, piece.cost, piece.mean, piece.quality, piece.available, piece.delay, chosen,
            *votes.arrays, *votes.contents,
        ) == FULL:
            votes.grow()
        # fmt: on
        return Played(chosen)
