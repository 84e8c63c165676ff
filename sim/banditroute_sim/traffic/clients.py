"""The Kafka clients of a traffic run, connected and placed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from banditroute.config import Config
from banditroute.errors import BrokerUnavailable, TopicError
from banditroute.runtime.broker.kafka import client_options
from banditroute_sim.traffic.outbox import BATCH_BYTES


@dataclass(frozen=True)
class Clients:
    """A producer, a consumer at the end of the decisions topic, and how many partitions each topic has."""

    producer: Any
    consumer: Any
    partitions: dict[str, int]


@asynccontextmanager
async def connect(config: Config, fetch_wait_ms: int) -> AsyncIterator[Clients]:
    """Connect, and place the consumer behind the last decision that is there now.

    The consumer has no group: it takes nothing away from anyone.

    Raises
    ------
    BrokerUnavailable
        If no broker answers.
    TopicError
        If one of the topics does not exist.
    """
    kafka = config.kafka
    producer = AIOKafkaProducer(
        **{
            **client_options(config),
            "acks": "all",
            "max_batch_size": BATCH_BYTES,
            "compression_type": None if kafka.compression == "none" else kafka.compression,
        }
    )
    consumer = AIOKafkaConsumer(
        **{
            **client_options(config),
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "fetch_max_wait_ms": fetch_wait_ms,
        }
    )
    try:
        try:
            await producer.start()
            await consumer.start()
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(
                f"no broker answers at {kafka.bootstrap_servers}: check kafka.bootstrap_servers "
                f"({type(error).__name__})"
            ) from error
        partitions = {}
        for topic in (kafka.topics.requests, kafka.topics.feedback, kafka.topics.decisions):
            try:
                partitions[topic] = len(await producer.partitions_for(topic))
            except (UnknownTopicOrPartitionError, TimeoutError) as error:
                raise TopicError(
                    f"the topic '{topic}' does not exist: create it, for example with 'banditroute topics create'"
                ) from error
        decisions = [
            TopicPartition(kafka.topics.decisions, index)
            for index in range(partitions[kafka.topics.decisions])
        ]
        consumer.assign(decisions)
        for partition, end in (await consumer.end_offsets(decisions)).items():
            consumer.seek(partition, end)
        yield Clients(producer, consumer, partitions)
    finally:
        await consumer.stop()
        await producer.stop()
