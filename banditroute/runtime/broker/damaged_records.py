"""Records that aiokafka refuses to parse are passed on as damaged, one by one, instead of ending a consumer for good.

Users may write any bytes: a header key that is no UTF-8, an unknown codec, a batch that unpacks to gigabytes. aiokafka
raises at such a record whenever it is fetched, so nothing behind it is ever read, after a restart neither. Here the
fast parser goes first. Where it fails, the batch is taken apart once more, slowly, and what cannot be read comes as a
`DamagedRecord` at its offset, without a value: the engine refuses it with its coordinates and goes on.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from typing import Any, ClassVar, Final, NamedTuple

from aiokafka import TopicPartition, codec
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c, decode_varint
from msgspec import Struct

from banditroute.runtime.broker.unpacking import TooLarge, check_unpacked_size

log = logging.getLogger("banditroute.kafka")

LOOKS: Final = 3  # fetches of a batch with a wrong checksum before that is believed
_FRAME: Final = struct.Struct(">qi")  # base offset, length of all that follows
_MAGIC_AT: Final = 16
_CHECKED_AT: Final = 21
_BATCH: Final = struct.Struct(">qiibIhiqqqhii")  # of magic 2, up to the records
_CODEC: Final = 0x07
_APPEND_TIME: Final = 0x08
_CODECS: Final = {1: codec.gzip_decode, 2: codec.snappy_decode, 3: codec.lz4_decode, 4: codec.zstd_decode}


class DamagedRecord(Struct, frozen=True, gc=False):
    """A record of a log that cannot be read, in the place of aiokafka's record.

    Attributes
    ----------
    offset, timestamp : int
        Where it is, and the time of its batch in milliseconds.
    damage : str
        Why it cannot be read, in words of ours.
    """

    offset: int
    timestamp: int
    damage: str
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    serialized_key_size: int = -1
    serialized_value_size: int = -1


class FetchedBatches:
    """What one fetch of a partition brought, batch by batch, each with its bytes.

    Parameters
    ----------
    data : bytes
        Record batches one behind the other; the last one may be cut off.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def size_in_bytes(self) -> int:
        """Return the size of all that was fetched."""
        return len(self._data)

    def _end(self) -> int | None:
        if self._at + _FRAME.size > len(self._data):
            return None
        length = _FRAME.unpack_from(self._data, self._at)[1]
        end = self._at + _FRAME.size + max(length, 0)
        return end if length >= 0 and end <= len(self._data) else None

    def has_next(self) -> bool:
        """Tell whether there is another whole batch."""
        return self._end() is not None

    def next_batch(self) -> memoryview:
        """Return the bytes of the next batch."""
        end = self._end()
        assert end is not None, "has_next was asked"
        batch = memoryview(self._data)[self._at : end]
        self._at = end
        return batch


class LenientRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka is untyped
    """The records of one fetch, damaged ones among them; see the module."""

    _records: Any
    _wrong_checksums: ClassVar[dict[TopicPartition, tuple[int, int]]] = {}

    def _unpack_records(self) -> Iterator[Any]:
        batches = self._records
        while batches.has_next():
            raw = batches.next_batch()
            self._records = MemoryRecords(bytes(raw))
            damage: str | None = None
            last, _ = _end_of(raw)
            position = max(self.next_fetch_offset, min(_FRAME.unpack_from(raw)[0], last))
            try:
                check_unpacked_size(*_packed(raw))
                for record in super()._unpack_records():
                    _require(position <= record.offset <= last)
                    position = record.offset + 1
                    yield record
                continue
            except CorruptRecordException:
                if not _is_whole(raw):
                    if self._may_be_the_wire(raw):
                        raise
                    damage = "its checksum is wrong"
            except TooLarge as error:
                damage = error.args[0]
            except Exception as error:  # noqa: BLE001 - whatever a parser meets in bytes from outside
                log.debug("%s: a batch cannot be parsed: %r", self._tp, error)
            yield from self._taken_apart(raw, position, damage)

    def _may_be_the_wire(self, raw: memoryview) -> bool:
        """Tell whether a batch should be fetched again before its checksum is believed to be wrong."""
        offset = _FRAME.unpack_from(raw)[0]
        there, looks = self._wrong_checksums.pop(self._tp, (-1, 0))
        looks = looks + 1 if there == offset else 1
        if looks < LOOKS:
            self._wrong_checksums[self._tp] = offset, looks
        return looks < LOOKS

    def _taken_apart(self, raw: memoryview, position: int, damage: str | None) -> Iterator[Any]:
        """Yield the records of a batch from offset `position` on, damaged ones as such."""
        last, timestamp = _end_of(raw)
        self.next_fetch_offset = position
        if damage is None:
            damage = "it cannot be unpacked"
            try:
                for record in _records(raw):
                    _require(record.offset <= last)
                    if record.offset >= position:
                        self.next_fetch_offset = position = record.offset + 1
                        yield (
                            record
                            if isinstance(record, DamagedRecord)
                            else self._consumer_record(self._tp, record)
                        )
                last = position - 1  # what compaction has removed is not damaged
            except Exception as error:  # noqa: BLE001 - as above: the rest of the batch cannot be told apart
                log.debug("%s: a batch cannot be taken apart: %r", self._tp, error)
        if position <= last:
            yield DamagedRecord(
                position, timestamp, f"its batch, up to offset {last}, cannot be read: {damage}"
            )
        self.next_fetch_offset = max(last, _end_of(raw)[0]) + 1


class _Record(NamedTuple):
    """A record as `PartitionRecords._consumer_record` takes it."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None


def _require(in_its_batch: bool) -> None:
    if not in_its_batch:
        raise CorruptRecordException


def _is_whole(raw: memoryview) -> bool:
    """Tell whether the checksum of a batch is right."""
    return raw[_MAGIC_AT] == 2 and _BATCH.unpack_from(raw)[4] == calc_crc32c(bytes(raw[_CHECKED_AT:]))


def _packed(raw: memoryview) -> tuple[int, memoryview]:
    """Return the number of the codec of a batch, and its records as they are packed."""
    if raw[_MAGIC_AT] != 2:
        return raw[_MAGIC_AT + 1] & _CODEC, raw[_MAGIC_AT + 2 :]
    return _BATCH.unpack_from(raw)[5] & _CODEC, raw[_BATCH.size :]


def _end_of(raw: memoryview) -> tuple[int, int]:
    """Return the last offset of a batch, and its time in milliseconds."""
    if raw[_MAGIC_AT] != 2:
        return _FRAME.unpack_from(raw)[0], 0
    base, _, _, _, _, _, delta, _, latest, *_ = _BATCH.unpack_from(raw)
    return base + max(delta, 0), max(latest, 0)


def _records(raw: memoryview) -> Iterator[_Record | DamagedRecord]:
    """Take a batch of magic 2 apart, record by record (Kafka protocol, "Record")."""
    if raw[_MAGIC_AT] != 2:
        raise ValueError("batches of this kind have no records of their own length")
    base, _, _, _, _, attributes, _, first, latest, _, _, _, count = _BATCH.unpack_from(raw)
    number, data = _packed(raw)
    buffer = bytes(data) if number == 0 else _CODECS[number](bytes(data))
    at = 0
    for _ in range(count):
        size, at = decode_varint(buffer, at)
        start, end = at, at + size
        if size < 0 or end > len(buffer):
            raise ValueError("a record is longer than its batch")
        _, at = decode_varint(buffer, start)
        age, at = decode_varint(buffer, at)
        delta, at = decode_varint(buffer, at)
        timestamp = latest if attributes & _APPEND_TIME else first + age
        try:
            key, value, headers = _content(buffer, at, end)
        except UnicodeDecodeError:
            yield DamagedRecord(base + delta, timestamp, "a header has a key that is not UTF-8")
        except (ValueError, IndexError):
            yield DamagedRecord(base + delta, timestamp, "its sizes do not add up")
        else:
            yield _Record(base + delta, timestamp, attributes & _APPEND_TIME, key, value, headers)
        at = end


def _content(
    buffer: bytes, at: int, end: int
) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]:
    """Return key, value and headers of a record that ends at `end`."""
    key, at = _bytes(buffer, at, end)
    value, at = _bytes(buffer, at, end)
    count, at = decode_varint(buffer, at)
    headers = []
    for _ in range(count):
        name, at = _bytes(buffer, at, end)
        content, at = _bytes(buffer, at, end)
        headers.append(((name or b"").decode(), content))
    if count < 0 or at != end:
        raise ValueError("a record is longer or shorter than its parts")
    return key, value, headers


def _bytes(buffer: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(buffer, at)
    if at + size > end:
        raise ValueError("a part is longer than its record")
    return (None, at) if size < 0 else (buffer[at : at + size], at + size)


def install() -> None:
    """Let consumers of this process pass on damaged records."""
    fetcher.MemoryRecords = FetchedBatches
    fetcher.PartitionRecords = LenientRecords
