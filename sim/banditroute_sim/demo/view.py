"""What a person sees of the demo while it runs."""

from __future__ import annotations

from typing import Final

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from banditroute_sim.traffic.tally import Tally

_BARS: Final = " ▁▂▃▄▅▆▇█"
_COLUMNS: Final = 36  # points of a sparkline
_RECENT: Final = 500  # decisions that count as now


def sparkline(values: list[float], top: float = 1.0) -> str:
    """Draw numbers from 0 to `top` as one line of bars.

    Examples
    --------
    >>> sparkline([0.0, 0.5, 1.0])
    ' ▄█'
    """
    return "".join(
        _BARS[round(min(1.0, value / top if top > 0.0 else 0.0) * (len(_BARS) - 1))] for value in values
    )


def render(tally: Tally, now: float) -> RenderableType:
    """Draw the state of a run.

    Parameters
    ----------
    tally : Tally
        Its books.
    now : float
        The monotonic time, for the rate.

    Returns
    -------
    rich renderable
        Requests per second, the share of each model over time, and quality, cost and utility beside fixed models.
    """
    latency = tally.latency_ms(_RECENT)
    head = Text.assemble(
        (f"{tally.rate(now, 2.0):,.0f}", "bold"),
        " requests/s   ",
        (f"{tally.decided:,}", "bold"),
        f" decided of {tally.sent:,} sent   ",
        (f"{tally.feedback_sent:,}", "bold"),
        " answered",
        ""
        if latency["p50"] is None
        else f"\nlatency p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms",
    )
    return Panel(
        Group(head, Text(), _shares(tally), Text(), _comparison(tally)), title="banditroute", padding=(1, 2)
    )


def _shares(tally: Tally) -> Table:
    """Draw the share of each model now, and from the first decision to the last one, in chunks of equal length."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model", no_wrap=True)
    table.add_column("now", justify="right")
    table.add_column(f"share since the first decision; now = the last {_RECENT}", no_wrap=True)
    choices, models = tally.choices(), tally.data.models
    chunks = [chunk for chunk in np.array_split(choices, _COLUMNS) if chunk.size]
    over_time = np.array(
        [np.bincount(chunk, minlength=len(models))[: len(models)] / chunk.size for chunk in chunks]
    )
    recent = choices[-_RECENT:]
    for index, name in enumerate(models):
        share = np.count_nonzero(recent == index) / max(1, recent.size)
        line = sparkline(over_time[:, index].tolist(), float(over_time.max())) if chunks else ""
        table.add_row(name, f"{share:.0%}", Text(line, style="green"))
    return table


def _comparison(tally: Tally) -> RenderableType:
    rows, columns = tally.known()
    if not rows.size:
        return Text()
    data, weight = tally.data, tally.cost_weight
    quality, cost = data.quality[rows, columns].mean(), data.cost[rows, columns].mean()
    finest, fixed = data.best_fixed(0.0, rows), data.best_fixed(weight, rows)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for title in ("banditroute", f"always {fixed.model}\nbest fixed", f"always {finest.model}\nbest quality"):
        table.add_column(title, justify="right")
    fine = finest.mean_quality - weight * finest.mean_cost_usd
    gain = quality - weight * cost - fixed.mean_utility
    for label, form, ours, others in (
        ("quality", "{:.3f}", quality, (fixed.mean_quality, finest.mean_quality)),
        ("cost per 1,000", "${:.2f}", 1e3 * cost, (1e3 * fixed.mean_cost_usd, 1e3 * finest.mean_cost_usd)),
        ("utility", "{:.3f}", quality - weight * cost, (fixed.mean_utility, fine)),
    ):
        table.add_row(label, Text(form.format(ours), style="bold"), *map(form.format, others))
    saved = 1.0 - cost / finest.mean_cost_usd if finest.mean_cost_usd else 0.0
    verdict = Text.assemble(
        "utility ",
        (f"{gain:+.3f}", "bold green" if gain > 0.0 else "bold yellow"),
        f" against always {fixed.model}; cost {-saved:+.0%} against always {finest.model}",
    )
    return Group(table, Text(), verdict)
