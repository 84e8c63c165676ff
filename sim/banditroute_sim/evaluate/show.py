"""An evaluation for people, on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from banditroute_sim.evaluate.estimators import ESTIMATORS

_WIDE: Final = 120  # columns of a page in a pipe


def print_evaluation(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print what `evaluate` returns, for people."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, _WIDE)
    log, weights = result["log"], result["weights"]
    console.print(f"target: {result['target']}", highlight=False)
    left = ", ".join(f"{count} {reason}" for reason, count in log["left_out"].items())
    console.print(
        f"{log['decisions']:,} decisions, {log['with_quality']:,} with a quality, {log['with_cost']:,} with a cost"
        + (f"; left out: {left}" if left else ""),
        highlight=False,
    )
    dropped = log["dropped"]
    if dropped["dropped"]:
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in dropped["reasons"].items())
        console.print(
            f"dropped: {dropped['dropped']:,} of {dropped['read']:,} feedback events ({reasons})",
            highlight=False,
        )
    console.print(
        f"weights: mean {weights['mean']:.3f}, largest {weights['largest']:.1f}, "
        f"{weights['top_1_percent_share']:.0%} of their sum in the top 1 %, tail shape {weights['tail_shape']:.2f}, "
        f"effective sample size {weights['effective_sample_size']:,.0f}",
        highlight=False,
    )
    for warning in result["warnings"]:
        console.print(f"note: {warning}", highlight=False)
    if result["refused"]:
        console.print(f"no: {result['refused']}", highlight=False, style="bold")
        return
    for outcome, title, scale in (
        ("quality", "quality", 1.0),
        ("cost_usd", "cost per 1,000 (USD)", 1e3),
        ("utility", f"utility = quality - {result['cost_weight']:g} x cost", 1.0),
    ):
        if outcome == "quality" or result["logged"]["cost_usd"]["value"]:
            _print_outcome(result, outcome, title, scale, console)


def _print_outcome(
    result: Mapping[str, Any], outcome: str, title: str, scale: float, console: Console
) -> None:
    level = f"{result['confidence']:.0%}"
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in (
        "estimate",
        f"{level} bootstrap",
        f"{level} Bernstein",
        "gain on the log",
        f"{level} bootstrap",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for name in ESTIMATORS:
        one, gain = result["estimates"][outcome][name], result["gain"][outcome][name]
        table.add_row(
            name.upper(),
            _figure(one["value"], scale),
            _span(one["bootstrap"], scale),
            _span(one["empirical_bernstein"], scale),
            _figure(gain["value"], scale),
            _span(gain["bootstrap"], scale),
        )
    one = result["logged"][outcome]
    spans = _span(one["bootstrap"], scale), _span(one["empirical_bernstein"], scale)
    table.add_row("as logged", _figure(one["value"], scale), *spans, "", "", style="dim")
    console.print(table)


def _figure(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{scale * value:.4g}"


def _span(ends: list[float] | None, scale: float) -> str:
    return "-" if ends is None else f"{scale * ends[0]:.4g} to {scale * ends[1]:.4g}"
