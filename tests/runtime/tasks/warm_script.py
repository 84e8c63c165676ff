"""Runs an engine in memory and prints the kernels that it compiled after it had joined the group; see test_warm_up."""

from __future__ import annotations

import asyncio
import gc
import json

from numba.core.dispatcher import Dispatcher

from tests.brokers import Broker
from tests.runtime.harness import Stream


def compiled() -> dict[str, int]:
    """Return how many signatures each kernel has."""
    found = {}
    for thing in gc.get_objects():
        if isinstance(thing, Dispatcher):
            name = f"{thing.py_func.__module__}.{thing.py_func.__name__}"
            found[name] = len(thing.signatures)
    return found


async def main() -> None:
    """Decide, take every kind of feedback, revise, withdraw, expire, restore; compare before and after."""
    from banditroute.testing.memory_broker import MemoryBroker

    broker = Broker("memory", "", log=MemoryBroker())
    stream = Stream(broker, feedback={"join_window": "10m", "max_open": 90}, objective={"cost_weight": 10.0})
    async with stream.users():
        await stream.create()
        await drive(stream)


async def drive(stream: Stream) -> None:
    """Decide and learn, then start again; print what was compiled on the way."""
    async with stream.running() as engine:
        before = compiled()
        ids = await stream.request(120, tenant="a")
        await stream.until(lambda: engine.stats.decisions >= len(ids))
        names = stream.config.catalog.names
        some = ids[-60:]
        for i, kind in enumerate(("score", "thumb", "judge", "outcome")):
            fields = {"value": 1} if kind == "judge" else {}
            await stream.feedback(
                some[i::4], kind=kind, voter=f"v{i}", cost_usd=0.1, input_tokens=3, **fields
            )
        await stream.feedback(some[:8], kind="score", model=names[1], voter="other")
        await stream.feedback(some[:8], kind="score", voter="v0", value=0.25)
        await stream.feedback(ids[-20:], kind="usage")
        await stream.feedback(some[:2], kind="withdraw", voter="v0")
        await stream.until(lambda: engine.stats.feedback_copied >= 98)
        await stream.until(lambda: not any(task.busy for task in engine.tasks()))
        await stream.until(lambda: not any(task.partition.dirty for task in engine.partitions.values()))
        engine.learning.derive()
        engine.learning.verdicts()
    async with stream.running() as engine:
        await stream.request()
        await stream.until(lambda: engine.stats.decisions >= 1)
    after = compiled()
    late = {name: count for name, count in after.items() if count > before.get(name, 0)}
    print(json.dumps(late))


if __name__ == "__main__":
    asyncio.run(main())
