"""`banditroute rehearse`: runs, scenarios, and the rules that make a go or a no-go of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from banditroute.bandit.evidence.evidence import Evidence
from banditroute.config import Config
from banditroute_sim.parallel import each
from banditroute_sim.rehearse.forecast import Forecast, Scale, confident_after, forecast
from banditroute_sim.rehearse.logged import LoggedWorld
from banditroute_sim.rehearse.rollout import Case, Run, quality_change, run, saving
from banditroute_sim.rehearse.rules import Limits, rules_of
from banditroute_sim.rehearse.stress import STRESSES, Stress
from banditroute_sim.rehearse.world import World
from banditroute_sim.replay.run import check_replayable, per_request

Floats = NDArray[np.float64]

REQUESTS: Final = 10_000  # of a run, at most, unless asked otherwise
_LEAST_SCENARIO_RUNS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalOptions:
    """How to rehearse.

    Parameters
    ----------
    limits : Limits
        The rules.
    requests : int, optional
        Length of a rollout; default: as many as the world was fitted to, at most 10,000.
    runs : int
        Resampled runs of the steady rollout; half as many in random order, a third per scenario.
    confidence : float
        Of the intervals.
    requests_per_day : float
        Traffic, for times in days; NaN where it is not known.
    scenarios : bool
        Whether to run the scenarios.
    seed : int
        Of the runs, and added to the seed of the configuration.
    workers : int
        Processes.
    """

    limits: Limits = field(default_factory=Limits)
    requests: int | None = None
    runs: int = 24
    confidence: float = 0.95
    requests_per_day: float = math.nan
    scenarios: bool = True
    seed: int = 0
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A rehearsal: the object that `--json` prints, and what figures are drawn from.

    Attributes
    ----------
    result : dict
    steady : list of Run
        Runs without a change: in random order if the world has one, else all.
    stressed : list of (Stress, list of Run)
    """

    result: dict[str, Any]
    steady: list[Run]
    stressed: list[tuple[Stress, list[Run]]]


def rehearse(
    world: World,
    config: Config,
    options: RehearsalOptions,
    warm: Evidence | None = None,
    note: Callable[[int], None] | None = None,
) -> Rehearsal:
    """Rehearse a rollout.

    Parameters
    ----------
    world : World
        Fitted to a data set or a log; its models are those of the configuration.
    config : Config
        What would run.
    options : RehearsalOptions
        How, and the rules.
    warm : Evidence, optional
        What is known beforehand.
    note : callable, optional
        Called with how many runs are done.

    Returns
    -------
    Rehearsal
        After Ctrl-C that of the runs which are done; ``result["interrupted"]`` says so, and ``result["go"]`` is False.

    Raises
    ------
    KeyboardInterrupt
        If fewer runs are done than an interval needs.
    ConfigError
        If the configuration cannot be rehearsed.
    """
    notes = [*check_replayable(config), *world.notes]
    config = per_request(config)
    requests = options.requests or min(world.size, REQUESTS)
    first = 1_000_000 * options.seed
    orders = 0 if world.fresh else max(options.runs // 2, 4)
    ordered = [Case(world, config, warm, requests, first + i, "order") for i in range(orders)]
    resampled = [
        Case(world, config, warm, requests, first + orders + i, "resample") for i in range(options.runs)
    ]
    cases = _in_turn(ordered, resampled)
    found = each(run, cases, options.workers, note)
    stopped = len(found) < len(cases)
    order, resample = (
        [one for one, case in zip(found, cases, strict=False) if case.how == how]
        for how in ("order", "resample")
    )
    if len(resample) < 2 or (ordered and not order):
        raise KeyboardInterrupt
    if stopped:
        notes.append(f"stopped after {len(found)} of {len(cases)} steady runs, and before the scenarios")
    steady = order or resample
    share = np.mean([one.share[len(one.share) // 2 :].mean(axis=0) for one in steady], axis=0)
    target = int(share.argmax())
    stressed: list[tuple[Stress, list[Run]]] = []
    if options.scenarios and not stopped:
        count = min(max(_LEAST_SCENARIO_RUNS, options.runs // 3), len(steady))
        # the same draws as the steady runs: what differs is the change
        starts = (ordered or resampled)[:count]
        stories = [
            Case(c.world, c.config, c.warm, c.requests, c.seed, c.how, stress, target)
            for stress in STRESSES
            for c in starts
        ]
        more = None if note is None else lambda done: note(len(cases) + done)
        try:
            told = each(run, stories, options.workers, more)
        except KeyboardInterrupt:  # before the first of them
            told = []
        stopped = len(told) < len(stories)
        if stopped:
            notes.append(f"stopped after {len(told)} of {len(stories)} runs of scenarios")
        parts = [told[i * count : (i + 1) * count] for i in range(len(STRESSES))]
        stressed = [(stress, part) for stress, part in zip(STRESSES, parts, strict=True) if len(part) > 1]
    result = _result(world, config, options, requests, order, resample, stressed, target, share)
    result |= {"go": result["go"] and not stopped, "interrupted": stopped, "notes": notes}
    return Rehearsal(result, steady, stressed)


def number_of_runs(world: World, options: RehearsalOptions) -> int:
    """Return how many runs a rehearsal takes, for its progress."""
    orders = 0 if world.fresh else max(options.runs // 2, 4)
    count = min(max(_LEAST_SCENARIO_RUNS, options.runs // 3), orders or options.runs)
    return orders + options.runs + (count * len(STRESSES) if options.scenarios else 0)


def _in_turn(first: Sequence[Case], second: Sequence[Case]) -> list[Case]:
    """Return both in turns, each at its own pace, so that a part from the beginning holds both alike."""
    places = [((i + 0.5) / len(cases), case) for cases in (first, second) for i, case in enumerate(cases)]
    return [case for _, case in sorted(places, key=lambda one: one[0])]


def _result(
    world: World,
    config: Config,
    options: RehearsalOptions,
    requests: int,
    order: Sequence[Run],
    resample: Sequence[Run],
    stressed: Sequence[tuple[Stress, Sequence[Run]]],
    target: int,
    share: Floats,
) -> dict[str, Any]:
    def told(of: Callable[[Floats], Floats], scale: Scale = "plain") -> Forecast:
        narrow = of(np.array([one.all for one in order]).reshape(-1, 4))
        wide = of(np.array([one.all for one in resample]))
        return forecast(narrow, wide, requests, world.size, scale)

    level = options.confidence
    forecasts = {
        "quality_change": told(quality_change),
        "saving": told(saving, "share"),
        "saving_usd": told(lambda columns: columns[:, 3] - columns[:, 1]),
        "mean_quality": told(lambda columns: columns[:, 0]),
        "mean_cost_usd": told(lambda columns: columns[:, 1], "log"),
        "present_quality": told(lambda columns: columns[:, 2]),
        "present_cost_usd": told(lambda columns: columns[:, 3], "log"),
    }
    budget = config.objective.budget_usd_per_request
    steady = order or resample
    confident = _confident(steady, options)
    scenarios = [_scenario(stress, runs, steady, config, target, options) for stress, runs in stressed]
    worst = {"mean_cost_usd": 0.9, "present_quality": None, "present_cost_usd": None}
    expected = {name: _told(one, level, worst.get(name, 0.1)) for name, one in forecasts.items()}
    if not forecasts["present_cost_usd"].value > 0.0:  # of nothing there is no share
        expected["saving"] = dict.fromkeys(expected["saving"])
    result: dict[str, Any] = {
        "world": world.name,
        "fitted_to": world.size,
        "present_policy": world.present,
        "requests": requests,
        "requests_per_day": _finite(options.requests_per_day),
        "days": _finite(requests / options.requests_per_day),
        "confidence": level,
        "expected": expected,
        "budget": None
        if budget is None
        else {
            "usd_per_request": budget,
            "utilisation": forecasts["mean_cost_usd"].value / budget,
            "breach_probability": forecasts["mean_cost_usd"].above(budget),
            "dearest_512_requests": float(np.max([one.dearest for one in steady])) / budget,
        },
        "confident": confident,
        "share": dict(zip(world.models, share.tolist(), strict=True)),
        "fixed": {
            name: {"mean_quality": float(q), "mean_cost_usd": float(c)}
            for name, q, c in zip(world.models, *world.means(), strict=True)
        },
        "scenarios": scenarios,
        "check": world.check() if isinstance(world, LoggedWorld) else None,
    }
    result["rules"] = rules_of(result, options.limits)
    result["go"] = all(rule["holds"] for rule in result["rules"])
    return result


def _told(one: Forecast, level: float, worst: float | None) -> dict[str, float | None]:
    low, high = one.interval(level)
    decile = None if worst is None else one.quantile(worst)
    return {"value": one.value, "low": low, "high": high, "worst_decile": decile}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _confident(steady: Sequence[Run], options: RehearsalOptions) -> dict[str, Any]:
    """Return when the router can tell by itself that it keeps the quality."""
    found = np.sort(
        confident_after(steady[0].looks, [one.lower for one in steady], -options.limits.max_quality_loss)
    )
    middle = float(found[len(found) // 2])
    late = float(found[min(len(found) - 1, math.ceil(0.9 * len(found)) - 1)])
    return {
        "requests": _finite(middle),
        "requests_nine_in_ten": _finite(late),
        "days": _finite(middle / options.requests_per_day),
        "days_nine_in_ten": _finite(late / options.requests_per_day),
    }


def _scenario(
    stress: Stress,
    runs: Sequence[Run],
    steady: Sequence[Run],
    config: Config,
    target: int,
    options: RehearsalOptions,
) -> dict[str, Any]:
    """Return what happens in a scenario: means of the runs while it lasts."""
    name = config.models[target].name
    hit = np.array([one.hit for one in runs])
    calm = np.array([one.hit for one in steady[: len(runs)]])
    if stress.out:  # the steady runs over the same stretch
        bins = np.array([one.bins for one in steady[: len(runs)]])
        count = bins.shape[1]
        calm = bins[:, count // 2 : count // 2 + max(1, round(stress.out * count))].mean(axis=1)
    loss = -quality_change(hit)
    error = float(loss.std(ddof=1) / len(loss) ** 0.5) if len(loss) > 1 else math.inf
    reach = float(student.ppf(0.95, max(len(loss) - 1, 1))) * error
    watched = target if not stress.newcomer else len(config.models)
    share = np.mean([one.share[:, watched] for one in runs], axis=0)
    half = len(share) // 2
    lasting = slice(half, half + max(1, round(stress.out * len(share)))) if stress.out else slice(half, None)
    noticed = [one.noticed for one in runs if one.noticed >= 0]
    middle = float(np.median(noticed)) if len(noticed) > len(runs) // 2 else None
    return {
        "name": stress.name,
        "title": stress.title.format(name),
        "quality": float(hit[:, 0].mean()),
        "cost_usd": float(hit[:, 1].mean()),
        "steady_quality": float(calm[:, 0].mean()),
        "steady_cost_usd": float(calm[:, 1].mean()),
        "present_quality": float(hit[:, 2].mean()),
        "present_cost_usd": float(hit[:, 3].mean()),
        "loss_against_present": float(loss.mean()),
        "loss_at_most": float(loss.mean()) + reach,
        "watched": name if not stress.newcomer else "the new model",
        "share_before": 0.0 if stress.newcomer else float(share[half // 2 : half].mean()),
        "share_while": float(share[lasting].mean()),
        "share_at_end": float(share[-max(1, len(share) // 12) :].mean()),
        "noticed_after": middle,
        "noticed_after_days": None if middle is None else _finite(middle / options.requests_per_day),
    }
