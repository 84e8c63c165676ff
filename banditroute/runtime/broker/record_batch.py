"""A record batch whose records are encoded already, for aiokafka's producer."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from aiokafka import codec
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c

_HEAD: Final = struct.Struct(">qiibI")  # base offset, length, leader epoch, magic, checksum
_CHECKED: Final = struct.Struct(
    ">hiqqqhii"
)  # attributes, last offset delta, times, producer (three), records
_VERSION: Final = 2
_CODECS: Final[dict[str, tuple[int, Callable[[bytes], bytes] | None]]] = {
    "none": (0, None),
    "gzip": (1, codec.gzip_encode),
    "snappy": (2, codec.snappy_encode),
    "lz4": (3, codec.lz4_encode),
    "zstd": (4, codec.zstd_encode),
}


def encode_batch(body: bytes, records: int, timestamp: int, compression: str) -> bytes:
    """Return the record batch, version 2, around encoded records (Kafka protocol, "Record Batch").

    Parameters
    ----------
    body : bytes
        Records, their timestamp deltas 0 and their offset deltas counted from 0.
    records : int
        How many there are.
    timestamp : int
        Of all of them, in milliseconds.
    compression : str
        As in `kafka.compression`.
    """
    number, compress = _CODECS[compression]
    data = body if compress is None else compress(body)
    if len(data) >= len(body):
        number, data = 0, body
    nobody = (-1, -1, -1)  # producer id, its epoch and sequence: those of idempotent producers
    checked = _CHECKED.pack(number, records - 1, timestamp, timestamp, *nobody, records) + data
    length = _HEAD.size - 12 + len(checked)  # of all behind the length itself
    return _HEAD.pack(0, length, -1, _VERSION, calc_crc32c(checked)) + checked


class EncodedBatch(BatchBuilder):  # type: ignore[misc]  # aiokafka is untyped
    """What `AIOKafkaProducer.send_batch` takes, with nothing left to append."""

    def __init__(self, body: bytes, records: int, timestamp: int, compression: str) -> None:
        self._buffer: bytes = encode_batch(body, records, timestamp, compression)
        self._records = records

    def append(self, **_: Any) -> None:
        """Take no further record."""

    def close(self) -> None:
        """Be closed, as ever."""

    def closed(self) -> bool:
        """Tell that it takes no further record."""
        return True

    def size(self) -> int:
        """Return the bytes of the whole batch."""
        return len(self._buffer)

    def record_count(self) -> int:
        """Return how many records there are."""
        return self._records

    def _build(self) -> bytes:
        return self._buffer
