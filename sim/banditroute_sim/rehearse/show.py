"""A rehearsal for people: on a terminal, as a page, as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable

from banditroute_sim.rehearse.rollout import Run
from banditroute_sim.rehearse.rules import Limits
from banditroute_sim.rehearse.run import Rehearsal
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
    number,
    shares,
    write_csv,
)

Floats = NDArray[np.float64]

_WIDE: Final = 110  # columns of a page in a pipe
_COST: Final = "USD per 1,000"  # requests: short on an axis
_EXPECTED: Final = (
    ("quality_change", "change in quality", 1.0, "{:+.4f}"),
    ("saving", "saving", 100.0, "{:.1f}%"),
    ("saving_usd", "saved per 1,000", 1e3, "${:.3g}"),
    ("mean_quality", "quality", 1.0, "{:.4f}"),
    ("present_quality", "quality today", 1.0, "{:.4f}"),
    ("mean_cost_usd", "cost per 1,000", 1e3, "${:.3g}"),
    ("present_cost_usd", "cost today", 1e3, "${:.3g}"),
)
_ENDS: Final = ("value", "low", "high", "worst_decile")


def headline(result: Mapping[str, Any]) -> str:
    """Return the verdict in a sentence."""
    broken = [rule["name"] for rule in result["rules"] if not rule["holds"]]
    if result["interrupted"]:
        return (
            f"No verdict: it was stopped; {len(broken)} of {len(result['rules'])} rules do not hold so far."
        )
    if not broken:
        return f"Go: all {len(result['rules'])} rules hold."
    return f"No-go: {len(broken)} of {len(result['rules'])} rules do not hold ({', '.join(broken)})."


def lead(result: Mapping[str, Any]) -> str:
    """Return what is expected in a sentence or two."""
    saved, change = result["expected"]["saving"], result["expected"]["quality_change"]
    level = f"{result['confidence']:.0%}"
    days = "" if result["days"] is None else f", {result['days']:,.1f} days at your traffic"
    usd = result["expected"]["saving_usd"]
    money = f"${1e3 * usd['value']:.3g} per 1,000 requests"
    if saved["value"] is None:
        cost = f"today costs nothing, and {money.replace('-', '')} would be {'saved' if usd['value'] > 0 else 'paid'}"
    else:
        cost = (
            f"{saved['value']:.1%} of the cost saved, {money} ({level} interval {saved['low']:.1%} to "
            f"{saved['high']:.1%})"
        )
    return (
        f"Over {result['requests']:,} requests{days}, against {result['present_policy']}: {cost}, quality "
        f"{change['value']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})."
    )


def confident_text(result: Mapping[str, Any], loss: float) -> str:
    """Return when the router can tell by itself that quality is kept."""
    told = result["confident"]
    if told["requests"] is None:
        return (
            f"Within {result['requests']:,} requests the router does not become sure by itself that quality is lost by "
            f"at most {loss:g}."
        )
    text = (
        f"After {told['requests']:,.0f} requests{_days(told['days'])} the router is sure by itself, with 95 % "
        f"confidence, that quality is lost by at most {loss:g}"
    )
    if told["requests_nine_in_ten"] is None:
        return f"{text}; in one run of ten or more it does not become so."
    return f"{text}; in nine runs of ten after {told['requests_nine_in_ten']:,.0f}{_days(told['days_nine_in_ten'])}."


def _days(days: float | None) -> str:
    return "" if days is None else f" ({days:,.2f} days)"


def happened(one: Mapping[str, Any]) -> str:
    """Return what happens in a scenario, in a sentence."""
    if one["name"] == "new-model":
        return f"{one['watched']} gets {one['share_while']:.1%} of the requests, {one['share_at_end']:.1%} at the end"
    text = f"{one['watched']} goes from {one['share_before']:.0%} of the requests to {one['share_while']:.0%}"
    if one["name"] == "outage":
        return f"{text}, and is at {one['share_at_end']:.0%} at the end"
    if one["noticed_after"] is not None:
        text += f"; noticed after {one['noticed_after']:,.0f} requests{_days(one['noticed_after_days'])}"
    elif one["name"] == "degradation":
        text += "; without a verdict of the change detector"
    return text


def expected_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the forecasts, written out."""
    rows = []
    for key, title, scale, form in _EXPECTED:
        found = [result["expected"][key][end] for end in _ENDS]
        rows.append([title, *("–" if one is None else form.format(scale * one) for one in found)])
    return rows


def scenario_rows(result: Mapping[str, Any]) -> list[list[Any]]:
    """Return a row per scenario: title, quality, its quality without the change, today's, cost, cost without."""
    keys = (
        "title",
        "quality",
        "steady_quality",
        "present_quality",
        "cost_usd",
        "steady_cost_usd",
        "present_cost_usd",
    )
    return [[one[key] for key in keys] for one in result["scenarios"]]


def print_rehearsal(result: Mapping[str, Any], limits: Limits, console: Console | None = None) -> None:
    """Print the go / no-go page."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    console.print(headline(result), style="bold green" if result["go"] else "bold red", highlight=False)
    console.print(lead(result), highlight=False)
    table = RichTable(title="expected", title_justify="left")
    level = f"{result['confidence']:.0%}"
    table.add_column("", no_wrap=True)
    for title in ("expected", f"{level} from", "to", "worst decile"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in expected_rows(result):
        table.add_row(*row)
    console.print(table)
    budget = result["budget"]
    if budget is not None:
        console.print(budget_text(budget), highlight=False)
    console.print(confident_text(result, limits.max_quality_loss), highlight=False)
    if result["scenarios"]:
        table = RichTable(title="what happens when", title_justify="left")
        table.add_column("")
        for title in ("quality", "without it", "today's policy", "USD per 1,000"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("")
        for one in result["scenarios"]:
            numbers = [f"{one[key]:.4f}" for key in ("quality", "steady_quality", "present_quality")]
            table.add_row(one["title"], *numbers, number(1e3 * one["cost_usd"]), happened(one))
        console.print(table)
    table = RichTable(title="rules", title_justify="left")
    table.add_column("")
    table.add_column("", no_wrap=True)
    for title in ("found", "limit"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for rule in result["rules"]:
        holds = "holds" if rule["holds"] else "broken"
        style = None if rule["holds"] else "bold red"
        table.add_row(
            rule["name"], holds, number(rule["found"]), number(rule["limit"]), rule["rule"], style=style
        )
    console.print(table)
    for note in result["notes"]:
        console.print(f"note: {note}", highlight=False)


def budget_text(budget: Mapping[str, Any]) -> str:
    """Return what becomes of the budget, in a sentence."""
    return (
        f"Of ${budget['usd_per_request']:.4g} per request {budget['utilisation']:.1%} is spent; the probability that "
        f"it is more than all is {budget['breach_probability']:.1%}. The dearest 512 requests in a row cost "
        f"{budget['dearest_512_requests']:.2f} budgets."
    )


def write_rows(path: Path, rehearsal: Rehearsal) -> None:
    """Write a row per run as CSV; raises ConfigError."""
    head = ("scenario", "run", "quality", "cost_usd", "present_quality", "present_cost_usd")
    parts: list[tuple[str, Sequence[Run]]] = [("steady", rehearsal.steady)]
    parts += [(stress.name, runs) for stress, runs in rehearsal.stressed]
    rows = [
        [name, i, *(one.all if name == "steady" else one.hit).tolist()]
        for name, runs in parts
        for i, one in enumerate(runs)
    ]
    write_csv(path, head, rows)


def rehearsal_page(rehearsal: Rehearsal, limits: Limits) -> Page:
    """Return the page of a rehearsal."""
    result = rehearsal.result
    page = Page(f"Rehearsal on {result['world']}", lead(result))
    page.verdict(headline(result), good=result["go"])
    page.section("What is to be expected")
    level = f"{result['confidence']:.0%}"
    page.table(Table(("", "expected", f"{level} from", "to", "worst decile"), expected_rows(result)))
    page.sentence(
        "The intervals hold what is not known of the world, the luck of which requests come, and that of what the "
        f"router tries first. The world is fitted to {result['fitted_to']:,} requests."
    )
    if result["budget"] is not None:
        page.sentence(budget_text(result["budget"]))
    page.section("The rules")
    rows = [
        (rule["name"], "holds" if rule["holds"] else "broken", rule["found"], rule["limit"], rule["rule"])
        for rule in result["rules"]
    ]
    page.table(Table(("rule", "", "found", "limit", "it says that"), rows))
    _steady(page, rehearsal, limits)
    if rehearsal.stressed:
        _scenarios(page, rehearsal)
    page.section("How far the predictions are to be trusted")
    pairs = np.concatenate([one.pairs for one in rehearsal.steady])
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
    if result["check"] is not None:
        page.section("The world and the log")
        found = [(what.replace("_", " "), one["log"], one["world"]) for what, one in result["check"].items()]
        page.table(Table(("mean of what was served", "in the log", "in the world"), found))
    for note in result["notes"]:
        page.sentence(f"Note: {note}.")
    return page


def _steady(page: Page, rehearsal: Rehearsal, limits: Limits) -> None:
    result, runs = rehearsal.result, rehearsal.steady
    page.section("If nothing changes")
    expected, fixed = result["expected"], result["fixed"]
    reach = 0.5 * (expected["mean_quality"]["high"] - expected["mean_quality"]["low"])
    cost, today_cost = (1e3 * expected[key]["value"] for key in ("mean_cost_usd", "present_cost_usd"))
    ours = Point("the router", cost, expected["mean_quality"]["value"], reach)
    today = Point("today", today_cost, expected["present_quality"]["value"])
    others = [Point(name, 1e3 * one["mean_cost_usd"], one["mean_quality"]) for name, one in fixed.items()]
    caption = "The router, the present policy, every model, and random mixes."
    page.figure(frontier([ours, today], others, caption=caption, xlabel=_COST))
    x = _axis(rehearsal)
    share = np.mean([one.share for one in runs], axis=0)
    page.figure(
        shares(
            x,
            {name: share[:, k] for k, name in enumerate(fixed)},
            xlabel="requests",
            caption="Which model serves, mean of the runs.",
        )
    )
    page.figure(_over_time(x, {"the router": runs}, 0, "quality", "Quality of each part of the stream."))
    page.figure(_over_time(x, {"the router": runs}, 1, _COST, "Cost of each part of the stream."))
    lower = np.array([one.lower for one in runs])
    looks = runs[0].looks
    page.figure(
        lines(
            [
                Line("median run", looks, np.median(lower, axis=0), *np.quantile(lower, [0.1, 0.9], axis=0)),
                Line("limit", looks, np.full(len(looks), -limits.max_quality_loss)),
            ],
            xlabel="requests",
            ylabel="surely at least this change in quality",
            caption="What the router can tell by itself of its quality against the present policy: lower bounds with "
            "95 % confidence, of the median run and of eight runs in ten.",
        )
    )
    page.sentence(confident_text(result, limits.max_quality_loss))


def _scenarios(page: Page, rehearsal: Rehearsal) -> None:
    result = rehearsal.result
    page.section("What happens when …")
    head = (
        "while it lasts",
        "quality",
        "without the change",
        "today's policy",
        _COST,
        "without the change",
        "today's policy",
    )
    page.table(Table(head, scenario_rows(result)))
    x = _axis(rehearsal)
    for (_, runs), one in zip(rehearsal.stressed, result["scenarios"], strict=True):
        page.sentence(f"When {one['title']}: {happened(one)}.")
        steady = rehearsal.steady[: len(runs)]
        middle = 0.5 * result["requests"]
        page.figure(
            _over_time(
                x,
                {"the router": runs, "without the change": steady},
                0,
                "quality",
                f"Quality when {one['title']}.",
                (middle,),
            )
        )


def _axis(rehearsal: Rehearsal) -> Floats:
    """Return after how many requests each part of the stream ends."""
    count, requests = len(rehearsal.steady[0].bins), rehearsal.result["requests"]
    axis: Floats = np.linspace(0.0, requests, count + 1)[1:].round()
    return axis


def _over_time(
    x: Floats,
    drawn: Mapping[str, Sequence[Run]],
    column: int,
    ylabel: str,
    caption: str,
    marks: Sequence[float] = (),
) -> Figure:
    """Draw a column of the parts of a stream, with its 95 % band over runs, and today's policy from the first runs."""
    found = []
    scale = 1e3 if ylabel == _COST else 1.0
    first = next(iter(drawn.values()))
    for name, runs in drawn.items():
        bins = scale * np.array([one.bins[:, column] for one in runs])
        middle = bins.mean(axis=0)
        reach = 1.96 * bins.std(axis=0, ddof=1) / len(bins) ** 0.5 if len(bins) > 1 else 0.0 * middle
        found.append(Line(name, x, middle, middle - reach, middle + reach))
    found.append(
        Line("today's policy", x, scale * np.mean([one.bins[:, column + 2] for one in first], axis=0))
    )
    return lines(found, xlabel="requests", ylabel=ylabel, caption=caption, marks=marks)
