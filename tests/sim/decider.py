"""A stand-in for the engine: decides at random, on the partition of the request, as docs/EVENTS.md has it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from banditroute.config import Config, Kafka, Objective, Topics
from banditroute.events import Decision, FieldMap, Weights, decode_feedback, decode_request, encode


def config_for(models, bootstrap: str, prefix: str = "") -> Config:
    """Return a configuration with topics of its own."""
    topics = Topics(
        requests=f"{prefix}requests", feedback=f"{prefix}feedback", decisions=f"{prefix}decisions"
    )
    return Config(
        models=models,
        kafka=Kafka(bootstrap_servers=bootstrap or "127.0.0.1:9092", topics=topics),
        objective=Objective(cost_weight=20.0),
    )


class Decider:
    """Decides every request `copies` times and keeps the valid events it has read, with their partitions."""

    def __init__(self, config: Config, names: tuple[str | None, ...], copies: int = 1, deaf: int = 0):
        self.config, self.names, self.copies, self.deaf = config, names, copies, deaf
        self.requests, self.feedback = [], []
        self.rng = np.random.default_rng(0)
        self.read = asyncio.Condition()

    async def heard(self, count: int) -> None:
        """Wait until `count` feedback events were read."""
        async with self.read:
            await self.read.wait_for(lambda: len(self.feedback) >= count)

    async def run(self, consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
        topics = self.config.kafka.topics
        while True:
            for place, records in (await consumer.getmany(timeout_ms=50)).items():
                batch = producer.create_batch()
                for record in records:
                    if place.topic == topics.feedback:
                        event = self.decode(decode_feedback, record.value, self.config.feedback.field_map)
                        self.feedback.append((place.partition, event))
                        continue
                    request = self.decode(decode_request, record.value, self.config.requests.field_map)
                    self.requests.append((place.partition, request))
                    if len(self.requests) > self.deaf:
                        value = self.decision(f"{place.partition}-{record.offset}", request.request_id)
                        for _ in range(self.copies):
                            key = request.request_id.encode()
                            if batch.append(key=key, value=value, timestamp=None) is None:
                                await (
                                    await producer.send_batch(
                                        batch, topics.decisions, partition=place.partition
                                    )
                                )
                                batch = producer.create_batch()
                                batch.append(key=key, value=value, timestamp=None)
                async with self.read:
                    self.read.notify_all()
                if batch.record_count():
                    await (await producer.send_batch(batch, topics.decisions, partition=place.partition))

    def decision(self, decision_id: str, request_id: str) -> bytes:
        return encode(
            Decision(
                v=1,
                decision_id=decision_id,
                request_id=request_id,
                model=self.names[self.rng.integers(len(self.names))],
                reason="utility",
                weights=Weights(cost=self.config.objective.cost_weight, latency=0.0),
                posterior_version="0",
                spec_id="0",
            )
        )

    @staticmethod
    def decode(decoder, value, field_map):
        event = decoder(value, FieldMap(field_map) if field_map else None)
        assert not hasattr(event, "reason"), (event, orjson.loads(value))
        return event


@asynccontextmanager
async def deciding(
    config: Config, names: tuple[str | None, ...], copies: int = 1, deaf: int = 0
) -> AsyncIterator[Decider]:
    """Run a `Decider` on the requests and feedback that come from now on; it leaves the first `deaf` undecided."""
    address, topics = {"bootstrap_servers": config.kafka.bootstrap_servers}, config.kafka.topics
    producer = AIOKafkaProducer(**address, max_batch_size=1 << 18)
    consumer = AIOKafkaConsumer(**address, enable_auto_commit=False, fetch_max_wait_ms=5)
    await producer.start()
    await consumer.start()
    places = [
        TopicPartition(topic, index)
        for topic in (topics.requests, topics.feedback)
        for index in await producer.partitions_for(topic)
    ]
    consumer.assign(places)
    for place, end in (await consumer.end_offsets(places)).items():
        consumer.seek(place, end)
    decider = Decider(config, names, copies, deaf)
    task = asyncio.create_task(decider.run(consumer, producer))
    try:
        yield decider
    finally:
        if not task.done():
            task.cancel()
        result = (await asyncio.gather(task, return_exceptions=True))[0]
        await consumer.stop()
        await producer.stop()
        if not isinstance(result, asyncio.CancelledError):
            raise result
