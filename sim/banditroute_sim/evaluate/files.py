"""Reads tables of a folder batch by batch: parquet or JSON lines; every failure is one sentence."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from banditroute.errors import DataSetError, MissingExtraError
from banditroute.events.second_reading import Unreadable, parsed

ROWS: Final = 4096  # of a batch
SUFFIXES: Final = (".parquet", ".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".csv")
LONGEST_LINE: Final = 64 << 20  # bytes
_MARK: Final = b"\xef\xbb\xbf"  # of UTF-8, which some editors write first
_DIGITS: Final = re.compile(r"(\d+)")


def is_table(path: Path) -> bool:
    """Tell whether a file is a table by its name."""
    return path.is_file() and path.name.endswith((*SUFFIXES, ".json"))


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
    return sorted(
        (path for path in inside if path.is_file() and path.name.endswith(SUFFIXES)),
        key=lambda path: by_number(str(path)),
    )


def by_number(text: str) -> list[tuple[bool, int, str]]:
    """Return what sorts names as people do: ``part-2`` before ``part-10``."""
    return [
        (not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in _DIGITS.split(text)
    ]


def columns(path: Path) -> list[str]:
    """Return the columns of a parquet file, or the keys that the first JSON lines have."""
    if path.suffix == ".parquet":
        return list(_open(path).schema_arrow.names)
    rows: list[dict[str, Any]] = next(batches(path), [])
    return list({key: None for row in rows for key in row})


def batches(path: Path, wanted: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a file as mappings, some thousand at a time; values that are null are left out."""
    if path.suffix == ".csv":
        yield from _csv(path)
        return
    if path.suffix != ".parquet":
        yield from _lines(path)
        return
    read = 0
    try:
        for batch in _open(path).iter_batches(ROWS, columns=wanted):
            yield [
                {key: value for key, value in row.items() if value is not None} for row in batch.to_pylist()
            ]
            read += batch.num_rows
    except (OSError, ValueError, ArithmeticError, MemoryError) as error:  # pyarrow's own are of these kinds
        raise DataSetError(f"{path} is damaged behind row {read}: write it again") from error


def _csv(path: Path) -> Iterator[list[dict[str, Any]]]:
    try:
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency
        from pyarrow import csv  # noqa: PLC0415 - as above
    except ImportError as error:
        raise MissingExtraError("Reading CSV", "sim") from error
    try:
        for batch in csv.open_csv(path):
            rows = batch.to_pylist()
            for start in range(0, len(rows), ROWS):
                part = rows[start : start + ROWS]
                yield [{key: value for key, value in row.items() if value is not None} for row in part]
    except (OSError, pa.ArrowException) as error:
        raise DataSetError(
            f"{path} cannot be read as CSV: expected a header and rows of one length"
        ) from error


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
    for number, line in enumerate(_raw_lines(path), 1):
        if not line.strip():
            continue
        row = _parsed(line, path, number)
        if not isinstance(row, dict):
            raise DataSetError(f"{path}: line {number} is not a JSON object")
        rows.append({key: value for key, value in row.items() if value is not None})
        if len(rows) == ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a text, packed or not; raises DataSetError where it cannot be read to its end."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            while line := lines.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise DataSetError(f"{path}: line {number} has more than {LONGEST_LINE >> 20} MiB")
                yield line.removeprefix(_MARK) if number == 1 else line
    except (EOFError, zlib.error) as error:
        raise DataSetError(f"{path} is cut off or damaged behind line {number}: write it again") from error
    except gzip.BadGzipFile as error:
        raise DataSetError(
            f"{path} is not a gzip file, or is damaged behind line {number}: write it again"
        ) from error
    except OSError as error:
        raise DataSetError(f"{path} cannot be read behind line {number}: {error.strerror}") from error


def _parsed(line: bytes, path: Path, number: int) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return parsed(line)
    except Unreadable as error:
        raise DataSetError(f"{path}: line {number} is not JSON: {error.args[0]}") from error
