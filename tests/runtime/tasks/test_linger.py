"""Linger: a stream of requests waits for fuller batches, a request on an idle engine does not wait."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from banditroute.flow.deciding.decider import InputRecord
from banditroute.runtime.tasks.meter import Meter
from banditroute.runtime.tasks.partition_task import PartitionTask, TaskState

LINGER = 0.05


def task(linger: float | None, max_batch: int = 4) -> tuple[PartitionTask, list[tuple[float, int]]]:
    """A running task that only takes note of its batches: seconds since the loop began, requests."""
    engine: Any = SimpleNamespace(
        names=SimpleNamespace(requests="requests", journal="journal"),
        config=SimpleNamespace(engine=SimpleNamespace(max_batch=max_batch, linger=linger, max_queue=100)),
        learning=SimpleNamespace(meter=Meter()),
        wake=lambda: None,
    )
    made = PartitionTask(engine, 0)
    made.state, made._position = TaskState.RUNNING, 0
    batches: list[tuple[float, int]] = []

    async def decide(records: list[InputRecord]) -> None:
        batches.append((asyncio.get_running_loop().time(), len(records)))

    made._decide = decide  # type: ignore[method-assign]
    return made, batches


def run(linger: float | None, arrivals: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Let requests arrive (after seconds, so many) and return when they were decided, from the first arrival on."""

    async def play() -> list[tuple[float, int]]:
        made, batches = task(linger)
        begin, offset = asyncio.get_running_loop().time(), 0
        for after, count in arrivals:
            await asyncio.sleep(begin + after - asyncio.get_running_loop().time())
            made.receive([InputRecord(offset + i, 0, None, b"") for i in range(count)])
            offset += count
        await asyncio.sleep(2 * LINGER)
        return [(at - begin, count) for at, count in batches]

    return asyncio.run(play())


def test_a_request_on_an_idle_engine_is_decided_at_once() -> None:
    (first, one), (second, two) = run(LINGER, [(0.0, 1), (3 * LINGER, 2)])
    assert (one, two) == (1, 2)
    assert first < LINGER / 2
    assert second < 3.5 * LINGER


def test_requests_behind_a_batch_wait_for_a_fuller_one() -> None:
    (first, one), (second, two) = run(LINGER, [(0.0, 1), (0.01, 1), (0.02, 1)])
    assert (one, two) == (1, 2)
    assert second - first >= LINGER * 0.95


def test_a_full_batch_does_not_wait() -> None:
    (_, one), (second, four) = run(LINGER, [(0.0, 1), (0.005, 4)])
    assert (one, four) == (1, 4)
    assert second < LINGER


def test_without_linger_nothing_waits() -> None:
    batches = run(None, [(0.0, 1), (0.005, 1), (0.01, 1)])
    assert [count for _, count in batches] == [1, 1, 1]
    assert batches[-1][0] < LINGER
