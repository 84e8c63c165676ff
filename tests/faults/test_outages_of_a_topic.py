"""Topics that take nothing for a while, and clocks that jump: what depends on them waits, and nothing is skipped."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from banditroute.runtime.tasks.engine import Engine
from banditroute.testing.memory_broker import MemoryBroker
from tests.faults.memory import World, kill, start
from tests.runtime.harness import PARTITIONS, partition_of

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("hasty")]

HOUR_MS = 3_600_000.0


class Refusing:
    """A topic that takes nothing until `away` is False."""

    def __init__(self, log: MemoryBroker, topic: str) -> None:
        self.away, self.tried = True, 0
        self._topic = topic
        log.fault = self._fault

    def _fault(self, topic: str, _: int) -> str | None:
        refused = self.away and topic == self._topic
        self.tried += refused
        return "fail" if refused else None


def ids_of(partition: int, count: int, name: str) -> list[str]:
    """Request ids that the users' producer puts on a partition."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if partition_of(f"{name}-{number}", "murmur2") == partition:
            found.append(f"{name}-{number}")
    return found


async def ask(world: World, ids: Sequence[str]) -> None:
    for request_id in ids:
        await world.stream.request(request_id=request_id)
    world.ids += ids


async def test_without_the_dead_letter_topic_only_the_partitions_that_need_it_wait() -> None:
    world = World(1, requests={"partitioner": "murmur2"})
    await world.create()
    stream, names, log = world.stream, world.stream.names, world.log
    refusing = Refusing(log, names.dead_letter)

    def decided(partition: int) -> int:
        return len(log.log(names.decisions, partition))

    async with world.running() as engine:
        await stream.raw(names.requests, 0, b"[")
        for partition in range(PARTITIONS):
            await ask(world, ids_of(partition, 3, "a"))
        await stream.raw(names.feedback, 1, b"{")
        await world.until(lambda: all(decided(p) == 3 for p in range(1, PARTITIONS)))
        for partition in range(PARTITIONS):  # behind the poison, and elsewhere
            await ask(world, ids_of(partition, 2, "b"))
            await stream.feedback(ids_of(partition, 3, "a"))
        await world.until(lambda: all(decided(p) == 5 for p in range(1, PARTITIONS)))
        await world.until(lambda: engine.ledger()["applied"] == 6)  # of partitions 2 and 3
        tried = refusing.tried
        await world.until(lambda: refusing.tried > tried + 10)
        assert decided(0) == 0, "its poison comes first"
        assert log.committed.get((names.requests, 0), 0) == 0
        assert log.committed.get((names.feedback, 1), 0) == 0
        assert engine.ledger()["applied"] == 6
        assert engine.failure is None
        refusing.away = False
        await world.until(world.finished)
        await world.until(lambda: engine.ledger()["applied"] == 12)
    await world.finish()
    _, later = await world.prove()
    assert later == 0


async def test_feedback_whose_reason_cannot_be_written_is_not_covered_by_any_published_state() -> None:
    world = World(2, requests={"partitioner": "murmur2"})
    await world.create()
    stream, names, log = world.stream, world.stream.names, world.log
    refusing = Refusing(log, names.dead_letter)
    (request_id,) = ids_of(2, 1, "a")
    before = len(log.log(names.state, 2))
    async with world.running() as engine:
        await ask(world, [request_id])
        await world.until(lambda: engine.stats.decisions == 1)
        await stream.feedback([request_id], kind="withdraw", voter="nobody")
        await world.until(lambda: engine.ledger()["rejected"] == 1)
        tried = refusing.tried
        await world.until(lambda: refusing.tried > tried + 10)
        published = log.log(names.state, 2)[before:]
    refusing.away = False  # the first engine was killed before it could say why
    await world.finish()
    await world.prove()
    assert len(await stream.dead_letters()) == 1
    from banditroute.flow.records.snapshot import decode_state

    assert all(decode_state(record.value).ledger["rejected"] == 0 for record in published)


@pytest.mark.parametrize("step", [HOUR_MS, -HOUR_MS], ids=["forward", "back"])
@pytest.mark.parametrize("whose", ["engine", "broker", "both"])
async def test_a_clock_that_jumps_an_hour_changes_nothing_but_when_things_expire(
    step: float, whose: str
) -> None:
    world = World(3)
    await world.create()
    offset = 0.0

    def clocked(engine: Engine) -> Engine:
        if whose != "broker":
            engine.now_ms = lambda: time.time() * 1000.0 + offset  # type: ignore[method-assign]
        return engine

    for _ in range(3):
        engine = clocked(world.engine())
        await start(engine)
        for _ in range(3):
            decisions = engine.stats.decisions
            await world.traffic(1)
            await world.until(lambda: engine.stats.decisions > decisions)  # noqa: B023 - waited for at once
            offset += step
            if whose != "engine":
                world.clock.offset_ms += step
        await world.until(world.finished)
        await kill(engine)
    await world.finish()
    ledger, later = await world.prove()
    assert later == 0
    assert ledger["applied"] > 0


@pytest.mark.parametrize("step", [HOUR_MS, -HOUR_MS], ids=["forward", "back"])
async def test_a_clock_that_jumps_does_not_hold_up_what_was_to_be_sent_again(step: float) -> None:
    world = World(4)
    await world.create()
    names = world.stream.names
    lost = {"left": 0}

    def fault(topic: str, _: int) -> str | None:
        if topic == names.journal and lost["left"]:
            lost["left"] -= 1
            return "fail"
        return None

    world.log.fault = fault
    offset = 0.0
    engine = world.engine()
    engine.now_ms = lambda: time.time() * 1000.0 + offset  # type: ignore[method-assign]
    await start(engine)
    for _ in range(4):
        lost["left"] = 6
        await world.traffic(1)
        await world.until(lambda: lost["left"] < 6)
        offset += step
        await world.until(
            lambda: (
                world.finished()
                and all(
                    task.partition is not None
                    and task.partition.learner.end == task.partition.learner.fields.D
                    for task in engine.partitions.values()
                )
            )
        )
    await kill(engine)
    await world.finish()
    await world.prove()
