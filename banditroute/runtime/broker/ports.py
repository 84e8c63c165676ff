"""What the engine needs of a broker: one small interface, so that memory and Kafka are driven alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from banditroute.flow.deciding.decider import InputRecord, OutputRecord


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Ack(NamedTuple):
    """So many `records` were appended at log offset `base`, contiguously."""

    base: int
    records: int


class Assignment(NamedTuple):
    """What this group member owns; `epoch` grows with every rebalance."""

    epoch: int
    owned: frozenset[TopicPartition]


class TopicSpec(NamedTuple):
    """A topic to create."""

    name: str
    partitions: int
    config: Mapping[str, str]


class TopicDescription(NamedTuple):
    """How many partitions a topic has, and its id where the broker gives topics one."""

    partitions: int
    topic_id: str | None


class AppendFailed(Exception):
    """An append was not acknowledged: it may have landed once, twice or not at all, now or later."""


class RecordTooLarge(AppendFailed):
    """The broker takes no record of this size: trying again is in vain."""


class Client(Protocol):
    """One member's connection to a broker."""

    async def start(self) -> None:
        """Connect; raises BrokerUnavailable after the start-up bound."""

    async def stop(self) -> None:
        """Leave the group and close."""

    async def partitions(self, topic: str) -> int:
        """Return the partition count, 0 if the topic is not there."""

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset kept and the offset of the next record."""

    async def ends(self, topic: str, partitions: Sequence[int]) -> list[int]:
        """Return the offsets of the next records of some partitions, asked for at once; raises BrokerError."""

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicDescription] | None:
        """Return the topics that exist, now and without creating any; None where that cannot be told."""

    async def all_bounds(self, topic: str, partitions: Collection[int]) -> dict[int, tuple[int, int]]:
        """Return the bounds of many partitions of a topic, asked for at once."""

    async def create(self, topics: Sequence[TopicSpec]) -> list[str]:
        """Create the topics that are missing and return their names."""

    async def append(self, topic: str, partition: int, records: Sequence[OutputRecord]) -> list[Ack]:
        """Append records in order; raises AppendFailed unless all were acknowledged."""

    def read(self, topic: str, partition: int, start: int, stop: int) -> AsyncIterator[list[InputRecord]]:
        """Read the records with offsets in [start, stop)."""

    def read_all(
        self, ranges: Mapping[TopicPartition, tuple[int, int]]
    ) -> AsyncIterator[tuple[TopicPartition, list[InputRecord]]]:
        """Read the records of many partitions with offsets in [start, stop), each partition in order."""

    async def join(self, topics: Sequence[str]) -> None:
        """Become a member of the group that shares the partitions of `topics`."""

    @property
    def assignment(self) -> Assignment:
        """What this member owns now."""

    async def committed(self, where: TopicPartition) -> int | None:
        """Return the group's committed offset."""

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commit offsets; False if this member was fenced."""

    def seek(self, where: TopicPartition, offset: int) -> None:
        """Continue an owned partition at an offset."""

    async def position(self, where: TopicPartition) -> int | None:
        """Return the offset up to which an owned partition was polled, None where that is not known."""

    async def poll(
        self, wanted: Collection[TopicPartition], max_records: int, timeout: float
    ) -> dict[TopicPartition, list[InputRecord]]:
        """Return records of owned partitions among `wanted`, waiting at most `timeout` seconds."""

    def follow(self, positions: Mapping[TopicPartition, int]) -> None:
        """Follow these partitions from these offsets, outside the group; one already followed keeps its place."""

    def unfollow(self, gone: Collection[TopicPartition]) -> None:
        """Follow these partitions no more."""

    async def poll_followed(self, timeout: float) -> dict[TopicPartition, list[InputRecord]]:
        """Return new records of followed partitions, waiting at most `timeout` seconds."""
