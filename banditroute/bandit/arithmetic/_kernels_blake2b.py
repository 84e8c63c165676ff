"""Compiled BLAKE2b without a key, 8 bytes of digest, of many short texts at once (RFC 7693)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from banditroute_features.compile import njit_cached

kernel = njit_cached(_nrt=False)  # nothing is allocated, so no references are counted

BLOCK: Final = 128  # bytes
_IV: Final = (
    np.uint64(0x6A09E667F3BCC908), np.uint64(0xBB67AE8584CAA73B), np.uint64(0x3C6EF372FE94F82B),
    np.uint64(0xA54FF53A5F1D36F1), np.uint64(0x510E527FADE682D1), np.uint64(0x9B05688C2B3E6C1F),
    np.uint64(0x1F83D9ABFB41BD6B), np.uint64(0x5BE0CD19137E2179),
)  # fmt: skip
_SIGMA: Final = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    np.uint8,
)
_PARAMETERS: Final = np.uint64(0x01010008)  # digest of 8 bytes, no key, one leaf
_R16, _R24, _R32, _R40, _R48, _R63, _R1 = (np.uint64(n) for n in (16, 24, 32, 40, 48, 63, 1))


@kernel
def _mix(a: Any, b: Any, c: Any, d: Any, x: Any, y: Any) -> Any:
    """Return the four words after the function G."""
    a = a + b + x
    d ^= a
    d = d >> _R32 | d << _R32
    c = c + d
    b ^= c
    b = b >> _R24 | b << _R40
    a = a + b + y
    d ^= a
    d = d >> _R16 | d << _R48
    c = c + d
    b ^= c
    b = b >> _R63 | b << _R1
    return a, b, c, d


@kernel
def _compress(h: Any, m: Any, length: Any, last: Any) -> None:
    """Mix a block of sixteen words into the state h; `length` bytes were read so far, `last` is all ones or 0."""
    v0, v1, v2, v3, v4, v5, v6, v7 = h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]
    v8, v9, v10, v11 = _IV[0], _IV[1], _IV[2], _IV[3]
    v12, v13, v14, v15 = _IV[4] ^ length, _IV[5], _IV[6] ^ last, _IV[7]
    for turn in range(12):
        s = _SIGMA[turn % 10]
        v0, v4, v8, v12 = _mix(v0, v4, v8, v12, m[s[0]], m[s[1]])
        v1, v5, v9, v13 = _mix(v1, v5, v9, v13, m[s[2]], m[s[3]])
        v2, v6, v10, v14 = _mix(v2, v6, v10, v14, m[s[4]], m[s[5]])
        v3, v7, v11, v15 = _mix(v3, v7, v11, v15, m[s[6]], m[s[7]])
        v0, v5, v10, v15 = _mix(v0, v5, v10, v15, m[s[8]], m[s[9]])
        v1, v6, v11, v12 = _mix(v1, v6, v11, v12, m[s[10]], m[s[11]])
        v2, v7, v8, v13 = _mix(v2, v7, v8, v13, m[s[12]], m[s[13]])
        v3, v4, v9, v14 = _mix(v3, v4, v9, v14, m[s[14]], m[s[15]])
    h[0] ^= v0 ^ v8
    h[1] ^= v1 ^ v9
    h[2] ^= v2 ^ v10
    h[3] ^= v3 ^ v11
    h[4] ^= v4 ^ v12
    h[5] ^= v5 ^ v13
    h[6] ^= v6 ^ v14
    h[7] ^= v7 ^ v15


@kernel
def digests(data: Any, ends: Any, work: Any, out: Any) -> None:
    """Write the digests of texts that lie one behind the other.

    Parameters
    ----------
    data : uint8[...]
        The texts.
    ends : int64[n]
        Where each ends.
    work : uint64[24]
        State and block.
    out : uint64[n]
        Receives the digests, little endian.
    """
    h, m, block = work[:8], work[8:], work[8:].view(np.uint8)
    start = 0
    for row in range(ends.shape[0]):
        for i in range(8):
            h[i] = _IV[i]
        h[0] ^= _PARAMETERS
        size, at = ends[row] - start, 0
        while True:
            count = min(size - at, BLOCK)
            here = data[start + at : start + at + count]
            for i in range(count):
                block[i] = here[i]
            for i in range(count, BLOCK):
                block[i] = 0
            at += count
            last = at == size
            _compress(h, m, np.uint64(at), np.uint64(0xFFFFFFFFFFFFFFFF) if last else np.uint64(0))
            if last:
                break
        out[row] = h[0]
        start = ends[row]
