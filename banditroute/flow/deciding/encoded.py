"""Records that are written already: bytes in Kafka's own format, and a view of them as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from banditroute.flow.records.header import HEADER_NAME
from banditroute.flow.records.kafka_records import OutputRecord

BATCH_BYTES: Final = (
    900_000  # of records in one batch, uncompressed: below the brokers' 1 MiB with room to spare
)


class Part(NamedTuple):
    """Records `start` to `stop`, encoded one behind the other as in a record batch of version 2."""

    start: int
    stop: int
    body: bytes


class EncodedRecords(Sequence[OutputRecord]):
    """Decision records as record batches hold them; each can also be looked at as an `OutputRecord`.

    Parameters
    ----------
    parts : sequence of Part
        All records, in order.
    spans : int64[n, 6]
        Where key, value and header of each record begin and end in the body of its part.
    passed : mapping of int to list
        The other headers of the records that have some.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        spans: NDArray[np.int64],
        passed: Mapping[int, list[tuple[str, bytes]]],
    ) -> None:
        self.parts = parts
        self._spans = spans
        self._passed = passed

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> OutputRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[OutputRecord]: ...
    def __getitem__(self, index: int | slice) -> OutputRecord | list[OutputRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        body = next(part.body for part in self.parts if row < part.stop)
        key, key_end, value, value_end, header, header_end = self._spans[row].tolist()
        headers = [(HEADER_NAME, body[header:header_end]), *self._passed.get(row, ())]
        return OutputRecord(body[key:key_end], body[value:value_end], headers)
