"""The page: one HTML file that holds all it shows."""

from __future__ import annotations

from pathlib import Path

from banditroute_sim.report.figures import Figure
from banditroute_sim.report.style import STYLE
from banditroute_sim.report.tables import Table, escaped, write_text


class Page:
    """A report, from top to bottom.

    Parameters
    ----------
    title : str
    lead : str
        What it is about and what was found, in a sentence or two; may be empty.
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self._title = title
        self._parts = [f"<h1>{escaped(title)}</h1>"]
        if lead:
            self._parts.append(f'<p class="lead">{escaped(lead)}</p>')
        self._figures = 0

    def section(self, heading: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{escaped(heading)}</h2>")

    def sentence(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{escaped(text)}</p>")

    def verdict(self, text: str, *, good: bool) -> None:
        """Add what the reader came for, set off from the rest."""
        self._parts.append(f'<p class="verdict {"yes" if good else "no"}">{escaped(text)}</p>')

    def table(self, table: Table) -> None:
        """Add a table."""
        self._parts.append(table.html())

    def figure(self, figure: Figure) -> None:
        """Add a figure with its numbers."""
        self._figures += 1
        self._parts.append(figure.html(f"f{self._figures}-"))

    def html(self) -> str:
        """Return the whole document."""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escaped(self._title)}</title><style>{STYLE}</style></head>\n<body>\n"
            + "\n".join(self._parts)
            + "\n<footer>Made by banditroute.</footer>\n</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the document; raise ConfigError where that cannot be done."""
        write_text(path, self.html())
