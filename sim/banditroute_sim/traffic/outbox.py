"""Sends keyed records in whole batches, and sends them again for as long as the broker stays away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiokafka.errors import KafkaError, KafkaTimeoutError

from banditroute.errors import BrokerError
from banditroute.flow.copying.partitioner import PARTITIONERS, partitions_of

BATCH_BYTES: Final = 1 << 18
_RETRY_SECONDS: Final = 0.5


class Outbox:
    """The records waiting to be sent to one topic, a queue per partition.

    A batch whose acknowledgement is lost is sent again, so that a record may be there twice: request_id and
    feedback_id make that harmless.

    Parameters
    ----------
    producer : aiokafka.AIOKafkaProducer
        Started; its `max_batch_size` bounds a batch.
    topic : str
        Where the records go.
    partitions : int
        How many the topic has.
    partitioner : str
        One of `banditroute.flow.copying.partitioner.PARTITIONERS`.
    acknowledged : callable
        Told the number of records of every batch that the broker has acknowledged.
    """

    def __init__(
        self,
        producer: Any,
        topic: str,
        partitions: int,
        partitioner: str,
        acknowledged: Callable[[int], None],
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._column = PARTITIONERS.index(partitioner)
        self._queues: list[list[tuple[bytes, bytes]]] = [[] for _ in range(partitions)]
        self._acknowledged = acknowledged
        partitions_of([b""], partitions)  # the kernel is loaded before the clock starts

    def add(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Queue (key, value) pairs."""
        keys = [key for key, _ in records]
        for partition, record in zip(
            partitions_of(keys, len(self._queues))[:, self._column].tolist(), records, strict=True
        ):
            self._queues[partition].append(record)

    async def flush(self) -> None:
        """Send all that is queued and wait until the broker has it.

        Raises
        ------
        BrokerError
            If the broker refuses a batch for good. While it is merely away this goes on trying.
        """
        await asyncio.gather(*(self._drain(index) for index, queue in enumerate(self._queues) if queue))

    async def _drain(self, partition: int) -> None:
        queue = self._queues[partition]
        while queue:
            batch = self._producer.create_batch()
            count = 0
            for key, value in queue:
                if batch.append(key=key, value=value, timestamp=None) is None:
                    break  # full; the first record always fits
                count += 1
            try:
                await (await self._producer.send_batch(batch, self._topic, partition=partition))
            except KafkaError as error:
                if not error.retriable and not isinstance(error, KafkaTimeoutError):
                    raise BrokerError(
                        f"the broker refused {count} records for topic '{self._topic}': {type(error).__name__}"
                    ) from error
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                del queue[:count]
                self._acknowledged(count)
