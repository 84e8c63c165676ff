"""Open decisions: what was decided and may still be answered, filled from the log alone."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from msgspec import Struct

from banditroute.bandit.evidence import ModelKey, Vote

MAX_SLOTS = 16  # slots per decision, and feedback ids remembered per slot


class KnownDecision(Struct):
    """A decision record as settling needs it; offsets are log offsets, `timestamp` in milliseconds."""

    offset: int
    timestamp: int
    request_offset: int
    request_id: str
    model: str | None
    tenant: str | None
    shadow: bool
    header: bytes
    segment: str | None = None


class Slot(Struct):
    """One vote's place on a decision: (kind, source, voter). `g` and `g_shared` are the log factors at apply."""

    seen: list[str]
    on: bool
    vote: Vote
    numbers: tuple[float | None, ...]
    key: ModelKey
    weight: float
    g: float
    g_shared: float


SlotKey = tuple[str, str | None, str | None]


class OpenDecision(Struct):
    """A first decision inside the join window, with the slots of its votes."""

    known: KnownDecision
    slots: dict[SlotKey, Slot]

    @property
    def answered(self) -> bool:
        """Whether some quality vote is on."""
        return any(slot.on and key[0] != "usage" for key, slot in self.slots.items())


class Pending:
    """The open decisions of one partition, found by request offset or by request id.

    Decisions enter in log order and leave in log order, so the oldest is always the first.
    """

    def __init__(self) -> None:
        self._by_offset: dict[int, OpenDecision] = {}
        self._by_request_offset: dict[int, OpenDecision] = {}
        self._by_request_id: dict[str, list[OpenDecision]] = {}
        self._touched: list[tuple[int, int]] = []  # heap of (journal offset, log offset)

    def __len__(self) -> int:
        return len(self._by_offset)

    def __iter__(self) -> Iterator[OpenDecision]:
        return iter(self._by_offset.values())

    def add(self, known: KnownDecision) -> None:
        """Open a first decision."""
        decision = OpenDecision(known, {})
        self._by_offset[known.offset] = decision
        self._by_request_offset[known.request_offset] = decision
        self._by_request_id.setdefault(known.request_id, []).append(decision)

    def at_request_offset(self, request_offset: int) -> OpenDecision | None:
        """Return the open decision of the request at an offset."""
        return self._by_request_offset.get(request_offset)

    def of_request_id(self, request_id: str) -> OpenDecision | None:
        """Return the open decision of lowest log offset with a request id."""
        found = self._by_request_id.get(request_id)
        return found[0] if found else None

    def oldest(self) -> KnownDecision | None:
        """Return the open decision of lowest log offset."""
        return next((decision.known for decision in self._by_offset.values()), None)

    def close_below(self, upto: int) -> list[OpenDecision]:
        """Close the decisions with a log offset below `upto` and return them."""
        closed = []
        for offset in self._by_offset:
            if offset >= upto:
                break
            closed.append(self._by_offset[offset])
        for decision in closed:
            known = decision.known
            del self._by_offset[known.offset]
            del self._by_request_offset[known.request_offset]
            same = self._by_request_id[known.request_id]
            same.remove(decision)
            if not same:
                del self._by_request_id[known.request_id]
        return closed

    def touch(self, decision: OpenDecision, journal_offset: int) -> None:
        """Remember that the journal record at an offset acted on a decision."""
        heapq.heappush(self._touched, (journal_offset, decision.known.offset))

    def first_touch(self) -> int | None:
        """Return the lowest journal offset that acted on a decision still open."""
        while self._touched and self._touched[0][1] not in self._by_offset:
            heapq.heappop(self._touched)
        return self._touched[0][0] if self._touched else None
