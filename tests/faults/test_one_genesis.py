"""Whoever begins a deployment at the same moment as others: the first genesis record in the log counts, for all."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from banditroute.flow.board import Board
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.records.snapshot import State, decode_state, encode_state
from banditroute.runtime.broker.ports import TopicPartition
from banditroute.runtime.state.topics import create_topics, read_state
from tests.faults.memory import World
from tests.faults.test_kafka import on
from tests.runtime.harness import PARTITIONS
from tests.runtime.tasks.test_outages import end, start

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]


@pytest.mark.parametrize("seed", range(6))
async def test_engines_that_create_topics_at_once_begin_from_the_same_genesis(seed: int) -> None:
    world = World(seed)
    stream = world.stream
    chance = random.Random(seed)

    async def begin(number: int) -> None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        await create_topics(stream.client(), stream.config, stream.spec, 1_800_000_000_000 - number)

    await asyncio.gather(*(begin(number) for number in range(3)))
    spec = stream.spec
    for partition in range(PARTITIONS):
        records = await stream.records(stream.names.state, partition)
        first = decode_state(records[0].value)
        state, _, _ = await read_state(stream.client(), stream.config, partition, spec)
        assert state is not None
        assert state.genesis == first.genesis
        board = Board(spec.d, spec.spec_id, spec.settings)
        for record in records:
            board.put(decode_state(record.value))
        assert board.slots[partition].genesis == first.genesis


def later(state: State, j: int, **changes: int) -> State:
    genesis = replace(state.genesis, **changes)
    return replace(state, j=j, replay_from=min(j, state.replay_from), genesis=genesis)


async def test_a_state_of_the_line_that_began_first_counts_whatever_another_line_says() -> None:
    world = World(1)
    await world.create()
    stream, names = world.stream, world.stream.names
    (record,) = await stream.records(names.state, 0)
    first = decode_state(record.value)
    history = [
        later(first, 90, log_epoch=first.genesis.log_epoch - 5),
        later(first, 5),
        later(first, 3),
        later(first, 99, log_epoch=first.genesis.log_epoch + 5),
    ]
    for state in history:
        await stream.user.append(names.state, 0, [OutputRecord(state.key, encode_state(state))])
    newest, _, damaged = await read_state(stream.client(), stream.config, 0, stream.spec)
    assert newest is not None
    assert (newest.j, newest.genesis, damaged) == (5, first.genesis, [])
    reigning = later(first, 1, log_epoch=7, reign=1)
    await stream.user.append(names.state, 0, [OutputRecord(reigning.key, encode_state(reigning))])
    newest, _, _ = await read_state(stream.client(), stream.config, 0, stream.spec)
    assert newest == reigning


async def test_a_genesis_record_has_a_key_of_its_own_so_that_compaction_keeps_who_was_first() -> None:
    world = World(2)
    await world.create()
    for partition in range(PARTITIONS):
        (record,) = await world.stream.records(world.stream.names.state, partition)
        state = decode_state(record.value)
        assert record.key == state.genesis_key != state.key


@pytest.mark.kafka
@pytest.mark.slow
async def test_three_engines_started_at_once_with_init_agree_for_good(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    stream = on(kafka_bootstrap)
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    engines = await asyncio.gather(*(start(folder, stream.document, "--init") for folder in folders))
    ids: list[str] = []
    async with stream.users():
        try:
            await stream.until(lambda: stream.user.partitions(stream.names.requests))

            async def begun() -> bool:
                ends = [(await stream.user.bounds(stream.names.state, p))[1] for p in range(PARTITIONS)]
                return min(ends) > 0

            await stream.until(begun)
            ids += await stream.request(40)

            async def decided() -> bool:
                ends = [(await stream.user.bounds(stream.names.decisions, p))[1] for p in range(PARTITIONS)]
                return sum(ends) >= 40

            await stream.until(decided)
            await stream.feedback(ids)
        finally:
            ended = await asyncio.gather(*(end(engine, signal.SIGTERM) for engine in engines))
        assert [each.status for each in ended] == [0, 0, 0], [each.err[-500:] for each in ended]
        async with stream.running() as engine:
            await stream.until(lambda: engine.ledger()["applied"] >= 40)
            assert await engine.client.committed(TopicPartition(stream.names.requests, 0)) is not None
        for partition in range(PARTITIONS):
            records = await stream.records(stream.names.state, partition)
            states = [decode_state(record.value) for record in records]
            assert states[-1].genesis == states[0].genesis
            of_others = [state for state in states if state.genesis != states[0].genesis]
            assert all(state.j == 0 for state in of_others), (
                "a line that does not count was never gone on with"
            )
        await stream.prove()
        assert await stream.prove_one_decision_each(ids) == 0
