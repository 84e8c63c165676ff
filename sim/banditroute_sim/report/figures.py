"""Figures: a drawing, a legend in HTML, and the numbers as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from banditroute_sim.report.drawing import FAINT, GREY, INK, SERIES, colour, dash, draw, own_ids
from banditroute_sim.report.tables import Cell, Table, clean, escaped, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

_ROWS: Final = 11  # of a table that stands for a line of many points
_POINTS: Final = 400  # that a line is drawn with
_NAMED: Final = 9  # models that get a colour of their own in a stack; the rest are one band
_OTHERS: Final = "others"


@dataclass(frozen=True, slots=True)
class Figure:
    """What a page shows of some numbers.

    Attributes
    ----------
    svg : str
        The drawing.
    legend : sequence of (name, series)
        Which colour is what; grey where the series is None.
    caption : str
        What is to be seen, in a sentence.
    table : Table
        The numbers.
    """

    svg: str
    legend: Sequence[tuple[str, int | None]]
    caption: str
    table: Table

    def html(self, prefix: str) -> str:
        """Return the figure as HTML; ``prefix`` is put before the ids of the drawing."""
        keys = "".join(
            f'<li><span class="key k{GREY_KEY if series is None else series % SERIES}"></span>{escaped(name)}</li>'
            for name, series in self.legend
        )
        legend = f'<ul class="legend">{keys}</ul>' if keys else ""
        return (
            f"<figure>{own_ids(self.svg, prefix)}{legend}<figcaption>{escaped(self.caption)}</figcaption>"
            f"<details><summary>Numbers</summary>{self.table.html()}</details></figure>"
        )


GREY_KEY: Final = "g"


@dataclass(frozen=True, slots=True)
class Line:
    """A line with a band.

    Attributes
    ----------
    name : str
    x, y : array_like
        Points, in rising order of x.
    low, high : array_like, optional
        The band, one number per point.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A policy or a model at a cost and a quality; ``error`` is half of a 95 % interval of quality."""

    name: str
    cost: float
    quality: float
    error: float = math.nan


def lines(
    drawn: Sequence[Line],
    *,
    xlabel: str,
    ylabel: str,
    caption: str,
    marks: Sequence[float] = (),
    log: bool = False,
) -> Figure:
    """Draw lines with bands; the first is the one that the page is about.

    Parameters
    ----------
    drawn : sequence of Line
    xlabel, ylabel, caption : str
    marks : sequence of float
        Places on the x axis at which something happens.
    log : bool
        Whether y is on a logarithmic scale; what is not positive is then left out.
    """

    def paint(ax: Axes) -> None:
        for mark in marks:
            ax.axvline(mark, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        for index, line in enumerate(drawn):
            x, y = _thin(line.x), _thin(line.y)
            if line.low is not None and line.high is not None:
                low, high = _thin(line.low), _thin(line.high)
                if log:
                    low = np.where(low > 0.0, low, np.where(high > 0.0, 0.1 * np.abs(y) + 1e-12, np.nan))
                ax.fill_between(x, low, high, color=colour(index), alpha=0.13, linewidth=0)
            if log:
                y = np.where(y > 0.0, y, np.nan)
            width = 2.2 if index == 0 else 1.3
            ax.plot(
                x, y, color=colour(index), linestyle=dash(index), linewidth=width, zorder=3 - 0.01 * index
            )
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        if log:
            ax.set_yscale("log", nonpositive="mask")
            ax.yaxis.set_major_formatter(lambda value, _: number(float(value)))
            ax.yaxis.set_minor_formatter("")
        ax.margins(x=0.01)

    banded = any(line.low is not None for line in drawn)
    head = [xlabel, *(name for line in drawn for name in _columns(line, banded))]
    longest = max((np.asarray(line.x, np.float64) for line in drawn), key=len, default=np.zeros(0))
    places = _some(len(longest))
    rows: list[list[Cell]] = []
    for place in places:
        at = float(longest[place])
        row: list[Cell] = [int(at) if at.is_integer() else at]
        for line in drawn:
            row += _at(line, at, banded)
        rows.append(row)
    legend = [(line.name, index) for index, line in enumerate(drawn)]
    return Figure(draw(paint, caption), legend if len(drawn) > 1 else [], caption, Table(head, rows))


def _columns(line: Line, banded: bool) -> list[str]:
    return [line.name, f"{line.name}, from", "to"] if banded else [line.name]


def _at(line: Line, at: float, banded: bool) -> list[Cell]:
    x = np.asarray(line.x, np.float64)
    index = int(np.searchsorted(x, at))
    missing = index >= len(x) or x[index] != at
    columns = (line.y, line.low, line.high)[: 3 if banded else 1]
    return [
        None if values is None or missing else float(np.asarray(values, np.float64)[index])
        for values in columns
    ]


def frontier(
    policies: Sequence[Point],
    fixed: Sequence[Point],
    *,
    caption: str,
    xlabel: str = "cost per request, USD",
    ylabel: str = "quality",
) -> Figure:
    """Draw policies over the frontier that random mixes of fixed models reach.

    Parameters
    ----------
    policies : sequence of Point
    fixed : sequence of Point
        Every model, always chosen.
    caption, xlabel, ylabel : str
    """
    mixes = mix_frontier(fixed)

    def paint(ax: Axes) -> None:
        ax.plot([p.cost for p in mixes], [p.quality for p in mixes], color=GREY, linewidth=1.2, zorder=1)
        for point in fixed:
            ax.plot(point.cost, point.quality, "o", color=GREY, markersize=4.5, zorder=2)
            ax.annotate(
                _short(point.name),
                (point.cost, point.quality),
                (4, -10),
                textcoords="offset points",
                fontsize=7.5,
                color=GREY,
            )
        for index, point in enumerate(policies):
            error = None if math.isnan(point.error) else point.error
            ax.errorbar(
                point.cost,
                point.quality,
                yerr=error,
                color=colour(index),
                fmt="s" if index >= SERIES else "D",
                markersize=7 if index == 0 else 5,
                zorder=4 - 0.01 * index,
            )
        ax.set_xlabel(xlabel)
        ax.set_ylabel(ylabel)
        ax.margins(0.08)

    rows: list[list[Cell]] = [[p.name, p.cost, p.quality, p.error, _gain(p, mixes)] for p in policies]
    rows += [[f"always {p.name}", p.cost, p.quality, p.error, _gain(p, mixes)] for p in fixed]
    head = ("", xlabel, ylabel, "±", "above the mix at the same cost")
    legend: list[tuple[str, int | None]] = [(point.name, index) for index, point in enumerate(policies)]
    legend.append(("always one model; line: random mixes of them", None))
    return Figure(draw(paint, caption, 3.3), legend, caption, Table(head, rows))


def mix_frontier(fixed: Sequence[Point]) -> list[Point]:
    """Return the models of the upper concave hull, by rising cost and quality: the best random mixes lie between."""
    hull: list[Point] = []
    for point in sorted(fixed, key=lambda p: (p.cost, -p.quality)):
        if hull and point.quality <= hull[-1].quality:
            continue
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _turns_up(a: Point, b: Point, c: Point) -> bool:
    return (b.quality - a.quality) * (c.cost - a.cost) <= (c.quality - a.quality) * (b.cost - a.cost)


def _gain(point: Point, hull: Sequence[Point]) -> float | None:
    """Return the quality above that of the best mix which costs no more; None below the cheapest model."""
    if not hull or point.cost < hull[0].cost:
        return None
    cost, quality = [p.cost for p in hull], [p.quality for p in hull]
    return point.quality - float(np.interp(point.cost, cost, quality))


def shares(x: ArrayLike, share: Mapping[str, ArrayLike], *, xlabel: str, caption: str) -> Figure:
    """Draw the share of every model over time as a stack; the largest nine by name, the rest as one.

    Parameters
    ----------
    x : array_like, [n]
    share : mapping of str to array_like [n]
        0 to 1 each, 1 in sum.
    xlabel, caption : str
    """
    place = np.asarray(x, np.float64)
    columns = {name: np.asarray(values, np.float64) for name, values in share.items()}
    largest = sorted(columns, key=lambda name: -float(columns[name].sum()))[:_NAMED]
    shown = [name for name in columns if name in largest]
    rest = [values for name, values in columns.items() if name not in largest]
    stack = [columns[name] for name in shown]
    legend: list[tuple[str, int | None]] = [(name, index) for index, name in enumerate(shown)]
    if rest:
        stack.append(np.sum(rest, axis=0))
        legend.append((_OTHERS, None))

    def paint(ax: Axes) -> None:
        colours = [GREY if index is None else colour(index) for _, index in legend]
        ax.stackplot(place, *stack, colors=colours, linewidth=0, alpha=0.85)
        ax.set_xlabel(xlabel)
        ax.set_ylabel("share of decisions")
        ax.set_ylim(0.0, 1.0)
        if len(place) > 1:
            ax.set_xlim(place[0], place[-1])

    rows: list[list[Cell]] = [
        [
            int(place[i]) if float(place[i]).is_integer() else float(place[i]),
            *(float(part[i]) for part in stack),
        ]
        for i in _some(len(place))
    ]
    table = Table([xlabel, *(name for name, _ in legend)], rows)
    return Figure(draw(paint, caption), legend, caption, table)


def calibration(predicted: ArrayLike, actual: ArrayLike, *, caption: str, bins: int = 10) -> Figure:
    """Draw mean outcome against mean prediction, over bins of equally many decisions.

    Parameters
    ----------
    predicted, actual : array_like, [n]
        Pairs of which one is NaN are left out.
    caption : str
    bins : int
    """
    said, was = np.asarray(predicted, np.float64), np.asarray(actual, np.float64)
    known = np.isfinite(said) & np.isfinite(was)
    said, was = said[known], was[known]
    order = np.argsort(said, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    points = np.array(
        [(said[part].mean(), was[part].mean(), 1.96 * was[part].std() / len(part) ** 0.5) for part in parts]
    ).reshape(-1, 3)

    def paint(ax: Axes) -> None:
        if len(points):
            ends = [points[:, :2].min(), points[:, :2].max()]
            ax.plot(ends, ends, color=GREY, linewidth=1.0)
            ax.errorbar(
                points[:, 0],
                points[:, 1],
                yerr=points[:, 2],
                fmt="o-",
                color=colour(0),
                markersize=4.5,
                linewidth=1.2,
            )
        ax.set_xlabel("predicted quality")
        ax.set_ylabel("observed quality")

    rows = [[*row, len(part)] for row, part in zip(points.tolist(), parts, strict=True)]
    head = ("predicted", "observed", "±", "decisions")
    return Figure(draw(paint, caption), [], caption, Table(head, rows))


def histogram(values: ArrayLike, *, xlabel: str, caption: str, bins: int = 20, top: float = 1.0) -> Figure:
    """Draw how often numbers between 0 and ``top`` occur: of propensities, mostly.

    Parameters
    ----------
    values : array_like, [n]
        NaN is left out.
    xlabel, caption : str
    bins : int
    top : float
    """
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    edges = np.linspace(0.0, top, bins + 1)
    count, _ = np.histogram(np.clip(found, 0.0, top), edges)
    share = count / max(len(found), 1)

    def paint(ax: Axes) -> None:
        ax.bar(
            edges[:-1],
            share,
            width=np.diff(edges),
            align="edge",
            color=colour(0),
            edgecolor=FAINT,
            linewidth=0.6,
        )
        ax.set_xlabel(xlabel)
        ax.set_ylabel("share of decisions")

    rows: list[list[Cell]] = [
        [float(low), float(high), int(n), float(part)]
        for low, high, n, part in zip(edges[:-1], edges[1:], count, share, strict=True)
    ]
    return Figure(draw(paint, caption), [], caption, Table(("from", "to", "decisions", "share"), rows))


def _some(count: int) -> list[int]:
    """Return at most eleven places from the first to the last."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, _ROWS)).tolist()}) if count else []


def _thin(values: ArrayLike) -> Floats:
    found = np.asarray(values, np.float64)
    if len(found) <= _POINTS:
        return found
    return found[np.linspace(0, len(found) - 1, _POINTS).round().astype(np.int64)]


def _short(name: str) -> str:
    name = clean(name)
    return name if len(name) <= 18 else f"{name[:17]}…"
