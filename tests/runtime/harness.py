"""Drives an engine on any broker tier and checks what it wrote with the independent oracle."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from banditroute.config import Config, from_dict
from banditroute.flow.copying.partitioner import PARTITIONERS, partitions_of
from banditroute.flow.deciding.decider import InputRecord, OutputRecord
from banditroute.flow.ledger import imbalance
from banditroute.router import learner_settings, make_encoder
from banditroute.runtime.broker.kafka import KafkaClient
from banditroute.runtime.broker.ports import Client
from banditroute.runtime.state.topics import Spec, create_topics
from banditroute.runtime.tasks.engine import Engine
from banditroute.runtime.tasks.partition_task import TaskState
from banditroute.runtime.tasks.warm_up import warm_up
from tests import naive
from tests.brokers import Broker

MODELS = [
    {"name": "small", "input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4},
    {"name": "medium", "input_usd_per_mtok": 0.5, "output_usd_per_mtok": 2.0},
    {"name": "large", "input_usd_per_mtok": 3.0, "output_usd_per_mtok": 12.0},
]
TOPICS = ("requests", "feedback", "decisions", "journal", "state", "control", "dead_letter", "alerts")
PARTITIONS = 4  # what the embedded broker gives every topic
PATIENCE = 60.0


@functools.cache
def compile_kernels() -> None:
    """Fill the cache that programs share: how long a machine compiles is not what any test is about."""
    warm_up(from_dict({"models": MODELS}))


class Stream:
    """One deployment: topics of its own, users that write to them, engines that read them."""

    def __init__(self, broker: Broker, **tables: Any) -> None:
        self.broker = broker
        kafka = dict(tables.pop("kafka", {}))
        topics = {name: broker.prefix + name for name in TOPICS} | kafka.pop("topics", {})
        kafka = {
            "bootstrap_servers": broker.bootstrap or "memory:1",
            "group": broker.prefix + "group",
            "partitions": PARTITIONS,
            "topics": topics,
            **kafka,
        }
        engine = {"publish_interval": "50ms", **tables.pop("engine", {})}
        self.document = {"models": MODELS, "kafka": kafka, "engine": engine, **tables}
        self.config: Config = from_dict(self.document)
        self.names = self.config.kafka.topics
        self.user = self.client()
        self._numbers = itertools.count()

    def client(self) -> Client:
        """Another member's connection."""
        if self.broker.kind == "memory":
            return self.broker.log.client()
        return KafkaClient(self.config, fetch_wait_ms=250 if self.broker.kind == "kafka" else 10)

    def engine(self, **options: Any) -> Engine:
        """An engine that is not started."""
        return Engine(self.config, client=self.client(), admin=self.broker.admin, **options)

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Engine]:
        """An engine between start and orderly stop."""
        engine = self.engine(**options)
        await engine.start()
        try:
            yield engine
            for task in engine.partitions.values():
                if task.state is TaskState.RUNNING and task.partition is not None:
                    assert imbalance(task.partition) == (0, 0), "the ledger adds up at any moment"
        finally:
            await engine.stop()
        if engine.failure is not None:
            raise engine.failure

    @property
    def spec(self) -> Spec:
        """What the topics begin with."""
        spec = make_encoder(self.config).spec
        return Spec(spec.d, spec.spec_id, learner_settings(self.config))

    async def create(self) -> None:
        """Make topics and genesis records."""
        await create_topics(
            self.user, self.config, self.spec, int(time.time() * 1000), admin=self.broker.admin
        )

    @asynccontextmanager
    async def users(self) -> AsyncIterator[None]:
        """The users' connection."""
        await self.user.start()
        try:
            yield
        finally:
            await self.user.stop()

    # -- writing -----------------------------------------------------------------------------------

    async def request(
        self,
        count: int = 1,
        *,
        partitioner: str = "murmur2",
        headers: Sequence[tuple[str, bytes]] = (),
        **fields: Any,
    ) -> list[str]:
        """Send requests as a producer with that partitioner does; return their ids."""
        ids = []
        by_partition: dict[int, list[OutputRecord]] = {}
        for _ in range(count):
            event = {
                "request_id": f"r-{next(self._numbers)}",
                "prompt": "Say good morning",
                "tags": ["chat"],
                **fields,
            }
            ids.append(event["request_id"])
            home = partition_of(event["request_id"], partitioner)
            record = OutputRecord(event["request_id"].encode(), json.dumps(event).encode(), headers)
            by_partition.setdefault(home, []).append(record)
        for partition, records in by_partition.items():
            await self.user.append(self.names.requests, partition, records)
        return ids

    async def feedback(
        self, ids: Sequence[str], *, partitioner: str = "murmur2", kind: str = "score", **fields: Any
    ) -> None:
        """Send one feedback event per request id."""
        by_partition: dict[int, list[OutputRecord]] = {}
        for index, request_id in enumerate(ids):
            event: dict[str, Any] = {"request_id": request_id, "kind": kind}
            if kind in ("score", "outcome", "thumb"):
                event["value"] = (index % 11) / 10 if kind != "thumb" else bool(index % 2)
            event |= (
                {"output_tokens": 10 + index % 7, "latency_ms": 100.0 + index} if kind != "withdraw" else {}
            )
            event |= fields
            record = OutputRecord(request_id.encode(), json.dumps(event).encode())
            by_partition.setdefault(partition_of(request_id, partitioner), []).append(record)
        for partition, records in by_partition.items():
            await self.user.append(self.names.feedback, partition, records)

    async def raw(self, topic: str, partition: int, *values: bytes | None, key: bytes | None = None) -> None:
        """Append bytes as they are."""
        await self.user.append(topic, partition, [OutputRecord(key, value) for value in values])  # type: ignore[arg-type]

    # -- reading -----------------------------------------------------------------------------------

    async def records(self, topic: str, partition: int) -> list[InputRecord]:
        """All records of a partition."""
        begin, end = await self.user.bounds(topic, partition)
        return [record async for batch in self.user.read(topic, partition, begin, end) for record in batch]

    async def decisions(self) -> list[dict[str, Any]]:
        """All decisions, in partition order."""
        found = []
        for partition in range(PARTITIONS):
            found += [
                json.loads(record.value or b"")
                for record in await self.records(self.names.decisions, partition)
            ]
        return found

    async def dead_letters(self) -> list[dict[str, Any]]:
        """All dead letters."""
        return [json.loads(record.value or b"") for record in await self.records(self.names.dead_letter, 0)]

    async def alerts(self) -> list[dict[str, Any]]:
        """All alerts."""
        return [json.loads(record.value or b"") for record in await self.records(self.names.alerts, 0)]

    async def until(self, condition: Callable[[], Any], patience: float = PATIENCE) -> None:
        """Wait for something to become true (a condition, or a coroutine function)."""
        deadline = time.monotonic() + patience
        while True:
            value = condition()
            if await value if asyncio.iscoroutine(value) else value:
                return
            assert time.monotonic() < deadline, f"still not true after {patience} s"
            await asyncio.sleep(0.01)

    async def settled(self, engine: Engine, journal_feedback: int) -> None:
        """Wait until so many feedback records were applied or otherwise settled."""

        def done() -> bool:
            ledger = engine.ledger()
            names = (
                "applied",
                "revised",
                "duplicate",
                "late",
                "orphan",
                "elsewhere",
                "foreign",
                "rejected",
                "parked",
            )
            return sum(ledger[name] for name in names) >= journal_feedback

        await self.until(done)

    # -- proof -------------------------------------------------------------------------------------

    async def prove(
        self, requests_from: Sequence[int] = (0,) * PARTITIONS, feedback_from: Sequence[int] = ()
    ) -> dict[int, naive.Result]:
        """Recompute every partition from its topics and demand that the newest state says the same, bit for bit.

        `requests_from` and `feedback_from` are the offsets at which the partitions of both topics began.
        """
        results = {}
        settings = learner_settings(self.config)
        weights = {kind: settings.weight(kind) for kind in naive.QUALITY_KINDS}
        for partition in range(PARTITIONS):
            state = naive.parse_state((await self.records(self.names.state, partition))[-1].value or b"")
            decisions = [as_naive(record) for record in await self.records(self.names.decisions, partition)]
            journal = [as_naive(record) for record in await self.records(self.names.journal, partition)]
            assert state.meta["j"] == len(journal), "the last state covers the whole journal"
            result = naive.recompute(
                partition,
                decisions,
                journal,
                naive.Settings(settings.half_life_ms, weights, settings.max_parked),
                {
                    "rX": requests_from[partition],
                    "rD": requests_from[partition],
                    "hi": {source: offset - 1 for source, offset in enumerate(feedback_from)},
                },
                d=self.spec.d,
            )
            differences = naive.differences(result, state)
            assert differences == [], differences
            naive.ledger_adds_up(result, len(journal))
            results[partition] = result
        missing = set().union(*(result.refused for result in results.values())) - await self.explained()
        assert not missing, f"feedback that was not applied, without a reason: {sorted(missing)[:5]}"
        return results

    async def explained(self) -> set[tuple[int, int]]:
        """Sources (feedback partition, offset) of the feedback whose refusal is on the dead-letter topic."""
        return {
            (letter["partition"], letter["offset"])
            for letter in await self.dead_letters()
            if letter["topic"] == self.names.feedback
        }

    async def prove_one_decision_each(self, ids: Sequence[str]) -> int:
        """Every request has exactly one first decision; return how many later ones there are."""
        firsts: list[str] = []
        later = 0
        for partition in range(PARTITIONS):
            decisions = [as_naive(record) for record in await self.records(self.names.decisions, partition)]
            first = naive.first_decisions(decisions)
            later += len(decisions) - len(first)
            firsts += [json.loads(record.value)["request_id"] for record in first]
        assert sorted(firsts) == sorted(ids)
        return later


def partition_of(key: str, partitioner: str) -> int:
    """Where a producer with that partitioner puts a key."""
    return int(partitions_of([key.encode()], PARTITIONS)[0, PARTITIONERS.index(partitioner)])


def as_naive(record: InputRecord) -> naive.Record:
    """A record as the oracle reads it."""
    return naive.Record(
        record.offset, record.timestamp, record.value or b"", [tuple(h) for h in record.headers]
    )


def counts(results: Mapping[int, naive.Result]) -> dict[str, int]:
    """The ledgers of all partitions, summed."""
    total: dict[str, int] = {}
    for result in results.values():
        for name, count in result.ledger.items():
            total[name] = total.get(name, 0) + count
    return total
