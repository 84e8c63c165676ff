"""Reports: one self-contained HTML file of sentences, tables and figures, and CSV.

A page has no script and refers to nothing outside of itself. Figures are inline SVG whose colours follow the light or
dark theme of the reader; under each one are its numbers as a table. Every string from outside is escaped.

>>> page = Page("What was found", lead="One world, two policies.")
>>> page.section("Regret")
>>> page.table(Table(("policy", "regret"), [("<ours>", 3.9), ("uniform", 5000.0)]))
>>> html = page.html()
>>> "&lt;ours&gt;" in html, "http" in html
(True, False)
"""

from banditroute_sim.report.drawing import need_matplotlib
from banditroute_sim.report.figures import (
    Figure,
    Line,
    Point,
    calibration,
    frontier,
    histogram,
    lines,
    shares,
)
from banditroute_sim.report.page import Page
from banditroute_sim.report.tables import Table, check_writable, number, write_csv

__all__ = [
    "Figure",
    "Line",
    "Page",
    "Point",
    "Table",
    "calibration",
    "check_writable",
    "frontier",
    "histogram",
    "lines",
    "need_matplotlib",
    "number",
    "shares",
    "write_csv",
]
