"""A thousand partitions: what an engine asks of the broker grows with their number, and is not asked all at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from banditroute.flow.deciding.decider import InputRecord
from banditroute.runtime.broker.kafka import KafkaClient
from banditroute.runtime.broker.ports import TopicPartition
from banditroute.runtime.state.topics import create_topics
from banditroute.runtime.tasks import engine as engines
from banditroute.runtime.tasks.engine import Engine
from banditroute.testing.memory_broker import MemoryBroker, MemoryClient
from tests.brokers import Broker
from tests.runtime.harness import Stream

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]


class Counting(MemoryClient):
    """A connection that counts what it is asked, and how many reads are under way at once."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.asked: Counter[str] = Counter()
        self.reading = self.most_reading = 0

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        self.asked["bounds"] += 1
        return await super().bounds(topic, partition)

    async def all_bounds(self, topic: str, partitions: object) -> dict[int, tuple[int, int]]:
        self.asked["all_bounds"] += 1
        return {number: (0, len(self._broker.log(topic, number))) for number in partitions}  # type: ignore[attr-defined]

    async def read(
        self, topic: str, partition: int, start: int, stop: int
    ) -> AsyncIterator[list[InputRecord]]:
        self.asked["read"] += 1
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        try:
            async for records in super().read(topic, partition, start, stop):
                await asyncio.sleep(0)
                yield records
        finally:
            self.reading -= 1


def stream_of(partitions: int) -> Stream:
    return Stream(Broker("memory", "", log=MemoryBroker()), kafka={"partitions": partitions})


@pytest.mark.parametrize("partitions", [50, 1000])
async def test_creating_topics_asks_for_all_partitions_at_once_and_a_start_a_few_times_for_each(
    partitions: int,
) -> None:
    stream = stream_of(partitions)
    client = Counting(stream.broker.log)
    done = await create_topics(client, stream.config, stream.spec, 1_700_000_000_000)
    assert sum("genesis" in line for line in done) == partitions
    assert client.asked["bounds"] == 0
    assert client.asked["all_bounds"] <= 6
    client = Counting(stream.broker.log)
    engine = Engine(stream.config, client=client)
    await engine.start()
    try:
        assert len(engine.partitions) == len(engine.feedback) == partitions
        assert client.asked["bounds"] <= 6 * partitions
    finally:
        await engine.stop()
    assert engine.failure is None


async def test_few_partitions_are_brought_back_at_once_because_each_reads_by_its_own_connection() -> None:
    stream = stream_of(200)
    await create_topics(stream.user, stream.config, stream.spec, 1_700_000_000_000)
    client = Counting(stream.broker.log)
    engine = Engine(stream.config, client=client)
    await engine.start()
    await engine.stop()
    assert 1 <= client.most_reading <= 2 * engines.AT_ONCE


class Consumer:
    """What `KafkaClient` asks of the consumer that follows."""

    def __init__(self) -> None:
        self.assigned = 0
        self.places: dict[object, int] = {}

    def assign(self, partitions: list[object]) -> None:
        self.assigned += 1
        self.places = dict.fromkeys(partitions, -1)

    def seek(self, where: object, offset: int) -> None:
        self.places[where] = offset

    async def getmany(
        self, *partitions: object, timeout_ms: int, max_records: int
    ) -> dict[object, list[object]]:
        assert not partitions, "of all that it follows"
        assert timeout_ms >= 0
        assert max_records > 0
        return {}


async def test_a_thousand_partitions_that_come_between_two_polls_are_followed_by_one_assignment() -> None:
    stream = stream_of(4)
    client = KafkaClient(stream.config)
    consumer = client._follower = Consumer()  # type: ignore[assignment]
    for number in range(1000):
        client.follow({TopicPartition("journal", number): number})
    client.follow({TopicPartition("journal", 5): 99})  # is followed already, and keeps its place
    client.unfollow([TopicPartition("journal", 7)])
    client.unfollow([TopicPartition("journal", 8)])
    client.follow({TopicPartition("journal", 8): 80})
    await client.poll_followed(0.0)
    await client.poll_followed(0.0)
    assert consumer.assigned == 1
    assert len(consumer.places) == 999
    assert consumer.places["journal", 5] == 5
    assert consumer.places["journal", 8] == 80
