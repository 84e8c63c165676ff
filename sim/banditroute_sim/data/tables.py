"""Typed access to one parquet file; every failure is one sentence that names the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from banditroute.errors import DataSetError, MissingExtraError


@dataclass(frozen=True)
class Table:
    """A parquet file in memory.

    Attributes
    ----------
    path : Path
        Where it came from, for error messages.
    data : pyarrow.Table
        Its columns.
    """

    path: Path
    data: Any

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises
        ------
        DataSetError
            If it is not there or is not parquet.
        MissingExtraError
            If pyarrow is not installed.
        """
        try:
            import pyarrow as pa  # noqa: PLC0415 - an optional dependency
            import pyarrow.parquet as pq  # noqa: PLC0415 - as above
        except ImportError as error:
            raise MissingExtraError("Data sets", "sim") from error
        if not path.is_file():
            raise DataSetError(f"{path} is missing: a data set holds prompts.parquet and outcomes.parquet")
        try:
            return cls(path, pq.read_table(path))
        except (OSError, pa.ArrowException) as error:
            raise DataSetError(f"{path} cannot be read as parquet: write it again") from error

    def strings(self, column: str, *, optional: bool = False, first: int = 0) -> list[str]:
        """Return a column of text; an optional one may hold nulls (as "") or be absent (empty list).

        ``first`` is the number of the first row, for the error.
        """
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency

        if not self._has(column, optional):
            return []
        try:
            values: list[str | None] = self.data[column].cast(pa.large_string()).to_pylist()
        except pa.ArrowException as error:
            raise DataSetError(f"{self.path}: the column '{column}' is not text") from error
        if not optional and None in values:
            row = first + values.index(None)
            raise DataSetError(f"{self.path}: the column '{column}' is empty in row {row}: fill it in")
        return [value or "" for value in values]

    def numbers(self, column: str, *, optional: bool = False) -> npt.NDArray[np.float64] | None:
        """Return a column of numbers, null as NaN; None if it is optional and absent."""
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency

        if not self._has(column, optional):
            return None
        try:
            values = self.data[column].cast(pa.float64()).to_numpy()
        except pa.ArrowException as error:
            raise DataSetError(f"{self.path}: the column '{column}' is not numeric") from error
        return np.asarray(values, np.float64)

    def _has(self, column: str, optional: bool) -> bool:
        present = column in self.data.column_names
        if not present and not optional:
            raise DataSetError(
                f"{self.path} has no column '{column}': it has {', '.join(self.data.column_names) or 'none'}; add it"
            )
        return present
