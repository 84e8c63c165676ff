"""One run of a rehearsal: a draw of the world, the router of a configuration, and the present policy beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice.batch import DecideBatch
from banditroute.bandit.evidence.evidence import Evidence
from banditroute.bandit.objectives.pacing import CONFIDENCE
from banditroute.config import Config
from banditroute_sim.rehearse.stress import Staged, Stress, stage
from banditroute_sim.rehearse.world import How, World
from banditroute_sim.replay.passes import got, make_session, play, windows
from banditroute_sim.session import Session

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

BINS: Final = 32  # of a stream, in figures
_LOOKS: Final = 30  # times that what was learned is looked at
_FIRST_LOOK: Final = 20
_LOOKED_AT: Final = 256  # requests that it is judged on
_KEPT: Final = 1000  # decisions whose predictions are kept for figures
_WINDOW: Final = 512  # requests of the dearest stretch


@dataclass(frozen=True, slots=True)
class Case:
    """What a run needs.

    Attributes
    ----------
    world : World
    config : Config
    warm : Evidence or None
        What is known beforehand.
    requests, seed : int
    how : "order" or "resample"
        See `World`.
    stress : Stress or None
    target : int
        The model that the stress happens to.
    """

    world: World
    config: Config
    warm: Evidence | None
    requests: int
    seed: int
    how: How
    stress: Stress | None = None
    target: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gave; columns are quality and cost of the router, then those of the present policy.

    Attributes
    ----------
    all, hit : float64[4]
        Means over the whole stream, and while a change lasts: from the middle to the end where there is none.
    bins : float64[B, 4]
        Means of each part of the stream.
    share : float64[B, K]
        How often each model was chosen, by part of the stream.
    looks, lower : float64[L]
        Decisions, and the 95 % lower bound of what the router believes, by what it has learned so far, its quality to
        be above that of the present policy.
    noticed : int
        Decisions from the change to the verdict that the target has changed, -1 = none.
    dearest : float
        Mean cost of the dearest stretch of 512 requests (USD).
    pairs : float64[m, 3]
        Expected quality, quality and propensity of some decisions.
    """

    all: Floats
    hit: Floats
    bins: Floats
    share: Floats
    looks: Floats
    lower: Floats
    noticed: int
    dearest: float
    pairs: Floats


def run(case: Case) -> Run:
    """Run a case; the same case gives the same numbers."""
    world = case.world
    quality, _ = world.means()
    drawn = world.draw(case.seed, case.requests, case.how)
    delay = world.delays(case.seed, case.requests)
    staged = stage(case.config, drawn, delay, case.stress, case.target, np.argsort(-quality, kind="stable"))
    seed = case.config.learning.seed + case.seed
    session = make_session(staged.config, world.blocks, seed, case.warm)
    looks = _looks(case.requests) if case.stress is None else []
    seen: list[float] = []
    window = windows(staged.config)
    played = play(
        session,
        staged.drawn,
        staged.course,
        None if np.isinf(window).all() else window,
        lambda _, weight: seen.append(_lower(session, staged, weight)),
        looks,
    )
    rounds = np.arange(case.requests)
    table, chosen = staged.drawn, played.chosen
    both = np.column_stack(
        [
            got(matrix, rounds, one)
            for one in (chosen, table.present)
            for matrix in (table.quality, table.cost)
        ]
    )
    edges = np.linspace(0, case.requests, min(BINS, case.requests) + 1).astype(np.int64)
    size = np.diff(edges).astype(np.float64)[:, None]
    models = table.quality.shape[1]
    one_hot = np.zeros((case.requests, models))
    one_hot[rounds[chosen >= 0], chosen[chosen >= 0]] = 1.0
    some = np.arange(0, case.requests, -(-case.requests // _KEPT))
    some = some[chosen[some] >= 0]
    return Run(
        all=both.mean(axis=0),
        hit=both[staged.start : staged.stop].mean(axis=0),
        bins=np.add.reduceat(both, edges[:-1]) / size,
        share=np.add.reduceat(one_hot, edges[:-1]) / size,
        looks=np.array(looks, np.float64),
        lower=np.array(seen),
        noticed=_noticed(session, staged, case),
        dearest=_dearest(both[:, 1]),
        pairs=np.column_stack([played.expected, both[:, 0], played.propensity])[some],
    )


def _looks(requests: int) -> list[int]:
    places = np.geomspace(min(_FIRST_LOOK, requests), requests, _LOOKS).astype(np.int64) - 1
    return sorted(set(places.tolist()))


def _lower(session: Session, staged: Staged, weight: float) -> float:
    """Return the lower bound of the router's gain in quality over the present policy, by its own posterior."""
    table, course = staged.drawn, staged.course
    rows = np.arange(0, len(table), -(-len(table) // _LOOKED_AT))
    posterior = session.policy.posterior
    batch = DecideBatch.of(
        table.x[rows],
        rows.astype(np.uint64),
        course.prices[0],
        eligible=course.eligible[0],
        input_tokens=table.tokens[rows],
        input_estimated=table.estimated[rows],
    )
    choices = session.policy.decide(batch, propensity=False)
    quality = choices.quality
    utility = np.where(choices.allowed, quality - weight * choices.cost, -np.inf)
    chosen, present = utility.argmax(axis=1), table.present[rows]
    at = np.arange(len(rows))
    gain = float((quality[at, chosen] - quality[at, present]).mean())
    # the mean gain is linear in the weights of the models: a sum of contexts each
    sums = np.zeros((quality.shape[1], table.x.shape[1]))
    x = table.x[rows].astype(np.float64)
    np.add.at(sums, chosen, x)
    np.subtract.at(sums, present, x)
    sums /= len(rows)
    variance = posterior.sigma2 * float(np.einsum("ki,kij,kj->", sums, posterior.V, sums))
    return gain - CONFIDENCE * max(variance, 0.0) ** 0.5


def _noticed(session: Session, staged: Staged, case: Case) -> int:
    """Return after how many decisions the target was found to have changed, -1 = it was not."""
    if case.stress is None:
        return -1
    name = staged.config.models[case.target].name
    found = [t - staged.start for t, who in session.changes if who == name and t >= staged.start]
    return found[0] if found else -1


def _dearest(cost: Floats) -> float:
    size = min(_WINDOW, len(cost))
    sums = np.concatenate([[0.0], cost.cumsum()])
    return float((sums[size:] - sums[:-size]).max()) / size


def saving(columns: Floats) -> Floats:
    """Return 1 − cost of the router / cost of the present policy, of rows float64[n, 4]; 0 where nothing costs."""
    cost, before = columns[:, 1], columns[:, 3]
    return 1.0 - np.divide(cost, before, out=np.ones_like(cost), where=before > 0.0)


def quality_change(columns: Floats) -> Floats:
    """Return the quality of the router minus that of the present policy, of rows float64[n, 4]."""
    change: Floats = columns[:, 0] - columns[:, 2]
    return change
