"""Ids as 128-bit keyed hashes: sixteen bytes each, whatever their length.

The hash is SipHash-2-4 with 128 bits, a keyed pseudo-random function: without the key nobody can choose request ids
that collide. The key is drawn when a partition's state begins and travels in every state record: who replays
the same logs from the same state uses the same key, so that even a collision would act alike in every replay.
By chance two of a million open ids collide with probability 1e-27.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.flow.pending import _kernels_index

Identity = tuple[int, int]
NOBODY: Final[Identity] = (0, 0)
_MOST_NAMES: Final = 4096  # hashes of names remembered


class Identifier:
    """Hashes ids under one key.

    Parameters
    ----------
    hash_key : str
        Of the partition's genesis.
    """

    def __init__(self, hash_key: str) -> None:
        key = blake2b(hash_key.encode(), digest_size=16).digest()
        self._k0 = np.uint64(int.from_bytes(key[:8], "little"))
        self._k1 = np.uint64(int.from_bytes(key[8:], "little"))
        self._names: dict[str, int] = {}

    def of(self, text: str) -> Identity:
        """Return the two halves of the hash of an id."""
        data = text.encode()
        first, second = _kernels_index.siphash(
            np.frombuffer(data or b"\0", np.uint8), 0, len(data), self._k0, self._k1
        )
        return int(first), int(second)

    def of_each(self, ids: Sequence[bytes]) -> NDArray[np.uint64]:
        """Return the hashes of many ids, uint64[n, 2]."""
        return self._hashed(b"".join(ids), map(len, ids), len(ids))

    def of_texts(self, texts: Sequence[str]) -> NDArray[np.uint64]:
        """Return the hashes of many ids given as text, uint64[n, 2]."""
        joined = "".join(texts)
        if not joined.isascii():
            return self.of_each([text.encode() for text in texts])
        return self._hashed(joined.encode(), map(len, texts), len(texts))

    def _hashed(self, data: bytes, lengths: Iterable[int], count: int) -> NDArray[np.uint64]:
        out = np.empty((count, 2), np.uint64)
        ends = np.cumsum(np.fromiter(lengths, np.int64, count))
        _kernels_index.siphash_each(np.frombuffer(data or b"\0", np.uint8), ends, self._k0, self._k1, out)
        return out

    def of_name(self, name: str | None) -> int:
        """Return 64 bits for a name that comes again and again, such as a tenant's; 0 for none."""
        if name is None:
            return 0
        found = self._names.get(name)
        if found is None:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            found = self._names[name] = self.of(name)[0] or 1
        return found

    def of_pair(self, source: str | None, voter: str | None) -> Identity:
        """Return 64 bits each for the source and the voter of a feedback, 0 for an absent one."""
        return self.of_name(source), 0 if voter is None else self.of(voter)[0] or 1
