"""Reads tables of a folder batch by batch: parquet or JSON lines; every failure is one sentence."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from banditroute.errors import DataSetError, MissingExtraError

ROWS: Final = 4096  # of a batch
SUFFIXES: Final = (".parquet", ".jsonl", ".jsonl.gz")


def find(folder: Path, name: str) -> list[Path]:
    """Return the files of a table, sorted: ``name*.parquet`` and ``name*.jsonl``, or those of the folder ``name``.

    Raises
    ------
    DataSetError
        If the folder is not there.
    """
    if not folder.is_dir():
        raise DataSetError(f"{folder} is not a folder: expected one that holds an exported log")
    inside = [path for path in folder.iterdir() if path.name.startswith(name)]
    inside += [path for one in inside if one.is_dir() for path in one.rglob("*")]
    return sorted(path for path in inside if path.is_file() and path.name.endswith(SUFFIXES))


def columns(path: Path) -> list[str]:
    """Return the columns of a parquet file, or the keys of the first JSON line."""
    if path.suffix == ".parquet":
        return list(_open(path).schema_arrow.names)
    return next((list(rows[0]) for rows in batches(path) if rows), [])


def batches(path: Path, wanted: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a file as mappings, some thousand at a time; values that are null are left out."""
    if path.suffix != ".parquet":
        yield from _lines(path)
        return
    for batch in _open(path).iter_batches(ROWS, columns=wanted):
        yield [{key: value for key, value in row.items() if value is not None} for row in batch.to_pylist()]


def _open(path: Path) -> Any:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency
        import pyarrow.parquet as pq  # noqa: PLC0415 - as above
    except ImportError as error:
        raise MissingExtraError("Reading parquet", "sim") from error
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataSetError(f"{path} cannot be read as parquet: write it again") from error


def _lines(path: Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise DataSetError(f"{path}: line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataSetError(f"{path}: line {number} is not a JSON object")
            rows.append({key: value for key, value in row.items() if value is not None})
            if len(rows) == ROWS:
                yield rows
                rows = []
    if rows:
        yield rows
