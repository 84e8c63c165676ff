"""Tables, how their numbers are written, and files to write them to."""

from __future__ import annotations

import csv
import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from banditroute.errors import ConfigError

Cell = str | float | int | bool | None
NOTHING: Final = "–"
_SENTENCE: Final = 40  # characters beyond which a cell is wrapped
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """Return a text without the characters that no document may hold: each becomes U+FFFD."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def escaped(text: str) -> str:
    """Return a text as HTML shows it, whatever it holds."""
    return html.escape(clean(text))


def number(value: Cell) -> str:
    """Write a number with about four digits that mean something; what is unknown is a dash.

    Examples
    --------
    >>> number(12345.6), number(0.98765), number(7), number(float("nan")), number(1e-7)
    ('12,346', '0.9877', '7', '–', '1e-07')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000.0 <= abs(value) < 1e15 else f"{value:.4g}"
    return value


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a head; columns that hold numbers, but for the first, are set to the right.

    Attributes
    ----------
    head : sequence of str
    rows : sequence of sequences of cells
        As many cells as the head has; None and NaN are unknown.
    caption : str
        One sentence; may be empty.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def html(self) -> str:
        """Return the table as HTML that scrolls within itself where it is wider than the page."""
        right = [
            i > 0 and any(isinstance(row[i], int | float) and row[i] is not True for row in self.rows)
            for i in range(len(self.head))
        ]
        parts = ['<div class="wide"><table>']
        if self.caption:
            parts.append(f"<caption>{escaped(self.caption)}</caption>")
        cells = "".join(_cell("th", name, side) for name, side in zip(self.head, right, strict=True))
        parts.append(f"<thead><tr>{cells}</tr></thead><tbody>")
        for row in self.rows:
            cells = "".join(_cell("td", number(cell), side) for cell, side in zip(row, right, strict=True))
            parts.append(f"<tr>{cells}</tr>")
        parts.append("</tbody></table></div>")
        return "".join(parts)


def _cell(tag: str, text: str, right: bool) -> str:
    # numbers and names stay on one line, sentences do not
    side = ' class="n"' if right else ' class="t"' if len(text) > _SENTENCE else ""
    return f"<{tag}{side}>{escaped(text)}</{tag}>"


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write rows as CSV in UTF-8: floats in full, nothing where a cell is unknown.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(head)
            for row in rows:
                writer.writerow(["" if number(cell) == NOTHING else cell for cell in row])
    except OSError as error:
        raise _unwritable(path, error) from error


def check_writable(path: Path) -> None:
    """Raise ConfigError unless a file can be written at ``path``: before long work, not after it."""
    existed = path.exists()
    try:
        with path.open("a", encoding="utf-8"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; raise ConfigError where that cannot be done."""
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write '{path}': {error.strerror}")
