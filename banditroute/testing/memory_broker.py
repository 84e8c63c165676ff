"""A broker in memory: the same interface, no sockets; its logs outlive the engines that use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

from banditroute.flow.deciding.decider import InputRecord, OutputRecord
from banditroute.runtime.broker.ports import (
    Ack,
    AppendFailed,
    Assignment,
    RecordTooLarge,
    TopicDescription,
    TopicPartition,
    TopicSpec,
)

READ_CHUNK = 1000


class MemoryBroker:
    """Logs, committed offsets and one consumer group.

    Parameters
    ----------
    clock : callable, optional
        Returns milliseconds for record timestamps (LogAppendTime); default: the wall clock.
    max_record_bytes : int
        Larger records are refused, as a real broker does.
    fault : callable, optional
        Called with (topic, partition) before each append; returns ``"fail"`` (nothing lands), ``"lost"`` (it lands, the
        acknowledgement does not) or None.
    """

    def __init__(
        self,
        clock: Callable[[], int] | None = None,
        max_record_bytes: int = 1_048_588,
        fault: Callable[[str, int], str | None] | None = None,
    ) -> None:
        self.clock = clock or (lambda: int(time.time() * 1000.0))
        self.max_record_bytes = max_record_bytes
        self.fault = fault
        self.logs: dict[str, list[list[InputRecord]]] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.members: list[MemoryClient] = []
        self.arrival = asyncio.Event()
        self.epoch = 0
        self._ids: dict[str, tuple[int, str]] = {}
        self._begins: dict[tuple[str, int], int] = {}
        self._compacted: dict[tuple[str, int], set[int]] = {}

    def client(self) -> MemoryClient:
        """Return a new member's connection."""
        return MemoryClient(self)

    def topic_id(self, topic: str) -> str:
        """Return the id of a topic: another one once it was deleted and made anew."""
        which = id(self.logs[topic])
        if self._ids.get(topic, (0, ""))[0] != which:
            self._ids[topic] = which, f"{len(self._ids) + 1:x}-{which:x}"
        return self._ids[topic][1]

    def log(self, topic: str, partition: int) -> list[InputRecord]:
        """Return the records of one partition."""
        return self.logs[topic][partition]

    def begin(self, topic: str, partition: int) -> int:
        """Return the first offset kept."""
        return self._begins.get((topic, partition), 0)

    def kept(self, topic: str, partition: int, start: int, stop: int) -> list[InputRecord]:
        """Return what retention and compaction left of the records with offsets in [start, stop)."""
        start = max(start, self.begin(topic, partition))
        gone = self._compacted.get((topic, partition))
        records = self.log(topic, partition)[start:stop]
        return [record for record in records if record.offset not in gone] if gone else records

    def retain(self, topic: str, partition: int, begin: int) -> None:
        """Remove the records below an offset, as retention does."""
        self._begins[topic, partition] = max(begin, self.begin(topic, partition))

    def compact(self, topic: str, partition: int) -> None:
        """Keep the newest record of every key, as the log cleaner does."""
        log = self.log(topic, partition)
        newest = {record.key: record.offset for record in log}
        self._compacted[topic, partition] = {r.offset for r in log if newest[r.key] != r.offset}

    def add(self, topic: str, partition: int, records: Sequence[OutputRecord]) -> int:
        """Append records and return the offset of the first."""
        log = self.logs[topic][partition]
        base = len(log)
        now = self.clock()
        for record in records:
            log.append(InputRecord(len(log), now, record.key, record.value, tuple(record.headers)))
        self.arrival.set()
        self.arrival = asyncio.Event()
        return base

    def rebalance(self) -> None:
        """Spread the partitions of all subscribed topics by range."""
        self.epoch += 1
        owned: dict[int, set[TopicPartition]] = {id(member): set() for member in self.members}
        for topic in {topic for member in self.members for topic in member.topics}:
            takers = [member for member in self.members if topic in member.topics]
            count = len(self.logs.get(topic, ()))
            for index, member in enumerate(takers):
                share = range(count * index // len(takers), count * (index + 1) // len(takers))
                owned[id(member)] |= {TopicPartition(topic, partition) for partition in share}
        for member in self.members:
            member.assigned(Assignment(self.epoch, frozenset(owned[id(member)])))


class MemoryClient:
    """One member's connection to a `MemoryBroker`; see `banditroute.runtime.broker.ports.Client`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._positions: dict[TopicPartition, int] = {}
        self._followed: dict[TopicPartition, int] = {}
        self._assignment = Assignment(0, frozenset())
        self.topics: tuple[str, ...] = ()

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Leave the group."""
        if self in self._broker.members:
            self._broker.members.remove(self)
            self._broker.rebalance()

    async def partitions(self, topic: str) -> int:
        """Return the partition count, 0 if the topic is not there."""
        return len(self._broker.logs.get(topic, ()))

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset kept and the length of the log."""
        return self._broker.begin(topic, partition), len(self._broker.log(topic, partition))

    async def ends(self, topic: str, partitions: Sequence[int]) -> list[int]:
        """Return the lengths of some logs."""
        return [len(self._broker.log(topic, partition)) for partition in partitions]

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicDescription] | None:
        """Return the topics that exist."""
        logs = self._broker.logs
        return {
            name: TopicDescription(len(logs[name]), self._broker.topic_id(name))
            for name in topics
            if name in logs
        }

    async def all_bounds(self, topic: str, partitions: Collection[int]) -> dict[int, tuple[int, int]]:
        """Return the bounds of many partitions of a topic."""
        return {partition: await self.bounds(topic, partition) for partition in partitions}

    async def create(self, topics: Sequence[TopicSpec]) -> list[str]:
        """Create the topics that are missing and return their names."""
        made = [topic for topic in topics if topic.name not in self._broker.logs]
        for topic in made:
            self._broker.logs[topic.name] = [[] for _ in range(topic.partitions)]
        return [topic.name for topic in made]

    async def append(self, topic: str, partition: int, records: Sequence[OutputRecord]) -> list[Ack]:
        """Append records in order; raises AppendFailed as the broker's `fault` says."""
        if any(len(record.value or b"") > self._broker.max_record_bytes for record in records):
            raise RecordTooLarge(f"a record is larger than {self._broker.max_record_bytes} bytes")
        fault = self._broker.fault(topic, partition) if self._broker.fault else None
        if fault == "fail":
            raise AppendFailed("scripted failure")
        base = self._broker.add(topic, partition, records)
        await asyncio.sleep(0)
        if fault == "lost":
            raise AppendFailed("scripted loss of the acknowledgement")
        return [Ack(base, len(records))]

    async def read(
        self, topic: str, partition: int, start: int, stop: int
    ) -> AsyncIterator[list[InputRecord]]:
        """Read the records with offsets in [start, stop)."""
        for at in range(start, stop, READ_CHUNK):
            yield self._broker.kept(topic, partition, at, min(stop, at + READ_CHUNK))
            await asyncio.sleep(0)

    async def read_all(
        self, ranges: Mapping[TopicPartition, tuple[int, int]]
    ) -> AsyncIterator[tuple[TopicPartition, list[InputRecord]]]:
        """Read the records of many partitions with offsets in [start, stop)."""
        for where, (start, stop) in ranges.items():
            async for records in self.read(*where, start, stop):
                yield where, records

    async def join(self, topics: Sequence[str]) -> None:
        """Become a member of the group."""
        self.topics = tuple(topics)
        self._broker.members.append(self)
        self._broker.rebalance()

    def assigned(self, assignment: Assignment) -> None:
        """Take note of a rebalance: positions begin again at the committed offsets."""
        self._assignment = assignment
        self._positions = {where: self._broker.committed.get(where, 0) for where in assignment.owned}

    @property
    def assignment(self) -> Assignment:
        """What this member owns now."""
        return self._assignment

    async def committed(self, where: TopicPartition) -> int | None:
        """Return the group's committed offset."""
        return self._broker.committed.get(where)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commit offsets; False if this member was fenced."""
        if self not in self._broker.members or not set(offsets) <= self._assignment.owned:
            return False
        self._broker.committed.update(offsets)
        return True

    def seek(self, where: TopicPartition, offset: int) -> None:
        """Continue an owned partition at an offset."""
        self._positions[where] = offset

    async def position(self, where: TopicPartition) -> int | None:
        """Return the offset up to which an owned partition was polled."""
        return self._positions.get(where)

    async def poll(
        self, wanted: Collection[TopicPartition], max_records: int, timeout: float
    ) -> dict[TopicPartition, list[InputRecord]]:
        """Return records of owned partitions among `wanted`."""
        return await self._take(
            {w: self._positions for w in wanted if w in self._positions}, max_records, timeout
        )

    def follow(self, positions: Mapping[TopicPartition, int]) -> None:
        """Follow these partitions from these offsets."""
        for where, offset in positions.items():  # in place: a poll may be waiting for these very positions
            self._followed.setdefault(where, offset)

    def unfollow(self, gone: Collection[TopicPartition]) -> None:
        """Follow these partitions no more."""
        for where in gone:
            self._followed.pop(where, None)

    async def poll_followed(self, timeout: float) -> dict[TopicPartition, list[InputRecord]]:
        """Return new records of followed partitions."""
        return await self._take(dict.fromkeys(self._followed, self._followed), READ_CHUNK, timeout)

    async def _take(
        self, sources: Mapping[TopicPartition, dict[TopicPartition, int]], limit: int, timeout: float
    ) -> dict[TopicPartition, list[InputRecord]]:
        for last in (False, True):
            taken: dict[TopicPartition, list[InputRecord]] = {}
            for where, positions in sources.items():
                if where not in positions:  # given up while this poll waited
                    continue
                start = max(positions[where], self._broker.begin(*where))
                stop = min(start + limit, len(self._broker.log(*where)))
                records = self._broker.kept(*where, start, stop)
                positions[where] = max(positions[where], stop)
                if records:
                    taken[where] = records
            if taken or last:
                await asyncio.sleep(0)
                return taken
            try:
                async with asyncio.timeout(timeout):
                    await self._broker.arrival.wait()
            except TimeoutError:
                return {}
        return {}
