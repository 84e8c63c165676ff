"""What the settings promise: field map, headers, reply topic, age limit, modes, start policy, compression."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from banditroute.flow.deciding.decider import InputRecord, OutputRecord
from banditroute.flow.deciding.decision_writer import MAX_PASSED_HEADERS
from banditroute.runtime.broker.ports import TopicSpec
from tests.brokers import Broker
from tests.runtime.harness import PARTITIONS, Stream, counts

pytestmark = pytest.mark.asyncio

CODECS = ("gzip", "snappy", "lz4", "zstd")
HOUR_MS = 3_600_000.0


async def all_records(stream: Stream, topic: str) -> list[tuple[int, InputRecord]]:
    """Return every record of a topic with its partition."""
    found = []
    for partition in range(await stream.user.partitions(topic)):
        found += [(partition, record) for record in await stream.records(topic, partition)]
    return found


async def vote(stream: Stream, ids: Sequence[str], **fields: Any) -> None:
    """Give every request the same vote."""
    await stream.feedback(ids, kind="score", **fields)


def use_wall_clock(broker: Broker) -> None:
    """Let the memory broker stamp records as Kafka does; by itself it counts appends."""
    if broker.kind == "memory":
        broker.log.clock = lambda: int(time.time() * 1000)


async def test_the_field_map_finds_our_fields_in_foreign_payloads(broker: Broker) -> None:
    stream = Stream(
        broker,
        requests={"field_map": {"request_id": "$.meta.id", "prompt": "$.body.text", "tags": "$.meta.labels"}},
        feedback={"field_map": {"request_id": "$.about", "value": "$.rating.stars", "feedback_id": "$.id"}},
    )
    ids = [f"foreign-{number}" for number in range(12)]
    async with stream.users():
        async with stream.running(init=True) as engine:
            for number, request_id in enumerate(ids):
                event: dict[str, Any] = {
                    "meta": {"id": request_id, "labels": ["chat"]},
                    "body": {"text": "hi"},
                }
                event |= {"tenant": "acme", "request_id": "not this one", "more": [{}]}
                await stream.raw(stream.names.requests, number % PARTITIONS, json.dumps(event).encode())
            for lacking in (
                {"request_id": "r", "prompt": "hi"},
                {"meta": {"id": 7}, "body": {"text": "hi"}},
                [1],
            ):
                await stream.raw(stream.names.requests, 0, json.dumps(lacking).encode())
            await stream.until(lambda: engine.stats.decisions == 12 and engine.stats.poison == 3)
            for number, request_id in enumerate(ids):
                event = {
                    "about": request_id,
                    "kind": "score",
                    "rating": {"stars": 0.5},
                    "id": "a",
                    "value": 7,
                }
                await stream.raw(
                    stream.names.feedback, number % PARTITIONS, *[json.dumps(event).encode()] * 2
                )
            await stream.raw(stream.names.feedback, 0, b'{"request_id":"foreign-0","kind":"score","value":1}')
            await stream.until(lambda: engine.ledger()["duplicate"] == 12 and engine.stats.poison == 4)
        assert await stream.prove_one_decision_each(ids) == 0
        ledger = counts(await stream.prove())
        assert (ledger["applied"], ledger["duplicate"]) == (12, 12)
        assert {decision["tenant"] for decision in await stream.decisions()} == {"acme"}
        reasons = [letter["reason"] for letter in await stream.dead_letters()]
        assert len(reasons) == 4
        assert sum("request_id" in reason for reason in reasons) == 3
        assert sum("not a JSON object" in reason for reason in reasons) == 1


async def test_chosen_headers_are_copied_and_every_decision_is_sent_to_the_reply_topic_once(
    broker: Broker,
) -> None:
    stream = Stream(
        broker,
        kafka={"topics": {"reply": broker.prefix + "reply"}},
        requests={"header_pass_through": ["trace", "correlation"]},
    )
    headers: list[Any] = [
        ("trace", b"\x00\xff"),
        ("secret", b"s"),
        ("correlation", None),
        ("trace", b"again"),
    ]
    async with stream.users():
        async with stream.running(init=True) as engine:
            with_headers = await stream.request(8, headers=headers)
            without = await stream.request(8)
            oversized = await stream.request(8, headers=[("trace", b"t" * (MAX_PASSED_HEADERS - 4))])
            poison = await stream.request(1, headers=headers, v=2)
            ids = [*with_headers, *without, *oversized]
            await stream.until(lambda: engine.stats.decisions == 24 and engine.stats.poison == 1)
            await stream.feedback(ids)
            await stream.settled(engine, 24)
        assert poison[0] not in {decision["request_id"] for decision in await stream.decisions()}
        assert await stream.prove_one_decision_each(ids) == 0
        assert counts(await stream.prove())["applied"] == 24
        decisions = await all_records(stream, stream.names.decisions)
        replies = await all_records(stream, stream.names.reply or "")
        [refused] = [record for _, record in replies if (record.key or b"").decode() == poison[0]]
        replies = [(partition, record) for partition, record in replies if record is not refused]
        assert sorted(replies_of(replies)) == sorted(replies_of(decisions))
        # Kafka allows a header without a value; it is passed as an empty one
        passed = [("trace", b"\x00\xff"), ("correlation", b""), ("trace", b"again")]
        for _, record in replies:
            request_id = (record.key or b"").decode()
            assert json.loads(record.value or b"")["request_id"] == request_id
            assert list(map(tuple, record.headers)) == (passed if request_id in with_headers else [])
        answer = json.loads(refused.value or b"")
        assert (answer["request_id"], answer["model"]) == (poison[0], None)
        assert answer["reason"].startswith("refused: ")
        assert "$.v" in answer["reason"]
        assert list(map(tuple, refused.headers)) == passed
        [letter] = await stream.dead_letters()
        assert (letter["request_id"], letter["key"]) == (poison[0], poison[0])
        assert letter["headers"] == {"trace": "again", "correlation": ""}
        assert letter["reason"] == answer["reason"].removeprefix("refused: ")


async def test_a_refused_request_that_names_no_id_is_answered_by_its_key_and_headers(broker: Broker) -> None:
    stream = Stream(broker, kafka={"topics": {"reply": broker.prefix + "reply"}})
    key = b"key \xff" + b"k" * 900
    async with stream.users():
        async with stream.running(init=True) as engine:
            headers = [("correlation_id", b"c-7"), ("other", b"x")]
            await stream.user.append(stream.names.requests, 1, [OutputRecord(key, b"[1]", headers)])
            await stream.until(lambda: engine.stats.poison == 1)
            await stream.request(1)
            await stream.until(lambda: engine.stats.decisions == 1)
        replies = [record for _, record in await all_records(stream, stream.names.reply or "")]
        [refused] = [record for record in replies if json.loads(record.value or b"")["model"] is None]
        assert refused.key == key
        assert list(map(tuple, refused.headers)) == [("correlation_id", b"c-7")]
        assert json.loads(refused.value or b"")["decision_id"] == "1-0"
        [letter] = await stream.dead_letters()
    assert "request_id" not in letter
    assert letter["key"].startswith("key \ufffdkkk")
    assert len(letter["key"]) == 256
    assert letter["headers"] == {"correlation_id": "c-7"}


def replies_of(records: Sequence[tuple[int, InputRecord]]) -> list[tuple[Any, ...]]:
    """Return partition, key, value and headers, without our binary one."""
    return [
        (
            partition,
            record.key,
            record.value,
            tuple(tuple(h) for h in record.headers if h[0] != "banditroute"),
        )
        for partition, record in records
    ]


async def test_requests_older_than_the_age_limit_get_the_default_model(broker: Broker) -> None:
    use_wall_clock(broker)
    stream = Stream(broker, requests={"max_request_age": "10m", "default_model": "medium"})
    async with stream.users():
        async with stream.running(init=True) as engine:
            now = engine.now_ms()
            fresh = await stream.request(8, deadline=now / 1000 + 600)
            past_deadline = await stream.request(8, deadline=now / 1000 - 1)
            await stream.until(lambda: engine.stats.decisions == 16)
            engine.now_ms = lambda: time.time() * 1000 + HOUR_MS  # type: ignore[method-assign]
            old = await stream.request(8)
            await stream.until(lambda: engine.stats.decisions == 24)
            ids = [*fresh, *past_deadline, *old]
            await vote(stream, ids)
            await stream.settled(engine, 24)
        assert await stream.prove_one_decision_each(ids) == 0
        assert counts(await stream.prove())["applied"] == 24, "a stale decision is learned from, too"
        for decision in await stream.decisions():
            if decision["request_id"] in fresh:
                assert decision["reason"] == "utility"
                assert decision["propensity"] > 0
                continue
            assert (decision["reason"], decision["model"]) == ("stale", "medium")
            assert sorted(decision["fallbacks"]) == ["large", "small"]
            assert decision.keys().isdisjoint({"propensity", "expected", "explored"})


async def test_shadow_mode_decides_without_reply_and_learns_from_the_model_that_served(
    broker: Broker,
) -> None:
    topics = {"reply": broker.prefix + "reply"}
    stream = Stream(
        broker, engine={"mode": "shadow"}, kafka={"topics": topics}, learning={"price_prior": 0.0}
    )
    async with stream.users():
        async with stream.running(init=True) as engine:
            ids = await stream.request(24)
            await stream.until(lambda: engine.stats.decisions == 24)
            before = engine.learning.derives
            await vote(stream, ids, model="large", value=1.0)
            await vote(stream, ids, source="nobody", value=1.0)
            await stream.settled(engine, 48)
            await stream.until(lambda: engine.learning.derives > before)
            later = await stream.request(24)
            await stream.until(lambda: engine.stats.decisions == 48)
        assert await stream.prove_one_decision_each(ids + later) == 0
        results = await stream.prove()
        ledger = counts(results)
        assert (ledger["applied"], ledger["rejected"]) == (24, 24)
        assert {key[0] for result in results.values() for key in result.rows} == {"large"}
        assert await all_records(stream, stream.names.reply or "") == []
        decisions = await stream.decisions()
        assert {decision["mode"] for decision in decisions} == {"shadow"}
        reasons = {letter["reason"] for letter in await stream.dead_letters()}
        assert reasons == {"the decision was not served by a model of ours; name the `model` that served"}
        for decision in decisions:
            best = decision["fallbacks"][0] if decision.get("explored") else decision["model"]
            assert (best == "large") == (decision["request_id"] in later), (
                "the incumbent's votes were learned from"
            )


async def test_frozen_mode_keeps_its_posterior_while_feedback_is_still_recorded(broker: Broker) -> None:
    stream = Stream(broker, engine={"mode": "frozen"})
    async with stream.users():
        async with stream.running(init=True) as engine:
            ids = await stream.request(24)
            await stream.until(lambda: engine.stats.decisions == 24)
            for source in ("a", "b", "c"):
                await vote(stream, ids, model="large", value=1.0, source=source)
                await vote(stream, ids, model="small", value=0.0, source="not " + source)
            await stream.settled(engine, 144)
            later = await stream.request(24)
            await stream.until(lambda: engine.stats.decisions == 48)
        assert await stream.prove_one_decision_each(ids + later) == 0
        assert counts(await stream.prove())["applied"] == 144
        decisions = await stream.decisions()
        assert {(d["mode"], d["reason"]) for d in decisions} == {("frozen", "greedy")}
        assert len({(d["model"], d["expected"]["quality"]) for d in decisions}) == 1, "nothing was learned"
        assert len({d["posterior_version"] for d in decisions}) == 1


async def test_start_latest_leaves_out_what_was_written_before_genesis(broker: Broker) -> None:
    stream = Stream(broker, kafka={"start": "latest"})
    async with stream.users():
        if broker.admin:  # the embedded broker creates topics by their first use
            ours = (stream.names.requests, stream.names.feedback)
            await stream.user.create([TopicSpec(name, PARTITIONS, {}) for name in ours])
        before = await stream.request(20)
        await stream.feedback(before)
        starts, feedback_starts = [
            [(await stream.user.bounds(topic, partition))[1] for partition in range(PARTITIONS)]
            for topic in (stream.names.requests, stream.names.feedback)
        ]
        assert sum(starts) == sum(feedback_starts) == 20
        async with stream.running(init=True) as engine:
            after = await stream.request(20)
            await stream.until(lambda: engine.stats.decisions == 20)
            await stream.feedback(after)
            await stream.settled(engine, 20)
        assert await stream.prove_one_decision_each(after) == 0
        ledger = counts(await stream.prove(starts, feedback_starts))
        assert ledger["applied"] == 20
        assert sum(ledger.get(name, 0) for name in ("parked", "elsewhere", "orphan", "duplicate")) == 0


def librdkafka(bootstrap: str, codec: str) -> Any:
    """Return a producer with the default partitioner and framing of librdkafka."""
    confluent_kafka = pytest.importorskip("confluent_kafka")
    return confluent_kafka.Producer(
        {"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 50, "log_level": 0}
    )


@pytest.mark.needs("network")  # in memory there is no wire, and no compression
async def test_every_compression_of_java_and_librdkafka_producers_is_read(broker: Broker) -> None:
    stream = Stream(broker)
    prompt = "Say good morning " * 200
    ids = []
    async with stream.users():
        async with stream.running(init=True) as engine:
            for codec in CODECS:
                producer = AIOKafkaProducer(
                    bootstrap_servers=broker.bootstrap, compression_type=codec, linger_ms=50
                )
                await producer.start()
                other = librdkafka(broker.bootstrap, codec)
                ours = [f"{codec}-java-{number}" for number in range(20)]
                theirs = [f"{codec}-librdkafka-{number}" for number in range(20)]
                ids += ours + theirs
                for request_id in ours:
                    value = json.dumps({"request_id": request_id, "prompt": prompt}).encode()
                    await producer.send(stream.names.requests, value, key=request_id.encode())
                    event = {"request_id": request_id, "kind": "thumb", "value": True, "more": prompt}
                    other.produce(stream.names.feedback, json.dumps(event).encode(), key=request_id.encode())
                for request_id in theirs:
                    value = json.dumps({"request_id": request_id, "prompt": prompt}).encode()
                    other.produce(stream.names.requests, value, key=request_id.encode())
                    event = {"request_id": request_id, "kind": "thumb", "value": True, "more": prompt}
                    await producer.send(
                        stream.names.feedback, json.dumps(event).encode(), key=request_id.encode()
                    )
                await producer.stop()
                assert await asyncio.to_thread(other.flush, 30) == 0
            await stream.until(lambda: engine.stats.decisions == len(ids))
            await stream.until(lambda: engine.ledger()["applied"] == len(ids))
        assert await stream.dead_letters() == []
        assert await stream.prove_one_decision_each(ids) == 0
        assert counts(await stream.prove())["applied"] == len(ids)


@pytest.mark.needs("validation")
@pytest.mark.parametrize("codec", ["gzip", "snappy", "zstd"])  # lz4 is the default
async def test_the_engine_writes_and_reads_its_own_topics_in_any_compression(
    broker: Broker, codec: str
) -> None:
    stream = Stream(broker, kafka={"compression": codec})
    async with stream.users():
        async with stream.running(init=True) as engine:
            ids = await stream.request(40)
            await stream.until(lambda: engine.stats.decisions == 40)
            await stream.feedback(ids[:20])
            await stream.settled(engine, 20)
        async with stream.running() as engine:
            await stream.feedback(ids[20:])
            await stream.until(lambda: engine.ledger()["applied"] == 40)
        assert await stream.prove_one_decision_each(ids) == 0
        assert counts(await stream.prove())["applied"] == 40
