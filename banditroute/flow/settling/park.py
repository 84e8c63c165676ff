"""Feedback that waits for its decision, found by what it waits for.

An honest misconfiguration parks thousands of records. Trying all of them again whenever decisions become known would
make every decision wait for them; so a decision looks for those that wait for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import TypeVar

from banditroute.events import Copied
from banditroute.flow.pending.identity import Identifier, Identity
from banditroute.flow.settling.effects import Parked

K = TypeVar("K")


class Park:
    """Parked feedback, oldest first; its journal offset is the name of each.

    Parameters
    ----------
    identifier : Identifier
        Hashes request ids, as the open decisions' are.
    """

    def __init__(self, identifier: Identifier) -> None:
        self._identifier = identifier
        self._parked: dict[int, Parked] = {}
        self._order: deque[int] = deque()  # of those that are parked, and some that have left
        self._of_request: dict[Identity, dict[int, None]] = {}
        self._of_offset: dict[int, dict[int, None]] = {}
        self._of_voter: dict[str | None, dict[int, None]] = {}
        self._offsets: list[tuple[int, int]] = []  # a heap of request offset and journal offset

    def __len__(self) -> int:
        return len(self._parked)

    def __iter__(self) -> Iterator[Parked]:
        """Iterate from the oldest on."""
        return (self._parked[offset] for offset in self._order if offset in self._parked)

    def add(self, parked: Parked) -> None:
        """Park feedback; journal offsets ascend."""
        offset, feedback = parked.journal_offset, parked.copied.feedback
        self._parked[offset] = parked
        self._order.append(offset)
        self._of_voter.setdefault(feedback.voter, {})[offset] = None
        place = _request_offset(parked.copied)
        if place is None:
            self._of_request.setdefault(self._identifier.of(feedback.request_id or ""), {})[offset] = None
        else:
            self._of_offset.setdefault(place, {})[offset] = None
            heappush(self._offsets, (place, offset))

    def oldest(self) -> Parked | None:
        """Return what has waited longest."""
        while self._order and self._order[0] not in self._parked:
            self._order.popleft()
        return self._parked[self._order[0]] if self._order else None

    def remove(self, journal_offset: int) -> None:
        """Let a record go."""
        parked = self._parked.pop(journal_offset)
        feedback, place = parked.copied.feedback, _request_offset(parked.copied)
        _forget(self._of_voter, feedback.voter, journal_offset)
        if place is None:
            _forget(self._of_request, self._identifier.of(feedback.request_id or ""), journal_offset)
        else:
            _forget(self._of_offset, place, journal_offset)
        if len(self._order) > 2 * len(self._parked) + 64:
            self._order = deque(offset for offset in self._order if offset in self._parked)

    def by_voter(self, voter: str | None) -> list[Parked]:
        """Return what a voter has parked, oldest first."""
        return [self._parked[offset] for offset in sorted(self._of_voter.get(voter, ()))]

    def older_than(self, before: int) -> list[Parked]:
        """Return what was parked by records with a timestamp below `before` (milliseconds), oldest first."""
        return [parked for parked in self if parked.timestamp < before]

    def before_of(self, before: int, most: int) -> int:
        """Return up to when records may be given up so that `most` of those older than `before` are.

        More are only where they have the timestamp of the oldest.
        """
        if len(self._parked) <= most:
            return before
        old = sorted(parked.timestamp for parked in self._parked.values() if parked.timestamp < before)
        return before if len(old) <= most else max(old[most], old[0] + 1)

    def waiting_for(
        self, identities: Iterable[Identity], request_offsets: Iterable[int], closed_below: int
    ) -> list[Parked]:
        """Return what may have an outcome now, oldest first.

        Parameters
        ----------
        identities : iterable of Identity
            Of the request ids of decisions that have become known.
        request_offsets : iterable of int
            Of the same.
        closed_below : int
            Decisions on requests below this offset are closed, whether they were ever known or not.
        """
        found: set[int] = set()
        if self._of_request:
            for identity in identities:
                found.update(self._of_request.get(identity, ()))
        if self._of_offset:
            for place in request_offsets:
                found.update(self._of_offset.get(place, ()))
            found.update(self._too_late(closed_below))
        return [self._parked[offset] for offset in sorted(found)]

    def _too_late(self, closed_below: int) -> list[int]:
        """Return the names of those that wait for a decision on a request below an offset."""
        late = []
        while self._offsets and self._offsets[0][0] < closed_below:
            waiting = heappop(self._offsets)
            if waiting[1] in self._parked:
                late.append(waiting)
        for waiting in late:  # whoever asked may have to ask again
            heappush(self._offsets, waiting)
        return [name for _, name in late]


def _request_offset(copied: Copied) -> int | None:
    """Return the offset of the request that feedback names by its decision."""
    decision_id = copied.feedback.decision_id
    return None if decision_id is None else int(decision_id.partition("-")[2])


def _forget(index: dict[K, dict[int, None]], key: K, journal_offset: int) -> None:
    there = index[key]
    del there[journal_offset]
    if not there:
        del index[key]
