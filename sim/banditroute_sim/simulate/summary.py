"""From seeds to numbers: means with 95 % intervals over seeds, differences seed by seed, and how they are printed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from banditroute_sim.report import number
from banditroute_sim.report.tables import Cell
from banditroute_sim.simulate.measures import Outcome, stretches
from banditroute_sim.simulate.options import OURS
from banditroute_sim.simulate.run import SeedResult, Simulated

Floats = NDArray[np.float64]
CONFIDENCE: Final = 0.95
NEVER: Final = "never"


def interval(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Return mean, low and high of Student's interval over the first axis; low and high are NaN for one seed.

    Parameters
    ----------
    values : float64[seeds, ...]
    """
    mean: Floats = values.mean(axis=0)
    count = len(values)
    if count < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = student.ppf(0.5 + CONFIDENCE / 2, count - 1) * values.std(axis=0, ddof=1) / math.sqrt(count)
    return mean, mean - half, mean + half


def by_scenario(found: Simulated) -> dict[str, list[SeedResult]]:
    """Return the finished seeds of every scenario that has any."""
    grouped: dict[str, list[SeedResult]] = {}
    for result in found.seeds:
        grouped.setdefault(result.job.scenario, []).append(result)
    return grouped


def outcomes(seeds: Sequence[SeedResult], policy: str) -> list[Outcome]:
    """Return what one policy made of every seed."""
    return [each for result in seeds for each in result.outcomes if each.policy == policy]


def document(found: Simulated) -> dict[str, Any]:
    """Return what was found as one JSON object; null is unknown."""
    options = found.options
    scenarios: dict[str, Any] = {}
    for name, seeds in by_scenario(found).items():
        job = seeds[0].job
        ours = outcomes(seeds, OURS)
        scenarios[name] = {
            "horizon": job.horizon,
            "seeds": len(seeds),
            "changes": list(seeds[0].changes),
            "policies": {
                who: _policy(outcomes(seeds, who), ours, job.horizon, options.budget, seeds[0].changes)
                for who in options.policies
            },
        }
    return {
        "first_seed": options.first_seed,
        "budget": options.budget,
        "confidence": CONFIDENCE,
        "interrupted": found.interrupted,
        "scenarios": scenarios,
    }


def _policy(
    each: Sequence[Outcome],
    ours: Sequence[Outcome],
    horizon: int,
    budget: float | None,
    changes: Sequence[int],
) -> dict[str, Any]:
    regret = np.array([outcome.regret for outcome in each])
    seconds = sum(outcome.seconds for outcome in each)
    curve = np.array([outcome.curve for outcome in each])
    some = np.unique(np.linspace(0, curve.shape[1] - 1, 20).round().astype(int))
    mean, low, high = interval(curve[:, some])
    cost = [outcome.cost for outcome in each]
    found: dict[str, Any] = {
        "regret": _spread(regret),
        "regret_above_ours": None,
        "recovery": [
            {
                "change": change,
                "median_rounds": float(np.median([outcome.recovery[i] for outcome in each])),
                "recovered_share": float(
                    np.mean([outcome.recovery[i] < horizon - change for outcome in each])
                ),
            }
            for i, change in enumerate(changes)
        ],
        "best_share": _spread([outcome.best_share for outcome in each]),
        "quality": _spread([outcome.quality for outcome in each]),
        "cost": _spread(cost),
        "budget_use": None if budget is None else float(np.mean(cost)) / budget,
        "latency_ms": None
        if each[0].latency_ms is None
        else _spread([outcome.latency_ms or 0.0 for outcome in each]),
        "decisions_per_second": None if seconds <= 0.0 else round(len(each) * horizon / seconds),
        "curve": {
            "rounds": stretches(horizon)[some].tolist(),
            "mean": mean.tolist(),
            "low": _known(low),
            "high": _known(high),
        },
    }
    if ours and each[0].policy != OURS:
        found["regret_above_ours"] = _spread(regret - np.array([outcome.regret for outcome in ours]))
    return found


def _known(values: Floats) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]


def _spread(values: Sequence[float] | Floats) -> dict[str, float | None]:
    mean, low, high = (float(part) for part in interval(np.asarray(values, np.float64)))
    return {
        "mean": mean,
        "low": None if math.isnan(low) else low,
        "high": None if math.isnan(high) else high,
    }


HEAD: Final = (
    "policy", "regret", "95 % from", "to", "above ours", "recovered after", "best model", "quality", "cost",
    "budget use", "decisions/s",
)  # fmt: skip


def rows(scenario: dict[str, Any]) -> tuple[tuple[str, ...], list[list[Cell]]]:
    """Return a table of one scenario of a `document`: its head and its rows; columns without a number are left out."""
    table: list[list[Cell]] = []
    for who, found in scenario["policies"].items():
        above = found["regret_above_ours"]
        table.append(
            [
                who,
                found["regret"]["mean"],
                found["regret"]["low"],
                found["regret"]["high"],
                None if above is None else above["mean"],
                recovered(found),
                found["best_share"]["mean"],
                found["quality"]["mean"],
                found["cost"]["mean"],
                found["budget_use"],
                found["decisions_per_second"],
            ]
        )
    kept = [i for i in range(len(HEAD)) if any(row[i] not in (None, 0.0) for row in table)]
    return tuple(HEAD[i] for i in kept), [[row[i] for i in kept] for row in table]


def recovered(found: dict[str, Any]) -> Cell:
    """Return the median rounds after the first change, as a cell."""
    if not found["recovery"]:
        return None
    first = found["recovery"][0]
    return int(first["median_rounds"]) if first["recovered_share"] >= 0.5 else NEVER


def text(found: dict[str, Any]) -> str:
    """Return a `document` as it is printed for people."""
    parts = []
    for name, scenario in found["scenarios"].items():
        seeds = "1 seed" if scenario["seeds"] == 1 else f"{scenario['seeds']} seeds"
        head, table = rows(scenario)
        parts.append(f"{name}: {scenario['horizon']:,} rounds, {seeds}\n{_layout(head, table)}")
    return "\n\n".join(parts)


def _layout(head: Sequence[str], table: Sequence[Sequence[Cell]]) -> str:
    lines = [list(head), *([number(cell) for cell in row] for row in table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    texts = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        texts.append("  ".join(cells).rstrip())
    return "\n".join(texts)


CSV_HEAD: Final = (
    "scenario", "seed", "rounds", "policy", "regret", "recovery", "best_share", "quality", "cost", "budget_use",
    "latency_ms", "seconds",
)  # fmt: skip


def csv_rows(found: Simulated) -> Iterator[list[Cell]]:
    """Return one row per scenario, seed and policy."""
    budget = found.options.budget
    for result in found.seeds:
        for each in result.outcomes:
            yield [
                result.job.scenario,
                result.job.seed,
                result.job.horizon,
                each.policy,
                each.regret,
                each.recovery[0] if each.recovery else None,
                each.best_share,
                each.quality,
                each.cost,
                None if budget is None else each.cost / budget,
                each.latency_ms,
                each.seconds,
            ]
