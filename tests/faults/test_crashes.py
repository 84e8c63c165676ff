"""Engines that die anywhere, and owners that do not know that they are none any more, on the log in memory."""

from __future__ import annotations

import asyncio

import pytest

from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.records.snapshot import State, decode_state
from banditroute.runtime.state.topics import create_topics
from tests import naive
from tests.faults.memory import Mortal, World, kill, start
from tests.runtime.harness import PARTITIONS, as_naive

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("hasty")]


async def crash_at(effect: int, seed: int) -> tuple[bool, dict[str, int]]:
    """Let an engine die at an effect and another one finish; return whether it got that far, and the ledger."""
    world = World(seed)
    await world.create()
    await world.traffic(1)
    await world.withdraw("u")
    await world.traffic(1)
    async with world.running(effect) as engine:
        client = engine.client
        assert isinstance(client, Mortal)
        await world.until(lambda: client.dead.is_set() or world.finished())
        died = client.dead.is_set()
    await world.traffic(1)
    await world.finish()
    ledger, later = await world.prove()
    assert later == 0, "nobody else was there to decide again"
    return died, ledger


@pytest.mark.slow
async def test_a_crash_at_any_effect_changes_nothing() -> None:
    effect, outlived = 1, 0
    outcomes: set[str] = set()
    while outlived < 5:  # how many effects there are is up to the timers
        died, ledger = await crash_at(effect, seed=effect)
        outcomes |= ledger.keys()
        outlived = 0 if died else outlived + 1
        effect += 1
    assert effect > 40
    assert outcomes > {"revised", "withdrawn", "elsewhere"}, "voters have withdrawn all that they said"


@pytest.mark.parametrize("seed", range(12))
async def test_a_series_of_crashes_loses_and_doubles_no_vote(seed: int) -> None:
    world = World(seed, learning={"half_life": None}, feedback={"max_open": 1000, "max_parked": 1000})
    await world.create()
    for _ in range(6):
        await world.witness(8)
        async with world.running(world.chance.randrange(1, 40)) as engine:
            client = engine.client
            assert isinstance(client, Mortal)
            await world.until(lambda client=client: client.dead.is_set() or world.finished())
    await world.finish()
    ledger, later = await world.prove()
    assert ledger["applied"] == world.witnesses == 48
    assert later == 0


@pytest.mark.parametrize("seed", range(12))
async def test_an_owner_that_was_cut_off_and_goes_on_changes_nothing(seed: int) -> None:
    world = World(seed)
    await world.create()
    await world.traffic(1)
    async with world.running() as zombie:
        await world.until(lambda: zombie.stats.decisions >= 4)
        assert isinstance(zombie.client, Mortal)
        zombie.client.cut_off()
        async with world.running() as owner:
            for _ in range(4):
                await world.traffic(1)
                for _ in range(world.chance.randrange(12)):
                    await asyncio.sleep(0.002)
            await world.until(world.finished)
            assert owner.stats.decisions > 0
    await world.finish()
    ledger, later = await world.prove()
    assert later > 0, "both have decided"
    assert ledger["copied_twice"] > 0, "both have copied"


async def test_decisions_that_land_behind_those_of_another_owner_are_later_ones() -> None:
    world = World(1)
    await world.create()
    log, decisions = world.log, world.stream.names.decisions
    async with world.running() as zombie:
        client = zombie.client
        assert isinstance(client, Mortal)
        client.held = decisions
        await world.traffic(1)
        await world.until(lambda: client.waiting == PARTITIONS)
        client.cut_off()
        async with world.running():
            await world.until(world.finished)
            learners = [zombie.partitions[number].partition.learner for number in range(PARTITIONS)]  # type: ignore[union-attr]

            def knows_all() -> bool:
                return all(len(log.log(decisions, p)) == one.fields.D for p, one in enumerate(learners))

            await world.until(knows_all)  # from the journal, while its own are under way
            before = [len(log.log(decisions, number)) for number in range(PARTITIONS)]
            client.let_go.set()
            await world.until(lambda: all(len(log.log(decisions, p)) > n for p, n in enumerate(before)))
            await world.until(knows_all)
            for number, learner in enumerate(learners):
                records = [as_naive(record) for record in log.log(decisions, number)]
                assert learner.ledger["first"] == len(naive.first_decisions(records)) < len(records)
    await world.finish()
    _, later = await world.prove()
    assert later > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
async def test_members_that_come_and_go_all_the_time_change_nothing(seed: int) -> None:
    world = World(seed)
    await world.create()
    members = []
    for _ in range(10):
        await world.traffic(1)
        engine = world.engine()
        await start(engine)
        members.append(engine)
        await asyncio.sleep(world.chance.random() * 0.02)
        if len(members) > 1 and world.chance.random() < 0.7:
            member = members.pop(world.chance.randrange(len(members)))
            await (member.stop() if world.chance.random() < 0.4 else kill(member))
    await world.until(world.finished)
    for member in members:
        await kill(member)
    await world.finish()
    await world.prove()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offsets", ["expired", "set back"])
async def test_committed_offsets_are_a_hint_and_nothing_rests_on_them(offsets: str, seed: int) -> None:
    world = World(seed)
    await world.create()
    for _ in range(4):
        await world.traffic(2)
        async with world.running():
            await world.until(world.finished)
        if offsets == "expired":
            world.log.committed.clear()
        else:
            world.log.committed.update(dict.fromkeys(world.log.committed, 0))
    await world.finish()
    ledger, later = await world.prove()
    assert later == 0, "what was decided is not decided again"
    assert ledger["copied_twice"] > 100


async def test_what_a_board_knows_of_others_never_goes_backwards_and_owners_publish_again() -> None:
    world = World(1)
    await world.create()
    names = world.stream.names
    async with world.running() as first, world.running() as second:
        await world.until(lambda: len(first.partitions) == len(second.partitions) == 2)
        ours, theirs = min(first.partitions), min(second.partitions)
        seen: list[int] = []
        real = first.learning.put

        def put(state: State, *, ours: bool = False) -> None:
            real(state, ours=ours)
            seen.append(first.learning.state_of(theirs).j)

        first.learning.put = put  # type: ignore[method-assign]
        for _ in range(3):
            await world.traffic(2)
            await world.until(lambda: world.finished() and world.covered())
            for partition in (ours, theirs):  # a former owner's last word comes late
                old = world.log.log(names.state, partition)[0]
                world.log.add(names.state, partition, [OutputRecord(old.key, old.value or b"")])
        log = world.log.log(names.state, theirs)
        await world.until(lambda: decode_state(log[-1].value).j == len(world.log.log(names.journal, theirs)))
        await world.until(lambda: bool(seen) and seen[-1] == decode_state(log[-1].value).j)
        assert seen == sorted(seen)
        assert seen[-1] > seen[0]
    await world.finish()
    await world.prove()


async def test_creating_topics_may_be_cut_short_anywhere() -> None:
    for effect in range(1, 7):
        world = World(effect)
        stream = world.stream
        client = Mortal(world.log, effect)
        making = asyncio.ensure_future(create_topics(client, stream.config, stream.spec, 1_700_000_000_000))
        dying = asyncio.ensure_future(client.dead.wait())
        await asyncio.wait({making, dying}, return_when=asyncio.FIRST_COMPLETED)
        for task in (making, dying):
            task.cancel()
        await asyncio.gather(making, dying, return_exceptions=True)
        await world.create()
        await world.traffic(1)
        await world.finish()
        await world.prove()
