"""Logs that are damaged, cut by retention, compacted or written by newer builds: refused or survived, never guessed."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from banditroute.errors import StateError
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.records.snapshot import decode_state, encode_state
from banditroute.runtime.state.restore import restore
from banditroute.runtime.state.topics import read_state
from banditroute.runtime.tasks.engine import Engine
from tests import naive
from tests.faults.memory import World
from tests.runtime.harness import PARTITIONS, counts

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("hasty")]


async def learned(seed: int, rounds: int = 4, **tables: Any) -> World:
    """A deployment with some history and no engine."""
    world = World(seed, **tables)
    await world.create()
    for _ in range(rounds):
        await world.traffic(1)
        await world.finish()
    return world


async def alerts(world: World, kind: str) -> list[str]:
    return [alert["message"] for alert in await world.stream.alerts() if alert["kind"] == kind]


async def refusal(engine: Engine) -> str:
    """Return the sentence with which an engine refuses to start."""
    with pytest.raises(StateError) as caught:
        await engine.start()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# -- state records -----------------------------------------------------------------------------------


async def test_a_state_record_with_any_byte_flipped_or_cut_anywhere_is_never_read() -> None:
    world = await learned(1)
    value = world.log.log(world.stream.names.state, 0)[-1].value or b""
    assert len(value) > 4000
    assert encode_state(decode_state(value)) == value
    for at in range(len(value)):
        for flip in (1, 0x80) if at < 2000 else (0x10,):
            with pytest.raises(StateError):
                decode_state(value[:at] + bytes([value[at] ^ flip]) + value[at + 1 :])
    for length in range(len(value)):
        with pytest.raises(StateError):
            decode_state(value[:length])


@pytest.mark.parametrize("damage", ["flip", "cut", "foreign", "tombstone"])
async def test_a_damaged_state_record_raises_an_alert_and_an_older_one_is_used(damage: str) -> None:
    world = await learned(2)
    names = world.stream.names
    for partition in range(PARTITIONS):
        newest = world.log.log(names.state, partition)[-1]
        value = newest.value or b""
        broken = {
            "flip": value[:90] + bytes([value[90] ^ 4]) + value[91:],
            "cut": value[: len(value) // 2],
            "foreign": b'{"v": 1}',
            "tombstone": None,
        }[damage]
        world.log.add(names.state, partition, [OutputRecord(newest.key, broken)])  # type: ignore[arg-type]
    await world.traffic(1)
    await world.finish()
    await world.prove()
    told = await alerts(world, "state")
    assert len(told) >= PARTITIONS
    assert all("offset" in sentence for sentence in told)


async def damage_what_compaction_leaves(world: World, partition: int) -> None:
    """Make the newest state record a damaged one, which compaction leaves beside the genesis record."""
    name = world.stream.names.state
    newest = world.log.log(name, partition)[-1]
    world.log.add(name, partition, [OutputRecord(newest.key, (newest.value or b"")[:-1])])
    world.log.compact(name, partition)


async def test_where_compaction_left_a_damaged_state_record_the_logs_are_read_from_genesis_on() -> None:
    world = await learned(3)
    await damage_what_compaction_leaves(world, 2)
    await world.traffic(1)
    await world.finish()
    await world.prove()
    assert any("checksum" in message for message in await alerts(world, "state"))


async def test_where_compaction_left_nothing_but_damage_it_is_refused() -> None:
    world = await learned(3)
    names = world.stream.names
    for record in (world.log.log(names.state, 2)[0], world.log.log(names.state, 2)[-1]):
        world.log.add(names.state, 2, [OutputRecord(record.key, (record.value or b"")[:-1])])
    world.log.compact(names.state, 2)
    sentence = await refusal(world.engine())
    assert "no state record of partition 2 can be used" in sentence
    assert "checksum" in sentence
    assert "banditroute state rebuild" in sentence


async def test_compaction_at_any_moment_leaves_what_a_restore_needs() -> None:
    world = await learned(4)
    for _ in range(4):
        await world.traffic(1)
        async with world.running() as engine:
            for partition in range(PARTITIONS):
                world.log.compact(world.stream.names.state, partition)
                await asyncio.sleep(0.01)
            assert engine.failure is None
    for partition in range(PARTITIONS):
        world.log.compact(world.stream.names.state, partition)
    await world.finish()
    await world.prove()


async def test_a_restore_from_every_state_record_ever_written_is_exact() -> None:
    world = await learned(5, rounds=6)
    stream = world.stream
    proven = await stream.prove()
    for partition in range(PARTITIONS):
        journal = world.log.log(stream.names.journal, partition)
        seen = set()
        for record in world.log.log(stream.names.state, partition):
            state = decode_state(record.value)
            if state.j in seen:
                continue
            seen.add(state.j)
            restored = await restore(stream.user, stream.config, state, stream.spec)
            assert restored.learner.j == len(journal)
            again = naive.parse_state(encode_state(restored.snapshot()))
            assert naive.differences(proven[partition], again) == []
        assert len(seen) > 3


async def test_a_broker_that_tells_late_of_its_newest_records_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = await learned(6, rounds=3)
    stream = world.stream
    proven = await stream.prove()
    answers: Counter[str] = Counter()
    bounds = stream.user.bounds

    async def late(topic: str, partition: int) -> tuple[int, int]:
        answers[topic] += 1
        begin, end = await bounds(topic, partition)
        return begin, end if answers[topic] % 3 == 0 else end - 1

    monkeypatch.setattr(stream.user, "bounds", late)
    for partition in range(PARTITIONS):
        state = decode_state(world.log.log(stream.names.state, partition)[-1].value)
        restored = await restore(stream.user, stream.config, state, stream.spec)
        again = naive.parse_state(encode_state(restored.snapshot()))
        assert naive.differences(proven[partition], again) == []
    assert set(answers.values()) == {3 * PARTITIONS}


async def test_a_state_that_is_too_large_for_the_topic_raises_one_alert_and_decisions_go_on() -> None:
    world = World(6)
    await world.create()
    names = world.stream.names
    size = max(len(world.log.log(names.state, p)[0].value or b"") for p in range(PARTITIONS))
    world.log.max_record_bytes = size + 200
    async with world.running() as engine:
        await world.traffic(5)
        await world.until(world.finished)
        await world.until(lambda: len(world.log.log(names.alerts, 0)) >= 1)
        assert engine.failure is None
    assert 1 <= len(await alerts(world, "state")) <= PARTITIONS
    assert all("max.message.bytes" in sentence for sentence in await alerts(world, "state"))
    world.log.max_record_bytes = 1 << 20
    await world.finish()
    await world.prove()


async def test_a_state_beyond_eight_mebibytes_is_refused_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = await learned(7, rounds=1)
    engine = world.engine()
    await engine.start()
    monkeypatch.setattr("banditroute.flow.records.snapshot.MAX_STATE_BYTES", 5000)
    await world.traffic(2)
    await world.until(lambda: engine.failure is not None)
    await engine.stop()
    assert isinstance(engine.failure, StateError)
    assert "use fewer models, fewer feature columns" in str(engine.failure)


# -- retention -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["journal", "decisions"])
async def test_retention_that_overtakes_the_covered_offset_is_refused(topic: str) -> None:
    world = await learned(8, feedback={"max_open": 6})
    name = getattr(world.stream.names, topic)
    for partition in range(PARTITIONS):
        state = decode_state(world.log.log(world.stream.names.state, partition)[-1].value)
        needed = state.replay_from if topic == "journal" else state.anchor.X
        world.log.retain(name, partition, needed)
    await world.traffic(1)
    await world.finish()  # what is needed is there
    world.log.retain(name, 1, len(world.log.log(name, 1)))
    await world.traffic(1)
    sentence = await refusal(world.engine())
    assert f"{name}-1 begins at offset" in sentence
    assert "retention removed records that were still needed" in sentence


async def test_retention_that_overtakes_a_running_engine_stops_it() -> None:
    world = await learned(9, rounds=1)
    engine = world.engine()
    await engine.start()
    client: Any = engine.client
    go = asyncio.Event()
    real = client.poll_followed

    begun = asyncio.Event()

    async def held(timeout: float) -> Any:
        begun.set()
        await go.wait()
        return await real(timeout)

    client.poll_followed = held
    await begun.wait()
    journal = world.stream.names.journal
    ends = [len(world.log.log(journal, partition)) for partition in range(PARTITIONS)]
    await world.traffic(2)
    await world.until(lambda: any(len(world.log.log(journal, p)) > end + 1 for p, end in enumerate(ends)))
    for partition in range(PARTITIONS):
        world.log.retain(journal, partition, len(world.log.log(journal, partition)) - 1)
    go.set()
    await world.until(lambda: engine.failure is not None)
    await engine.stop()
    assert "lost the records from" in str(engine.failure)
    assert "retention of the topic is too short" in str(engine.failure)


@pytest.mark.parametrize("topic", ["requests", "feedback"])
async def test_input_that_retention_removed_before_it_was_read_is_an_alert(topic: str) -> None:
    world = await learned(10, rounds=1)
    name = getattr(world.stream.names, topic)
    before = len(world.log.log(name, 3))
    await world.stream.raw(name, 3, *[b"[" if topic == "requests" else b"{"] * 5)
    world.log.retain(name, 3, before + 5)
    world.log.logs[name][3][before : before + 5] = [
        replace(record, value=b"gone") for record in world.log.log(name, 3)[before : before + 5]
    ]
    await world.traffic(1)
    await world.finish()
    await world.prove()
    (told,) = await alerts(world, "lag")
    assert "retention removed 5" in told


async def test_a_topic_that_was_made_anew_is_refused() -> None:
    for topic in ("journal", "decisions"):
        world = await learned(11)
        name = getattr(world.stream.names, topic)
        del world.log.logs[name][0][:]
        sentence = await refusal(world.engine())
        assert "truncated or re" in sentence


async def test_a_log_whose_last_record_is_another_one_is_refused() -> None:
    for topic in ("journal", "decisions"):
        world = await learned(12)
        log = world.log.log(getattr(world.stream.names, topic), 1)
        log[-1] = replace(log[-1], value=(log[-1].value or b"") + b" ")
        assert "truncated or replaced" in await refusal(world.engine())


# -- two versions in one log -----------------------------------------------------------------------------


async def test_records_of_a_newer_version_are_refused_or_skipped_and_the_old_ones_are_exact() -> None:
    world = await learned(13, rounds=2)
    stream, names = world.stream, world.stream.names
    newer = {"v": 2, "request_id": "new-1", "prompt": "hello", "kind": "score", "value": 1.0}
    async with world.running() as engine:
        await stream.raw(names.requests, 0, json.dumps(newer).encode())
        await stream.raw(names.feedback, 1, json.dumps(newer).encode())
        for partition in range(PARTITIONS):
            await stream.raw(names.journal, partition, b'{"type":"merge","with":7}', b"\xff\x00")
            copied = {"type": "feedback", "src": [9, 0], "feedback": newer}
            await stream.raw(names.journal, partition, json.dumps(copied).encode())
        await stream.raw(names.control, 0, b'{"edit":"retire","model":"small"}')
        await world.traffic(2)
        await world.until(lambda: world.finished() and engine.stats.poison >= 2)
    await world.finish()
    results = await stream.prove()
    assert counts(results)["unreadable"] == 3 * PARTITIONS
    await stream.prove_one_decision_each(world.ids)
    reasons = [letter["reason"] for letter in await stream.dead_letters() if "$.v" in letter["reason"]]
    assert len(reasons) == 2


async def test_a_state_record_of_a_newer_version_raises_an_alert_and_an_older_one_is_used() -> None:
    world = await learned(14)
    names = world.stream.names
    newest = world.log.log(names.state, 0)[-1]
    body = (newest.value or b"")[:4] + struct.pack("<H", 2) + (newest.value or b"")[6:-4]
    world.log.add(names.state, 0, [OutputRecord(newest.key, body + struct.pack("<I", zlib.crc32(body)))])
    await world.traffic(1)
    await world.finish()
    await world.prove()
    (told,) = await alerts(world, "state")
    assert "version 2; this build reads version 1: upgrade it" in told


async def test_a_decision_of_a_newer_version_is_refused() -> None:
    world = await learned(15)
    names = world.stream.names
    last = world.log.log(names.decisions, 0)[-1]
    headers = [
        (name, value[:4] + struct.pack("<H", 2) + value[6:]) if name == "banditroute" else (name, value)
        for name, value in last.headers
    ]
    world.log.add(names.decisions, 0, [OutputRecord(last.key, last.value or b"", headers)])
    assert "this build reads version 1: upgrade it" in await refusal(world.engine())


async def test_a_state_of_other_settings_is_refused() -> None:
    world = await learned(16, rounds=1)
    other = World(16, feedback={"max_parked": 6})
    other.log, other.stream.broker = world.log, world.stream.broker
    other.stream.document["kafka"] = world.stream.document["kafka"]
    from banditroute.config import from_dict

    other.stream.config = from_dict(other.stream.document)
    assert "was learned with other settings" in await refusal(other.engine())
    state, _, _ = await read_state(world.stream.user, world.stream.config, 0, world.stream.spec)
    assert state is not None
