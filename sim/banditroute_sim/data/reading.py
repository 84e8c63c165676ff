"""Reads the files of a data set folder; every failure is one sentence that names the file and what to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from banditroute.errors import DataSetError
from banditroute.events import LEAST_LATENCY_MS, MAX_ID_BYTES, MAX_TOKENS, MOST_LATENCY_MS
from banditroute_features.reading import read_bounded
from banditroute_sim.data.tables import Table

PROMPTS: Final = "prompts.parquet"
OUTCOMES: Final = "outcomes.parquet"
META: Final = "meta.json"
# column, largest value, whether it may be absent
COLUMNS: Final = (
    ("quality", 1.0, False),
    ("cost_usd", 1e12, False),
    ("input_tokens", MAX_TOKENS, True),
    ("output_tokens", MAX_TOKENS, True),
    ("latency_s", 1e9, True),
)


def read_folder(path: Path, models: Iterable[str] | None) -> dict[str, Any]:
    """Return the fields of a `DataSet`; see `DataSet.load`."""
    if not path.is_dir():
        raise DataSetError(f"{path} is not a folder: expected one that holds {PROMPTS} and {OUTCOMES}")
    meta = read_meta(path / META)
    prompts, outcomes = Table.read(path / PROMPTS), Table.read(path / OUTCOMES)
    ids, texts = prompts.strings("id"), prompts.strings("prompt")
    if not ids:
        raise DataSetError(f"{prompts.path} holds no prompts: expected at least one row")
    twice = next((name for name, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise DataSetError(f"{prompts.path} holds the id '{twice}' twice: give every prompt an id of its own")
    tasks = [task or None for task in prompts.strings("task", optional=True)] or [None] * len(ids)
    for task in set(tasks):
        check_task(task or "", prompts.path)
    names = outcomes.strings("model")
    chosen = choose_models(models, meta.get("default_arms"), names, outcomes.path, path / META)
    places = _places(outcomes, ids, names, chosen)
    matrices = {
        column: _spread(outcomes, column, places, (len(ids), len(chosen)), most, optional)
        for column, most, optional in COLUMNS
    }
    for column in ("quality", "cost_usd"):
        for index, name in enumerate(chosen):
            if np.isnan(matrices[column][:, index]).all():
                raise DataSetError(
                    f"{outcomes.path} knows no {column} of the model '{name}': record it or leave the model out"
                )
    forget_unmeasured(matrices["latency_s"])
    keep = np.flatnonzero(~np.isnan(matrices["quality"] + matrices["cost_usd"]).any(axis=1))
    if not keep.size:
        raise DataSetError(
            f"{outcomes.path} has no prompt with quality and cost_usd of all of "
            f"{', '.join(chosen)}: choose fewer models"
        )
    return {
        "name": path.resolve().name,
        "ids": tuple(ids[row] for row in keep),
        "prompts": tuple(texts[row] for row in keep),
        "tasks": tuple(tasks[row] for row in keep),
        "models": chosen,
        "quality": matrices["quality"][keep],
        "cost": matrices["cost_usd"][keep],
        "input_tokens": matrices["input_tokens"][keep],
        "output_tokens": matrices["output_tokens"][keep],
        "latency_s": matrices["latency_s"][keep],
        "dropped": len(ids) - keep.size,
        "listed_prices": listed_prices(meta, path / META),
    }


def forget_unmeasured(latency_s: npt.NDArray[np.float64]) -> int:
    """Make latencies that are no measurement unknown, in place, as feedback of the same kind is; return how many."""
    with np.errstate(invalid="ignore"):
        wrong = (latency_s < LEAST_LATENCY_MS / 1000.0) | (latency_s > MOST_LATENCY_MS / 1000.0)
    count = int(np.count_nonzero(wrong))
    if count:
        latency_s[wrong] = np.nan
    return count


def check_task(task: str, path: Path) -> None:
    """Raise DataSetError if a task is too long for a tag."""
    if len(task.encode()) > MAX_ID_BYTES:
        raise DataSetError(
            f"{path} has the task '{task[:40]}…' of more than {MAX_ID_BYTES} bytes: shorten it, it becomes a tag"
        )


def read_meta(path: Path) -> dict[str, Any]:
    """Return the keys of ``meta.json``, none if there is no such file; raises DataSetError."""
    if not path.exists():
        return {}
    try:
        meta = json.loads(read_bounded(path))
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataSetError(f"{path} cannot be read as JSON: write it again") from error
    if not isinstance(meta, dict):
        raise DataSetError(
            f"{path} is not a JSON object: expected keys such as default_arms and prices_per_m"
        )
    return meta


def listed_prices(meta: Mapping[str, Any], path: Path) -> dict[str, tuple[float, float]]:
    """Return the prices that ``meta.json`` declares, USD per million input and output tokens; raises DataSetError."""
    prices = meta.get("prices_per_m", {})
    try:
        listed = {name: (float(price_in), float(price_out)) for name, (price_in, price_out) in prices.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataSetError(
            f"{path}: prices_per_m is not an object of model: [input, output] numbers"
        ) from error
    if not all(0.0 <= number <= 1e6 for pair in listed.values() for number in pair):
        raise DataSetError(f"{path}: prices_per_m holds a price that is not between 0 and 1000000 USD")
    return listed


def choose_models(
    models: Iterable[str] | None, default: object, present: list[str], outcomes: Path, meta: Path
) -> tuple[str, ...]:
    """Return the models that are wanted, else the default ones, else all; raises DataSetError for a stranger."""
    known = sorted(set(present))
    if not known:
        raise DataSetError(f"{outcomes} holds no outcomes: expected at least one row")
    if models is None and default is not None:
        if not isinstance(default, list) or not default or not all(isinstance(name, str) for name in default):
            raise DataSetError(
                f"{meta}: default_arms is not a list of model names; correct it or leave it out"
            )
        chosen = tuple(default)
    else:
        chosen = tuple(known if models is None else models)
    if not chosen:
        raise DataSetError(f"no model was chosen from {outcomes}: name at least one of {', '.join(known)}")
    strangers = sorted(set(chosen) - set(known))
    if strangers:
        raise DataSetError(
            f"{outcomes} has no outcomes of the model '{strangers[0]}': it knows {', '.join(known)}"
        )
    if len(set(chosen)) != len(chosen):
        raise DataSetError(f"the models chosen from {outcomes} name one of them twice: name each once")
    return chosen


def _places(table: Table, ids: list[str], names: list[str], chosen: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Tell the place of every outcome in the flattened matrix, int64[m], -1 = not wanted."""
    rows = {name: index for index, name in enumerate(ids)}
    columns = {name: index for index, name in enumerate(chosen)}
    owners = table.strings("id")
    places = np.array(
        [
            rows[owner] * len(chosen) + columns[name] if owner in rows and name in columns else -1
            for owner, name in zip(owners, names, strict=True)
        ],
        np.int64,
    )
    order = np.argsort(places, kind="stable")
    twice = np.flatnonzero((np.diff(places[order]) == 0) & (places[order][1:] >= 0))
    if twice.size:
        at = order[twice[0]]
        raise DataSetError(
            f"{table.path} holds the outcome of '{names[at]}' on '{owners[at]}' twice: keep one of them"
        )
    return places


def _spread(
    table: Table,
    column: str,
    places: npt.NDArray[np.int64],
    shape: tuple[int, int],
    most: float,
    optional: bool,
) -> npt.NDArray[np.float64]:
    matrix = np.full(shape, np.nan)
    values = table.numbers(column, optional=optional)
    wanted = places >= 0
    if values is not None:
        values = values[wanted]
        wrong = values[~np.isnan(values) & ~((values >= 0.0) & (values <= most))]
        if wrong.size:
            raise DataSetError(
                f"{table.path}: {column} holds {wrong[0]}; expected numbers from 0 to {most:g}, NaN = unknown"
            )
        matrix.flat[places[wanted]] = values
    return matrix
