"""Kafka through aiokafka; see `banditroute.runtime.broker.ports.Client`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAlreadyExistsError,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from banditroute.config import Config
from banditroute.errors import BrokerError, BrokerUnavailable
from banditroute.flow.deciding.decider import InputRecord, OutputRecord
from banditroute.flow.deciding.encoded import BATCH_BYTES, EncodedRecords
from banditroute.runtime.broker import closed_transport, damaged_records
from banditroute.runtime.broker.diagnosis import why_unreachable
from banditroute.runtime.broker.metadata import describe
from banditroute.runtime.broker.options import client_options
from banditroute.runtime.broker.ports import (
    Ack,
    AppendFailed,
    Assignment,
    RecordTooLarge,
    TopicDescription,
    TopicPartition,
    TopicSpec,
)
from banditroute.runtime.broker.record_batch import EncodedBatch

__all__ = ["KafkaClient", "client_options"]

log = logging.getLogger("banditroute.kafka")

RETRY_SECONDS: Final = 0.5
MAX_RETRY_SECONDS: Final = 5.0
DESCRIBE_SECONDS: Final = 5.0
POSITION_SECONDS: Final = 0.1
closed_transport.install()
damaged_records.install()


class KafkaClient:
    """One member's connection: a producer, a group consumer, a following consumer.

    Parameters
    ----------
    config : Config
        The `[kafka]` table is read.
    fetch_wait_ms : int
        How long the broker may hold back an empty answer; a real broker answers as soon as there is something, the
        embedded one only then.
    """

    def __init__(self, config: Config, *, fetch_wait_ms: int = 250) -> None:
        self._fetch_wait_ms = fetch_wait_ms
        self._config = config.kafka
        self._options = client_options(config)
        self._producer: AIOKafkaProducer | None = None
        # aiokafka has one request under way per broker: decisions do not wait for the journal's acknowledgement
        self._decision_producer: AIOKafkaProducer | None = None
        self._group: AIOKafkaConsumer | None = None
        self._follower: AIOKafkaConsumer | None = None
        # never fetches: on a connection with a fetch under way the broker answers nothing else before it
        self._asker: AIOKafkaConsumer | None = None
        self._readers: list[AIOKafkaConsumer] = []  # idle; one is taken for each read
        self._positions: dict[TopicPartition, int] = {}
        self._moved: set[TopicPartition] = set()  # followed, or no more, since the last poll
        self._follow_changed = asyncio.Event()
        self._assignment = Assignment(0, frozenset())
        self._member = False  # of the group as it is now: neither rejoining nor refused

    # -- connection --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, with retries and back-off; raises BrokerUnavailable after `kafka.startup_timeout`."""
        deadline = time.monotonic() + self._config.startup_timeout
        wait = RETRY_SECONDS
        while True:
            try:
                # something that takes connections and never answers must not outlast the bound
                async with asyncio.timeout(deadline - time.monotonic()):
                    self._producer = await self._started(self._make_producer())
                    self._decision_producer = await self._started(self._make_producer())
                    self._follower = await self._started(self._make_consumer())
                    self._asker = await self._started(self._make_consumer())
            except (KafkaError, OSError) as error:
                await self.stop()
                if time.monotonic() + wait >= deadline:
                    raise BrokerUnavailable(
                        f"no broker answered at {self._config.bootstrap_servers} within "
                        f"{self._config.startup_timeout:g} s ({await why_unreachable(self._options)}): check "
                        "kafka.bootstrap_servers and that Kafka is running"
                    ) from error
                log.warning(
                    "no broker at %s yet; trying again in %.1f s", self._config.bootstrap_servers, wait
                )
                await asyncio.sleep(wait)
                wait = min(2 * wait, MAX_RETRY_SECONDS)
            else:
                return

    async def _started(self, client: Any) -> Any:
        try:
            await client.start()
        except BaseException:
            with contextlib.suppress(Exception):
                await client.stop()
            raise
        return client

    def _make_producer(self) -> AIOKafkaProducer:
        compression = None if self._config.compression == "none" else self._config.compression
        return AIOKafkaProducer(
            **self._options, acks="all", linger_ms=0, max_batch_size=BATCH_BYTES, compression_type=compression
        )

    def _make_consumer(self, **more: Any) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._options,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=self._fetch_wait_ms,
            fetch_min_bytes=1,
            isolation_level=self._config.isolation_level,
            max_partition_fetch_bytes=4 << 20,
            **more,
        )

    async def stop(self) -> None:
        """Leave the group and close."""
        producers = [self._producer, self._decision_producer]
        clients = [self._group, self._follower, self._asker, *self._readers, *producers]
        self._group = self._follower = self._asker = self._producer = self._decision_producer = None
        self._readers.clear()
        # At once, so that one that waits for a broker in vain leaves the others closed; without a broker aiokafka also
        # lets the CancelledError of a task of its own escape, which is nobody's wish to stop here.
        await asyncio.gather(*(client.stop() for client in clients if client), return_exceptions=True)

    # -- topics ------------------------------------------------------------------------------------

    async def partitions(self, topic: str) -> int:
        """Return the partition count, 0 if the topic is not there; raises BrokerError where nobody can tell."""
        client = self._require(self._producer).client
        client.add_topic(topic)
        deadline = time.monotonic() + self._config.startup_timeout
        while not await client.force_metadata_update():
            if time.monotonic() > deadline:
                raise BrokerError(
                    f"no broker at {self._config.bootstrap_servers} tells whether {topic} exists"
                )
            await asyncio.sleep(RETRY_SECONDS)
        return len(client.cluster.partitions_for_topic(topic) or ())

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Return the first offset kept and the offset of the next record."""
        return (await self.all_bounds(topic, [partition]))[partition]

    async def all_bounds(self, topic: str, partitions: Collection[int]) -> dict[int, tuple[int, int]]:
        """Return the bounds of many partitions of a topic, asked for at once."""
        where = {partition: KafkaPartition(topic, partition) for partition in partitions}
        consumer = self._require(self._asker)
        if not where:
            return {}
        try:
            begin = await consumer.beginning_offsets(list(where.values()))
            end = await consumer.end_offsets(list(where.values()))
        except KafkaError as error:
            which = f"{topic}-{min(where)}" if len(where) == 1 else topic
            raise BrokerError(f"cannot read the offsets of {which}: {error}") from error
        return {partition: (int(begin[each]), int(end[each])) for partition, each in where.items()}

    async def ends(self, topic: str, partitions: Sequence[int]) -> list[int]:
        """Return the offsets of the next records of some partitions."""
        where = [KafkaPartition(topic, partition) for partition in partitions]
        try:
            found = await self._require(self._asker).end_offsets(where) if where else {}
        except KafkaError as error:
            raise BrokerError(f"cannot read where the partitions of {topic} end: {error}") from error
        return [int(found[each]) for each in where]

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicDescription] | None:
        """Return the topics that exist; None where no broker answers, or none that knows topic ids."""
        return await describe(self._require(self._producer).client, list(topics), DESCRIBE_SECONDS)

    async def create(self, topics: Sequence[TopicSpec]) -> list[str]:
        """Create the topics that are missing and return their names."""
        admin = AIOKafkaAdminClient(**self._options)
        made = []
        try:
            await admin.start()
            for topic in topics:
                new = NewTopic(
                    topic.name,
                    topic.partitions,
                    self._config.replication_factor,
                    topic_configs=dict(topic.config),
                )
                try:
                    answer = await admin.create_topics([new])
                except TopicAlreadyExistsError:
                    continue
                code, reason = answer.topic_errors[0][1], answer.topic_errors[0][-1]
                if code == TopicAlreadyExistsError.errno:
                    continue
                if code:
                    raise BrokerError(f"the broker refused to create topic {topic.name}: {reason or code}")
                made.append(topic.name)
        except KafkaError as error:
            raise BrokerError(f"the broker cannot create topics: {error}") from error
        finally:
            await admin.close()
        deadline = time.monotonic() + self._config.startup_timeout
        for name in made:  # the broker answers before every listing shows the new topic
            while not await self.partitions(name):
                if time.monotonic() > deadline:
                    raise BrokerError(
                        f"topic {name} was created but does not appear in the cluster's metadata"
                    )
                await asyncio.sleep(0.05)
        return made

    # -- writing -----------------------------------------------------------------------------------

    async def append(self, topic: str, partition: int, records: Sequence[OutputRecord]) -> list[Ack]:
        """Append records in order, one acknowledged batch after the other; raises AppendFailed otherwise."""
        ahead = topic in (self._config.topics.decisions, self._config.topics.reply)
        producer = self._require(self._decision_producer if ahead else self._producer)
        acks: list[Ack] = []
        try:
            for batch in self._batches(producer, records):
                meta = await (await producer.send_batch(batch, topic, partition=partition))
                acks.append(Ack(meta.offset, batch.record_count()))
        except MessageSizeTooLargeError as error:
            raise RecordTooLarge(f"{topic}-{partition}: {error!r}") from error
        except (KafkaError, OSError) as error:
            raise AppendFailed(f"{topic}-{partition}: {error!r}") from error
        return acks

    def _batches(self, producer: AIOKafkaProducer, records: Sequence[OutputRecord]) -> Iterator[BatchBuilder]:
        """Yield batches of all the records, each made when the one before it was acknowledged."""
        now = int(time.time() * 1000.0)
        if isinstance(records, EncodedRecords):
            for start, stop, body in records.parts:
                yield EncodedBatch(body, stop - start, now, self._config.compression)
            return
        at = 0
        while at < len(records):
            batch = producer.create_batch()
            while at < len(records):
                record = records[at]
                headers = record.headers if type(record.headers) is list else list(record.headers)
                if batch.append(key=record.key, value=record.value, timestamp=now, headers=headers) is None:
                    break
                at += 1
            batch.close()
            yield batch

    # -- reading -----------------------------------------------------------------------------------

    async def read(
        self, topic: str, partition: int, start: int, stop: int
    ) -> AsyncIterator[list[InputRecord]]:
        """Read the records with offsets in [start, stop)."""
        if start >= stop:
            return
        where = KafkaPartition(topic, partition)
        consumer = self._readers.pop() if self._readers else await self._started(self._make_consumer())
        try:
            consumer.assign([where])
            consumer.seek(where, start)
            while (
                await consumer.position(where) < stop
            ):  # not "last record + 1": the last may be a control record
                fetched = await consumer.getmany(where, timeout_ms=1000)
                records = [record for record in fetched.get(where, ()) if record.offset < stop]
                if records:
                    yield records
        finally:
            consumer.unsubscribe()
            self._readers.append(consumer)

    async def read_all(
        self, ranges: Mapping[TopicPartition, tuple[int, int]]
    ) -> AsyncIterator[tuple[TopicPartition, list[InputRecord]]]:
        """Read the records of many partitions with offsets in [start, stop), by one connection."""
        left = {KafkaPartition(*where): stop for where, (start, stop) in ranges.items() if start < stop}
        if not left:
            return
        consumer = self._readers.pop() if self._readers else await self._started(self._make_consumer())
        try:
            consumer.assign(list(left))
            for where in left:
                consumer.seek(where, ranges[TopicPartition(*where)][0])
            while left:
                fetched = await consumer.getmany(timeout_ms=1000)
                for where, records in fetched.items():
                    kept = [record for record in records if record.offset < left.get(where, 0)]
                    if kept:
                        yield TopicPartition(*where), kept
                # where nothing was fetched there may be nothing but control records
                for where in left.keys() & fetched.keys() if fetched else list(left):
                    if await consumer.position(where) >= left[where]:
                        del left[where]
                        consumer.pause(where)
        finally:
            consumer.unsubscribe()
            self._readers.append(consumer)

    async def join(self, topics: Sequence[str]) -> None:
        """Become a member of the group; the Range assignor keeps co-partitions together."""
        consumer = self._make_consumer(
            group_id=self._config.group,
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=int(1000 * self._config.session_timeout),
            heartbeat_interval_ms=int(1000 * self._config.session_timeout / 4),
        )
        consumer.subscribe(topics, listener=_Listener(self))
        self._group = await self._started(consumer)

    def record_assignment(self, owned: Iterable[KafkaPartition]) -> None:
        """Take note of a rebalance (called by the listener, which must do nothing else)."""
        partitions = frozenset(TopicPartition(tp.topic, tp.partition) for tp in owned)
        self._assignment = Assignment(self._assignment.epoch + 1, partitions)
        self._member = True

    def record_rejoining(self) -> None:
        """Take note that the group is being rejoined; the next assignment ends that."""
        self._member = False

    @property
    def assignment(self) -> Assignment:
        """What this member owns now."""
        return self._assignment

    async def committed(self, where: TopicPartition) -> int | None:
        """Return the group's committed offset."""
        try:
            offset = await self._require(self._group).committed(KafkaPartition(*where))
        except KafkaError as error:
            raise BrokerError(
                f"cannot read the committed offset of {where.topic}-{where.partition}: {error}"
            ) from error
        return None if offset is None else int(offset)

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commit offsets; False if this member was fenced, is rejoining the group, or does not own all of them."""
        if not self._member:
            # The broker would look at it behind the pending JoinGroup of the same connection, find an old generation
            # and have us join again, with the next commit behind that: for ever.
            return False
        owned = self._assignment.owned
        mine = {KafkaPartition(*where): offset for where, offset in offsets.items() if where in owned}
        if mine:
            try:
                await self._require(self._group).commit(mine)
            except CommitFailedError:  # its text is for consumers that poll too seldom
                log.info("commit refused: the group is rebalancing; trying again with the next assignment")
                self._member = False
                return False
            except (KafkaError, IllegalStateError) as error:
                log.info("commit refused, trying again later: %r", error)
                return False
        return len(mine) == len(offsets)

    def seek(self, where: TopicPartition, offset: int) -> None:
        """Continue an owned partition at an offset; ignored if a rebalance has just taken it away."""
        with contextlib.suppress(IllegalStateError):
            self._require(self._group).seek(KafkaPartition(*where), offset)

    async def position(self, where: TopicPartition) -> int | None:
        """Return the offset up to which an owned partition was polled; what holds no record for us is passed."""
        try:
            async with asyncio.timeout(POSITION_SECONDS):
                return int(await self._require(self._group).position(KafkaPartition(*where)))
        except (KafkaError, IllegalStateError, TimeoutError):
            return None

    async def poll(
        self, wanted: Collection[TopicPartition], max_records: int, timeout: float
    ) -> dict[TopicPartition, list[InputRecord]]:
        """Return records of owned partitions among `wanted`, waiting at most `timeout` seconds."""
        # a list is searched for every partition that has records: all of them are better not named
        named = () if len(wanted) == len(self._assignment.owned) else wanted
        return await self._getmany(self._require(self._group), named, max_records, timeout)

    def follow(self, positions: Mapping[TopicPartition, int]) -> None:
        """Follow these partitions outside the group from these offsets."""
        for where, offset in positions.items():
            if where not in self._positions:
                self._positions[where] = offset
                self._moved.add(where)
        self._follow_changed.set()

    def unfollow(self, gone: Collection[TopicPartition]) -> None:
        """Follow these partitions no more."""
        for where in gone:
            if self._positions.pop(where, None) is not None:
                self._moved.add(where)

    def _refollow(self) -> None:
        """Have the consumer follow what is to be followed: once for all that came and went since the last poll."""
        self._moved.clear()
        consumer = self._require(self._follower)
        consumer.assign([KafkaPartition(*where) for where in self._positions])
        for where, offset in self._positions.items():  # assigning forgets every position
            consumer.seek(KafkaPartition(*where), offset)

    async def poll_followed(self, timeout: float) -> dict[TopicPartition, list[InputRecord]]:
        """Return new records of followed partitions, waiting at most `timeout` seconds."""
        if self._moved:
            self._refollow()
        if not self._positions:
            self._follow_changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._follow_changed.wait()
            return {}
        fetched = await self._getmany(self._require(self._follower), (), 5000, timeout)  # of all it follows
        # what came or went meanwhile is read from its place by the next poll; everything else is without a hole
        taken = {}
        for where, records in fetched.items():
            position = self._positions.get(where)
            if position is not None and where not in self._moved:
                taken[where] = [record for record in records if record.offset >= position]
                self._positions[where] = max(position, records[-1].offset + 1)
        return taken

    async def _getmany(
        self, consumer: AIOKafkaConsumer, wanted: Collection[TopicPartition], max_records: int, timeout: float
    ) -> dict[TopicPartition, list[InputRecord]]:
        try:
            fetched = await consumer.getmany(
                *(KafkaPartition(*where) for where in wanted),
                timeout_ms=int(1000 * timeout),
                max_records=max_records,
            )
        except KafkaError as error:
            log.warning("poll failed, trying again: %r", error)
            await asyncio.sleep(RETRY_SECONDS)
            return {}
        return {
            TopicPartition(where.topic, where.partition): records
            for where, records in fetched.items()
            if records
        }

    def _require(self, client: Any) -> Any:
        if client is None:
            raise BrokerError("the client is not connected")
        return client


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Only records: aiokafka swallows exceptions in here and goes on consuming."""

    def __init__(self, client: KafkaClient) -> None:
        self._client = client

    async def on_partitions_revoked(self, revoked: Iterable[KafkaPartition]) -> None:  # noqa: ARG002 - given
        """Keep everything until the new assignment: what stays ours need not be restored, a zombie can do no harm."""
        self._client.record_rejoining()

    async def on_partitions_assigned(self, assigned: Iterable[KafkaPartition]) -> None:
        """Take note."""
        self._client.record_assignment(assigned)
