"""Where a producer puts a key: the three hashes in use, and telling which one it is."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banditroute.flow.copying.partitioner import PARTITIONERS, TRUST_AFTER, PartitionerWatch, partitions_of

MURMUR2, CRC32, FNV1A = range(3)
WIDE = 2**31  # so many partitions that the partition is the hash, but for its highest bit

# The public test vectors of Kafka's Java client: the hash as Java's signed 32-bit number.
JAVA = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}
# The public test vectors of librdkafka, which follows Sarama: the absolute value of the signed number.
LIBRDKAFKA_FNV1A = {
    "kafka": 0xD33C4E1,
    "giberish123456789": 0x77A58295,
    "1234": 0x23BDD03,
    "234": 0x2DEA3CD2,
    "34": 0x740FA83E,
    "4": 0x310CA263,
    "PreAmbleWillBeRemoved,ThePrePartThatIs": 0x65CBD69C,
}

keys = st.lists(st.binary(min_size=1, max_size=70), min_size=1, max_size=20)
counts = st.integers(1, 1000)


def murmur2(key: bytes) -> int:
    """MurmurHash2 with Kafka's seed, and the sign bit taken away."""
    m = 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m % 2**32
        h = (h * m % 2**32) ^ ((k ^ k >> 24) * m % 2**32)
    if key[whole:]:
        h = (h ^ int.from_bytes(key[whole:], "little")) * m % 2**32
    h = (h ^ h >> 13) * m % 2**32
    return (h ^ h >> 15) & 0x7FFFFFFF


def fnv1a(key: bytes) -> int:
    """32-bit FNV-1a as librdkafka and Sarama use it: the absolute value of the signed hash."""
    h = 2166136261
    for byte in key:
        h = (h ^ byte) * 16777619 % 2**32
    return 2**32 - h if h >= 2**31 else h


# -- the hashes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "hashed"), JAVA.items())
def test_murmur2_is_that_of_the_java_client(key: str, hashed: int) -> None:
    assert partitions_of([key.encode()], WIDE)[0, MURMUR2] == hashed & 0x7FFFFFFF
    assert murmur2(key.encode()) == hashed & 0x7FFFFFFF


@pytest.mark.parametrize(("key", "hashed"), LIBRDKAFKA_FNV1A.items())
def test_fnv1a_is_that_of_librdkafka(key: str, hashed: int) -> None:
    assert fnv1a(key.encode()) == hashed
    assert partitions_of([key.encode()], WIDE)[0, FNV1A] == hashed


@given(keys, counts)
def test_murmur2_agrees_with_the_plain_form(some: list[bytes], count: int) -> None:
    assert partitions_of(some, count)[:, MURMUR2].tolist() == [murmur2(key) % count for key in some]


@given(keys, counts)
def test_crc32_agrees_with_zlib(some: list[bytes], count: int) -> None:
    assert partitions_of(some, count)[:, CRC32].tolist() == [zlib.crc32(key) % count for key in some]


@given(keys, counts)
def test_fnv1a_agrees_with_the_plain_form(some: list[bytes], count: int) -> None:
    assert partitions_of(some, count)[:, FNV1A].tolist() == [fnv1a(key) % count for key in some]


@given(keys, counts)
def test_the_partition_of_a_key_does_not_depend_on_its_neighbours(some: list[bytes], count: int) -> None:
    together = partitions_of(some, count)
    for index, key in enumerate(some):
        assert together[index].tolist() == partitions_of([key], count)[0].tolist()


def test_empty_keys_and_no_keys_are_taken() -> None:
    assert partitions_of([], 8).shape == (0, 3)
    assert partitions_of([b""], 8)[0, CRC32] == zlib.crc32(b"") % 8
    assert partitions_of([b"", b"abc", b""], 8)[1].tolist() == partitions_of([b"abc"], 8)[0].tolist()


# -- which one is in use ----------------------------------------------------------------------------------

IDS = [f"r-{number}".encode() for number in range(400)]


def feed(watch: PartitionerWatch, column: int, ids: list[bytes]) -> bool:
    """Show a watch requests as a partitioner spreads them; return whether trust was lost."""
    homes = partitions_of(ids, watch.count)[:, column]
    lost = [watch.check([key], int(home)) for key, home in zip(ids, homes, strict=True)]
    return any(lost)


@pytest.mark.parametrize("column", range(3), ids=PARTITIONERS)
def test_auto_finds_the_partitioner_in_use(column: int) -> None:
    watch = PartitionerWatch("auto", 8)
    assert not feed(watch, column, IDS[: TRUST_AFTER - 1])
    assert watch.trusted is None
    assert not feed(watch, column, IDS[TRUST_AFTER - 1 : TRUST_AFTER])
    assert watch.trusted == column
    for key in IDS:
        assert watch.home(key.decode()) == partitions_of([key], 8)[0, column]
    assert watch.mismatches == 0


def test_auto_trusts_nothing_before_it_has_seen_enough() -> None:
    assert PartitionerWatch("auto", 4).home("r-1") is None


def test_auto_takes_trust_back_at_the_first_mismatch_and_for_good() -> None:
    watch = PartitionerWatch("auto", 8)
    feed(watch, CRC32, IDS[:100])
    stray = next(key for key in IDS[100:] if len(set(partitions_of([key], 8)[0].tolist())) == 3)
    home = set(range(8)) - set(partitions_of([stray], 8)[0].tolist())
    assert watch.check([stray], home.pop())
    assert watch.mismatches == 1
    assert watch.trusted is None
    assert watch.home("r-1") is None
    assert not feed(watch, CRC32, IDS[100:])
    assert watch.trusted is None


def test_auto_gives_up_quietly_when_keys_do_not_decide_the_partition() -> None:
    watch = PartitionerWatch("auto", 8)
    assert not any(watch.check([key], index % 8) for index, key in enumerate(IDS))
    assert watch.trusted is None
    assert watch.mismatches == 0


def test_repeats_of_one_id_are_no_evidence() -> None:
    watch = PartitionerWatch("auto", 2)
    ambiguous = next(
        key for key in IDS if partitions_of([key], 2)[0, MURMUR2] == partitions_of([key], 2)[0, CRC32]
    )
    home = int(partitions_of([ambiguous], 2)[0, CRC32])
    watch.check([ambiguous] * (2 * TRUST_AFTER), home)
    assert watch.trusted is None


@pytest.mark.parametrize("column", range(3), ids=PARTITIONERS)
def test_a_configured_partitioner_is_trusted_at_once(column: int) -> None:
    watch = PartitionerWatch(PARTITIONERS[column], 8)
    assert watch.trusted == column
    assert watch.home("r-1") == partitions_of([b"r-1"], 8)[0, column]
    assert not feed(watch, column, IDS)
    assert watch.trusted == column


def test_a_configured_partitioner_that_is_not_the_one_is_told_once() -> None:
    watch = PartitionerWatch("murmur2", 8)
    homes = partitions_of(IDS, 8)[:, CRC32]
    told = [watch.check([key], int(home)) for key, home in zip(IDS, homes, strict=True)]
    assert told.count(True) == 1
    assert watch.mismatches == 1
    assert watch.home("r-1") is None


def test_mismatches_of_one_batch_are_counted() -> None:
    watch = PartitionerWatch("murmur2", 8)
    stray = [key for key in IDS if partitions_of([key], 8)[0, MURMUR2] != 3][:5]
    assert watch.check(stray, 3)
    assert watch.mismatches == 5


def test_any_copies_everywhere() -> None:
    watch = PartitionerWatch("any", 8)
    assert not feed(watch, MURMUR2, IDS)
    assert watch.home("r-1") is None
    assert watch.mismatches == 0


@pytest.mark.parametrize("configured", [*PARTITIONERS, "any", "auto"])
def test_one_partition_is_home_to_all(configured: str) -> None:
    watch = PartitionerWatch(configured, 1)
    assert not watch.check(IDS, 0)
    assert watch.home("anything") == 0


@given(st.integers(0, 2), st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(2, 16))
def test_splitting_into_batches_changes_nothing(column: int, sizes: list[int], count: int) -> None:
    whole, split = PartitionerWatch("auto", count), PartitionerWatch("auto", count)
    homes = partitions_of(IDS, count)[:, column]
    for partition in range(count):
        here = [key for key, home in zip(IDS, homes, strict=True) if home == partition]
        whole.check(here, partition)
        for size in sizes:
            split.check(here[:size], partition)
            here = here[size:]
        split.check(here, partition)
    assert whole.trusted == split.trusted == column
