"""Small data sets on disk, written by tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PRICES = {"small": (0.5, 1.5), "large": (5.0, 15.0), "other": (2.0, 6.0)}
LEVEL = {"small": 0.55, "large": 0.85, "other": 0.7}


def tables(
    prompts: int, models: tuple[str, ...] = ("small", "large"), seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the columns of both files: a task that is easy for every model, and one that is hard for the small one."""
    rng = np.random.default_rng(seed)
    easy = rng.random(prompts) < 0.5
    ids = [f"p-{i}" for i in range(prompts)]
    words = [" ".join(["word"] * int(n)) for n in rng.integers(5, 60, prompts)]
    texts = {"id": ids, "prompt": words, "task": ["easy" if one else "hard" for one in easy]}
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("id", "model", "quality", "cost_usd", "input_tokens", "output_tokens", "latency_s")
    }
    for i in range(prompts):
        for name in models:
            level = 0.9 if easy[i] else LEVEL[name]
            given, written = len(words[i]) // 4, int(rng.integers(50, 250))
            price = PRICES[name]
            row = (
                ids[i],
                name,
                float(np.clip(level + 0.1 * rng.normal(), 0.0, 1.0)),
                (given * price[0] + written * price[1]) / 1e6,
                float(given),
                float(written),
                0.01 * written,
            )
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return texts, columns


def write(
    folder: Path,
    prompts: dict[str, Any] | None,
    outcomes: dict[str, Any] | None,
    meta: dict[str, Any] | None = None,
) -> Path:
    """Write a data set; None leaves a file out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in (("prompts", prompts), ("outcomes", outcomes)):
        if columns is not None:
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    if meta is not None:
        (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def data_set(
    folder: Path, prompts: int = 200, models: tuple[str, ...] = ("small", "large"), seed: int = 0
) -> Path:
    """Write a data set whose prices are declared."""
    meta = {"prices_per_m": {name: PRICES[name] for name in models}}
    return write(folder, *tables(prompts, models, seed), meta)


def configuration(
    path: Path, models: tuple[str, ...] = ("small", "large"), objective: str = "", extra: str = ""
) -> Path:
    """Write a configuration."""
    text = "".join(
        f'[[models]]\nname = "{name}"\n'
        f"input_usd_per_mtok = {PRICES[name][0]}\noutput_usd_per_mtok = {PRICES[name][1]}\n"
        for name in models
    )
    path.write_text(f"{text}{extra}\n[objective]\n{objective}\n")
    return path
