"""Bad input, requests and feedback: it goes to the dead letters with a reason, and the loop goes on."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from banditroute.events import MAX_FEEDBACK_BYTES, MAX_REQUEST_BYTES
from banditroute.runtime.broker.ports import AppendFailed
from banditroute.runtime.process.logs import JsonFormatter
from tests.brokers import Broker
from tests.runtime.harness import PARTITIONS, Stream, counts

pytestmark = pytest.mark.asyncio

PROMPT = "patient-4711-has-a-cough"  # what must not appear anywhere but on the request topic
NESTED = b"[" * 100_000 + b"]" * 100_000
BROKER_LIMIT = 1_048_588  # Kafka's default message.max.bytes, of a whole batch


def request(**fields: Any) -> bytes:
    return json.dumps({"request_id": "bad", "prompt": PROMPT, **fields}).encode()


def feedback(**fields: Any) -> bytes:
    return json.dumps({"request_id": "bad", "kind": "score", "value": 0.5, **fields}).encode()


BAD_REQUESTS: dict[str, tuple[bytes | None, str]] = {
    "null value": (None, "null"),
    "no bytes": (b"", "empty"),
    "no JSON": (f"prompt={PROMPT}".encode(), "not JSON"),
    "half a record": (request()[:-20], "cut off"),
    "two records": (request() + request(), "not JSON"),
    "byte order mark": (b"\xef\xbb\xbf" + request(), "not JSON"),
    "JSON null": (b"null", "not a JSON object"),
    "a list": (b"[" + request() + b"]", "not a JSON object"),
    "no request_id": (json.dumps({"prompt": PROMPT}).encode(), "request_id"),
    "empty request_id": (request(request_id=""), "$.request_id"),
    "long request_id": (request(request_id="\u00e9" * 129), "$.request_id"),
    "request_id of another type": (request(request_id=7), "$.request_id"),
    "nothing to route": (b'{"request_id":"bad"}', "prompt"),
    "prompt of another type": (request(prompt={"text": PROMPT}), "$.prompt"),
    "messages of another type": (request(messages=[{"role": "user", "content": {PROMPT: 1}}]), "$.messages"),
    "tokens below zero": (request(input_tokens=-1), "$.input_tokens"),
    "tokens with a fraction": (request(input_tokens=1.5), "$.input_tokens"),
    "tokens beyond any integer": (request(input_tokens=10**30), "$.input_tokens"),
    "too many tags": (request(tags=["t"] * 65), "$.tags"),
    "NaN in a list": (request(context=[float("nan")]), "$.context"),
    "Infinity": (request(deadline=float("inf")), "$.deadline"),
    "infinite by exponent": (request()[:-1] + b',"context":[1e999]}', "$.context"),
    "unknown version": (request(v=2), "$.v"),
    "version of another type": (request(v="1"), "$.v"),
    "invalid UTF-8": (request().replace(b"cough", b"\xff\xfe"), "UTF-8"),
    "deep nesting": (request()[:-1] + b',"more":' + NESTED + b"}", "nested"),
    "deep nesting in messages": (request()[:-1] + b',"messages":' + NESTED + b"}", "nested|messages"),
    "more than 1 MiB": (request(prompt=PROMPT + " " * MAX_REQUEST_BYTES), "at most 1048576"),
}

BAD_FEEDBACK: dict[str, tuple[bytes | None, str]] = {
    "null value": (None, "null"),
    "no bytes": (b"", "empty"),
    "no JSON": (b"+1", "not JSON"),
    "a list": (b"[]", "not a JSON object"),
    "no request_id": (b'{"kind":"thumb","value":true}', "request_id"),
    "no kind": (b'{"request_id":"bad"}', "kind"),
    "unknown kind": (feedback(kind="applause"), "$.kind"),
    "value of another type": (feedback(value="good"), "$.value"),
    "value above one": (feedback(value=1.01), "$.value"),
    "value NaN": (feedback(value=float("nan")), "$.value"),
    "value infinite by exponent": (feedback()[:-1] + b',"cost_usd":1e999}', "$.cost_usd"),
    "no value": (b'{"request_id":"bad","kind":"score"}', "$.value"),
    "half a thumb": (feedback(kind="thumb", value=0.5), "$.value"),
    "usage of nothing": (b'{"request_id":"bad","kind":"usage"}', "usage"),
    "tokens below zero": (feedback(output_tokens=-1), "$.output_tokens"),
    "decision_id of another form": (feedback(decision_id="0:1"), "$.decision_id"),
    "decision_id of no partition": (feedback(decision_id="999-1"), "partition 999"),
    "unknown version": (feedback(v=3), "$.v"),
    "invalid UTF-8": (feedback(source="?").replace(b"?", b"\xc3"), "UTF-8"),
    "deep nesting": (feedback()[:-1] + b',"more":' + NESTED[70_000:-70_000] + b"}", "nested"),
    "a model that does not exist": (feedback(model="gpt-none"), "'gpt-none', which is not in the catalog"),
    "more than 64 KiB": (feedback(more="x" * MAX_FEEDBACK_BYTES), "at most 65536"),
    "more than 1 MiB": (feedback(more="x" * MAX_REQUEST_BYTES), "at most 65536"),
}


class Sent:
    """Bad records as they were appended, by coordinates."""

    def __init__(self, stream: Stream, topic: str) -> None:
        self.stream, self.topic = stream, topic
        self.values: dict[str, tuple[int, int, bytes]] = {}

    async def send(self, name: str, partition: int, value: bytes | None) -> None:
        """Append one record and note where it is."""
        offset = (await self.stream.user.bounds(self.topic, partition))[1]
        await self.stream.raw(self.topic, partition, value)
        self.values[name] = (partition, offset, value or b"")

    async def prove_letters(self, reasons: Mapping[str, str], *, payload: bool) -> None:
        """Demand one dead letter per bad record: its coordinates, its reason, and a payload only if it may be kept."""
        found = {}
        for record in await self.stream.records(self.stream.names.dead_letter, 0):
            letter = json.loads(record.value or b"")
            assert letter["v"] == 1
            where = (letter["topic"], letter["partition"], letter["offset"])
            assert record.key == "{}-{}-{}".format(*where).encode()
            assert where not in found, "one letter each"
            found[where] = letter
        assert found.keys() == {(self.topic, p, offset) for p, offset, _ in self.values.values()}
        for name, (partition, offset, value) in self.values.items():
            letter = found[self.topic, partition, offset]
            assert any(part in letter["reason"] for part in reasons[name].split("|")), (
                name,
                letter["reason"],
            )
            assert (letter["length"], letter["sha256"]) == (len(value), hashlib.sha256(value).hexdigest())
            kept = base64.b64encode(value[:65_536]).decode() if payload else None
            assert letter.get("payload") == kept, name


async def prove_committed(stream: Stream, topic: str) -> None:
    """Demand that the group's offsets are at the end: nothing refused would be read again."""
    if stream.broker.kind == "memory":
        for partition, log in enumerate(stream.broker.log.logs[topic]):
            assert stream.broker.log.committed[topic, partition] == len(log)


def log_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return what was logged, as the structured log writes it."""
    formatter = JsonFormatter()
    return [json.loads(formatter.format(record)) for record in caplog.records]


def refusals(caplog: pytest.LogCaptureFixture, topic: str) -> int:
    """Return how many records of a topic the log says were refused."""
    lines = [line["message"] for line in log_lines(caplog) if line["level"] == "warning"]
    found = [
        re.match(rf"refused (\d+) of {re.escape(topic)}-\d+, first offset \d+: .", line) for line in lines
    ]
    return sum(int(match[1]) for match in found if match)


async def everywhere(stream: Stream) -> bytes:
    """Return every byte of our own topics but feedback's payloads."""
    names = stream.names
    found = []
    for topic in (
        names.decisions,
        names.journal,
        names.state,
        names.control,
        names.dead_letter,
        names.alerts,
    ):
        for partition in range(await stream.user.partitions(topic)):
            for record in await stream.records(topic, partition):
                found += [record.key or b"", record.value or b"", *(value for _, value in record.headers)]
    return b"\n".join(found)


async def test_every_bad_request_becomes_a_dead_letter_without_its_prompt_and_good_ones_are_decided(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "banditroute")
    if broker.kind == "memory":
        broker.log.max_record_bytes = 4 << 20  # as Kafka takes a large record that compresses well
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            bad, good = Sent(stream, stream.names.requests), []
            for index, (name, (value, _)) in enumerate(BAD_REQUESTS.items()):
                await bad.send(name, index % PARTITIONS, value)
                good += await stream.request(prompt=PROMPT)
            await stream.until(lambda: engine.stats.decisions == len(good))
            await stream.until(lambda: engine.stats.poison == len(BAD_REQUESTS))
            await stream.feedback(good)
            await stream.settled(engine, len(good))
        await bad.prove_letters({name: reason for name, (_, reason) in BAD_REQUESTS.items()}, payload=False)
        await prove_committed(stream, stream.names.requests)
        assert await stream.prove_one_decision_each(good) == 0
        assert counts(await stream.prove())["applied"] == len(good)
        assert PROMPT.encode() not in await everywhere(stream)
        assert base64.b64encode(PROMPT.encode())[:16] not in await everywhere(stream)
    assert refusals(caplog, stream.names.requests) == len(BAD_REQUESTS)
    assert PROMPT not in json.dumps(log_lines(caplog))


async def test_every_bad_feedback_becomes_a_dead_letter_and_good_feedback_is_applied(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "banditroute")
    if broker.kind == "memory":
        broker.log.max_record_bytes = 4 << 20
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            good = await stream.request(len(BAD_FEEDBACK))
            await stream.until(lambda: engine.stats.decisions == len(good))
            bad = Sent(stream, stream.names.feedback)
            for index, (name, (value, _)) in enumerate(BAD_FEEDBACK.items()):
                await bad.send(name, index % PARTITIONS, value)
                await stream.feedback([good[index]])
            await stream.settled(engine, len(good))
            await stream.until(lambda: engine.stats.poison == len(BAD_FEEDBACK))
        await bad.prove_letters({name: reason for name, (_, reason) in BAD_FEEDBACK.items()}, payload=True)
        await prove_committed(stream, stream.names.feedback)
        ledger = counts(await stream.prove())
        assert ledger["applied"] == len(good)
        assert ledger.get("rejected", 0) == 0, "what cannot be read is not copied"
    assert refusals(caplog, stream.names.feedback) == len(BAD_FEEDBACK)


async def test_feedback_that_contradicts_its_decision_is_rejected_once_with_its_reason(
    broker: Broker,
) -> None:
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            ids = await stream.request(4, tenant="acme")
            await stream.until(lambda: engine.stats.decisions == 4)
            decisions = {
                decision["request_id"]: decision["decision_id"] for decision in await stream.decisions()
            }
            await stream.feedback([ids[0]], decision_id=decisions[ids[1]])
            await stream.feedback([ids[1]], model="no-such-model", decision_id=decisions[ids[1]])
            await stream.feedback([ids[1]], model="no-such-model")
            await stream.feedback([ids[2]], tenant="rival")
            await stream.feedback([ids[3]], kind="withdraw")
            await stream.feedback(ids, tenant="acme")
            await stream.settled(engine, 7)
            await stream.until(lambda: engine.stats.poison == 2)
        ledger = counts(await stream.prove())
        assert (ledger["applied"], ledger["rejected"], ledger["foreign"]) == (4, 2, 1)
        reasons = sorted(letter["reason"] for letter in await stream.dead_letters())
        assert reasons == [
            "feedback names model 'no-such-model', which is not in the catalog - at `$.model`",
            "feedback names model 'no-such-model', which is not in the catalog - at `$.model`",
            "foreign: the tenant is not the decision's tenant",
            "its decision_id belongs to another request_id",
            "there is no vote to withdraw",
        ]


async def test_a_thousand_bad_records_and_then_a_good_one_of_each_kind(broker: Broker) -> None:
    chance = random.Random(11)
    stream = Stream(broker, engine={"max_batch": 64})
    junk = [chance.randbytes(chance.randrange(60)) for _ in range(1000)]
    async with stream.users():
        async with stream.running(init=True) as engine:
            for partition in range(PARTITIONS):
                await stream.raw(stream.names.requests, partition, *junk[partition::PARTITIONS])
            good = await stream.request()
            await stream.until(lambda: engine.stats.decisions == 1)
            await stream.until(lambda: engine.stats.poison == 1000)
            for partition in range(PARTITIONS):
                await stream.raw(stream.names.feedback, partition, *junk[partition::PARTITIONS])
            await stream.feedback(good)
            await stream.settled(engine, 1)
            await stream.until(lambda: engine.stats.poison == 2000)
        assert len(await stream.dead_letters()) == 2000
        assert await stream.prove_one_decision_each(good) == 0
        assert counts(await stream.prove())["applied"] == 1


@pytest.mark.needs("groups")
async def test_what_was_refused_is_not_read_again_after_a_restart(broker: Broker) -> None:
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            for partition in range(PARTITIONS):
                await stream.raw(stream.names.requests, partition, b"{", b"[")
                await stream.raw(stream.names.feedback, partition, b"{", b"[")
            await stream.until(lambda: engine.stats.poison == 4 * PARTITIONS)
        async with stream.running() as engine:
            ids = await stream.request(8)
            await stream.feedback(ids)
            await stream.settled(engine, 8)
            assert engine.stats.poison == 0
        assert len(await stream.dead_letters()) == 4 * PARTITIONS
        assert await stream.prove_one_decision_each(ids) == 0
        assert counts(await stream.prove())["applied"] == 8


async def test_keys_and_strange_but_valid_fields_do_not_matter(broker: Broker) -> None:
    stream = Stream(broker)
    fields: Sequence[dict[str, Any]] = [
        {"prompt": ""},
        {"prompt": None, "messages": []},
        {"prompt": "\x00\u202e\U0001f600"},
        {"prompt": None, "context": [1e300, -1e300, 5e-324]},
        {"prompt": None, "embedding": [1e300] * 8192},
        {"deadline": -1e300},
        {"input_tokens": 100_000_000, "max_output_tokens": 0},
        {"unknown": {"a": [1, {"b": None}]}},
        {"v": 1},
        {"tenant": "\u00e9" * 128},
    ]
    keys = (None, b"", b"\xff\x00", b"k" * 10_000)
    ids = [f"strange \u2603 {number}" for number in range(len(fields))]
    async with stream.users():
        async with stream.running(init=True) as engine:
            for number, more in enumerate(fields):
                value = json.dumps({"request_id": ids[number], "prompt": "hello", **more}).encode()
                await stream.raw(stream.names.requests, number % PARTITIONS, value, key=keys[number % 4])
            await stream.until(lambda: engine.stats.decisions == len(ids))
            decisions = {decision["request_id"]: decision for decision in await stream.decisions()}
            for request_id in ids:
                body = {
                    "request_id": request_id,
                    "kind": "score",
                    "value": 1,
                    "latency_ms": 1e12,
                    "cost_usd": 1e12,
                }
                body["decision_id"] = decisions[request_id]["decision_id"]
                await stream.raw(stream.names.feedback, 0, json.dumps(body).encode(), key=b"")
            await stream.settled(engine, len(ids))
            again = await stream.request(4)
            await stream.until(lambda: engine.stats.decisions == len(ids) + 4)
        assert await stream.dead_letters() == []
        assert await stream.prove_one_decision_each([*ids, *again]) == 0
        assert counts(await stream.prove())["applied"] == len(ids)
        for partition in range(PARTITIONS):
            for record in await stream.records(stream.names.decisions, partition):
                decision = json.loads(record.value or b"")
                assert (record.key or b"").decode() == decision["request_id"]
                assert 0 < decision["propensity"] <= 1


def padded(head: bytes, limit: int, *, batch: bool) -> bytes:
    """Fill a JSON object up to a record that is exactly as large as the broker takes."""

    def value(fill: int) -> bytes:
        return head[:-1] + b',"fill":"' + b"x" * fill + b'"}'

    def size(fill: int) -> int:
        if not batch:
            return len(value(fill))
        builder = DefaultRecordBatchBuilder(
            magic=2,
            compression_type=0,
            is_transactional=0,
            producer_id=-1,
            producer_epoch=-1,
            base_sequence=0,
            batch_size=1,
        )
        builder.append(0, timestamp=1, key=None, value=value(fill), headers=[])
        return len(builder.build())

    fill = limit - 2000
    fill += limit - size(fill)  # no length prefix changes its own length up here
    assert size(fill) == limit
    return value(fill)


async def test_a_record_exactly_at_the_brokers_limit_is_read_like_any_other(broker: Broker) -> None:
    stream = Stream(broker, kafka={"compression": "none"}, engine={"dead_letter_payload": True})
    batch = broker.kind != "memory"
    if not batch:
        broker.log.max_record_bytes = MAX_REQUEST_BYTES
    limit = BROKER_LIMIT if batch else MAX_REQUEST_BYTES
    good = padded(b'{"request_id":"largest","prompt":"hello"}', limit, batch=batch)
    bad = padded(request(v=2), limit, batch=batch)
    vote = padded(feedback(), limit, batch=batch)
    async with stream.users():
        async with stream.running(init=True) as engine:
            if broker.admin:  # librdkafka's mock cluster has no limit of its own
                with pytest.raises(AppendFailed):
                    await stream.raw(stream.names.requests, 0, good[:-2] + b'x"}')
            letters = Sent(stream, stream.names.requests)
            await stream.raw(stream.names.requests, 0, good)
            await letters.send("request", 1, bad)
            await stream.until(lambda: engine.stats.decisions == 1 and engine.stats.poison == 1)
            await letters.prove_letters({"request": "$.v"}, payload=True)
            await stream.raw(stream.names.feedback, 2, vote)
            await stream.until(lambda: engine.stats.poison == 2)
            ids = await stream.request(8)
            await stream.feedback(["largest", *ids])
            await stream.settled(engine, 9)
        newest = (await stream.dead_letters())[-1]
        assert newest["topic"] == stream.names.feedback
        assert newest["length"] == len(vote)
        assert base64.b64decode(newest["payload"]) == vote[:65_536]
        assert await stream.prove_one_decision_each(["largest", *ids]) == 0
        assert counts(await stream.prove())["applied"] == 9


async def test_bad_control_records_are_refused_and_the_loop_goes_on(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "banditroute")
    stream = Stream(broker)
    edit = {"edit": "price", "model": "small", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    bad = [None, b"", b"{", b"\xff", NESTED, json.dumps({**edit, "edit": "delete"}).encode()]
    bad += [
        json.dumps({**edit, "input_usd_per_mtok": price}).encode() for price in (-1, "free", float("nan"))
    ]
    bad += [json.dumps({"edit": "changed", "model": "small", "epoch": 1, "factors": {"small": 0}}).encode()]
    async with stream.users():
        async with stream.running(init=True) as engine:
            await stream.raw(stream.names.control, 0, *bad, json.dumps(edit).encode())
            await stream.until(lambda: engine.ledger()["control"] == PARTITIONS)
            ids = await stream.request(8)
            await stream.feedback(ids)
            await stream.settled(engine, 8)
        assert await stream.prove_one_decision_each(ids) == 0
        assert counts(await stream.prove())["control"] == PARTITIONS
    refused = [line for line in log_lines(caplog) if line["message"].startswith("refused control record")]
    assert len(refused) == len(bad)
