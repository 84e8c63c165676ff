"""Which partition a request is on, told from its key: the hashes of Kafka's clients, and which one is in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from banditroute.flow.copying import _kernels_partitioner as _kernels

PARTITIONERS: Final = ("murmur2", "crc32", "fnv1a")

# How many different ids must agree before "auto" trusts a partitioner: the chance that keys of another
# partitioner all agree by luck is at most 2**-32 (two partitions), and a later mismatch takes it back.
TRUST_AFTER: Final = 32


def partitions_of(keys: Sequence[bytes], count: int) -> npt.NDArray[np.int64]:
    """Tell the partition of each key under each partitioner.

    Parameters
    ----------
    keys : sequence of bytes
        Message keys.
    count : int
        Partitions of the topic.

    Returns
    -------
    int64[n, 3]
        Columns in the order of `PARTITIONERS`.

    Examples
    --------
    >>> partitions_of([b"21", b"foobar"], 1000).tolist()  # doctest: +ELLIPSIS
    [[...], [...]]
    """
    out = np.empty((len(keys), len(PARTITIONERS)), np.int64)
    if keys:
        data = np.frombuffer(b"".join(keys) or b"\0", np.uint8)
        ends = np.cumsum(np.fromiter(map(len, keys), np.int64, len(keys)))
        _kernels.partitions(data, ends, count, _kernels.crc_table(), out)
    return out


class PartitionerWatch:
    """Checks every request read against the partitioners and tells where feedback without decision_id belongs.

    Parameters
    ----------
    configured : str
        One of `PARTITIONERS`, ``"any"`` (no key partitioner: copy to every partition) or ``"auto"``.
    count : int
        Partitions of the request topic.

    Attributes
    ----------
    mismatches : int
        Requests that were not where the configured (or trusted) partitioner would have put them.
    """

    def __init__(self, configured: str, count: int) -> None:
        self.count = count
        self.mismatches = 0
        self._configured = configured
        self._distinct: set[bytes] = set()  # ids that agreed so far, until they are enough
        if configured in PARTITIONERS:
            self._alive = [name == configured for name in PARTITIONERS]
        else:
            self._alive = [configured == "auto"] * len(PARTITIONERS)

    @property
    def trusted(self) -> int | None:
        """The column of the partitioner in use, or None: copy everywhere."""
        if self._configured not in PARTITIONERS and len(self._distinct) < TRUST_AFTER:
            return None
        return next((i for i, alive in enumerate(self._alive) if alive), None)

    def check(self, keys: Sequence[bytes], partition: int) -> bool:
        """Look at request ids read from `partition`; return whether trust was lost by it."""
        if self.count == 1 or not keys or not any(self._alive):
            return False
        before = self.trusted
        agrees = partitions_of(keys, self.count) == partition
        if before is not None:
            self.mismatches += int(np.count_nonzero(~agrees[:, before]))
        for column in range(len(PARTITIONERS)):
            self._alive[column] = self._alive[column] and bool(agrees[:, column].all())
        if len(self._distinct) < TRUST_AFTER:
            self._distinct.update(keys)
        return before is not None and not self._alive[before]

    def home(self, request_id: str) -> int | None:
        """Return the partition of a request id, or None when it cannot be told."""
        return self.homes([request_id])[0]

    def homes(self, request_ids: Sequence[str]) -> list[int | None]:
        """Return the partitions of many request ids; see `home`."""
        column = 0 if self.count == 1 else self.trusted
        if column is None:
            return [None] * len(request_ids)
        if self.count == 1:
            return [0] * len(request_ids)
        return list(
            partitions_of([request_id.encode() for request_id in request_ids], self.count)[:, column].tolist()
        )
