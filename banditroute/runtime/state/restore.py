"""Brings a partition back: newest state record, then the logs from its anchor to their ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from banditroute.config import Config
from banditroute.errors import StateError
from banditroute.flow.deciding.decider import InputRecord, OutputRecord
from banditroute.flow.partition import Partition
from banditroute.flow.pending.pending import NeedPredictions
from banditroute.flow.records.header import HEADER_NAME, request_offset_of
from banditroute.flow.records.snapshot import State
from banditroute.flow.settling.chunk import Chunk
from banditroute.flow.settling.effects import NeedDecisions, Refused
from banditroute.runtime.broker.ports import Client
from banditroute.runtime.state.topics import Spec

if TYPE_CHECKING:
    from banditroute.runtime.tasks.meter import Meter

LOOKS: Final = 20  # at the end of a log that seems to have become shorter, before that is believed
LOOK_SECONDS: Final = 0.25
READ_AT_ONCE: Final = 500  # records between two awaits
CLOSE: Final = 100  # records that are read over rather than asked for apart

Tell = Callable[[Sequence[Refused]], Awaitable[None]]


async def restore(
    client: Client, config: Config, state: State, spec: Spec, refused: list[Refused] | None = None
) -> Partition:
    """Restore a partition from its state record and its logs.

    Parameters
    ----------
    client : Client
        A started client.
    config : Config
        Topic names.
    state : State
        The newest usable state record.
    spec : Spec
        The feature spec and settings in force.
    refused : list of Refused, optional
        Takes the feedback that the journal beyond the state refuses: its dead letters may not have been written.

    Returns
    -------
    Partition
        At the end that its journal had when the restore began.

    Raises
    ------
    StateError
        If the logs no longer hold what the state needs, or do not lead to what it says.
    """
    names = config.kafka.topics
    partition = Partition(state, spec.d, spec.spec_id, spec.settings)
    number = partition.number
    begin, end = await _bounds(client, names.decisions, number, state.at.D)
    start = _first(names.decisions, number, partition.decisions_from, state.anchor.X, begin, end)
    if start > partition.decisions_from:
        partition.skip_mark("decisions")
    async for records in client.read(names.decisions, number, start, end):
        for first in range(0, len(records), READ_AT_ONCE):
            partition.read_decisions(records[first : first + READ_AT_ONCE])
            await asyncio.sleep(0)  # other partitions have their turn
    partition.begin()

    async def take(more: Sequence[Refused]) -> None:
        if refused is not None:
            refused.extend(more)

    begin, end = await _bounds(client, names.journal, number, state.j)
    start = _first(names.journal, number, partition.journal_from, state.replay_from, begin, end)
    if start > partition.journal_from:
        partition.skip_mark("journal")
    async for records in client.read(names.journal, number, start, end):
        for first in range(0, len(records), READ_AT_ONCE):
            await apply(client, config, partition, Chunk.of(records[first : first + READ_AT_ONCE]), take)
            await asyncio.sleep(0)  # other partitions have their turn
    partition.finish()
    return partition


async def apply(
    client: Client, config: Config, partition: Partition, chunk: Chunk, tell: Tell, meter: Meter | None = None
) -> None:
    """Apply a chunk of journal records, reading what they speak of and memory does not hold.

    `tell` takes the feedback that they refuse, before anything is awaited that lets others see what was applied.
    """
    gap_read = -1
    while True:
        try:
            begun = time.perf_counter()
            try:
                partition.apply_many(chunk)
            finally:
                if meter is not None:
                    meter.took("journal", time.perf_counter() - begun)
                if chunk.refused:
                    refused, chunk.refused = chunk.refused, []
                    await tell(refused)
        except NeedPredictions as need:
            await _read_again(client, config, partition, need.offset)
        except NeedDecisions as need:
            if gap_read == chunk.at:
                raise StateError(
                    f"the journal of partition {partition.number} speaks of decisions up to {need.upto}, but they "
                    f"end at {partition.learner.end}: the decisions topic was truncated or replaced"
                ) from None
            gap_read = chunk.at
            await read_gap(client, config, partition)
        else:
            return


async def _read_again(client: Client, config: Config, partition: Partition, offset: int) -> None:
    """Read an open decision again, for the predictions that memory does not keep."""
    topic = config.kafka.topics.decisions
    async for records in client.read(topic, partition.number, offset, offset + 1):
        for record in records:
            if record.offset == offset:
                partition.supply(offset, record.headers)
                return
    raise StateError(
        f"decision record {offset} of partition {partition.number} is open to feedback and no longer in the log: "
        "raise the retention of the decisions topic above feedback.join_window"
    )


async def read_gap(client: Client, config: Config, partition: Partition) -> None:
    """Read the decisions that others appended, up to the end of the log."""
    topic = config.kafka.topics.decisions
    _, end = await _bounds(client, topic, partition.number, partition.learner.end)
    if end < partition.learner.end:
        raise StateError(
            f"{topic}-{partition.number} ends at offset {end}, but {partition.learner.end} of its records were read "
            "before: the topic was truncated or recreated; name a new state topic"
        )
    async for records in client.read(topic, partition.number, partition.learner.end, end):
        partition.read_decisions(records)


async def _bounds(client: Client, topic: str, number: int, known: int) -> tuple[int, int]:
    """Return where a log begins and ends, if need be after a while.

    A broker that was killed and has just started again may not tell of the newest records yet.
    """
    looks = LOOKS
    while True:
        begin, end = await client.bounds(topic, number)
        looks -= 1
        if end >= known or not looks:
            return begin, end
        await asyncio.sleep(LOOK_SECONDS)


def _first(topic: str, number: int, wanted: int, needed: int, begin: int, end: int) -> int:
    """Return where to begin reading; refuse when what is needed is gone."""
    if needed < begin:
        raise StateError(
            f"{topic}-{number} begins at offset {begin}, but the state needs it from {needed}: retention removed "
            "records that were still needed; raise the retention of the topic and start a new state topic"
        )
    if needed > end:
        raise StateError(
            f"{topic}-{number} ends at offset {end}, but the state covers it up to {needed}: "
            "the topic was truncated or recreated; name a new state topic"
        )
    return max(wanted, begin)


async def logged(client: Client, topic: str, partition: int, offsets: Collection[int]) -> dict[int, bytes]:
    """Return the values of some records of a log, by offset; those close to one another are read together."""
    found: dict[int, bytes] = {}
    wanted = sorted(offsets)
    while wanted:
        stop = next((i for i in range(1, len(wanted)) if wanted[i] - wanted[i - 1] > CLOSE), len(wanted))
        async for records in client.read(topic, partition, wanted[0], wanted[stop - 1] + 1):
            found |= {r.offset: r.value for r in records if r.offset in offsets and r.value is not None}
        wanted = wanted[stop:]
    return found


def of_requests_from(start: int, records: Iterable[InputRecord]) -> list[OutputRecord]:
    """Return logged decisions of requests at or above an offset, as they were written."""
    found = []
    for record in records:
        header = next((content for name, content in record.headers if name == HEADER_NAME), b"")
        if request_offset_of(header) >= start:
            found.append(OutputRecord(record.key, record.value or b"", record.headers))
    return found
