"""Metrics: on this machine alone, and what they say is what is."""

from __future__ import annotations

import asyncio
import socket

import pytest

from banditroute.errors import ConfigError
from tests.faults.memory import World
from tests.runtime.harness import PARTITIONS

prometheus = pytest.importorskip("prometheus_client.parser")

pytestmark = pytest.mark.asyncio


async def scrape(
    port: int, request: bytes = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
) -> tuple[bytes, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body.decode()


def parsed(body: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in prometheus.text_string_to_metric_families(body)
        for sample in family.samples
    }


async def test_metrics_tell_ledger_lag_and_staleness() -> None:
    world = World(1, metrics={"port": 0})
    await world.create()
    async with world.running() as engine, world.running() as other:
        assert engine.metrics is not None
        await world.traffic(3)
        await world.until(world.finished)
        await asyncio.sleep(0.2)
        engine.metrics._asked = -10.0
        head, body = await scrape(engine.metrics.port)
        found = parsed(body)
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert found["banditroute_decisions_total",] == engine.stats.decisions
        assert found["banditroute_partitions", "running"] == len(engine.partitions)
        for number, task in engine.partitions.items():
            assert task.partition is not None
            assert found["banditroute_ledger_imbalance", "journal", str(number)] == 0
            assert found["banditroute_ledger_imbalance", "decisions", str(number)] == 0
            assert found["banditroute_lag_records", str(number), world.stream.names.requests] == 0
            for outcome, count in task.partition.learner.ledger.items():
                assert found["banditroute_ledger", outcome, str(number)] == count
        for number in range(PARTITIONS):
            assert found["banditroute_staleness_records", str(number)] == 0
            assert found["banditroute_staleness_seconds", str(number)] == 0
        foreign = min(other.partitions)
        for task in other.partitions.values():  # it has learned and cannot say so
            task._too_large = True
        world.log.fault = lambda topic, _: "fail" if topic == world.stream.names.state else None
        await world.stream.raw(world.stream.names.journal, foreign, b"{")
        await asyncio.sleep(0.1)
        engine.metrics._asked = -10.0
        found = parsed((await scrape(engine.metrics.port))[1])
        assert found["banditroute_staleness_records", str(foreign)] >= 1
        assert found["banditroute_staleness_seconds", str(foreign)] > 0
        world.log.fault = None
    await world.finish()
    await world.prove()


async def test_other_paths_methods_and_nonsense_are_refused_and_the_engine_goes_on() -> None:
    world = World(2, metrics={"port": 0})
    await world.create()
    async with world.running() as engine:
        assert engine.metrics is not None
        for request in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"POST /metrics HTTP/1.1\r\n\r\n",
            b"\r\n\r\n",
            b"GET /../../etc/passwd HTTP/1.0\r\n\r\n",
        ):
            head, body = await scrape(engine.metrics.port, request)
            assert head.startswith(b"HTTP/1.1 404")
            assert body == ""
        assert (await scrape(engine.metrics.port, b"x" * 100_000))[0] == b""
        await world.traffic(1)
        await world.until(world.finished)
        assert engine.failure is None
    await world.finish()


async def test_it_listens_on_this_machine_alone_and_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        world = World(3, metrics={"port": taken.getsockname()[1]})
        await world.create()
        with pytest.raises(ConfigError, match=r"metrics\.port: cannot listen on 127\.0\.0\.1:"):
            await world.engine().start()
    assert World(3).engine().metrics is None
