"""Decision records read back from the log, in columns: what a restart does a million times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec
import numpy as np

from banditroute.events import decode_decision_key
from banditroute.flow.pending.kept import HeaderTable
from banditroute.flow.pending.open_decision import KnownBatch
from banditroute.flow.records.header import HEADER_NAME, parse_headers


class Logged(Protocol):
    """A decision record as any client gives it."""

    @property
    def offset(self) -> int:
        """Its log offset."""

    @property
    def timestamp(self) -> int:
        """Milliseconds."""

    @property
    def value(self) -> bytes | None:
        """Its JSON."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """The headers, ours among them."""


def header_of(headers: Iterable[tuple[str, bytes]]) -> bytes:
    """Return our header among those of a decision record, empty if it is not there."""
    return next((content for name, content in headers if name == HEADER_NAME), b"")


def read_back(records: Sequence[Logged], spec_id: str, r: int) -> KnownBatch | None:
    """Return consecutive decision records as a batch that became known at once.

    Parameters
    ----------
    records : sequence of Logged
        In log order, at least one.
    spec_id : str
        The feature spec in force.
    r : int
        1 + the highest request offset before them.

    Returns
    -------
    KnownBatch or None
        None where they are not alike, or not all of them the first of their requests: take note of each by itself.
    """
    table = parse_headers([header_of(record.headers) for record in records])
    if table is None or table.spec_id != spec_id:
        return None
    offsets = table.request_offsets
    if offsets[0] < r or (np.diff(offsets) <= 0).any() or table.shadow.any() != table.shadow.all():
        return None
    try:
        keys = [decode_decision_key(record.value or b"") for record in records]
    except msgspec.DecodeError:
        return None
    places: dict[str | None, int] = {key.name: place for place, key in enumerate(table.keys)}
    places[None] = -1
    if any(key.model not in places for key in keys):
        return None
    chosen = np.fromiter((places[key.model] for key in keys), np.int64, len(keys))
    predictions = table.predictions[np.arange(len(keys)), chosen]
    predictions[chosen < 0] = np.nan
    return KnownBatch(
        offsets, [key.request_id.encode() for key in keys], table.x, chosen, predictions, table.input_tokens,
        table.counted, [key.tenant for key in keys], [key.segment for key in keys], HeaderTable(table.rows),
        table.keys, bool(table.shadow[0]),
    )  # fmt: skip
