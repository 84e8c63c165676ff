"""`banditroute replay`: several orders of a data set through the router, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import Evidence, ModelKey, Vote
from banditroute.config import Config
from banditroute.errors import ConfigError
from banditroute_sim.data.outcomes import Outcomes
from banditroute_sim.parallel import each
from banditroute_sim.replay.curve import POINTS, CostCurve, cost_curve
from banditroute_sim.replay.hindsight import Goal, best_mix, fixed_means, oracle, told
from banditroute_sim.replay.passes import Course, Played, answers, got, make_session, play, windows

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

BINS: Final = 40  # of a stream, in figures
_KEPT: Final = 4000  # decisions of a pass that figures of calibration and propensity are drawn from
_WARMED: Final = 20_000  # prompts of a data set to start from


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How to replay.

    Parameters
    ----------
    shuffles : int
        Random orders; 0 is the order of the data set, once.
    feedback_share : float
        Share of the decisions that are answered.
    feedback_delay : int
        Decisions until an answer arrives.
    seed : int
        Of orders, and added to the seed of the configuration.
    workers : int
        Processes.
    """

    shuffles: int = 10
    feedback_share: float = 1.0
    feedback_delay: int = 0
    seed: int = 0
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Case:
    """One pass: `number` is the shuffle, 0 the order of the data set."""

    outcomes: Outcomes
    config: Config
    options: ReplayOptions
    warm: Evidence | None
    number: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What is kept of a pass.

    Attributes
    ----------
    mean, last : float64[3]
        Quality, cost and cost weight in force, over the whole stream and over its last third.
    bins : float64[B, 2]
        Mean quality and cost of each part of the stream.
    share : float64[B, K]
        How often each model was chosen, by part of the stream.
    pairs : float64[m, 3]
        Expected quality, quality and propensity of some decisions.
    curve : CostCurve or None
        Of two models, over the last third.
    seconds : float
    rounds : int
    unserved : int
        Requests that no model could serve.
    """

    mean: Floats
    last: Floats
    bins: Floats
    share: Floats
    pairs: Floats
    curve: CostCurve | None
    seconds: float
    rounds: int
    unserved: int = 0


def known_evidence(
    outcomes: Outcomes, votes: float, generations: Sequence[int], rows: Rows | None = None
) -> Evidence:
    """Return what a data set tells of its models, every one's outcomes scaled down to at most ``votes`` votes.

    As `warm_start.warm_evidence`; of a large set a sample is taken, unless ``rows`` says which prompts.
    """
    if rows is None:
        rows = outcomes.rows[:: -(-len(outcomes) // _WARMED)]
    known = Evidence(outcomes.x.shape[1])
    weight = min(1.0, votes / len(rows))
    for k, name in enumerate(outcomes.models):
        key = ModelKey(name, generations[k])
        for row in rows.tolist():
            vote = Vote(
                quality=float(outcomes.quality[row, k]),
                output_tokens=float(outcomes.output_tokens[row, k]),
                latency_ms=1000.0 * float(outcomes.latency_s[row, k]),
            )
            known.add(key, outcomes.x[row], vote, weight)
    return known


def check_replayable(config: Config) -> list[str]:
    """Return what of a configuration a replay leaves out, as sentences.

    Raises
    ------
    ConfigError
        If it cannot be replayed at all.
    """
    if all(model.paused for model in config.catalog):
        raise ConfigError("every model of the catalog is paused: nothing can be replayed; resume one of them")
    if config.engine.mode == "frozen":
        raise ConfigError('engine.mode = "frozen" learns nothing: set it to "active" for a replay')
    notes = []
    if config.learning.half_life is not None:
        notes.append("learning.half_life is left out: a data set has no clock")
    if config.objective.budget_usd_per_day is not None:
        notes.append(
            "objective.budget_usd_per_day is replayed as the same budget per request, at requests_per_day"
        )
    return notes


def per_request(config: Config) -> Config:
    """Return the configuration with a budget per day as one per request: there is no clock."""
    from msgspec.structs import replace as changed  # noqa: PLC0415 - beside the one of dataclasses

    objective = config.objective
    if objective.budget_usd_per_day is None or objective.requests_per_day is None:
        return config
    budget = objective.budget_usd_per_day / objective.requests_per_day
    return changed(
        config,
        objective=changed(
            objective, budget_usd_per_day=None, requests_per_day=None, budget_usd_per_request=budget
        ),
    )


def one_pass(case: Case) -> Summary:
    """Run one pass."""
    outcomes, options = case.outcomes, case.options
    rows = outcomes.rows
    if case.number:
        rows = np.random.default_rng([options.seed, case.number]).permutation(rows)
    seed = case.config.learning.seed + options.seed + case.number
    session = make_session(case.config, outcomes.blocks, seed, case.warm)
    everyone = np.array([[not model.paused for model in case.config.catalog]])
    delay = answers(len(rows), options.feedback_share, options.feedback_delay, seed)
    table = np.array(case.config.catalog.price_table())
    prices = table if table.shape[1] > outcomes.prices.shape[1] else outcomes.prices
    course = Course(rows, outcomes.keys[rows], (0,), prices[None], everyone, delay)
    window = windows(case.config)
    played = play(session, outcomes, course, None if np.isinf(window).all() else window)
    return summed_up(outcomes, rows, played)


def summed_up(outcomes: Outcomes, rows: Rows, played: Played) -> Summary:
    """Return what is kept of a pass."""
    rounds, models = len(rows), len(outcomes.models)
    quality, cost = (got(matrix, rows, played.chosen) for matrix in (outcomes.quality, outcomes.cost))
    served = played.chosen >= 0
    numbers = np.column_stack([quality, cost, played.cost_weight])
    last = 2 * rounds // 3
    edges = np.linspace(0, rounds, min(BINS, rounds) + 1).astype(np.int64)
    place = np.searchsorted(edges, np.arange(rounds), side="right") - 1
    size = np.diff(edges).astype(np.float64)
    bins = np.column_stack([np.bincount(place, column, len(size)) / size for column in (quality, cost)])
    choice = (place * models + played.chosen)[served]
    share = np.bincount(choice, minlength=len(size) * models).reshape(-1, models)
    some = np.arange(0, rounds, -(-rounds // _KEPT))
    some = some[served[some]]
    pairs = np.column_stack([played.expected, quality, played.propensity])[some]
    curve = cost_curve(outcomes.quality[rows[last:]], played.margin[last:]) if models == 2 else None
    return Summary(
        numbers.mean(axis=0), numbers[last:].mean(axis=0), bins, share / size[:, None], pairs, curve,
        played.seconds, rounds, int(np.count_nonzero(~served)),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Replayed:
    """A replay: the object that `--json` prints, and what figures are drawn from."""

    result: dict[str, Any]
    passes: list[Summary]
    fixed: tuple[Floats, Floats]


def replay_outcomes(
    outcomes: Outcomes,
    config: Config,
    options: ReplayOptions,
    warm: Evidence | None = None,
    note: Callable[[int], None] | None = None,
) -> Replayed:
    """Replay a data set and compare with hindsight.

    Parameters
    ----------
    outcomes : Outcomes
        Of exactly the models of the configuration, in its order.
    config : Config
        What would run.
    options : ReplayOptions
        How.
    warm : Evidence, optional
        What is known beforehand.
    note : callable, optional
        Called with how many passes are done.
    """
    notes = check_replayable(config)
    config = per_request(config)
    numbers = range(1, options.shuffles + 1) if options.shuffles else range(1)
    cases = [Case(outcomes, config, options, warm, number) for number in numbers]
    passes = each(one_pass, cases, options.workers, note)
    if len(passes) < len(cases):
        notes.append(f"stopped after {len(passes)} of {len(cases)} passes")
    goal = Goal.of(config)
    notes += outcomes.notes
    unserved = sum(one.unserved for one in passes)
    if unserved:
        notes.append(
            f"{unserved:,} of {sum(one.rounds for one in passes):,} requests are longer than every context_window: "
            "nobody serves them, and they count as quality 0 at no cost"
        )
    quality, cost = fixed_means(outcomes, outcomes.rows)
    mean = np.mean([one.mean for one in passes], axis=0)
    weight = float(mean[2]) if goal.cost_weight is None else goal.cost_weight
    fixed = goal.best_fixed(quality, cost)
    mix = best_mix(quality, cost, float(mean[1]))
    best = oracle(outcomes, outcomes.rows, goal)
    result: dict[str, Any] = {
        "data_set": outcomes.name,
        "prompts": len(outcomes),
        "left_out": outcomes.dropped,
        "models": list(outcomes.models),
        "objective": _objective(goal, outcomes),
        "cost_weight": weight,
        "shuffles": len(passes) if options.shuffles else 0,
        "interrupted": len(passes) < len(cases),
        **_means(mean, weight, goal),
        "best_fixed": {"model": outcomes.models[fixed], **told(quality[fixed], cost[fixed], weight)},
        "best_mix": {
            "shares": {name: float(part) for name, part in zip(outcomes.models, mix, strict=True) if part},
            **told(float(mix @ quality), float(mix @ cost), weight),
        },
        "oracle": told(*best, weight),
        "last_third": _means(np.mean([one.last for one in passes], axis=0), weight, goal),
        "standard_error": _errors(passes, weight),
    }
    if goal.reference is not None:
        result["share_of_reference"] = (
            float(mean[0] / quality[goal.reference]) if quality[goal.reference] else None
        )
    if len(outcomes.models) == 2:
        result |= _curves(outcomes, [one.curve for one in passes])
    result["share"] = dict(
        zip(
            outcomes.models, np.mean([one.share.mean(axis=0) for one in passes], axis=0).tolist(), strict=True
        )
    )
    result["per_shuffle"] = [
        {
            "shuffle": number,
            **_means(one.mean, weight, goal),
            "last_third": _means(one.last, weight, goal),
            "decisions_per_second": one.rounds / one.seconds,
        }
        for number, one in zip(numbers, passes, strict=False)
    ]
    result["decisions_per_second"] = float(np.median([one.rounds / one.seconds for one in passes]))
    result["notes"] = notes
    return Replayed(_plain(result), passes, (quality, cost))


def _objective(goal: Goal, outcomes: Outcomes) -> dict[str, Any]:
    if goal.cost_weight is not None:
        return {"cost_weight": goal.cost_weight}
    if goal.budget is not None:
        return {"budget_usd_per_request": goal.budget}
    assert goal.reference is not None
    return {"quality_floor": goal.floor, "reference": outcomes.models[goal.reference]}


def _means(numbers: Floats, weight: float, goal: Goal) -> dict[str, Any]:
    quality, cost = float(numbers[0]), float(numbers[1])
    return {
        **told(quality, cost, weight),
        "budget_utilisation": None if goal.budget is None else cost / goal.budget,
    }


def _errors(passes: Sequence[Summary], weight: float) -> dict[str, Any]:
    """Return standard errors of the means over the shuffles, None where there is one."""
    names = ("mean_quality", "mean_cost_usd", "mean_utility")
    if len(passes) < 2:
        return dict.fromkeys(names)
    table = np.array([one.mean for one in passes])
    table[:, 2] = table[:, 0] - weight * table[:, 1]
    return dict(zip(names, (table.std(axis=0, ddof=1) / len(passes) ** 0.5).tolist(), strict=True))


def _curves(outcomes: Outcomes, curves: Sequence[CostCurve | None]) -> dict[str, Any]:
    """Return the mean curve's numbers; None where the models do not differ."""
    known = [curve for curve in curves if curve is not None]
    names = ("CPT50", "CPT80", "CPT95")
    if not known:
        return {"strong": None, **dict.fromkeys(names), "APGR": None, "cost_curve": None}
    points = [[one.cpt[i] for one in known if one.cpt[i] is not None] for i in range(len(names))]
    return {
        "strong": outcomes.models[known[0].strong],
        **{name: float(np.mean(found)) if found else None for name, found in zip(names, points, strict=True)},  # type: ignore[arg-type]
        "APGR": float(np.mean([one.apgr for one in known])),
        "cost_curve": {
            "calls_to_strong": np.linspace(0.0, 1.0, POINTS).tolist(),
            "gap_recovered": np.mean([one.recovered for one in known], axis=0).tolist(),
        },
    }


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """Return the same with Python's own numbers."""

    def one(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: one(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [one(inner) for inner in value]
        return value.item() if isinstance(value, np.generic) else value

    plain: dict[str, Any] = one(result)
    return plain
