"""What the demo leaves behind to go on with: its configuration, and its prompts and outcomes as a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from banditroute.errors import ConfigError, MissingExtraError
from banditroute_sim.data.dataset import DataSet
from banditroute_sim.data.reading import COLUMNS, META, OUTCOMES, PROMPTS

CONFIGURATION: Final = "banditroute.toml"
DATA: Final = "data"


def check_folder(folder: Path) -> None:
    """Raise ConfigError unless a demo can be kept in this folder: nothing is overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--keep: {folder} is there already: name a new folder, or an empty one")
    try:
        import pyarrow as pa  # noqa: F401, PLC0415 - an optional dependency, asked for before the demo runs
    except ImportError as error:
        raise MissingExtraError("A data set of the demo", "sim") from error


def keep(folder: Path, data: DataSet, configuration: str) -> None:
    """Write a configuration and a data set; raises ConfigError if the disk does not take them."""
    import pyarrow as pa  # noqa: PLC0415 - an optional dependency
    import pyarrow.parquet as pq  # noqa: PLC0415 - as above

    count = len(data.models)
    matrices = (data.quality, data.cost, data.input_tokens, data.output_tokens, data.latency_s)
    names = [name for name, *_ in COLUMNS]
    outcomes = {
        "id": [one for one in data.ids for _ in range(count)],
        "model": list(data.models) * len(data),
        **{name: matrix.ravel() for name, matrix in zip(names, matrices, strict=True)},
    }
    meta = {
        "default_arms": list(data.models),
        "prices_per_m": {k: list(v) for k, v in data.listed_prices.items()},
    }
    try:
        (folder / DATA).mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table({"id": data.ids, "prompt": data.prompts, "task": data.tasks}), folder / DATA / PROMPTS
        )
        pq.write_table(pa.table(outcomes), folder / DATA / OUTCOMES)
        (folder / DATA / META).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        (folder / CONFIGURATION).write_text(configuration, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--keep: cannot write {folder}: {error.strerror}") from error
