"""Programs that are told to stop in the midst of a rebalance that cannot end, on a real Apache Kafka."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from banditroute.runtime.process.serve import GRACE_SECONDS
from tests.faults.test_kafka import Load, on, shaken
from tests.runtime.harness import PARTITIONS, Stream
from tests.runtime.tasks.test_outages import end, start

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.timeout(240)]

DRAIN_SECONDS = 2.0
SESSION_SECONDS = 40.0  # for so long the group waits for a member that is frozen


class Group:
    """A consumer group as its broker sees it."""

    def __init__(self, bootstrap: str, name: str) -> None:
        from confluent_kafka.admin import AdminClient

        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._name = name

    def _state(self) -> tuple[str, int]:
        from confluent_kafka import KafkaException

        try:
            found = self._admin.describe_consumer_groups([self._name])[self._name].result(10)
        except (KafkaException, TimeoutError):  # nobody coordinates it yet
            return "UNKNOWN", 0
        return found.state.name, len(found.members)

    async def state(self) -> tuple[str, int]:
        """Return its state and how many members it has."""
        return await asyncio.to_thread(self._state)


async def decided(stream: Stream) -> int:
    ends = [await stream.user.bounds(stream.names.decisions, p) for p in range(PARTITIONS)]
    return sum(end for _, end in ends)


async def test_programs_told_to_stop_in_the_midst_of_a_rebalance_end_before_it_does_and_lose_nothing(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    stream = on(
        kafka_bootstrap,
        kafka={"session_timeout": f"{SESSION_SECONDS:g}s"},
        engine={"drain_timeout": f"{DRAIN_SECONDS:g}s"},
    )
    group = Group(kafka_bootstrap, stream.document["kafka"]["group"])

    async def is_group(state: str, members: int) -> bool:
        return await group.state() == (state, members)

    async def shake(load: Load) -> None:
        frozen, waiting = [await start(tmp_path, stream.document) for _ in range(2)]
        joining = None
        try:
            await stream.until(lambda: is_group("STABLE", 2))
            frozen.send_signal(signal.SIGSTOP)
            joining = await start(tmp_path, stream.document)
            await stream.until(lambda: is_group("PREPARING_REBALANCING", 3))

            async def nobody_decides() -> bool:
                """Whether the other member, too, has let go of its partitions and asked to join again."""
                before, asked = await decided(stream), len(load.ids)
                await stream.until(lambda: len(load.ids) >= asked + 50)
                return await decided(stream) == before

            await stream.until(nobody_decides)
            ended = await asyncio.gather(*(end(program, signal.SIGTERM) for program in (waiting, joining)))
            state, _ = await group.state()
            assert state == "PREPARING_REBALANCING", "they have not waited for the rebalance to end"
            for one in ended:
                assert one.status == 0, one.err
                assert one.seconds < 2 * (DRAIN_SECONDS + GRACE_SECONDS), one.err
            frozen.send_signal(signal.SIGCONT)
            assert (await end(frozen, signal.SIGTERM)).status == 0
        finally:
            for program in filter(None, (frozen, waiting, joining)):
                if program.returncode is None:
                    program.kill()
                    await program.communicate()

    async with stream.users():
        await stream.create()
        await shaken(stream, shake)
