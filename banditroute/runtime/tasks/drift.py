"""Drift alerts: a model that has become better or worse on one kind of request.

The change detector judges models as a whole, and acts. This one only tells people, and tells them more: which model,
on requests with which tag, when, and by how much. An adaptive window (Bifet and Gavalda, Learning from time-changing
data with adaptive windowing, 2007; `river.drift.ADWIN`) watches the votes of every model and first tag that this
engine sees.
"""

from __future__ import annotations

import importlib.util
import math
from collections import OrderedDict, deque
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

MOST_STREAMS: Final = (
    1000  # pairs of model and segment watched at once; the one longest without a vote makes room
)
LATEST: Final = 50  # votes that "now" means
LEAST_SHIFT: Final = 0.1  # of quality: what is smaller is nobody's alert
CONFIDENCE: Final = 0.002  # of ADWIN: bound on false alarms per test


class Shift(NamedTuple):
    """The quality of a model on a segment has moved."""

    model: str
    segment: str | None
    before: float
    now: float
    votes: int
    timestamp: int  # milliseconds

    def __str__(self) -> str:
        """Return the sentence of the alert."""
        where = "requests without a tag" if self.segment is None else f"requests with tag '{self.segment}'"
        way = "fell" if self.now < self.before else "rose"
        when = datetime.fromtimestamp(self.timestamp / 1000.0, UTC).isoformat(timespec="seconds")
        return (
            f"the quality of model '{self.model}' on {where} {way} by {abs(self.now - self.before):.2f}, from "
            f"{self.before:.2f} over {self.votes} votes to {self.now:.2f} over the last {LATEST}, noticed at {when}"
        )


class _Stream:
    """The votes of one model on one segment."""

    def __init__(self) -> None:
        from river import drift  # noqa: PLC0415 - takes a second to import, and is optional

        adwin: Any = drift.ADWIN  # river's annotations are partial
        self._window = adwin(delta=CONFIDENCE)
        self._votes, self._total = 0, 0.0
        self._latest: deque[float] = deque(maxlen=LATEST)

    def observe(self, quality: float) -> tuple[float, float, int] | None:
        """Take a vote; return mean before, mean now and the votes before when it has drifted."""
        self._window.update(quality)
        self._votes, self._total = self._votes + 1, self._total + quality
        self._latest.append(quality)
        earlier = self._votes - LATEST
        if not self._window.drift_detected or earlier < LATEST:
            return None
        now = math.fsum(self._latest)
        return (self._total - now) / earlier, now / LATEST, earlier


class DriftWatch:
    """Watches votes and tells which model has drifted on which segment.

    A stream that has told something starts again, so that the new level is the next one to be compared with.

    Examples
    --------
    >>> watch = DriftWatch()
    >>> shifts = [
    ...     watch.observe("small", "code", 1.0 if i < 500 else 0.0, 1_700_000_000_000) for i in range(700)
    ... ]
    >>> print(next(shift for shift in shifts if shift))
    the quality of model 'small' on requests with tag 'code' fell by ...
    """

    def __init__(self) -> None:
        self._streams: OrderedDict[tuple[str, str | None], _Stream] = OrderedDict()

    @staticmethod
    def is_there() -> bool:
        """Return whether river is installed."""
        return importlib.util.find_spec("river") is not None

    def observe(self, model: str, segment: str | None, quality: float, timestamp: int) -> Shift | None:
        """Take one vote on a decision for ``segment``; return what there is to tell, if anything."""
        key = (model, segment)
        stream = self._streams.pop(key, None) or _Stream()
        self._streams[key] = stream  # the last one used comes last
        if len(self._streams) > MOST_STREAMS:
            self._streams.popitem(last=False)
        found = stream.observe(quality)
        if found is None:
            return None
        before, now, votes = found
        if abs(now - before) < LEAST_SHIFT:
            return None
        del self._streams[key]
        return Shift(model, segment, before, now, votes, timestamp)
