"""Compiled kernels of the index of open decisions: a keyed hash, and open addressing with linear probing.

An entry is one uint64: a 32-bit fingerprint above, a 32-bit sequence number below. Sequence numbers wrap; they are
compared by their distance to ``floor``, that of the oldest row.
"""

from __future__ import annotations

import numpy as np

from banditroute_features.compile import njit_cached

kernel = njit_cached()
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


@kernel
def _rotated(x, by):  # type: ignore[no-untyped-def]
    return (x << np.uint64(by)) | (x >> np.uint64(64 - by))


@kernel
def _rounds(v0, v1, v2, v3, count):  # type: ignore[no-untyped-def]
    for _ in range(count):
        v0 += v1
        v1 = _rotated(v1, 13) ^ v0
        v0 = _rotated(v0, 32)
        v2 += v3
        v3 = _rotated(v3, 16) ^ v2
        v0 += v3
        v3 = _rotated(v3, 21) ^ v0
        v2 += v1
        v1 = _rotated(v1, 17) ^ v2
        v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


@kernel
def siphash(data, start, stop, k0, k1):  # type: ignore[no-untyped-def]
    """SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012) of data[start:stop]."""
    v0 = np.uint64(0x736F6D6570736575) ^ k0
    v1 = np.uint64(0x646F72616E646F6D) ^ k1 ^ np.uint64(0xEE)
    v2 = np.uint64(0x6C7967656E657261) ^ k0
    v3 = np.uint64(0x7465646279746573) ^ k1
    length = stop - start
    for word in range(length // 8 + 1):
        at = start + 8 * word
        m = np.uint64(length & 0xFF) << np.uint64(56) if at + 8 > stop else np.uint64(0)
        for i in range(min(8, stop - at)):
            m |= np.uint64(data[at + i]) << np.uint64(8 * i)
        v0, v1, v2, v3 = _rounds(v0, v1, v2, v3 ^ m, 2)
        v0 ^= m
    v0, v1, v2, v3 = _rounds(v0, v1, v2 ^ np.uint64(0xEE), v3, 4)
    first = v0 ^ v1 ^ v2 ^ v3
    v0, v1, v2, v3 = _rounds(v0, v1 ^ np.uint64(0xDD), v2, v3, 4)
    return first, v0 ^ v1 ^ v2 ^ v3


@kernel
def siphash_each(data, ends, k0, k1, out):  # type: ignore[no-untyped-def]
    """Hash pieces that lie behind each other in data, each up to its end, into out[n, 2]."""
    start = 0
    for i in range(ends.shape[0]):
        out[i, 0], out[i, 1] = siphash(data, start, ends[i], k0, k1)
        start = ends[i]


@kernel
def _home(entry, size):  # type: ignore[no-untyped-def]
    return np.int64((entry >> _32) * np.uint64(size) >> _32)


@kernel
def insert(table, low, numbers, n):  # type: ignore[no-untyped-def]
    """Enter n fingerprints (the low halves of hashes) with their sequence numbers; the table has room for them."""
    size = table.shape[0]
    for i in range(n):
        entry = (low[i] << _32) | (np.uint64(numbers[i]) & _LOW)
        at = _home(entry, size)
        while table[at] != EMPTY:
            at = at + 1 if at + 1 < size else 0
        table[at] = entry


@kernel
def move(table, into):  # type: ignore[no-untyped-def]
    """Enter every entry of a table into a larger or smaller one."""
    size = into.shape[0]
    for i in range(table.shape[0]):
        entry = table[i]
        if entry != EMPTY:
            at = _home(entry, size)
            while into[at] != EMPTY:
                at = at + 1 if at + 1 < size else 0
            into[at] = entry


@kernel
def find(table, low, floor, beyond):  # type: ignore[no-untyped-def]
    """Return the distance to `floor` of the nearest row with a fingerprint, at least `beyond`, or -1."""
    size = table.shape[0]
    wanted = low & _LOW
    at = _home(wanted << _32, size)
    best = np.int64(-1)
    while table[at] != EMPTY:
        entry = table[at]
        if entry >> _32 == wanted:
            distance = np.int64((entry - np.uint64(floor)) & _LOW)
            if distance >= beyond and (best < 0 or distance < best):
                best = distance
        at = at + 1 if at + 1 < size else 0
    return best


@kernel
def find_each(table, low, floor, out):  # type: ignore[no-untyped-def]
    """`find` for many fingerprints."""
    for i in range(low.shape[0]):
        out[i] = find(table, low[i], floor, 0)


@kernel
def remove(table, low, numbers, n):  # type: ignore[no-untyped-def]
    """Take out entries that are there, closing the gaps, so that no tombstones slow later searches down."""
    size = table.shape[0]
    for i in range(n):
        entry = (low[i] << _32) | (np.uint64(numbers[i]) & _LOW)
        hole = _home(entry, size)
        while table[hole] != entry:
            hole = hole + 1 if hole + 1 < size else 0
        at = hole
        while True:
            at = at + 1 if at + 1 < size else 0
            if table[at] == EMPTY:
                break
            home = _home(table[at], size)
            # an entry may move back to the hole unless its home lies cyclically in (hole, at]
            stays = hole < home <= at if hole < at else home > hole or home <= at
            if not stays:
                table[hole] = table[at]
                hole = at
        table[hole] = EMPTY


@kernel
def free_chains(heads, following, touched, voters, free, none):  # type: ignore[no-untyped-def]
    """Give the vote rows of closed decisions back to the free list; return its new head."""
    for i in range(heads.shape[0]):
        row = heads[i]
        while row >= 0:
            behind = following[row]
            touched[row] = none
            voters[row] = 0
            following[row] = free
            free = row
            row = behind
    return free
