"""Drawing: matplotlib's SVG, made fit to stand inside a page."""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from banditroute.errors import MissingExtraError
from banditroute_sim.report.tables import escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SERIES: Final = 10  # colours of a page
# Colours that stand for variables of the style sheet: a drawing follows the theme of its reader.
_SERIES: Final = tuple(f"#00c0d{i}" for i in range(SERIES))
INK, FAINT, GREY = "#00c0e0", "#00c0e1", "#00c0e2"
_VARIABLES: Final = {name: f"var(--c{i})" for i, name in enumerate(_SERIES)} | {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    GREY: "var(--grey)",
}
DASHES: Final = ("-", (0, (4, 2)), (0, (1, 1.5)))
_SETTINGS: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: it is read aloud, and found
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "axes.unicode_minus": True,
    "font.size": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
_WIDTH, _HEIGHT = 4.8, 3.0  # inches: narrow, so that text is legible on a phone


def colour(index: int) -> str:
    """Return the colour of a series; after ten they begin again, with another dash."""
    return _SERIES[index % SERIES]


def dash(index: int) -> Any:
    """Return the dash of a series."""
    return DASHES[index // SERIES % len(DASHES)]


def need_matplotlib() -> None:
    """Raise MissingExtraError if matplotlib is not installed: before long work, not after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("A report", "sim")


def draw(paint: Callable[[Axes], None], describe: str, height: float = _HEIGHT) -> str:
    """Return a drawing as an ``<svg>`` element that refers to nothing outside of itself.

    Parameters
    ----------
    paint : callable
        Paints axes of matplotlib.
    describe : str
        What is to be seen, for those who hear the page; escaped.
    height : float
        Inches, at a width of 4.8.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    need_matplotlib()
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and an extra
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    out = io.StringIO()
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that its own font lacks; the reader's has them
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS | {"svg.hashsalt": describe})
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _inline(out.getvalue(), describe)


def _inline(text: str, describe: str) -> str:
    """Take everything out of an SVG document that a page does not want: headers, name spaces, metadata, sizes."""
    start = text.index("<svg")
    body = text[text.index(">", start) + 1 :]
    view = re.search(r'viewBox="[^"]*"', text[start:])
    assert view is not None
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    for name, variable in _VARIABLES.items():
        body = body.replace(name, variable)
    # matplotlib names fonts that a reader may not have, and sets text in the colour black by saying nothing
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    return f'<svg {view.group(0)} role="img" aria-label="{escaped(describe)}">{body.strip()}'


def own_ids(svg: str, prefix: str) -> str:
    """Put a prefix before every id of a drawing and every reference to one: a page holds several drawings."""
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}\1)", svg)
    return re.sub(r'href="#([^"]*)"', rf'href="#{prefix}\1"', svg)
