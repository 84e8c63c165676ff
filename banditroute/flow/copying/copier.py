"""Copies feedback into the journals of the partitions where it may belong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from banditroute.catalog import Catalog
from banditroute.events import (
    Copied,
    Feedback,
    FieldMap,
    Rejected,
    ValueMap,
    decode_feedback,
    encode,
    readable_id,
    unmeasured,
)
from banditroute.events.value_map import Meaning
from banditroute.flow.copying.partitioner import PartitionerWatch
from banditroute.flow.deciding.decider import InputRecord, OutputRecord, Poison


class CopiedBatch(NamedTuple):
    """Journal records by target partition; `through` is the offset after the last feedback looked at.

    `unmeasured` counts, by the name of the field, the numbers that no answer has and that were left out.
    """

    targets: dict[int, list[OutputRecord]]
    poison: list[Poison]
    copied: int
    through: int
    unmeasured: Counter[str]


class Copier:
    """Finds the home of each feedback event.

    By decision_id it is exact; by request_id it takes the partitioner in use, or an open decision of this process;
    else a copy goes everywhere.

    Parameters
    ----------
    catalog : Catalog
        Feedback on a model that does not exist is refused here, with a reason.
    watch : PartitionerWatch
        Which partitioner wrote the requests.
    field_map : mapping of str to str
        Where our fields are in the user's payload.
    locate : callable
        Tells the partition of this process that holds an open decision of a request id, or None.
    value_map : mapping, optional
        What votes stand for; the journal holds the numbers.
    """

    def __init__(
        self,
        catalog: Catalog,
        watch: PartitionerWatch,
        field_map: dict[str, str],
        locate: Callable[[str, str | None], int | None],
        value_map: Mapping[str, Meaning] | None = None,
    ) -> None:
        self._catalog = catalog
        self._watch = watch
        self._locate = locate
        self._field_map = FieldMap(field_map) if field_map else None
        self._value_map = ValueMap(value_map) if value_map else None

    def copy(self, source: int, records: Sequence[InputRecord]) -> CopiedBatch:
        """Turn feedback records of one partition, in offset order, into journal records."""
        targets: dict[int, list[OutputRecord]] = {}
        poison: list[Poison] = []
        events: list[tuple[InputRecord, Feedback]] = []
        left_out: Counter[str] = Counter()
        field_map, value_map, catalog = self._field_map, self._value_map, self._catalog
        for record in records:
            feedback = decode_feedback(record.value, field_map, value_map)
            if not isinstance(feedback, Rejected):
                left_out.update(unmeasured(feedback))
                feedback = catalog.reported(feedback)
            if isinstance(feedback, Rejected):
                reason = getattr(record, "damage", None) or feedback.reason
                poison.append(Poison(record, reason, readable_id(record.value, field_map)))
            else:
                events.append((record, feedback))
        homes = self._watch.homes([feedback.request_id or "" for _, feedback in events])
        for (record, feedback), by_key in zip(events, homes, strict=True):
            home = self._home(feedback, by_key)
            if isinstance(home, Rejected):
                poison.append(Poison(record, home.reason, feedback.request_id))
                continue
            copied = OutputRecord(None, encode(Copied((source, record.offset), feedback, home is None)))
            for target in range(self._watch.count) if home is None else (home,):
                targets.setdefault(target, []).append(copied)
        poison.sort(key=lambda refused: refused.record.offset)
        return CopiedBatch(targets, poison, len(records) - len(poison), records[-1].offset + 1, left_out)

    def _home(self, feedback: Feedback, by_key: int | None) -> int | Rejected | None:
        """Return where a feedback belongs, None for everywhere; `by_key` is what the partitioner says."""
        if feedback.request_id is None:  # about every decision that a voter has voted on
            return None
        if feedback.decision_id is None:
            return self._locate(feedback.request_id, feedback.tenant) if by_key is None else by_key
        partition = int(feedback.decision_id.partition("-")[0])
        if partition >= self._watch.count:
            return Rejected(
                f"decision_id names partition {partition}, but there are {self._watch.count} - at `$.decision_id`"
            )
        return partition
