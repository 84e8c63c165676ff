"""A replay for people: on a terminal, as a page, as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from banditroute_sim.replay.run import Replayed
from banditroute_sim.report import (
    Line,
    Page,
    Point,
    Table,
    calibration,
    frontier,
    histogram,
    lines,
    shares,
    write_csv,
)

_WIDE: Final = 100  # columns of a page in a pipe
_COST: Final = "USD per 1,000"  # requests: short on an axis
_FIELDS: Final = ("mean_quality", "mean_cost_usd", "mean_utility", "budget_utilisation")


def objective_text(objective: Mapping[str, Any]) -> str:
    """Return an objective in words."""
    if "cost_weight" in objective:
        return f"quality − {objective['cost_weight']:g} × USD"
    if "budget_usd_per_request" in objective:
        return f"the most quality for ${objective['budget_usd_per_request']:g} per request"
    return f"{objective['quality_floor']:.0%} of the quality of {objective['reference']} at the least cost"


def rows_of(result: Mapping[str, Any]) -> list[tuple[str, Any, Any, Any]]:
    """Return what is compared: name, mean quality, mean cost (USD), mean utility."""
    named = [
        ("banditroute", result),
        ("banditroute, last third", result["last_third"]),
        (f"best fixed model: {result['best_fixed']['model']}", result["best_fixed"]),
        ("best mix of models at that spend", result["best_mix"]),
        ("best of each prompt", result["oracle"]),
    ]
    return [(name, *(one[field] for field in _FIELDS[:3])) for name, one in named]


def mix_text(result: Mapping[str, Any]) -> str:
    """Return the best mix in words."""
    return " + ".join(f"{share:.0%} {name}" for name, share in result["best_mix"]["shares"].items())


def print_replay(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the result of a replay."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    console.print(
        f"{result['data_set']}: {result['prompts']:,} prompts, {len(result['models'])} models, "
        + (f"{result['shuffles']} shuffles" if result["shuffles"] else "in their order")
        + f"; objective: {objective_text(result['objective'])}",
        highlight=False,
    )
    table = RichTable()
    table.add_column("", overflow="fold")
    for title in ("quality", "cost per 1,000", "utility"):
        table.add_column(title, justify="right", no_wrap=True)
    for index, (name, quality, cost, utility) in enumerate(rows_of(result)):
        table.add_row(
            name,
            f"{quality:.4f}",
            f"${1e3 * cost:,.4g}",
            f"{utility:.4f}",
            style="bold" if not index else None,
        )
    console.print(table)
    facts = [f"best mix: {mix_text(result)}"]
    error = result["standard_error"]["mean_quality"]
    if error is not None:
        facts.append(f"standard error of the quality {error:.4f}")
    if result["budget_utilisation"] is not None:
        facts.append(
            f"{result['budget_utilisation']:.1%} of the budget spent, cost weight {result['cost_weight']:.4g}"
        )
    if "share_of_reference" in result:
        facts.append(f"{result['share_of_reference']:.1%} of the reference's quality")
    if result.get("APGR") is not None:
        calls = ", ".join(
            f"{name} {'never' if result[name] is None else format(result[name], '.0%')}"
            for name in ("CPT50", "CPT80", "CPT95")
        )
        facts.append(f"calls to {result['strong']}: {calls}; APGR {result['APGR']:.3f}")
    facts.append(f"{result['decisions_per_second']:,.0f} decisions per second")
    for fact in [*facts, *(f"note: {note}" for note in result["notes"])]:
        console.print(fact, highlight=False)


def write_rows(path: Path, result: Mapping[str, Any]) -> None:
    """Write a row per shuffle as CSV; raises ConfigError."""
    head = [
        "shuffle",
        *_FIELDS,
        *(f"last_third_{field}" for field in _FIELDS),
        "decisions_per_second",
    ]
    rows = [
        [
            one["shuffle"],
            *(one[field] for field in _FIELDS),
            *(one["last_third"][field] for field in _FIELDS),
            one["decisions_per_second"],
        ]
        for one in result["per_shuffle"]
    ]
    write_csv(path, head, rows)


def replay_page(replayed: Replayed) -> Page:
    """Return the page of a replay."""
    result, passes = replayed.result, replayed.passes
    gain = result["mean_utility"] - result["best_fixed"]["mean_utility"]
    over_mix = result["mean_quality"] - result["best_mix"]["mean_quality"]
    page = Page(
        f"Replay of {result['data_set']}",
        f"{result['prompts']:,} prompts and {len(result['models'])} models, learned from nothing but the feedback "
        f"on what was chosen. Objective: {objective_text(result['objective'])}.",
    )
    page.sentence(
        f"Over the whole stream {gain:+.4f} utility per request against always {result['best_fixed']['model']}, "
        f"and {over_mix:+.4f} quality against the best random mix of fixed models at the same spend."
    )
    head = ("", "quality", _COST, "utility")
    page.table(Table(head, [(name, q, 1e3 * c, u) for name, q, c, u in rows_of(result)]))
    page.sentence(f"The mix is {mix_text(result)}.")
    page.section("Quality and cost")
    quality, cost = replayed.fixed
    error = result["standard_error"]["mean_quality"]
    ours = Point(
        "banditroute",
        1e3 * result["mean_cost_usd"],
        result["mean_quality"],
        1.96 * error if error is not None else float("nan"),
    )
    late = result["last_third"]
    last = Point("its last third", 1e3 * late["mean_cost_usd"], late["mean_quality"])
    fixed = [
        Point(name, 1e3 * float(c), float(q))
        for name, q, c in zip(result["models"], quality, cost, strict=True)
    ]
    caption = "The router, every model, and random mixes of models."
    page.figure(frontier([ours, last], fixed, caption=caption, xlabel=_COST))
    _over_time(page, replayed)
    if result.get("cost_curve"):
        curve = result["cost_curve"]
        page.section("The cost curve of two models")
        page.figure(
            lines(
                [
                    Line("by what was expected", curve["calls_to_strong"], curve["gap_recovered"]),
                    Line("at random", [0.0, 1.0], [0.0, 1.0]),
                ],
                xlabel=f"share of calls to {result['strong']}",
                ylabel="share of the quality gap recovered",
                caption="Over the last third of the stream, ranked by what was expected before each outcome.",
            )
        )
        rows = [(name, result[name]) for name in ("CPT50", "CPT80", "CPT95", "APGR")]
        page.table(Table(("", "share"), rows))
    page.section("How far the predictions are to be trusted")
    pairs = np.concatenate([one.pairs for one in passes])
    page.figure(
        calibration(
            pairs[:, 0], pairs[:, 1], caption="Expected quality of the chosen model, and what it got."
        )
    )
    page.figure(
        histogram(
            pairs[:, 2], xlabel="propensity", caption="The probability with which each model was chosen."
        )
    )
    page.section("Every shuffle")
    page.table(
        Table(
            ("shuffle", "quality", _COST, "utility", "budget used"),
            [
                [
                    one["shuffle"],
                    one["mean_quality"],
                    1e3 * one["mean_cost_usd"],
                    one["mean_utility"],
                    one["budget_utilisation"],
                ]
                for one in result["per_shuffle"]
            ],
        )
    )
    for note in result["notes"]:
        page.sentence(f"Note: {note}.")
    return page


def _over_time(page: Page, replayed: Replayed) -> None:
    result, passes = replayed.result, replayed.passes
    bins = np.array([one.bins for one in passes])
    x = np.linspace(0.0, result["prompts"], bins.shape[1] + 1)[1:].round()
    page.section("Over time")
    share = np.mean([one.share for one in passes], axis=0)
    names = result["models"]
    page.figure(
        shares(
            x,
            {name: share[:, k] for k, name in enumerate(names)},
            xlabel="requests",
            caption="Which model served, mean of the shuffles.",
        )
    )
    utility = bins[:, :, 0] - result["cost_weight"] * bins[:, :, 1]
    middle = utility.mean(axis=0)
    reach = 1.96 * utility.std(axis=0, ddof=1) / len(passes) ** 0.5 if len(passes) > 1 else None
    best = np.full(len(x), result["best_fixed"]["mean_utility"])
    page.figure(
        lines(
            [
                Line(
                    "banditroute",
                    x,
                    middle,
                    None if reach is None else middle - reach,
                    None if reach is None else middle + reach,
                ),
                Line("best fixed model in hindsight", x, best),
            ],
            xlabel="requests",
            ylabel="utility",
            caption="Mean utility of each part of the stream; the band is a 95 % interval over shuffles.",
        )
    )
