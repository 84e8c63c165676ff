"""The measured processes of `bench.stream`: an engine, and the loops it is compared with. One line of JSON each."""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import json
import pstats
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from banditroute.config import from_dict
from bench._stream_input import BATCH_BYTES, EPOCH, PARTITIONS
from bench._stream_peers import LOOPS, Window, cpu_seconds

WARM = 0.2  # of the requests: compiled code, first derives and full buffers come before measuring
PATIENCE = 120.0
SHARE_WARM = 10_000  # decisions of an engine among others that are not counted
LAG_WARM = 0.3  # of the votes of a round on learning lag are not counted
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
TRACED_FUNCTIONS = 40


async def run_engine(document: dict[str, Any], count: int, answers: int) -> dict[str, float]:
    """Run the engine until every request is decided and all feedback is applied."""
    from banditroute.runtime.process import collector
    from banditroute.runtime.tasks.engine import Engine

    engine = Engine(from_dict(document), init=True)
    await engine.start()
    collector.settle()  # as `banditroute run` does
    window = Window(int(WARM * count))
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            await asyncio.sleep(0.1)
            if warm(engine):
                window.look(engine.stats.decisions)
            if engine.failure is not None:
                raise engine.failure
            if engine.stats.decisions >= count and engine.ledger()["applied"] >= answers:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{engine.report()} after {PATIENCE:.0f} s")
        result = window.result
    finally:
        await engine.stop()
    return result


def warm(engine: Any) -> bool:
    """Whether the engine has imported what it imports while it decides: river, which takes a second."""
    return not engine.config.learning.drift_alerts or engine.learning.drift is not None


async def run_echo(document: dict[str, Any], count: int) -> dict[str, float]:
    """Poll, loads, dumps, send_batch: what any stage on this client has to pay."""
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

    config = from_dict(document)
    kafka, topics = config.kafka, config.kafka.topics
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers,
        acks="all",
        linger_ms=0,
        max_batch_size=BATCH_BYTES,
        compression_type=kafka.compression,
    )
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, enable_auto_commit=False, max_partition_fetch_bytes=4 << 20
    )
    await producer.start()
    await consumer.start()
    window = Window(int(WARM * count))
    done = 0
    try:
        sources = [TopicPartition(topics.requests, p) for p in range(PARTITIONS)]
        consumer.assign(sources)
        await consumer.seek_to_beginning(*sources)
        while done < count:
            fetched = await consumer.getmany(timeout_ms=50, max_records=config.engine.max_queue)
            pending = []
            for where, records in fetched.items():
                batch = producer.create_batch()
                for record in records:
                    value = orjson.dumps(orjson.loads(record.value))
                    if batch.append(key=record.key, value=value, timestamp=None) is None:
                        batch.close()
                        pending.append(
                            await producer.send_batch(batch, topics.decisions, partition=where.partition)
                        )
                        batch = producer.create_batch()
                        batch.append(key=record.key, value=value, timestamp=None)
                batch.close()
                pending.append(await producer.send_batch(batch, topics.decisions, partition=where.partition))
                done += len(records)
            await asyncio.gather(*pending)
            window.look(done)
    finally:
        await consumer.stop()
        await producer.stop()
    return window.result


async def run_until_told(document: dict[str, Any], *, init: bool, cold: bool) -> dict[str, Any]:
    """Run an engine until standard input ends; say when it is ready, and how long feedback takes to be learned.

    It is ready, when `cold`, as soon as it decides, and otherwise when it has also imported all that it imports.

    Feedback carries the time at which it was sent as its `latency_ms`, counted from `_stream_input.EPOCH`.
    """
    from banditroute.flow.settling.effects import LearnedRun
    from banditroute.runtime.process import collector
    from banditroute.runtime.tasks.engine import Engine

    engine = Engine(from_dict(document), init=init)
    lags: list[float] = []
    observe = engine.learning.observe

    def observed(learned: Any, timestamp: int, *, control: bool = False) -> Any:
        found = observe(learned, timestamp, control=control)
        now = 1000.0 * (time.time() - EPOCH)
        for some in learned:
            each = some if isinstance(some, LearnedRun) else (some,)
            lags.extend(now - one.vote.latency_ms for one in each)
        return found

    engine.learning.observe = observed  # type: ignore[method-assign]
    begin = time.perf_counter()
    await engine.start()
    ready = time.perf_counter() - begin
    for _ in range(0 if cold else 3000):
        if warm(engine):
            break
        await asyncio.sleep(0.02)
    print(json.dumps({"ready": ready}), flush=True)
    collector.settle()
    try:
        loop = asyncio.get_running_loop()
        told = loop.run_in_executor(None, sys.stdin.read)
        window, seen = Window(SHARE_WARM), 0
        while not told.done():
            await asyncio.sleep(0.02)
            if engine.failure is not None:
                raise engine.failure
            if engine.stats.decisions != seen:
                seen = engine.stats.decisions
                window.look(seen)
        report = engine.report()
    finally:
        await engine.stop()
    counted = np.array(lags[int(LAG_WARM * len(lags)) :])  # not all of them: a line of output is short
    lag = {name: float(np.quantile(counted, at)) for name, at in QUANTILES.items()} if len(counted) else {}
    return {"lag": lag, "votes": len(lags), "decisions": report["decisions"], "window": window.result}


async def forward(document: dict[str, Any]) -> dict[str, Any]:
    """Run the echo loop until standard input ends: what the latency of ours is compared with."""
    loop = asyncio.get_running_loop()
    echo = asyncio.ensure_future(run_echo(document, sys.maxsize))
    print(json.dumps({"ready": 0.0}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    echo.cancel()
    await asyncio.gather(echo, return_exceptions=True)
    return {}


async def read_all(document: dict[str, Any], topic: str, partitions: int) -> dict[str, float]:
    """Read a topic from beginning to end with a bare consumer, and do nothing with it."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    consumer = AIOKafkaConsumer(
        bootstrap_servers=from_dict(document).kafka.bootstrap_servers,
        enable_auto_commit=False,
        max_partition_fetch_bytes=4 << 20,
    )
    await consumer.start()
    try:
        sources = [TopicPartition(topic, p) for p in range(partitions)]
        consumer.assign(sources)
        ends = await consumer.end_offsets(sources)
        await consumer.seek_to_beginning(*sources)
        begin, cpu, records, size = time.perf_counter(), sum(cpu_seconds()), 0, 0
        while records < sum(ends.values()):
            for fetched in (await consumer.getmany(timeout_ms=100)).values():
                records += len(fetched)
                size += sum(len(r.value) + sum(len(v) for _, v in r.headers) for r in fetched)
        wall, cpu = time.perf_counter() - begin, sum(cpu_seconds()) - cpu
    finally:
        await consumer.stop()
    return {"records": records, "wall": wall, "cpu": cpu, "bytes": size}


def functions(tracer: cProfile.Profile) -> list[tuple[str, float, int]]:
    """Return (function, seconds inside of it alone, calls), the longest first."""
    found: list[tuple[str, float, int]] = []
    stats: dict[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(tracer).stats  # type: ignore[attr-defined]
    for (file, line, name), (_, calls, own, _, _) in stats.items():
        path = Path(file)
        where = f"{path.parent.name}/{path.name}:{line} " if line else ""
        found.append((where + name, own, calls))
    return sorted(found, key=lambda row: -row[1])[:TRACED_FUNCTIONS]


def worker(text: str) -> None:
    """Be the measured process: read the job, do it, print one line."""
    from banditroute.runtime.process import serve

    job = json.loads(text)
    who = job["who"]
    if who == "echo":
        result = serve.run(run_echo(job["config"], job["count"]))
    elif who in LOOPS:
        result = LOOPS[who](job["config"], job["count"])
    elif who == "forward":
        result = serve.run(forward(job["config"]))
    elif who == "serve":
        result = serve.run(run_until_told(job["config"], init=job["init"], cold=job["cold"]))
    elif who == "read":
        result = serve.run(read_all(job["config"], job["topic"], job["partitions"]))
    elif job["traced"]:
        tracer = cProfile.Profile()
        result = tracer.runcall(serve.run, run_engine(job["config"], job["count"], job["answers"]))
        result |= {"functions": functions(tracer)}
    else:
        result = serve.run(run_engine(job["config"], job["count"], job["answers"]))
    print(json.dumps(result | {"rss_mib": peak_mib()}))


def peak_mib() -> float:
    """Peak resident memory of this process: getrusage would report that of the process which started it, if larger."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
