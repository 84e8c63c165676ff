"""The report of a simulation."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from banditroute_sim.report import (
    Figure,
    Line,
    Page,
    Point,
    Table,
    calibration,
    frontier,
    histogram,
    lines,
    shares,
)
from banditroute_sim.report.tables import Cell
from banditroute_sim.scenarios import SCENARIOS
from banditroute_sim.simulate.measures import stretches
from banditroute_sim.simulate.options import OURS
from banditroute_sim.simulate.run import SeedResult, Simulated
from banditroute_sim.simulate.summary import by_scenario, document, interval, outcomes, rows

_DRAWN: Final = 8  # policies in one figure
_WIDE: Final = 30.0  # the largest regret over the smallest beyond which a figure is logarithmic
_NAMED: Final = 12  # models of a frontier


def report(found: Simulated) -> Page:
    """Return the page of what was found."""
    facts = document(found)
    grouped = by_scenario(found)
    page = Page("Simulation", _lead(found, grouped))
    if found.interrupted:
        page.verdict("The run was interrupted: what follows is of the seeds that were finished.", good=False)
    if len(grouped) > 1:
        page.section("Cumulative regret")
        page.sentence("Mean over seeds. Every policy met the same worlds; less is better.")
        page.table(_overview(facts))
    for name, seeds in grouped.items():
        _scenario(page, name, seeds, facts["scenarios"][name], found)
    return page


def _lead(found: Simulated, grouped: dict[str, list[SeedResult]]) -> str:
    worlds = "one world" if len(grouped) == 1 else f"{len(grouped)} worlds"
    policies = "one policy" if len(found.options.policies) == 1 else f"{len(found.options.policies)} policies"
    return (
        f"{policies[:1].upper()}{policies[1:]} in {worlds}, {found.options.seeds} seeds each. Regret is the expected "
        "utility of the best model of every round minus that of the chosen one."
    )


def _overview(facts: dict[str, Any]) -> Table:
    scenarios = facts["scenarios"]
    policies = list(next(iter(scenarios.values()))["policies"])
    cells: list[list[Cell]] = [
        [name, *(scenario["policies"][who]["regret"]["mean"] for who in policies)]
        for name, scenario in scenarios.items()
    ]
    return Table(("world", *policies), cells)


def _scenario(
    page: Page, name: str, seeds: list[SeedResult], facts: dict[str, Any], found: Simulated
) -> None:
    page.section(name)
    page.sentence((SCENARIOS[name].build.__doc__ or "").splitlines()[0])
    page.table(Table(*rows(facts), caption=f"{facts['horizon']:,} rounds, {facts['seeds']} seeds"))
    page.figure(_regret(seeds, facts, found))
    ours = OURS if OURS in found.options.policies else found.options.policies[0]
    page.figure(_shares(seeds, ours, facts))
    if any(result.cost.any() for result in seeds):
        page.figure(_frontier(seeds, found))
    sample = np.concatenate([each.sample for each in outcomes(seeds, OURS)] or [np.zeros((3, 0))], axis=1)
    if sample.shape[1]:
        page.figure(
            calibration(
                sample[0], sample[1], caption=f"Calibration: the quality that {OURS} expected, and votes."
            )
        )
        page.figure(
            histogram(sample[2], xlabel="propensity", caption=f"Propensities of the choices of {OURS}.")
        )


def _regret(seeds: list[SeedResult], facts: dict[str, Any], found: Simulated) -> Figure:
    ends = stretches(facts["horizon"])
    totals = {who: facts["policies"][who]["regret"]["mean"] for who in found.options.policies}
    # Ours first, then the best of the others; the oracle's line is the axis.
    ranked = sorted((who for who in totals if who not in (OURS, "oracle")), key=lambda who: totals[who])
    drawn = ([OURS] if OURS in totals else []) + ranked
    curves = []
    for who in drawn[:_DRAWN]:
        mean, low, high = interval(np.array([each.curve for each in outcomes(seeds, who)]))
        curves.append(Line(who, ends, mean, low, high) if len(seeds) > 1 else Line(who, ends, mean))
    known = [totals[who] for who in drawn[:_DRAWN] if totals[who] > 0.0]
    which = "" if len(drawn) <= _DRAWN else f" of the {_DRAWN} policies with the least"
    caption = f"Cumulative regret{which}" + (" with 95 % intervals over seeds." if len(seeds) > 1 else ".")
    if seeds[0].changes:
        caption += " Dotted: the world changes."
    return lines(
        curves,
        xlabel="round",
        ylabel="cumulative regret",
        caption=caption,
        marks=[float(change) for change in seeds[0].changes],
        log=bool(known) and max(known) > _WIDE * min(known),
    )


def _shares(seeds: list[SeedResult], who: str, facts: dict[str, Any]) -> Figure:
    """Draw the share of each model; models are named by their place at the start of their world."""
    total = sum(
        each.shares[:, result.rank] for result in seeds for each in result.outcomes if each.policy == who
    )
    counts = np.asarray(total, np.float64)
    share = counts / counts.sum(axis=1, keepdims=True)
    return shares(
        stretches(facts["horizon"]),
        {_place(k): share[:, k] for k in range(share.shape[1])},
        xlabel="round",
        caption=f"Which models {who} chose. Models are numbered by their utility in the first tenth, the best is 1.",
    )


def _place(k: int) -> str:
    return f"model {k + 1}"


def _frontier(seeds: list[SeedResult], found: Simulated) -> Figure:
    points = []
    for who in found.options.policies:
        each = outcomes(seeds, who)
        quality, low, _ = interval(np.array([outcome.quality for outcome in each]))
        cost = float(np.mean([outcome.cost for outcome in each]))
        points.append(Point(who, cost, float(quality), float(quality - low)))
    points.sort(key=lambda point: point.name != OURS)
    models = min(len(seeds[0].rank), _NAMED)
    fixed = [
        Point(
            _place(k),
            float(np.mean([result.cost[result.rank[k]] for result in seeds])),
            float(np.mean([result.quality[result.rank[k]] for result in seeds])),
        )
        for k in range(models)
    ]
    return frontier(
        points,
        fixed,
        xlabel="cost per request",
        caption="Quality and cost, both in units of utility, with 95 % intervals over seeds; models numbered as above.",
    )
