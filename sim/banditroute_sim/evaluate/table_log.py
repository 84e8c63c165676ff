"""A log of another tool: one table whose columns are told with `--map`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from banditroute.errors import ConfigError, DataSetError
from banditroute_sim.data.dropped import ALLOWED, Dropped
from banditroute_sim.evaluate.files import ROWS, batches, by_number, columns, is_table
from banditroute_sim.evaluate.log import Batch, check_numbers
from banditroute_sim.evaluate.open_bandit import name_of, number_of

REQUIRED: Final = ("model", "propensity", "quality")
OPTIONAL: Final = ("cost_usd",)
#: what a preset stands for; a minus sign turns a cost into a quality
PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    "dsjson": {"model": "_labelIndex", "propensity": "_label_probability", "quality": "-_label_cost"},
}


def read_map(given: list[str]) -> dict[str, str]:
    """Return which column holds which field, from ``FIELD=COLUMN`` or the name of a preset.

    Raises
    ------
    ConfigError
        One sentence: a field that is none, a form that is none, or all fields that are missing at once.
    """
    fields: dict[str, str] = {}
    for text in given:
        if text in PRESETS:
            fields |= PRESETS[text]
            continue
        name, found, column = text.partition("=")
        if not found or name not in (*REQUIRED, *OPTIONAL) or not column:
            raise ConfigError(
                f"--map is FIELD=COLUMN with a field of {', '.join((*REQUIRED, *OPTIONAL))}, or one of "
                f"{', '.join(PRESETS)}; got '{text}'"
            )
        fields[name] = column
    missing = [name for name in REQUIRED if name not in fields]
    if missing:
        raise ConfigError(
            f"--map does not say where {', '.join(missing)} are: give --map FIELD=COLUMN for each"
        )
    return fields


def table_files(path: Path) -> list[Path]:
    """Return the tables of a folder in the order of their numbers, or the one file; raises DataSetError."""
    if path.is_file() and is_table(path):
        return [path]
    found = (
        sorted(filter(is_table, path.iterdir()), key=lambda one: by_number(one.name)) if path.is_dir() else []
    )
    if not found:
        raise DataSetError(f"{path} is no table and no folder of tables: expected parquet, CSV or JSON lines")
    return found


@dataclass
class TableLog:
    """Decisions of another tool, a row each; every model that was ever chosen may serve every request.

    Parameters
    ----------
    paths : list of Path
        The tables.
    fields : mapping of str to str
        Columns by field, as `read_map` gives them.
    allow_dropped : float
        Share of the rows that may be unusable.

    Raises
    ------
    DataSetError
        If a column is missing, or too many rows cannot be used.
    """

    paths: list[Path]
    fields: Mapping[str, str]
    allow_dropped: float = ALLOWED
    left_out: Counter[str] = field(default_factory=Counter)
    dropped: Dropped = field(default_factory=lambda: Dropped("rows"))
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in self.paths:
            there = columns(path)
            wanted = {name: column.removeprefix("-") for name, column in self.fields.items()}
            missing = [f"{column} ({name})" for name, column in wanted.items() if column not in there]
            if missing:
                raise DataSetError(
                    f"{path} has no column {', '.join(missing)}: it has {', '.join(there[:20]) or 'none'}"
                )
        names: set[str] = set()
        for row in self._rows():
            reason = self._wrong(row)
            self.dropped.take(reason)
            if reason is None:
                names.add(self._model(row))
        self.dropped.check(str(self.paths[0]), self.allow_dropped)
        if not names:
            raise DataSetError(
                f"{self.paths[0]} holds no row that can be used: {self.dropped.sentence() or 'it is empty'}"
            )
        self.names = tuple(sorted(names))

    def _rows(self) -> Iterator[dict[str, Any]]:
        for path in self.paths:
            for rows in batches(path):
                yield from rows

    def _model(self, row: Mapping[str, Any]) -> str:
        return name_of(row.get(self.fields["model"]))

    def _number(self, row: Mapping[str, Any], name: str) -> float:
        column = self.fields[name]
        value = number_of(row, column.removeprefix("-"), str(self.paths[0]))
        return -value if column.startswith("-") else value

    def _wrong(self, row: Mapping[str, Any]) -> str | None:
        if self._model(row) == "?":
            return "no model"
        propensity = self._number(row, "propensity")
        if not 0.0 < propensity <= 1.0:
            return "a propensity that is not in (0, 1]"
        return None

    def batches(self) -> Iterator[Batch]:
        """See `Log.batches`; nothing was predicted."""
        waiting: list[dict[str, Any]] = []
        for row in self._rows():
            if self._wrong(row) is None:
                waiting.append(row)
            if len(waiting) == ROWS:
                yield self._batch(waiting)
                waiting = []
        if waiting:
            yield self._batch(waiting)

    def _batch(self, rows: list[dict[str, Any]]) -> Batch:
        n, k = len(rows), len(self.names)
        index = {name: column for column, name in enumerate(self.names)}
        nothing = np.full((n, k), np.nan)
        outcome = np.full((n, 4), np.nan)
        outcome[:, 0] = [self._number(row, "quality") for row in rows]
        if "cost_usd" in self.fields:
            outcome[:, 1] = [self._number(row, "cost_usd") for row in rows]
        where = str(self.paths[0])
        check_numbers(where, self.fields["quality"], outcome[:, 0], 0.0, 1.0)
        check_numbers(where, self.fields.get("cost_usd", "cost_usd"), outcome[:, 1], 0.0, np.inf)
        return Batch(
            names=self.names,
            chosen=np.array([index[self._model(row)] for row in rows], np.int64),
            eligible=np.ones((n, k), np.bool_),
            propensity=np.array([self._number(row, "propensity") for row in rows]),
            quality=nothing,
            sd=nothing,
            cost=nothing.copy() if "cost_usd" in self.fields else np.zeros((n, k)),
            log_tokens=nothing,
            log_latency=nothing,
            input_tokens=np.full(n, np.nan),
            cost_weight=np.zeros(n),
            latency_weight=np.zeros(n),
            outcome=outcome,
            cell=np.zeros(n, np.int64),
        )
