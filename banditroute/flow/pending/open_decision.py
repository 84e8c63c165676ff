"""What is known of a decision: as read from the log, as written by this engine, and as read from its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.flow.pending.identity import Identity
from banditroute.flow.pending.slots import Predictions


class KnownDecision(NamedTuple):
    """A decision record as settling needs it; offsets are log offsets, `timestamp` in milliseconds."""

    offset: int
    timestamp: int
    request_id: str
    model: str | None
    tenant: str | None
    header: bytes
    segment: str | None = None


class KnownBatch(NamedTuple):
    """Decisions of one engine that are not in the log yet: columns, with a row for each.

    `chosen` is the decided model's place in the catalog `names`, -1 for none; `predictions` are float64[n, 5] for it.
    """

    request_offsets: NDArray[np.int64]
    ids: list[bytes]
    x: NDArray[np.float32]
    chosen: NDArray[np.int64]
    predictions: NDArray[np.float64]
    tokens: NDArray[np.float32]
    counted: NDArray[np.bool_]
    tenants: list[str | None]
    segments: list[str | None]
    headers: Sequence[bytes]
    names: tuple[ModelKey, ...]
    shadow: bool

    def part(self, start: int, stop: int) -> KnownBatch:
        """Return some of the rows."""
        if start == 0 and stop == len(self.ids):
            return self
        columns = [column[start:stop] for column in self[:10]]
        return KnownBatch(*columns, self.names, self.shadow)  # type: ignore[call-arg, arg-type]


class Kind(NamedTuple):
    """What many decisions share: the decided model, its place among the names of the catalog (-1: not there), ..."""

    model: str | None
    place: int
    names: tuple[ModelKey, ...]
    shadow: bool
    counted: bool
    ours: bool  # decided under the feature spec in force


class Open(Struct, gc=False):
    """A first decision inside the join window, as read from its row."""

    number: int
    offset: int
    identity: Identity
    tenant: int
    kind: Kind
    segment: str | None
    x: NDArray[np.float32]
    decided: Predictions
    input_tokens: float
    on: int
    head: int


class Closed(NamedTuple):
    """How many decisions were closed with a quality vote and without, and 1 + their highest request offset."""

    answered: int
    expired: int
    next_request: int
