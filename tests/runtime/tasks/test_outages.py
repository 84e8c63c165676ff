"""Brokers that go away, engines that are told to stop, and deployments that cannot start."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kafka_broker import KafkaBroker

from banditroute.errors import BrokerError
from banditroute.flow.deciding.decider import InputRecord
from banditroute.runtime.broker.ports import AppendFailed, TopicPartition, TopicSpec
from banditroute.runtime.tasks import engine as engine_module
from banditroute.runtime.tasks import partition_task
from banditroute.testing.memory_broker import MemoryBroker, MemoryClient
from tests.brokers import Broker
from tests.runtime.harness import PARTITIONS, Stream, compile_kernels, counts

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).resolve().parents[3]
STOP_SECONDS = 10.0  # from SIGTERM to the end of the process
START_SECONDS = 60.0  # for a program to compile, connect and decide


# -- in memory: every fault that an append, a read or a commit can meet ----------------------------


class Faults:
    """A seeded broker that is sometimes, or for a while always, not there."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.on = False
        self.away = False
        self.met: dict[str, int] = {}

    def happens(self, name: str, probability: float) -> bool:
        """Whether this fault happens now."""
        happens = self.away or (self.on and self.chance.random() < probability)
        if happens:
            self.met[name] = self.met.get(name, 0) + 1
        return happens

    def append(self, topic: str, partition: int) -> str | None:
        """Return the fate of an append, as `MemoryBroker.fault` does."""
        if self.happens("fail", 0.2):
            return "fail"
        return "lost" if self.happens("lost", 0.2) else None


class FaultyClient(MemoryClient):
    """An engine's connection whose reads and commits fail, too."""

    def __init__(self, broker: MemoryBroker, faults: Faults) -> None:
        super().__init__(broker)
        self.faults = faults

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        if self.faults.happens("bounds", 0.25):
            raise BrokerError(f"scripted: no offsets of {topic}-{partition}")
        return await super().bounds(topic, partition)

    async def read(
        self, topic: str, partition: int, start: int, stop: int
    ) -> AsyncIterator[list[InputRecord]]:
        half = (start + stop) // 2
        for begin, end in ((start, half), (half, stop)):
            if self.faults.happens("read", 0.25):
                raise BrokerError(f"scripted: {topic}-{partition} cannot be read")
            async for records in super().read(topic, partition, begin, end):
                yield records

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        return not self.faults.happens("commit", 0.3) and await super().commit(offsets)

    async def poll(self, wanted: Any, max_records: int, timeout: float) -> Any:
        if self.faults.away:
            await asyncio.sleep(timeout / 10)
            return {}
        return await super().poll(wanted, max_records, timeout)


@asynccontextmanager
async def faulty(
    seed: int, monkeypatch: pytest.MonkeyPatch, **tables: Any
) -> AsyncIterator[tuple[Stream, Faults]]:
    """Give a deployment in memory whose engines meet faults; its users do not."""
    monkeypatch.setattr(engine_module, "RETRY_SECONDS", 0.002)
    monkeypatch.setattr(engine_module, "COMMIT_SECONDS", 0.005)
    monkeypatch.setattr(partition_task, "RETRY_SECONDS", 0.002)
    faults = Faults(seed)
    log = MemoryBroker(clock=lambda: int(time.time() * 1000))
    broker = Broker("memory", "", log=log)
    stream = Stream(broker, **tables)
    users = {stream.names.requests, stream.names.feedback}
    log.fault = lambda topic, partition: None if topic in users else faults.append(topic, partition)
    log.client = lambda: FaultyClient(log, faults)  # type: ignore[method-assign]
    async with stream.users():
        yield stream, faults


@pytest.mark.parametrize("seed", range(6))
async def test_lost_acknowledgements_and_failed_writes_and_reads_leave_one_first_decision_each(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with faulty(seed, monkeypatch, engine={"max_batch": 5, "publish_interval": "10ms"}) as (
        stream,
        faults,
    ):
        async with stream.running(init=True) as engine:
            faults.on = True
            ids: list[str] = []
            for _ in range(6):
                ids += await stream.request(20)
                await stream.raw(stream.names.requests, 0, b"{")
                await stream.feedback(ids[-20:])
                await stream.raw(stream.names.feedback, 0, b"{")
                await asyncio.sleep(0)
            await stream.until(lambda: engine.ledger()["applied"] == 120)
            await stream.until(lambda: engine.stats.poison >= 12)
            faults.on = False
        later = await stream.prove_one_decision_each(ids)
        ledger = counts(await stream.prove())
        assert ledger["applied"] == 120
        assert ledger.get("later", 0) == later
        coordinates = {(letter["topic"], letter["offset"]) for letter in await stream.dead_letters()}
        assert len(coordinates) == 12, "a dead letter may come twice, never not at all"
    assert faults.met.keys() >= {"fail", "lost", "commit"}


async def test_a_broker_that_is_away_for_a_while_loses_nothing_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with faulty(1, monkeypatch, engine={"max_batch": 5}) as (stream, faults):
        async with stream.running(init=True) as engine:
            ids: list[str] = []
            for _ in range(4):
                ids += await stream.request(40)
                await stream.feedback(ids[-40:])
                met, before = sum(faults.met.values()), len(ids) - 40
                await stream.until(lambda before=before: engine.stats.decisions > before)
                faults.away = True
                ids += await stream.request(10)
                await stream.feedback(ids[-10:])
                await stream.until(lambda met=met: sum(faults.met.values()) > met + 20)
                faults.away = False
                total = len(ids)
                await stream.until(lambda total=total: engine.ledger()["applied"] == total)
        assert await stream.prove_one_decision_each(ids) == 0
        assert counts(await stream.prove())["applied"] == len(ids)


# -- a real broker, and its users -------------------------------------------------------------------


def real(own_kafka: KafkaBroker) -> Broker:
    return Broker("kafka", own_kafka.bootstrap)


async def insist(write: Callable[[], Any]) -> None:
    """Write as a patient user does: again until it is acknowledged, so that some records come twice."""
    while True:
        try:
            await write()
        except AppendFailed:
            await asyncio.sleep(0.1)
        else:
            return


# -- the program: how it starts and how it ends --------------------------------------------------


class Ended(NamedTuple):
    """What a program did."""

    status: int
    seconds: float
    err: str


def toml(document: Mapping[str, Any]) -> str:
    """Write a configuration: plain values and tables, as `Stream.document` has them."""

    def table(values: Mapping[str, Any], path: str) -> list[str]:
        lines = [
            f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)
        ]
        for key, value in values.items():
            if isinstance(value, dict):
                lines += [f"[{path}{key}]", *table(value, f"{path}{key}.")]
        return lines

    models = document.get("models", [])
    lines = table({key: value for key, value in document.items() if key != "models"}, "")
    for model in models:
        lines += ["[[models]]", *table(model, "models.")]
    return "\n".join(lines) + "\n"


async def start(folder: Path, document: Mapping[str, Any], *options: str) -> asyncio.subprocess.Process:
    """Start `banditroute run`."""
    await asyncio.to_thread(compile_kernels)
    config = folder / "banditroute.toml"
    config.write_text(toml({**document, "logging": {"format": "json"}}), encoding="utf-8")
    path = os.pathsep.join(str(ROOT / source) for source in (".", "features", "sim"))
    program = "from banditroute.cli import main; main()"
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", program, "run", "-c", str(config), *options),
        env={**os.environ, "PYTHONPATH": path},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def program(
    folder: Path, document: Mapping[str, Any], *options: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `banditroute run`; it does not outlive the test."""
    process = await start(folder, document, *options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def end(
    process: asyncio.subprocess.Process, number: int | None = None, patience: float = START_SECONDS
) -> Ended:
    """Send a signal, if any, and wait for the end of a program."""
    begun = time.monotonic()
    if number is not None:
        process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), patience)
    assert process.returncode is not None
    return Ended(process.returncode, time.monotonic() - begun, err.decode())


def refused(ended: Ended, *parts: str) -> None:
    """Demand status 2 and one sentence, last of all, that contains the parts."""
    assert ended.status == 2, ended.err
    assert "Traceback" not in ended.err
    lines = ended.err.splitlines()
    assert [line.startswith("banditroute: ") for line in lines] == [False] * (len(lines) - 1) + [True], (
        ended.err
    )
    for part in parts:
        assert part in lines[-1]


async def prepare(stream: Stream, missing: Sequence[str] = (), **counts: int) -> None:
    """Create topics without genesis records; `counts` are partition counts other than the usual ones."""
    one = {"control": 1, "dead_letter": 1, "alerts": 1}
    await stream.user.create(
        [
            TopicSpec(topic, counts.get(name, one.get(name, PARTITIONS)), {})
            for name, topic in stream.document["kafka"]["topics"].items()
            if name not in missing
        ]
    )


@pytest.mark.parametrize("listens", [False, True], ids=["nothing listens", "what listens never answers"])
async def test_without_a_broker_run_gives_up_after_the_startup_bound_with_one_sentence(
    tmp_path: Path, listens: bool
) -> None:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        if listens:
            port.listen(16)
        where = f"127.0.0.1:{port.getsockname()[1]}"
        document = Stream(Broker("kafka", where)).document
        document["kafka"]["startup_timeout"] = "2s"
        async with program(tmp_path, document) as process:
            ended = await end(process)
    refused(ended, f"no broker answered at {where} within 2 s", "check kafka.bootstrap_servers")
    assert ended.seconds < 12, "two seconds, and the time to start and compile"


async def test_an_empty_catalog_is_refused_with_one_sentence(tmp_path: Path) -> None:
    document = Stream(Broker("kafka", "127.0.0.1:1")).document
    async with program(tmp_path, {**document, "models": []}) as process:
        ended = await end(process)
    refused(ended, "the catalog is empty: add at least one [[models]] table")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ({"missing": ["journal"]}, "journal' does not exist: create it, or run `banditroute topics create"),
        ({"missing": ["feedback"]}, "feedback' does not exist: create it, or run `banditroute topics create"),
        ({"decisions": 3}, "decisions' has 3 partitions, but"),
        ({"state": 5}, "state' has 5 partitions, but"),
        ({}, "holds no genesis record: run `banditroute topics create"),
    ],
    ids=["no journal", "no feedback", "decisions unequal", "state unequal", "no genesis"],
)
async def test_topics_that_cannot_work_are_refused_with_one_sentence(
    tmp_path: Path, kafka_bootstrap: str, flaw: dict[str, Any], sentence: str
) -> None:
    stream = Stream(Broker("kafka", kafka_bootstrap))
    async with stream.users():
        await prepare(stream, **flaw)
        async with program(tmp_path, stream.document) as process:
            ended = await end(process)
    refused(ended, sentence)


async def test_sigterm_ends_the_program_within_ten_seconds_and_what_it_learned_is_published(
    tmp_path: Path, kafka_bootstrap: str
) -> None:
    stream = Stream(Broker("kafka", kafka_bootstrap), engine={"publish_interval": "1h", "max_batch": 20})
    async with stream.users():
        async with program(tmp_path, stream.document, "--init") as process:
            await stream.until(lambda: exists(stream, stream.names.alerts))
            ids = await stream.request(200)
            await stream.feedback(ids)
            await stream.until(lambda: some_decisions(stream))
            more = await stream.request(800)
            await stream.feedback(more)
            ended = await end(process, signal.SIGTERM, STOP_SECONDS + 5)
        assert ended.status == 0, ended.err
        assert ended.seconds < STOP_SECONDS
        bad = [
            line for line in ended.err.splitlines() if json.loads(line)["level"] not in ("info", "warning")
        ]
        assert bad == []
        await stream.prove()  # the last state covers the whole journal, although none was due for an hour
        async with stream.running() as engine:
            assert engine.stats.restored == PARTITIONS
            await stream.until(lambda: engine.ledger()["applied"] == 1000)
        assert await stream.prove_one_decision_each(ids + more) == 0
        assert counts(await stream.prove())["applied"] == 1000


async def exists(stream: Stream, topic: str) -> bool:
    return bool(await stream.user.partitions(topic))


async def some_decisions(stream: Stream) -> bool:
    ends = [await stream.user.bounds(stream.names.decisions, partition) for partition in range(PARTITIONS)]
    return any(end > begin for begin, end in ends)


@pytest.mark.slow
async def test_while_the_broker_is_gone_an_engine_loses_nothing_and_one_told_to_stop_ends_in_ten_seconds(
    tmp_path: Path, own_kafka: KafkaBroker
) -> None:
    staying = Stream(real(own_kafka), kafka={"request_timeout": "4s"})
    leaving = Stream(real(own_kafka), kafka={"session_timeout": "2s"})
    ids: list[str] = []
    finished = asyncio.Event()

    async def use() -> None:
        while not finished.is_set() or len(ids) < 400:
            batch = [f"u-{len(ids) + index}" for index in range(10)]
            for request_id in batch:
                await insist(lambda request_id=request_id: staying.request(request_id=request_id))
            ids.extend(batch)
            await insist(lambda batch=batch: staying.feedback(batch, feedback_id="once"))
            await asyncio.sleep(0.01)

    async with staying.users(), leaving.users(), program(tmp_path, leaving.document, "--init") as process:
        async with staying.running(init=True) as engine:
            users = asyncio.ensure_future(use())
            await leaving.until(lambda: exists(leaving, leaving.names.alerts))
            leaving_ids = await leaving.request(200)
            await leaving.feedback(leaving_ids)
            await leaving.until(lambda: some_decisions(leaving))
            await staying.until(lambda: engine.stats.decisions >= 100)
            own_kafka.kill()
            ended = await end(process, signal.SIGTERM, STOP_SECONDS + 5)
            await asyncio.to_thread(own_kafka.restart)
            finished.set()
            await asyncio.wait_for(users, START_SECONDS)
            await staying.until(lambda: engine.ledger()["applied"] == len(ids))
        later = await staying.prove_one_decision_each(ids)
        ledger = counts(await staying.prove())
        assert ledger["applied"] == len(ids)
        assert ledger.get("later", 0) == later
        assert ledger.keys().isdisjoint({"orphan", "rejected", "foreign", "late"})
        assert await staying.dead_letters() == []

        assert ended.status == 0, ended.err
        assert ended.seconds < STOP_SECONDS, ended.err
        assert "Traceback" not in ended.err
        assert ended.err.count("\n") < 100, "a library that repeats itself is not repeated"
        async with leaving.running() as engine:
            await leaving.until(lambda: engine.ledger()["applied"] == 200)
        assert await leaving.prove_one_decision_each(leaving_ids) == 0
        assert counts(await leaving.prove())["applied"] == 200
