"""What a person sees of a run: a progress bar, and the plain summary at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from banditroute_sim.progress import bar
from banditroute_sim.traffic.tally import Tally

_COUNTS = (
    "requests",
    "decisions",
    "duplicates",
    "undecided",
    "unknown_outcomes",
    "feedback_sent",
    "feedback_applied",
)


@contextmanager
def traffic_progress(requests: int) -> Iterator[Callable[[Tally], None] | None]:
    """Yield what moves a progress bar on standard error, or None where that is no terminal."""
    with bar("decided", requests) as note:
        yield None if note is None else lambda tally: note(tally.decided)


def print_summary(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a summary of `run_traffic` or `run_demo`.

    Parameters
    ----------
    summary : mapping
        `TrafficSummary.to_dict()`, or what `run_demo` returns.
    console : rich.console.Console, optional
        Where to; default: standard output.
    """
    console = console or Console()
    table = Table(title="What the decisions came to", title_justify="left")
    table.add_column("choice", no_wrap=True)
    for title in ("quality", "cost per 1,000", "utility"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_row("banditroute", *_row(summary), style="bold")
    for key, label in (
        ("best_fixed", "best fixed model"),
        ("cheapest", "cheapest model"),
        ("uniform", "random choice"),
    ):
        other = summary.get(key)
        if other:
            name = f": {other['model']}" if "model" in other else ""
            table.add_row(label + name, *_row(other))
    table.add_row("best of each request", "", "", _number(summary.get("oracle_utility")), style="dim")
    console.print(table)
    console.print(
        "  ".join(f"{key.replace('_', ' ')} {summary[key]:,}" for key in _COUNTS if key in summary),
        highlight=False,
    )
    latency = summary["latency_ms"]
    if latency["p50"] is not None:
        rate = summary["decisions_per_second"]
        console.print(
            f"latency p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms"
            + (f"; {rate:,.0f} decisions per second" if rate is not None else ""),
            highlight=False,
        )
    shares = sorted(summary.get("share", {}).items(), key=lambda item: -item[1])
    console.print(
        "share  " + "  ".join(f"{name} {share:.0%}" for name, share in shares if share), highlight=False
    )


def _row(values: Mapping[str, Any]) -> tuple[str, str, str]:
    cost = values["mean_cost_usd"]
    dollars = "-" if cost is None else f"${1e3 * cost:,.3f}"
    return _number(values["mean_quality"]), dollars, _number(values["mean_utility"])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
