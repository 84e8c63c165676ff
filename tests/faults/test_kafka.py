"""A real Apache Kafka under load, and everything that happens to the engines around it."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kafka_broker import KafkaBroker

from banditroute.runtime.broker.ports import TopicSpec
from banditroute.runtime.tasks.engine import Engine
from tests.brokers import Broker
from tests.faults.memory import prove_witnesses
from tests.runtime.harness import PARTITIONS, Stream, counts
from tests.runtime.tasks.test_outages import end, insist, start

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(240)]

WITNESSES = 40


def on(bootstrap: str, **tables: Any) -> Stream:
    kafka = {"session_timeout": "1500ms", **tables.pop("kafka", {})}
    broker = Broker("kafka", bootstrap)
    return Stream(broker, kafka=kafka, requests={"partitioner": "murmur2"}, **tables)


async def ends(stream: Stream) -> list[int]:
    """How many decisions there are, by partition."""
    return [(await stream.user.bounds(stream.names.decisions, p))[1] for p in range(PARTITIONS)]


class Load:
    """Users that send requests and votes until they are told to stop."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.ids: list[str] = []
        self.votes = 0
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        stream = self.stream
        while not self.stopped.is_set():
            batch = [f"u-{len(self.ids) + index}" for index in range(10)]
            for request_id in batch:
                await insist(lambda request_id=request_id: stream.request(request_id=request_id))
            self.ids += batch
            await insist(lambda batch=batch: stream.feedback(batch, feedback_id="once"))
            self.votes += len(batch)
            await asyncio.sleep(0.05)

    async def witness(self) -> None:
        """Votes of 2**-k for one model that says nothing else."""
        for k in range(WITNESSES):
            await insist(lambda k=k: self.stream.request(request_id=f"w-{k}", allow=["small"]))
            await insist(
                lambda k=k: self.stream.feedback(
                    [f"w-{k}"], value=2.0 ** -(k + 1), feedback_id="w", source="witness", kind="outcome"
                )
            )
            self.ids.append(f"w-{k}")


async def shaken(stream: Stream, shake: Callable[[Load], Awaitable[None]]) -> dict[str, int]:
    """Run users beside what shakes the engines, let one last engine finish, and prove; return the ledger."""
    load = Load(stream)
    users = asyncio.gather(load.run(), load.witness())
    try:
        await shake(load)
    finally:
        load.stopped.set()
        await users
    async with stream.running() as engine:
        applied = load.votes + WITNESSES
        await stream.until(lambda: engine.ledger()["applied"] >= applied)
        await stream.until(lambda: engine.ledger()["first"] >= len(load.ids))
    results = await stream.prove()
    ledger = counts(results)
    assert await stream.prove_one_decision_each(load.ids) == ledger.get("later", 0)
    assert ledger["applied"] == load.votes + WITNESSES
    assert ledger.keys().isdisjoint({"orphan", "rejected", "foreign", "late", "revised"})
    assert await stream.dead_letters() == []
    if not ledger.get("control"):  # a verdict scales the sums
        prove_witnesses(results, WITNESSES, "outcome")
    return ledger


@pytest.mark.parametrize("engines", [2, 3])
async def test_engines_killed_and_frozen_at_random_moments_under_load(
    kafka_bootstrap: str, tmp_path: Path, engines: int
) -> None:
    chance = random.Random(engines)
    stream = on(kafka_bootstrap)

    async def shake(load: Load) -> None:
        running = [await start(tmp_path, stream.document) for _ in range(engines)]
        try:
            for blow in range(5):
                asked = len(load.ids)

                async def decided(asked: int = asked) -> bool:
                    return sum(await ends(stream)) >= asked

                await stream.until(decided)
                await asyncio.sleep(chance.uniform(0.0, 1.5))  # a random moment
                victim = running.pop(chance.randrange(len(running)))
                if blow % 3 == 2:
                    victim.send_signal(signal.SIGSTOP)
                    before = await ends(stream)

                    async def others_own_all(before: list[int] = before) -> bool:
                        pairs = zip(before, await ends(stream), strict=True)
                        return all(now >= then + 20 for then, now in pairs)

                    await stream.until(others_own_all)  # so the session is over
                    victim.send_signal(signal.SIGCONT)
                    running.append(victim)
                else:
                    victim.kill()
                    await victim.communicate()
                    running.append(await start(tmp_path, stream.document))
            asked = len(load.ids)
            await stream.until(decided)
            for engine in running:
                ended = await end(engine, signal.SIGTERM, 60.0)  # how soon is another test
                assert ended.status in (0, -signal.SIGTERM), ended.err  # it may still have been starting
        finally:
            for engine in running:
                if engine.returncode is None:
                    engine.kill()
                    await engine.communicate()

    async with stream.users():
        await stream.create()
        await shaken(stream, shake)


async def test_members_that_join_and_leave_every_second(kafka_bootstrap: str) -> None:
    chance = random.Random(5)
    stream = on(kafka_bootstrap)

    async def shake(load: Load) -> None:
        members: list[Engine] = []
        for _ in range(12):
            engine = stream.engine()
            await engine.start()
            members.append(engine)
            await asyncio.sleep(chance.uniform(0.2, 1.0))
            if len(members) > 2 or (len(members) == 2 and chance.random() < 0.5):
                member = members.pop(chance.randrange(len(members)))
                await (member.stop() if chance.random() < 0.5 else member._end())
        for member in members:
            await member.stop()
            assert member.failure is None

    async with stream.users():
        await stream.create()
        await shaken(stream, shake)


async def test_compaction_at_its_most_eager_leaves_what_a_restore_needs(kafka_bootstrap: str) -> None:
    stream = on(kafka_bootstrap)
    eager = {
        "cleanup.policy": "compact",
        "segment.ms": "200",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "200",
        "delete.retention.ms": "0",
    }

    async def states() -> list[int]:
        return [(await stream.user.bounds(stream.names.state, p))[1] for p in range(PARTITIONS)]

    async def shake(load: Load) -> None:
        for _ in range(5):
            written = sum(await states())

            async def published(written: int = written) -> bool:
                return sum(await states()) >= written + 5 * PARTITIONS

            async with stream.running():
                await stream.until(published)

    async with stream.users():
        await stream.user.create([TopicSpec(stream.names.state, PARTITIONS, eager)])
        await stream.create()
        await shaken(stream, shake)

        async def compacted() -> bool:
            kept = [len(await stream.records(stream.names.state, p)) for p in range(PARTITIONS)]
            return sum(kept) < sum(await states()) / 2

        await stream.until(compacted)


async def test_an_engine_that_starts_before_its_broker_waits_for_it(
    own_kafka: KafkaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    stream = on(own_kafka.bootstrap, kafka={"startup_timeout": "90s"})
    async with stream.users():
        await stream.create()
        ids = await stream.request(20)
    own_kafka.kill()
    engine = stream.engine()
    starting = asyncio.ensure_future(engine.start())
    await stream.until(lambda: caplog.text.count("trying again") >= 2 or starting.done())
    assert not starting.done()
    await asyncio.to_thread(own_kafka.restart)
    await starting
    async with stream.users():
        await stream.feedback(ids)
        await stream.until(lambda: engine.ledger()["applied"] == 20)
        await engine.stop()
        assert await stream.prove_one_decision_each(ids) == 0
        await stream.prove()
