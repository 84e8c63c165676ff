"""Topics that are deleted, made anew or given more partitions while engines run, and between two runs."""

from __future__ import annotations

import asyncio
import json
from typing import Self

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic

from banditroute.errors import StateError, TopicError
from banditroute.events import Control, Copied, Decided, Feedback, PauseEdit, encode
from banditroute.flow.records.header import HEADER_NAME
from banditroute.flow.records.kafka_records import OutputRecord
from banditroute.runtime.tasks import watching
from tests.faults.memory import World
from tests.faults.test_kafka import on
from tests.runtime.harness import PARTITIONS, Stream, partition_of

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]


@pytest.fixture(autouse=True)
def watchful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "WATCH_SECONDS", 0.05)


async def said(stream: Stream, *parts: str) -> bool:
    messages = [alert["message"] for alert in await stream.alerts() if alert["kind"] == "topics"]
    return any(all(part in message for part in parts) for message in messages)


# -- in memory: topic ids change as a real broker's do ------------------------------------------------


@pytest.mark.parametrize("role", ["requests", "feedback", "decisions", "journal"])
async def test_a_topic_that_was_made_anew_between_two_runs_is_refused_by_its_id(role: str) -> None:
    world = World(1)
    await world.create()
    await world.traffic(1)
    await world.finish()
    name = getattr(world.stream.names, role)
    old = world.log.logs[name]
    world.log.logs[name] = [list(records) for records in old]  # as long as before: no mark would tell
    with pytest.raises(TopicError) as refused:
        await world.engine().start()
    assert f"'{name}' was deleted and made anew" in str(refused.value)
    assert old is not None


@pytest.mark.parametrize("role", ["state", "control", "dead_letter", "alerts"])
async def test_a_topic_of_ours_that_is_gone_while_running_is_an_alert_that_says_what_it_costs(
    role: str,
) -> None:
    world = World(2)
    await world.create()
    messages: list[str] = []
    async with world.running() as engine:
        name = getattr(world.stream.names, role)

        async def alert(kind: str, message: str, partition: int | None = None) -> None:
            messages.append(message)

        engine.alert = alert  # type: ignore[method-assign]
        known = dict(await engine.watching.begin())
        known.pop(name)
        await engine.watching._compare(known)
        assert messages == [], "a broker that has just started may not tell of all it has"
        for _ in range(3):
            await engine.watching._compare(known)
    assert len(messages) == 1
    assert f"'{name}' is gone" in messages[0]


# -- a real broker -------------------------------------------------------------------------------------


class Admin:
    """What an operator does to topics."""

    def __init__(self, bootstrap: str) -> None:
        self.client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)

    async def __aenter__(self) -> Self:
        await self.client.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def make_anew(self, stream: Stream, name: str, partitions: int) -> None:
        await self.client.delete_topics([name])

        async def gone() -> bool:
            found = await stream.user.describe([name])
            return found is not None and name not in found

        await stream.until(gone)
        while True:
            answer = await self.client.create_topics([NewTopic(name, partitions, 1)])
            if answer.topic_errors[0][1] == 0:
                return
            await asyncio.sleep(0.1)

    async def grow(self, name: str, partitions: int) -> None:
        await self.client.create_partitions({name: NewPartitions(partitions)})


@pytest.mark.kafka
@pytest.mark.parametrize("role", ["requests", "feedback"])
async def test_a_topic_of_users_that_is_made_anew_is_refused_while_running_and_at_the_next_start(
    kafka_bootstrap: str, role: str
) -> None:
    stream = on(kafka_bootstrap)
    name = getattr(stream.names, role)
    async with stream.users(), Admin(kafka_bootstrap) as admin:
        await stream.create()
        engine = stream.engine()
        await engine.start()
        try:
            ids = await stream.request(8)
            await stream.feedback(ids)
            await stream.until(lambda: engine.ledger()["applied"] >= 8)
            await admin.make_anew(stream, name, PARTITIONS)
            await asyncio.wait_for(engine.stopped.wait(), 30)
            assert isinstance(engine.failure, TopicError)
            assert "made anew" in str(engine.failure)
        finally:
            await engine.stop()
        for number in range(3):  # more than there ever was: nothing but the id tells
            await stream.request(20)
            await stream.feedback([f"none-{number}-{k}" for k in range(20)])
        with pytest.raises(TopicError, match="made anew"):
            await stream.engine().start()


@pytest.mark.kafka
async def test_partitions_that_are_added_are_told_at_once_and_the_old_ones_go_on(
    kafka_bootstrap: str,
) -> None:
    stream = on(kafka_bootstrap)
    async with stream.users(), Admin(kafka_bootstrap) as admin:
        await stream.create()
        async with stream.running() as engine:
            ids = await stream.request(8)
            await stream.until(lambda: engine.ledger()["first"] >= 8)
            await admin.grow(stream.names.requests, PARTITIONS + 1)
            await admin.grow(stream.names.feedback, PARTITIONS + 1)
            await stream.until(lambda: said(stream, stream.names.requests, "5 partitions"))
            await stream.until(lambda: said(stream, stream.names.feedback, "read as well"))
            ids += await stream.request(8)
            await stream.until(lambda: engine.ledger()["first"] >= 16)
            # what the group gives us of new partitions is left alone
            client = engine.client
            client.record_assignment(  # type: ignore[attr-defined]
                [
                    *client.assignment.owned,
                    type(next(iter(client.assignment.owned)))(stream.names.requests, PARTITIONS),
                ]
            )
            ids += await stream.request(8)
            await stream.until(lambda: engine.ledger()["first"] >= 24)
            assert engine.failure is None
        await stream.prove()
        assert await stream.prove_one_decision_each(ids) == 0
    assert {partition_of(each, "murmur2") for each in ids} <= set(range(PARTITIONS))


# -- offsets that no log has ever reached ----------------------------------------------------------


async def refused(world: World) -> str:
    engine = world.engine()
    try:
        await engine.start()
        await asyncio.wait_for(engine.stopped.wait(), 20)
    except StateError as error:
        return str(error)
    finally:
        await engine.stop()
    assert isinstance(engine.failure, StateError)
    return str(engine.failure)


@pytest.mark.parametrize("offset", [5_000, 1 << 40, (1 << 62) - 1])
async def test_a_journal_record_that_speaks_of_feedback_beyond_the_end_of_its_topic_is_refused(
    offset: int,
) -> None:
    world = World(3)
    await world.create()
    await world.traffic(1)
    await world.finish()
    names = world.stream.names
    feedback = Feedback(request_id="nobody", kind="score", value=0.5)
    world.log.add(names.journal, 0, [OutputRecord(None, encode(Copied((1, offset), feedback)))])
    sentence = await refused(world)
    assert f"speak of offset {offset} of {names.feedback}-1" in sentence
    assert any(sentence == alert["message"] for alert in await world.stream.alerts())


@pytest.mark.parametrize("offset", [5_000, 1 << 40, 1 << 62])
async def test_a_decision_on_a_request_beyond_the_end_of_its_topic_is_refused(offset: int) -> None:
    world = World(4)
    await world.create()
    await world.traffic(1)
    await world.finish()
    names = world.stream.names
    last = world.log.log(names.decisions, 0)[-1]
    headers = [
        (name, content[:24] + offset.to_bytes(8, "little") + content[32:])
        if name == HEADER_NAME
        else (name, content)
        for name, content in last.headers
    ]
    world.log.add(names.decisions, 0, [OutputRecord(last.key, last.value or b"", headers)])
    world.log.add(
        names.journal, 0, [OutputRecord(None, encode(Decided(len(world.log.log(names.decisions, 0)))))]
    )
    assert f"speak of offset {offset} of {names.requests}-0" in await refused(world)


@pytest.mark.parametrize("source", [[0, 1 << 64], [1 << 64, 0], [-1, 3], [1 << 31, 5]])
async def test_a_source_that_can_be_none_is_refused_in_the_same_words(source: object) -> None:
    world = World(5)
    await world.create()
    value = {
        "type": "feedback",
        "src": source,
        "feedback": {"request_id": "r", "kind": "score", "value": 0.5},
    }
    world.log.add(world.stream.names.journal, 0, [OutputRecord(None, json.dumps(value).encode())])
    assert "records of ours speak of offset" in await refused(world)


@pytest.mark.parametrize("number", [5_000, 1 << 62])
async def test_an_edit_beyond_the_end_of_the_control_topic_is_told_because_edits_would_be_ignored(
    number: int,
) -> None:
    world = World(6)
    await world.create()
    stream, names = world.stream, world.stream.names
    edit = Control(number, PauseEdit("no-model", True))
    world.log.add(names.journal, 0, [OutputRecord(None, encode(edit))])
    async with world.running() as engine:
        await stream.until(lambda: said(stream, names.control, f"record {number} was applied"))
        assert engine.failure is None
