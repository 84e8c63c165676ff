"""Random numbers without a state: each belongs to (seed, request, model) and to nothing else.

A decision can be repeated from its log, in any order, in any batch, on any replica, and a model that joins or leaves
the catalog changes no other model's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.arithmetic import _kernels_blake2b, _kernels_chance


def request_key(request_id: str) -> int:
    """Return the 64-bit key of a request: BLAKE2b of its UTF-8 id, 8 bytes, little endian.

    Examples
    --------
    >>> hex(request_key("r-1"))
    '0xeadbb760ea8997d'
    """
    return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest(), "little")


def request_keys(ids: Sequence[bytes]) -> NDArray[np.uint64]:
    """Return `request_key` of many ids, given as UTF-8; uint64[n].

    Examples
    --------
    >>> int(request_keys([b"r-0", b"r-1"])[1]) == request_key("r-1")
    True
    """
    data = np.frombuffer(b"".join(ids) or b"\0", np.uint8)
    ends = np.fromiter(accumulate(map(len, ids)), np.int64, len(ids))
    keys = np.empty(len(ids), np.uint64)
    _kernels_blake2b.digests(data, ends, np.empty(24, np.uint64), keys)
    return keys


def model_key(name: str, generation: int = 0) -> int:
    """Return the 64-bit key of a model: BLAKE2b of its UTF-8 name and its generation as 8 bytes, little endian.

    Examples
    --------
    >>> model_key("small", 0) == model_key("small", 1)
    False
    """
    data = name.encode() + generation.to_bytes(8, "little")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def normal(seed: int, request: int, model: int) -> float:
    """Return the standard normal number that belongs to three 64-bit keys.

    The keys are chained through the finaliser of splitmix64 (Steele, Lea and Flood, Fast splittable pseudorandom
    number generators, 2014); the upper 52 bits h of the result give the probability (h + 1/2) / 2**52, and algorithm
    AS 241 (Wichura, The percentage points of the normal distribution, 1988) its quantile. The largest is 8.1.

    Parameters
    ----------
    seed, request, model : int
        In 0..2**64 - 1.

    Raises
    ------
    OverflowError
        If a key is out of range.

    Examples
    --------
    >>> normal(1, request_key("r-1"), model_key("small")) == normal(1, request_key("r-1"), model_key("small"))
    True
    """
    return float(_kernels_chance.normal(np.uint64(seed), np.uint64(request), np.uint64(model)))
