"""A batch that unpacks to gigabytes is refused before memory is taken for it; honest batches never are."""

from __future__ import annotations

import contextlib
import random
import tracemalloc

import pytest
from aiokafka import codec

from banditroute.runtime.broker.unpacking import MOST_UNPACKED, TooLarge, check_unpacked_size

PACK = {1: codec.gzip_encode, 2: codec.snappy_encode, 3: codec.lz4_encode, 4: codec.zstd_encode}


@pytest.mark.parametrize("number", PACK)
@pytest.mark.parametrize("size", [0, 1, 100, 70_000, 3_000_000, MOST_UNPACKED // 2])
@pytest.mark.parametrize("content", ["zeros", "noise"])
def test_what_unpacks_to_less_than_the_limit_passes(number: int, size: int, content: str) -> None:
    if content == "noise" and size > 3_000_000:
        size = 3_000_000
    body = bytes(size) if content == "zeros" else random.Random(size).randbytes(size)
    check_unpacked_size(number, memoryview(PACK[number](body)))


@pytest.mark.parametrize("number", PACK)
def test_a_bomb_is_refused_without_being_unpacked(number: int) -> None:
    packed = memoryview(PACK[number](bytes(3 * MOST_UNPACKED)))
    tracemalloc.start()
    with pytest.raises(TooLarge, match="64 MiB"):
        check_unpacked_size(number, packed)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_a_raw_snappy_block_says_its_size() -> None:
    packed = codec.snappy_encode(bytes(2 * MOST_UNPACKED), xerial_compatible=False)
    with pytest.raises(TooLarge):
        check_unpacked_size(2, memoryview(packed))


@pytest.mark.parametrize("number", [*PACK, 0, 7])
@pytest.mark.parametrize("seed", range(200))
def test_bytes_that_are_no_frame_are_left_to_the_parser_or_refused(number: int, seed: int) -> None:
    lottery = random.Random(seed)
    data = bytearray(PACK.get(number, bytes)(lottery.randbytes(200)))
    for _ in range(seed % 5):
        data[lottery.randrange(len(data))] = lottery.randrange(256)
    with contextlib.suppress(TooLarge):
        check_unpacked_size(number, memoryview(bytes(data[: lottery.randrange(len(data) + 1)])))
