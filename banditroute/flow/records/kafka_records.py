"""Records as the flow sees them, and what a batch of requests became."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from banditroute.flow.pending.open_decision import KnownBatch


class InputRecord(Struct, frozen=True, gc=False):
    """A record read from a topic; `timestamp` in milliseconds.

    A client may hand over records of its own kind that have these attributes, as aiokafka's do. One that could not be
    read has no value and says why in an attribute `damage`.
    """

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class OutputRecord(Struct, frozen=True, gc=False):
    """A record to be written."""

    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class Poison(NamedTuple):
    """A record that was refused."""

    record: InputRecord
    reason: str
    request_id: str | None = None  # where it can be read


class Again(NamedTuple):
    """A request that was sent again: whoever sent it is to have the first decision."""

    record: InputRecord
    request_id: str
    tenant: str | None


class DecidedBatch(Struct):
    """What a batch of requests became.

    The rows of `known` describe `records`, with their log offset still to be told by the acknowledgement; `keys` are
    the ids of all valid requests; `through` is the offset after the last request looked at. Of the `repeats`, those
    that are no other request are in `again`, and the others are poison.
    """

    records: Sequence[OutputRecord]
    known: KnownBatch | None
    poison: list[Poison]
    keys: list[bytes]
    through: int
    again: Sequence[Again] = ()
    repeats: int = 0
    below: int = 0
