"""How long the event loop was held by each kind of work: what no other task could interrupt."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

WORK_SECONDS: Final = 0.005  # the rule: no work between two awaits takes longer
_SHARE: Final = 0.2  # of the newest batch in what a request is reckoned to take
_FIRST_BATCH: Final = 128
_LEAST_BATCH: Final = 16


class Meter:
    """Measures work between two awaits.

    Attributes
    ----------
    longest : dict of str to float
        The longest stretch per kind of work since the start, in seconds.
    over : Counter of str
        How many stretches per kind were longer than `WORK_SECONDS`.
    """

    def __init__(self) -> None:
        self.longest: dict[str, float] = {}
        self.over: Counter[str] = Counter()
        self._per_request = WORK_SECONDS / _FIRST_BATCH

    @contextmanager
    def work(self, kind: str) -> Iterator[None]:
        """Measure what is done inside, which must not await."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.took(kind, time.perf_counter() - begun)

    def took(self, kind: str, seconds: float) -> None:
        """Take note of a stretch of work."""
        if seconds > self.longest.get(kind, -1.0):
            self.longest[kind] = seconds
        if seconds > WORK_SECONDS:
            self.over[kind] += 1

    def decided(self, requests: int, seconds: float) -> None:
        """Take note of a batch of decisions; a small one says little about what a request takes."""
        self.took("decide", seconds)
        if requests >= _LEAST_BATCH:
            self._per_request += _SHARE * (seconds / requests - self._per_request)

    @property
    def batch(self) -> int:
        """How many requests can be decided inside of `WORK_SECONDS`."""
        return max(_LEAST_BATCH, int(WORK_SECONDS / max(self._per_request, 1e-9)))
