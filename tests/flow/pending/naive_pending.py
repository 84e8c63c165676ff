"""The store of open decisions as dictionaries of plain objects: slow, obvious, and right."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Row:
    """One decision."""

    offset: int
    timestamp: int
    request_offset: int
    request_id: str
    first: bool
    model: str | None
    tenant: str | None
    segment: str | None
    x: tuple[float, ...]
    predictions: dict[str, tuple[float, ...]]
    slots: dict[tuple[str, str | None], dict[str, object]] = field(default_factory=dict)
    touched: list[int] = field(default_factory=list)


class NaivePending:
    """What `banditroute.flow.pending.pending.Pending` has to agree with."""

    def __init__(self) -> None:
        self.rows: list[Row] = []  # known and not closed
        self.opened = 0  # log offset below which they are open
        self.r = 0

    def add(self, row: Row) -> None:
        row.first = row.request_offset >= self.r
        self.r = max(self.r, row.request_offset + 1)
        self.rows.append(row)

    def take_in(self, upto: int) -> tuple[int, int]:
        taken = [row for row in self.rows if self.opened <= row.offset < upto]
        self.opened = max(self.opened, upto)
        return sum(row.first for row in taken), sum(not row.first for row in taken)

    def open(self, upto: int | None = None) -> list[Row]:
        return [row for row in self.rows if row.first and row.offset < max(self.opened, upto or 0)]

    def close_below(self, upto: int) -> tuple[int, int, int]:
        closed = [row for row in self.rows if row.offset < min(upto, self.opened)]
        self.rows = [row for row in self.rows if row not in closed]
        firsts = [row for row in closed if row.first]
        answered = sum(
            any(s["on"] and kind != "usage" for (kind, _), s in row.slots.items()) for row in firsts
        )
        return answered, len(firsts) - answered, max((row.request_offset + 1 for row in firsts), default=0)

    def due(self, before: int, surplus: int, most: int | None = None) -> int | None:
        upto = None
        for index, row in enumerate(self.open()[:most]):
            if row.timestamp >= before and index >= surplus:
                break
            upto = row.offset + 1
        return upto

    def has_request(self, request_id: str) -> bool:
        return any(row.first and row.request_id == request_id for row in self.rows)

    def of_request_id(
        self, request_id: str, upto: int | None = None, tenant: str | None = None
    ) -> Row | None:
        found = [row for row in self.open(upto) if row.request_id == request_id]
        theirs = [row for row in found if tenant is not None and row.tenant == tenant]
        return next(iter(theirs or found), None)

    def namesakes(self, request_id: str) -> list[Row]:
        return [row for row in self.rows if row.first and row.request_id == request_id]

    def at_request_offset(self, request_offset: int, upto: int | None = None) -> Row | None:
        return next((row for row in self.open(upto) if row.request_offset == request_offset), None)

    def first_touch(self) -> int | None:
        return min((at for row in self.rows for at in row.touched), default=None)
