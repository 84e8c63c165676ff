"""What an engine makes of ends that lie before what it has read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from banditroute.runtime.broker.ports import TopicDescription
from banditroute.runtime.tasks import watching
from banditroute.testing.memory_broker import MemoryBroker, MemoryClient
from tests.brokers import Broker
from tests.runtime.harness import Stream

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]


class Forgetful(MemoryClient):
    """A broker without topic ids that for some looks does not tell of the newest records."""

    def __init__(self, broker: MemoryBroker, forgets: int) -> None:
        super().__init__(broker)
        self.forgets = forgets
        self.looks = 0

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicDescription] | None:
        return None

    async def ends(self, topic: str, partitions: Sequence[int]) -> list[int]:
        ends = await super().ends(topic, partitions)
        if topic.endswith("requests") and any(ends):
            self.looks += 1
            if self.looks <= self.forgets:
                return [0] * len(ends)
        return ends


@pytest.mark.parametrize("forgets", [watching.LOOKS - 1, 1 << 30])
async def test_an_end_before_what_was_read_is_believed_when_it_stays_also_of_a_broker_without_topic_ids(
    monkeypatch: pytest.MonkeyPatch, forgets: int
) -> None:
    monkeypatch.setattr(watching, "WATCH_SECONDS", 0.02)
    stream = Stream(Broker("memory", "", log=MemoryBroker()))
    await stream.create()
    client = Forgetful(stream.broker.log, 0)
    stream.client = lambda: client  # type: ignore[method-assign]
    engine = stream.engine()
    await engine.start()
    try:
        await stream.request(8)
        await stream.until(lambda: engine.ledger()["first"] >= 8)
        client.looks, client.forgets = 0, forgets
        if forgets < watching.LOOKS:
            await stream.until(lambda: client.looks > 2 * watching.LOOKS)
            assert engine.failure is None
        else:
            await asyncio.wait_for(engine.stopped.wait(), 20)
            assert "which ends at 0" in str(engine.failure)
            assert client.looks >= watching.LOOKS
    finally:
        await engine.stop()
