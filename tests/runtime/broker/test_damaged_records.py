"""A record that cannot be parsed is passed on as damaged, at its offset, and every other one as it is."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c, encode_varint

from banditroute.runtime.broker import kafka
from banditroute.runtime.broker.damaged_records import DamagedRecord, FetchedBatches, LenientRecords
from banditroute.runtime.broker.record_batch import encode_batch

WHERE = TopicPartition("requests", 0)
COMPRESSIONS = ["none", "gzip", "snappy", "lz4", "zstd"]


def varint(number: int) -> bytes:
    out = bytearray()
    encode_varint(number, out.append)
    return bytes(out)


def record(delta: int, value: bytes, *headers: tuple[bytes, bytes | None], key: bytes | None = None) -> bytes:
    """A record of magic 2, whatever bytes its parts are of."""
    parts = b"\0" + varint(0) + varint(delta)
    parts += varint(-1) if key is None else varint(len(key)) + key
    parts += varint(len(value)) + value + varint(len(headers))
    for name, content in headers:
        parts += varint(len(name)) + name
        parts += varint(-1) if content is None else varint(len(content)) + content
    return varint(len(parts)) + parts


def batch(*records: bytes, base: int = 0, compression: str = "none") -> bytes:
    encoded = bytearray(encode_batch(b"".join(records), len(records), 1000, compression))
    struct.pack_into(">q", encoded, 0, base)
    return bytes(encoded)


def signed(data: bytes) -> bytes:
    """The batch with a checksum that fits."""
    return data[:17] + struct.pack(">I", calc_crc32c(data[21:])) + data[21:]


def read(data: bytes, start: int = 0, isolation: int = 0) -> list[Any]:
    return list(LenientRecords(WHERE, FetchedBatches(data), None, start, None, None, True, isolation))


def seen(records: list[Any]) -> list[tuple[int, bytes | str | None]]:
    return [(each.offset, each.damage if isinstance(each, DamagedRecord) else each.value) for each in records]


def test_consumers_of_this_process_pass_on_damaged_records() -> None:
    assert kafka.KafkaClient is not None
    assert fetcher.PartitionRecords is LenientRecords
    assert fetcher.MemoryRecords is FetchedBatches


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_good_batches_are_read_as_aiokafka_reads_them(compression: str) -> None:
    records = [record(i, b"v%d" % i, (b"h", b"x"), (b"n", None), key=b"k") for i in range(5)]
    data = batch(*records, compression=compression) + batch(*records, base=5, compression=compression)
    found = read(data, start=3)
    assert seen(found) == [(3, b"v3"), (4, b"v4"), *((5 + i, b"v%d" % i) for i in range(5))]
    assert found[0].headers == (("h", b"x"), ("n", None))
    assert (found[0].key, found[0].timestamp, found[0].topic) == (b"k", 1000, "requests")


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_header_key_that_is_not_utf8_costs_that_record_alone(compression: str, place: int) -> None:
    records = [record(i, b"v%d" % i, (b"\xff" if i == place else b"h", b"x")) for i in range(5)]
    found = read(batch(*records, base=10, compression=compression) + batch(record(0, b"next"), base=15))
    expected: list[Any] = [(10 + i, b"v%d" % i) for i in range(5)] + [(15, b"next")]
    expected[place] = (10 + place, "a header has a key that is not UTF-8")
    assert seen(found) == expected
    assert found[place].value is None


def test_sizes_that_do_not_add_up_cost_that_record_alone() -> None:
    bad = record(1, b"v1")
    parts = bytearray(bad)
    parts[-1] += 2  # one header more than there is
    found = read(batch(record(0, b"v0"), bytes(parts), record(2, b"v2")))
    assert seen(found) == [(0, b"v0"), (1, "its sizes do not add up"), (2, b"v2")]


def test_a_batch_of_an_unknown_codec_is_one_damaged_record_up_to_its_end() -> None:
    data = bytearray(batch(*(record(i, b"v") for i in range(4)), base=7))
    data[22] |= 6
    found = read(signed(bytes(data)) + batch(record(0, b"next"), base=11))
    assert [each.offset for each in found] == [7, 11]
    assert "up to offset 10" in found[0].damage
    assert found[1].value == b"next"


def test_a_wrong_checksum_is_fetched_again_before_it_is_believed() -> None:
    data = bytearray(batch(record(0, b"v0"), record(1, b"v1"), base=30))
    data[-3] ^= 1
    for _ in range(2):
        with pytest.raises(CorruptRecordException):
            read(bytes(data))
    found = read(bytes(data) + batch(record(0, b"next"), base=32))
    assert [each.offset for each in found] == [30, 32]
    assert "up to offset 31, cannot be read: its checksum is wrong" in found[0].damage


def test_a_batch_that_unpacks_to_gigabytes_is_one_damaged_record() -> None:
    bomb = batch(record(0, bytes(80 << 20)), compression="zstd")
    assert len(bomb) < 100_000
    found = read(bomb + batch(record(0, b"next"), base=1))
    assert "unpacks to more than 64 MiB" in found[0].damage
    assert found[1].value == b"next"


@pytest.mark.parametrize("seed", range(300))
def test_whatever_the_bytes_of_a_batch_are_the_next_one_is_read(seed: int) -> None:
    chance = random.Random(seed)
    good = batch(
        *(record(i, chance.randbytes(8), (b"h", b"x")) for i in range(6)),
        base=3,
        compression=chance.choice(COMPRESSIONS),
    )
    data = bytearray(good)
    for _ in range(1 + seed % 6):
        data[chance.randrange(61, len(data))] = chance.randrange(256)
    found = read(signed(bytes(data)) + batch(record(0, b"next"), base=9), isolation=seed % 2)
    offsets = [each.offset for each in found]
    assert found[-1].value == b"next"
    assert offsets == sorted(set(offsets))
    assert all(3 <= offset <= 9 for offset in offsets)


def test_batches_of_aiokafkas_own_builder_are_read() -> None:
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=10_000,
    )
    for i in range(3):
        builder.append(i, timestamp=5, key=b"k", value=b"v", headers=[])
    assert seen(read(bytes(builder.build()))) == [(0, b"v"), (1, b"v"), (2, b"v")]
