"""A log with the columns of the Open Bandit Dataset: item, position, click, and the logging policy's propensity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from banditroute.errors import DataSetError
from banditroute_sim.data.dropped import Dropped
from banditroute_sim.evaluate.files import SUFFIXES, batches, columns
from banditroute_sim.evaluate.log import Batch, check_numbers

Floats = NDArray[np.float64]

COLUMNS: Final = ("item_id", "position", "click", "propensity_score")


def open_bandit_files(folder: Path) -> list[Path]:
    """Return the files of a folder that have the columns of Open Bandit logs."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))
    return [
        path for path in files if path.name.startswith("log") or {"item_id", "click"} <= set(columns(path))
    ]


@dataclass
class OpenBanditLog:
    """Open Bandit columns, optionally of several logging policies in one table.

    Parameters
    ----------
    paths : list of Path
        Tables with ``item_id, position, click, propensity_score`` and perhaps ``policy``.
    logged_by : str, optional
        The policy whose rows are used; needed when there are several.

    Raises
    ------
    DataSetError
        If columns or rows are missing, or the policy is not in the log.
    """

    paths: list[Path]
    logged_by: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    dropped: Dropped = field(default_factory=lambda: Dropped("rows"))
    names: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    _share: dict[str, dict[int, Counter[str]]] = field(default_factory=dict)
    _cells: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in self.paths:
            missing = [name for name in COLUMNS if name not in columns(path)]
            if missing:
                raise DataSetError(
                    f"{path} has no column '{missing[0]}': an Open Bandit log has {', '.join(COLUMNS)}"
                )
        items: set[str] = set()
        for row in self._rows():
            policy, position, item = str(row.get("policy", "")), self._cell(row), name_of(row["item_id"])
            items.add(item)
            self.dropped.take()
            table = self._share.setdefault(policy, {})
            table.setdefault(position, Counter())[item] += 1
        if not items:
            raise DataSetError(f"{self.paths[0]} holds no rows: expected at least one decision")
        self.names = tuple(sorted(items, key=_by_number))
        self.policies = tuple(sorted(self._share))
        if self.logged_by is None and len(self.policies) > 1:
            raise DataSetError(
                f"{self.paths[0]} was logged by {' and '.join(self.policies)}: say which with --logged-by"
            )
        if self.logged_by is not None and self.logged_by not in self.policies:
            raise DataSetError(
                f"{self.paths[0]} holds no rows of the policy '{self.logged_by}': "
                f"it was logged by {', '.join(self.policies)}"
            )

    def _rows(self) -> Iterator[dict[str, Any]]:
        for path in self.paths:
            present = columns(path)
            wanted: list[str] = [name for name in (*COLUMNS, "policy") if name in present]
            for rows in batches(path, wanted):
                for number, row in enumerate(rows):
                    if "item_id" not in row:
                        raise DataSetError(f"{path}: row {number} of a batch has no item_id")
                yield from rows

    def table(self, policy: str) -> dict[int, Floats]:
        """Return how often a policy chose each item, by position: what it does without regard to the user.

        Raises
        ------
        DataSetError
            If the log has no such policy.
        """
        if policy not in self._share:
            raise DataSetError(
                f"{self.paths[0]} holds no rows of the policy '{policy}': it was logged by {', '.join(self.policies)}"
            )
        tables = {}
        for position, counts in self._share[policy].items():
            share = np.array([counts[name] for name in self.names], np.float64)
            tables[position] = share / share.sum()
        return tables

    def batches(self) -> Iterator[Batch]:
        """See `Log.batches`; nothing is predicted, everything costs nothing."""
        index = {name: column for column, name in enumerate(self.names)}
        self.left_out = Counter()
        where = str(self.paths[0])
        waiting: list[dict[str, Any]] = []
        for row in self._rows():
            if self.logged_by is None or row.get("policy") == self.logged_by:
                waiting.append(row)
            else:
                self.left_out["another policy"] += 1
            if len(waiting) == 4096:
                yield self._batch(waiting, index, where)
                waiting = []
        if waiting:
            yield self._batch(waiting, index, where)

    def _batch(self, rows: list[dict[str, Any]], index: dict[str, int], where: str) -> Batch:
        n, k = len(rows), len(self.names)
        nothing = np.full((n, k), np.nan)
        clicks = np.array([number_of(row, "click", where) for row in rows])
        propensity = np.array([number_of(row, "propensity_score", where) for row in rows])
        wrong = propensity[~((propensity > 0.0) & (propensity <= 1.0))]
        if len(wrong):
            raise DataSetError(f"{where}: propensity_score holds {wrong[0]:g}; expected numbers in (0, 1]")
        check_numbers(where, "click", clicks, 0.0, 1.0)
        outcome = np.full((n, 4), np.nan)
        outcome[:, 0], outcome[:, 1] = clicks, 0.0
        return Batch(
            names=self.names,
            chosen=np.array([index[name_of(row["item_id"])] for row in rows], np.int64),
            eligible=np.ones((n, k), np.bool_),
            propensity=propensity,
            quality=nothing,
            sd=nothing,
            cost=np.zeros((n, k)),
            log_tokens=nothing,
            log_latency=nothing,
            input_tokens=np.full(n, np.nan),
            cost_weight=np.zeros(n),
            latency_weight=np.zeros(n),
            outcome=outcome,
            cell=np.array([self._cell(row) for row in rows], np.int64),
        )

    def _cell(self, row: Mapping[str, Any]) -> int:
        """Return the number of a position: itself where it is one, else one that stands for its name."""
        name = name_of(row.get("position"))
        return (
            int(name)
            if name.isdecimal() and len(name) < 10
            else self._cells.setdefault(name, -1 - len(self._cells))
        )


def name_of(value: object) -> str:
    """Return how an item or a position is called: ``3`` for 3 and 3.0, its text else, ``?`` for none."""
    if value is None or value != value:
        return "?"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _by_number(name: str) -> tuple[bool, int, str]:
    number = name.isdecimal() and len(name) < 19
    return not number, int(name) if number else 0, name


_WORDS: Final = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


def number_of(row: Mapping[str, Any], column: str, where: str) -> float:
    """Return a number of a row, NaN for none; raises DataSetError for what is none."""
    value = row.get(column)
    if value is None:
        return np.nan
    try:
        return _WORDS[value.lower()] if isinstance(value, str) and value.lower() in _WORDS else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataSetError(
            f"{where}: {column} holds {value!r:.60}; expected a number, or true and false"
        ) from error
