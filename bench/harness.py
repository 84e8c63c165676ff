"""What every benchmark shares: options, interleaved rounds, medians, and one form of the result.

`python -m bench.NAME` prints a table; `--json` prints one object and nothing else::

    {
        "bench": NAME,
        "machine": {...},
        "versions": {...},
        "rows": [{"case": ..., "who": ..., "value": ..., "unit": ..., "spread": ...}, ...],
        "skipped": [...],
    }

`value` is the median of the rounds, `spread` half of the range of the rounds divided by their median. Rounds are
interleaved (ours, peer, limit, ours, ...), so that a slow minute of the machine meets everybody.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits


def one_thread() -> None:
    """Let linear algebra use one thread: others would spin on when it is done, on the clock of whoever comes next."""
    threadpool_limits(1)


@dataclass(frozen=True)
class Row:
    """One number of one contender."""

    case: str
    who: str
    value: float
    unit: str
    spread: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, case: str, who: str, values: Sequence[float], unit: str, **more: Any) -> Row:
        """Median and spread of the rounds."""
        middle = statistics.median(values)
        spread = (max(values) - min(values)) / (2 * abs(middle)) if middle else None
        return cls(case, who, middle, unit, spread, {"rounds": len(values), **more})


@dataclass
class Report:
    """What one benchmark found."""

    bench: str
    packages: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, who: str, reason: str) -> None:
        """Leave a contender out, and say so."""
        self.skipped.append({"who": who, "reason": reason})

    def document(self) -> dict[str, Any]:
        """Return the one JSON object."""
        rows = []
        for row in self.rows:
            flat = asdict(row)
            more = flat.pop("more")
            if flat["spread"] is None:
                del flat["spread"]
            rows.append(flat | more)
        return {
            "bench": self.bench,
            "machine": machine(),
            "versions": versions(self.packages),
            "rows": rows,
            "skipped": self.skipped,
        }

    def show(self, as_json: bool) -> None:
        """Print the report."""
        if as_json:
            print(json.dumps(self.document(), allow_nan=False))
            return
        cells = [
            [
                r.case,
                r.who,
                figure(r.value),
                r.unit,
                "" if r.spread is None else f"±{r.spread:.1%}",
                ", ".join(f"{key} {figure(value)}" for key, value in r.more.items()),
            ]
            for r in self.rows
        ]
        print(table(["case", "who", "value", "unit", "spread", ""], cells))
        for skipped in self.skipped:
            print(f"skipped: {skipped['who']}: {skipped['reason']}")


def options(description: str | None) -> argparse.ArgumentParser:
    """Return the options that every benchmark has; a script may add its own."""
    parser = argparse.ArgumentParser(
        description=(description or "").splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under 50 s on two cores, after compilation")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    return parser


def interleave(
    contenders: Mapping[str, Callable[[], Any]], rounds: int, note: Callable[[str], None] | None = None
) -> dict[str, list[Any]]:
    """Run every contender once per round and return what each gave."""
    results: dict[str, list[Any]] = {who: [] for who in contenders}
    for number in range(rounds):
        for who, measure in contenders.items():
            if note is not None:
                note(f"round {number + 1} of {rounds}: {who}")
            results[who].append(measure())
    return results


def progress(text: str) -> None:
    """Say on a terminal what is going on; nothing in a pipe."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def progress_done() -> None:
    """Take the line of `progress` away."""
    progress("")


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, cores, memory, system, Python."""
    info: dict[str, Any] = {
        "cpu": _proc("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }
    memory = _proc("/proc/meminfo", "MemTotal")
    if memory is not None:
        info["memory_mib"] = int(memory.split()[0]) // 1024
    return info


def _proc(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of installed packages; those that are not there are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def figure(value: Any) -> str:
    """Write a number with about four digits that mean something."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out columns; those that hold numbers are set to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    right = [
        all(row[i][:1].isdigit() or row[i][:1] == "-" for row in rows if row[i]) for i in range(len(head))
    ]
    text = []
    for line in lines:
        cells = [
            cell.rjust(width) if aligned else cell.ljust(width)
            for cell, width, aligned in zip(line, widths, right, strict=True)
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)
