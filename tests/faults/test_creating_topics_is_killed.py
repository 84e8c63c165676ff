"""`banditroute topics create` is killed at random moments on a real broker, and finishes when it is run again."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.test_kafka import on
from tests.runtime.harness import compile_kernels
from tests.runtime.tasks.test_outages import ROOT, toml

pytestmark = [pytest.mark.asyncio, pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]

KILLS = 5


async def create(folder: Path, document: Any) -> asyncio.subprocess.Process:
    config = folder / "banditroute.toml"
    config.write_text(toml(document), encoding="utf-8")
    path = os.pathsep.join(str(ROOT / source) for source in (".", "features", "sim"))
    program = "from banditroute.cli import main; main()"
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", program, "topics", "create", "-c", str(config)),
        env={**os.environ, "PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_topics_create_that_is_killed_anywhere_is_finished_by_running_it_again(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    await asyncio.to_thread(compile_kernels)
    stream = on(kafka_bootstrap)
    chance = random.Random(5)
    async with stream.users():
        for kill in range(KILLS):
            process = await create(tmp_path, stream.document)
            topics = [
                getattr(stream.names, name)
                for name in ("requests", "decisions", "state", "control", "alerts")
            ]

            async def far(topic: str = topics[kill]) -> bool:
                described = await stream.user.describe([topic])
                return topic in (described or {}) or process.returncode is not None  # noqa: B023 - awaited here

            await stream.until(far)
            await asyncio.sleep(chance.uniform(0.0, 0.05))  # how far it gets
            if process.returncode is None:
                process.kill()
            await process.communicate()
        process = await create(tmp_path, stream.document)
        said, _ = await process.communicate()
        assert process.returncode == 0, said
        async with stream.running() as engine:
            ids = await stream.request(20)
            await stream.feedback(ids)
            await stream.until(lambda: engine.ledger()["applied"] >= 20)
        await stream.prove_one_decision_each(ids)
