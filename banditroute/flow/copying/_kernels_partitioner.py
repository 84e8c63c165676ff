"""Compiled kernels of the flow: the key hashes by which Kafka producers choose a partition."""

from __future__ import annotations

import numpy as np

from banditroute_features.compile import njit_cached

kernel = njit_cached()

_CRC_TABLE = np.zeros(256, np.uint32)
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = (_value >> 1) ^ 0xEDB88320 if _value & 1 else _value >> 1
    _CRC_TABLE[_byte] = _value


@kernel
def murmur2(data, start, stop):  # type: ignore[no-untyped-def]
    """Kafka's Java client: the positive part of 32-bit MurmurHash2 with seed 0x9747b28c."""
    length = stop - start
    mask = np.uint64(0xFFFFFFFF)
    m = np.uint64(0x5BD1E995)
    h = (np.uint64(0x9747B28C) ^ np.uint64(length)) & mask
    for i in range(length // 4):
        at = start + 4 * i
        k = np.uint64(data[at]) | np.uint64(data[at + 1]) << np.uint64(8)
        k |= np.uint64(data[at + 2]) << np.uint64(16) | np.uint64(data[at + 3]) << np.uint64(24)
        k = (k * m) & mask
        k ^= k >> np.uint64(24)
        k = (k * m) & mask
        h = ((h * m) & mask) ^ k
    tail = start + length // 4 * 4
    rest = length % 4
    if rest == 3:
        h ^= np.uint64(data[tail + 2]) << np.uint64(16)
    if rest >= 2:
        h ^= np.uint64(data[tail + 1]) << np.uint64(8)
    if rest >= 1:
        h = ((h ^ np.uint64(data[tail])) * m) & mask
    h ^= h >> np.uint64(13)
    h = (h * m) & mask
    h ^= h >> np.uint64(15)
    return h & np.uint64(0x7FFFFFFF)


@kernel
def crc32(data, start, stop, table):  # type: ignore[no-untyped-def]
    """librdkafka's default (`consistent`): CRC-32 as in zlib."""
    h = np.uint32(0xFFFFFFFF)
    for i in range(start, stop):
        h = table[(h ^ np.uint32(data[i])) & np.uint32(0xFF)] ^ (h >> np.uint32(8))
    return np.uint64(h ^ np.uint32(0xFFFFFFFF))


@kernel
def fnv1a(data, start, stop):  # type: ignore[no-untyped-def]
    """librdkafka's `fnv1a`: 32-bit FNV-1a, read as a signed number, without its sign."""
    h = np.uint64(2166136261)
    for i in range(start, stop):
        h = ((h ^ np.uint64(data[i])) * np.uint64(16777619)) & np.uint64(0xFFFFFFFF)
    return h if h < np.uint64(1 << 31) else np.uint64(1 << 32) - h


@kernel
def partitions(data, ends, count, table, out):  # type: ignore[no-untyped-def]
    """Write for each key its partition under murmur2, crc32 and fnv1a into out[n, 3]."""
    start = 0
    modulus = np.uint64(count)
    for i in range(ends.shape[0]):
        stop = ends[i]
        out[i, 0] = np.int64(murmur2(data, start, stop) % modulus)
        out[i, 1] = np.int64(crc32(data, start, stop, table) % modulus)
        out[i, 2] = np.int64(fnv1a(data, start, stop) % modulus)
        start = stop


def crc_table() -> np.ndarray:
    """Return the table of the reflected polynomial 0xEDB88320."""
    return _CRC_TABLE
