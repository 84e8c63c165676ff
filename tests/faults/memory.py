"""Deployments in memory that can be hurt: engines that die at an effect, owners that are cut off, clocks that jump."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from banditroute.flow.deciding.decider import InputRecord, OutputRecord
from banditroute.flow.records.snapshot import decode_state
from banditroute.runtime.broker.ports import Ack, TopicPartition
from banditroute.runtime.tasks.engine import Engine
from banditroute.testing.memory_broker import MemoryBroker, MemoryClient
from tests import naive
from tests.brokers import Broker
from tests.runtime.harness import PARTITIONS, Stream, counts, partition_of

WITNESSES = 48  # votes of 2**-k that one float64 holds as a bit set, with room for their sum
PATIENCE = 20.0
FINISHES = 10  # engines that may be needed to read what is left


class Clock:
    """The broker's clock: the wall's, further on by 20 ms with every look, and it can be set."""

    def __init__(self) -> None:
        self.offset_ms = 0.0

    def __call__(self) -> int:
        self.offset_ms += 20.0
        return int(time.time() * 1000.0 + self.offset_ms)


class Mortal(MemoryClient):
    """A connection whose process dies at its n-th effect on the logs: it lands, and nobody hears of it."""

    def __init__(self, broker: MemoryBroker, last: int | None = None) -> None:
        super().__init__(broker)
        self.last = last
        self.effects = 0
        self.dead = asyncio.Event()
        self.held = ""  # a topic to which nothing gets through
        self.waiting = 0  # appends that do not
        self.let_go = asyncio.Event()

    async def _alive(self) -> None:
        if self.dead.is_set():
            await asyncio.Event().wait()  # until the engine is buried

    async def _effect(self) -> None:
        self.effects += 1
        if self.effects == self.last:
            self.dead.set()

    async def append(self, topic: str, partition: int, records: Sequence[OutputRecord]) -> list[Ack]:
        await self._alive()
        if topic == self.held:
            self.waiting += 1
            await self.let_go.wait()
        await self._effect()
        acks = await super().append(topic, partition, records)
        await self._alive()
        return acks

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        await self._alive()
        await self._effect()
        done = await super().commit(offsets)
        await self._alive()
        return done

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        await self._alive()
        return await super().bounds(topic, partition)

    async def poll(
        self, wanted: Collection[TopicPartition], max_records: int, timeout: float
    ) -> dict[TopicPartition, list[InputRecord]]:
        await self._alive()
        return await super().poll(wanted, max_records, timeout)

    async def poll_followed(self, timeout: float) -> dict[TopicPartition, list[InputRecord]]:
        await self._alive()
        return await super().poll_followed(timeout)

    def cut_off(self) -> None:
        """Lose the group without hearing of it: whoever holds this believes that all is still its own."""
        self._broker.members.remove(self)
        self._broker.rebalance()


class World:
    """A deployment in memory with users that do everything that users do.

    Parameters
    ----------
    seed : int
        Of what the users do.
    tables : mapping
        As of `Stream`.
    """

    def __init__(self, seed: int, **tables: Any) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.log = MemoryBroker(clock=self.clock)
        broker = Broker("memory", "", log=self.log)
        engine = {
            "publish_interval": "15ms",
            "expire_interval": "15ms",
            "max_batch": 7,
            **tables.pop("engine", {}),
        }
        feedback = {"max_parked": 5, "max_open": 5, **tables.pop("feedback", {})}
        learning = {"half_life": "64s", "drift_alerts": False, **tables.pop("learning", {})}
        self.stream = Stream(broker, engine=engine, feedback=feedback, learning=learning, **tables)
        self.ids: list[str] = []
        self.witnesses = 0

    async def create(self) -> None:
        """Topics and genesis records."""
        await self.stream.user.start()
        await self.stream.create()

    def engine(self, last: int | None = None) -> Engine:
        """An engine that dies at its `last` effect."""
        engine = Engine(self.stream.config, client=Mortal(self.log, last))
        if (
            self.witnesses
        ):  # a model whose votes go from 1/2 to nothing has changed, and its evidence is scaled
            engine.learning.verdicts = list  # type: ignore[method-assign,assignment]
        return engine

    @asynccontextmanager
    async def running(self, last: int | None = None) -> AsyncIterator[Engine]:
        """An engine that is killed at the end, whatever it is doing."""
        engine = self.engine(last)
        try:
            await start(engine)
            yield engine
        finally:
            await kill(engine)

    # -- users -------------------------------------------------------------------------------------

    async def witness(self, count: int) -> None:
        """Requests for one model, and for each the vote that is its own bit of the sum."""
        ids = [f"w-{self.witnesses + k}" for k in range(count)]
        for request_id in ids:
            await self.stream.request(request_id=request_id, allow=["small"])
        for request_id in ids:
            value = 2.0 ** -(1 + self.witnesses)
            self.witnesses += 1
            await self.stream.feedback([request_id], value=value, feedback_id="w")
            if self.chance.random() < 0.3:
                await self.stream.feedback([request_id], value=value, feedback_id="w")
        self.ids += ids

    async def traffic(self, rounds: int = 1) -> None:
        """Requests, repeats, and feedback of every kind and outcome."""
        stream, chance = self.stream, self.chance
        for _ in range(rounds):
            early = f"early-{len(self.ids)}"
            await stream.feedback([early], value=0.25)  # before its request
            ids = await stream.request(4) + await stream.request(3, tenant="acme")
            twice = chance.choice(
                ids
            )  # a user who sends twice; under another tenant it would be another request
            await stream.request(request_id=twice, **({"tenant": "acme"} if twice in ids[4:] else {}))
            self.ids += [*ids, *(await stream.request(request_id=early))]
            await stream.feedback(ids, feedback_id="a", voter=chance.choice("uv"))
            await stream.feedback(ids[:2], feedback_id="a", voter="u")
            await stream.feedback(ids[1:4], kind="thumb", feedback_id="b", voter="u", value=True)
            await stream.feedback(ids[1:4], kind="thumb", feedback_id="c", voter="u", value=False)
            await stream.feedback(ids[:1], kind="withdraw", voter="u")
            await stream.feedback(ids[4:6], value=1.0, tenant="rival")  # foreign
            await stream.feedback(ids[5:6], kind="withdraw", voter="nobody")  # rejected
            await stream.feedback(
                [f"never-{len(self.ids)}"], voter=chance.choice("uv")
            )  # an orphan in the end
            if self.ids[:-8]:
                await stream.feedback([chance.choice(self.ids[:-8])], feedback_id="late")
            await stream.raw(stream.names.feedback, 0, b"{")
            await stream.raw(stream.names.requests, chance.randrange(PARTITIONS), b"[")
            if chance.random() < 0.3:
                await self.withdraw(chance.choice("uv"))

    async def withdraw(self, voter: str) -> None:
        """Withdraw all that a voter has said."""
        event = json.dumps({"kind": "withdraw", "voter": voter}).encode()
        await self.stream.raw(self.stream.names.feedback, self.chance.randrange(PARTITIONS), event)

    # -- the end -----------------------------------------------------------------------------------

    def finished(self) -> bool:
        """Whether everything that users wrote has been read and committed."""
        names, log = self.stream.names, self.log
        return all(
            log.committed.get(TopicPartition(topic, partition), 0) == len(records)
            for topic in (names.requests, names.feedback)
            for partition, records in enumerate(log.logs[topic])
        )

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait, but not for ever."""
        await self.stream.until(condition, PATIENCE)

    async def finish(self) -> None:
        """Last engines read what is left and stop in order; one may still expire something behind its last state."""
        for _ in range(FINISHES):
            await self._finish()
            if self.covered():
                return
        raise AssertionError("the newest state records do not cover the journals")

    def covered(self) -> bool:
        """Whether the newest state records cover the journals."""
        names, log = self.stream.names, self.log
        return all(
            decode_state(log.log(names.state, partition)[-1].value).j
            == len(log.log(names.journal, partition))
            for partition in range(PARTITIONS)
        )

    async def _finish(self) -> None:
        engine = self.engine()
        await engine.start()
        try:
            await self.until(lambda: self.finished() or engine.failure is not None)
        finally:
            await engine.stop()
        if engine.failure is not None:
            raise engine.failure

    async def prove(self) -> tuple[dict[str, int], int]:
        """Oracle, ledger, reasons, one first decision each, witnesses; return the ledger and the later decisions."""
        results = await self.stream.prove()
        later = await self.stream.prove_one_decision_each(self.ids)
        ledger = counts(results)
        assert ledger.get("later", 0) == later
        self.prove_reasons()
        if self.witnesses:
            prove_witnesses(results, self.witnesses)
        return ledger, later

    def prove_reasons(self) -> None:
        """Every record that could not be read has a dead letter."""
        names, told = self.stream.names, set()
        for record in self.log.log(names.dead_letter, 0):
            letter = json.loads(record.value or b"")
            told.add((letter["topic"], letter["partition"], letter["offset"]))
        for topic in (names.requests, names.feedback):
            for partition, records in enumerate(self.log.logs[topic]):
                poison = {(topic, partition, r.offset) for r in records if r.value in (b"{", b"[")}
                assert poison <= told, poison - told


def prove_witnesses(results: Mapping[int, naive.Result], count: int, kind: str = "score") -> None:
    """Demand that every vote of 2**-k is in the sum once."""
    total = 0.0
    for result in results.values():
        row = result.rows.get(("small", 0, kind))
        total += row[3] if row is not None else 0.0
    bits = total * 2.0**count
    assert bits == 2.0**count - 1, f"the bits of {count} votes are {int(bits):b}"


async def start(engine: Engine) -> None:
    """Start an engine, which may die before it is there."""
    client = engine.client
    assert isinstance(client, Mortal)
    starting = asyncio.ensure_future(engine.start())
    dying = asyncio.ensure_future(client.dead.wait())
    await asyncio.wait({starting, dying}, return_when=asyncio.FIRST_COMPLETED)
    dying.cancel()
    if not starting.done():
        starting.cancel()
    await asyncio.gather(starting, dying, return_exceptions=True)
    if not starting.cancelled() and starting.exception() is not None and not client.dead.is_set():
        raise starting.exception()  # type: ignore[misc]


async def kill(engine: Engine) -> None:
    """End an engine as SIGKILL does: it drains, publishes and commits nothing."""
    await engine._end()


def partition_named(request_id: str) -> int:
    """Where the users' producers put a request."""
    return partition_of(request_id, "murmur2")
