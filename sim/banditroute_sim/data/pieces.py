"""A parquet file of any size, read in pieces; every failure is one sentence that names the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from banditroute.errors import DataSetError, MissingExtraError
from banditroute_sim.data.tables import Table

_ROWS: Final = 4096  # of a piece, at most
_BYTES: Final = 1 << 24  # that a piece has on average, at most
_BUFFER: Final = 1 << 20  # bytes of a column that are read at once


@dataclass(frozen=True, slots=True)
class Piece:
    """Some consecutive rows of a file.

    Attributes
    ----------
    table : Table
        Their columns.
    first : int
        The number of the first of them in the file.
    """

    table: Table
    first: int

    def texts(self, column: str, *, nulls: bool = False) -> list[str]:
        """Return a column of text; see `Table.strings`."""
        return self.table.strings(column, optional=nulls, first=self.first)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column of numbers, null as NaN."""
        found = self.table.numbers(column)
        assert found is not None
        return found


class Pieces:
    """A parquet file that is read in pieces, as often as asked.

    Parameters
    ----------
    path : Path
        Where it is.

    Attributes
    ----------
    columns : tuple of str
    count : int
        Rows of the file.

    Raises
    ------
    DataSetError
        If it is not there or is not parquet.
    MissingExtraError
        If pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = self._open()
        self.columns: tuple[str, ...] = tuple(file.schema_arrow.names)
        self.count: int = file.metadata.num_rows
        groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
        size = sum(group.total_byte_size for group in groups)
        self._rows = max(1, min(_ROWS, _BYTES * self.count // max(size, 1)))
        file.close()

    def need(self, columns: Sequence[str]) -> None:
        """Raise DataSetError unless the file has these columns."""
        missing = [column for column in columns if column not in self.columns]
        if missing:
            raise DataSetError(
                f"{self.path} has no column '{missing[0]}': it has {', '.join(self.columns) or 'none'}; add it"
            )

    def read(self, columns: Sequence[str]) -> Iterator[Piece]:
        """Yield the rows, some thousand at a time at most, with these columns alone."""
        self.need(columns)
        import pyarrow as pa  # noqa: PLC0415 - an optional dependency

        first = 0
        file = self._open()
        try:
            for batch in file.iter_batches(self._rows, columns=list(columns), use_threads=False):
                yield Piece(Table(self.path, pa.Table.from_batches([batch])), first)
                first += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise DataSetError(f"{self.path} cannot be read as parquet: write it again") from error
        finally:
            file.close()

    def _open(self) -> Any:
        try:
            import pyarrow as pa  # noqa: PLC0415 - an optional dependency
            import pyarrow.parquet as pq  # noqa: PLC0415 - as above
        except ImportError as error:
            raise MissingExtraError("Data sets", "sim") from error
        if not self.path.is_file():
            raise DataSetError(
                f"{self.path} is missing: a data set holds prompts.parquet and outcomes.parquet"
            )
        try:
            # a buffer, or a row group of gigabytes would be read as a whole
            return pq.ParquetFile(self.path, buffer_size=_BUFFER, pre_buffer=False)
        except (OSError, pa.ArrowException) as error:
            raise DataSetError(f"{self.path} cannot be read as parquet: write it again") from error
