"""Runs seeds: every policy through the same episode, several episodes at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from banditroute.errors import ConfigError
from banditroute_sim.parallel import results
from banditroute_sim.policies import POLICIES
from banditroute_sim.policies.ours import Banditroute
from banditroute_sim.scenarios import PIECE, SCENARIOS, pieces
from banditroute_sim.scenarios.episode import Episode
from banditroute_sim.simulate.compiled import BASELINES, CompiledBaseline, CompiledOurs
from banditroute_sim.simulate.measures import Measure, Outcome, Truth
from banditroute_sim.simulate.options import OURS, SimulateOptions
from banditroute_sim.simulate.players import Floats, Player, Stepped

SAMPLES = 1000  # rounds of an episode whose propensity is worked out
WARM_UP = 64  # rounds in which kernels are compiled, or loaded, before anything is timed


@dataclass(frozen=True, slots=True)
class Job:
    """One seed of one scenario."""

    scenario: str
    seed: int
    horizon: int
    policies: tuple[str, ...]
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What all policies made of one episode.

    Attributes
    ----------
    job : Job
    changes : tuple of int
    rank : int64[K]
        Models by their expected utility in the first tenth, the best first.
    quality, cost : float64[K]
        Of every model, over the whole episode.
    outcomes : tuple of Outcome
        In the order of the job's policies.
    """

    job: Job
    changes: tuple[int, ...]
    rank: NDArray[np.int64]
    quality: Floats
    cost: Floats
    outcomes: tuple[Outcome, ...]


@dataclass(slots=True)
class Simulated:
    """What was found.

    Attributes
    ----------
    options : SimulateOptions
    seeds : list of SeedResult
        In the order of scenarios and seeds, whoever was done first.
    interrupted : bool
        Whether somebody stopped it before all seeds were done.
    """

    options: SimulateOptions
    seeds: list[SeedResult] = field(default_factory=list)
    interrupted: bool = False


def simulate(options: SimulateOptions, note: Callable[[int], None] | None = None) -> Simulated:
    """Run all seeds of all scenarios.

    Numbers do not depend on ``options.workers``, but for the times. On a KeyboardInterrupt what is finished is kept.
    Work goes through joblib, so ``joblib.parallel_config(backend="dask")`` or ``"ray"`` around the call takes it
    to a cluster.

    Parameters
    ----------
    options : SimulateOptions
    note : callable, optional
        Called with how many seeds are done, of all scenarios.

    Raises
    ------
    ConfigError
        If a budget is given for a scenario without costs.
    MissingExtraError
        If a policy needs a library that is not installed.
    """
    jobs = [
        Job(scenario, options.first_seed + i, horizon_of(options, scenario), options.policies, options.budget)
        for scenario in options.scenarios
        for i in range(options.seeds)
    ]
    _check(options)
    found = Simulated(options)
    try:
        for done, result in enumerate(results(play_seed, jobs, options.workers, ordered=False), 1):
            found.seeds.append(result)
            if note is not None:
                note(done)
    except KeyboardInterrupt:
        found.interrupted = True
    order = {name: place for place, name in enumerate(options.scenarios)}
    found.seeds.sort(key=lambda result: (order[result.job.scenario], result.job.seed))
    return found


def horizon_of(options: SimulateOptions, scenario: str) -> int:
    """Return the rounds of a scenario."""
    return options.horizon or SCENARIOS[scenario].horizon


def _check(options: SimulateOptions) -> None:
    """Fail at once where a job would fail later: a library that is missing, a budget without costs."""
    first = next(pieces("stationary", 0, 2))
    for name in options.policies:
        if name not in BASELINES:
            POLICIES[name](first, 0)
    if options.budget is None:
        return
    for scenario in options.scenarios:
        if not next(pieces(scenario, 0, WARM_UP)).cost.any():
            raise ConfigError(f"--budget needs costs, and in scenario '{scenario}' nothing costs anything")


def play_seed(job: Job) -> SeedResult:
    """Let every policy of a job play the same episode, piece by piece."""
    for name in job.policies:
        _warm_up(name)
    drawn = _Drawn(job)
    merits, quality, cost = _hindsight(drawn, job.horizon)
    players: list[Player] = []
    measures: list[Measure] = []
    first: Episode | None = None
    for piece in drawn:
        if first is None:
            first = piece
            players = [_player(name, job, piece, merits) for name in job.policies]
            measures = [
                Measure(name, job.horizon, piece.mean.shape[1], piece.changes) for name in job.policies
            ]
        truth = Truth(piece)
        for player, measure in zip(players, measures, strict=True):
            start = time.process_time()
            played = player.play(piece)
            measure.seconds += time.process_time() - start
            measure.add(piece, truth, played)
    assert first is not None
    tenth = max(job.horizon // 10, 1)
    early = (first.mean - first.cost)[:tenth].mean(axis=0)
    return SeedResult(
        job,
        first.changes,
        np.argsort(-early, kind="stable"),
        quality,
        cost,
        tuple(measure.outcome() for measure in measures),
    )


class _Drawn:
    """The pieces of an episode, as often as they are asked for: kept if there is but one, else drawn again."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._kept = list(self._pieces()) if job.horizon <= PIECE else None

    def __iter__(self) -> Iterator[Episode]:
        return self._pieces() if self._kept is None else iter(self._kept)

    def _pieces(self) -> Iterator[Episode]:
        return map(_contiguous, pieces(self._job.scenario, self._job.seed, self._job.horizon))


def _hindsight(drawn: _Drawn, horizon: int) -> tuple[dict[str, Floats], Floats, Floats]:
    """Return what the fixed choices go by, and every model's mean quality and cost: a pass of its own."""
    merit: Any = 0.0
    quality: Any = 0.0
    cost: Any = 0.0
    for piece in drawn:
        utility = piece.mean - piece.cost
        merit = merit + np.where(piece.available, utility, utility.min(axis=1, keepdims=True)).sum(axis=0)
        quality = quality + piece.mean.sum(axis=0)
        cost = cost + piece.cost.sum(axis=0)
    return (
        {"best-fixed": merit / horizon, "cheapest": -cost / horizon},
        quality / horizon,
        cost / horizon,
    )


def _player(name: str, job: Job, first: Episode, merits: dict[str, Floats]) -> Player:
    if name in BASELINES:
        return CompiledBaseline(name, first, job.seed, job.horizon, merits.get(name))
    if name == OURS and job.budget is None:
        return CompiledOurs(first, job.seed, job.horizon, max(job.horizon // SAMPLES, 1))
    if name == OURS:
        return Stepped(Banditroute(first, job.seed, budget=job.budget), job.horizon)
    return Stepped(POLICIES[name](first, job.seed), job.horizon)


@cache
def _warm_up(name: str) -> None:
    """Compile or load what a policy needs: in each process once, and before its time is taken."""
    piece = _contiguous(next(pieces("delay-sparse", 0, WARM_UP)))
    nothing = np.zeros(piece.mean.shape[1])
    job = Job("delay-sparse", 0, WARM_UP, (name,))
    _player(name, job, piece, {"best-fixed": nothing, "cheapest": nothing}).play(piece)


def _contiguous(piece: Episode) -> Episode:
    """Return a piece whose arrays lie row by row, as kernels are compiled for."""
    plain = np.ascontiguousarray
    return replace(
        piece,
        mean=plain(piece.mean),
        quality=plain(piece.quality),
        cost=plain(piece.cost),
        delay=plain(piece.delay),
    )
