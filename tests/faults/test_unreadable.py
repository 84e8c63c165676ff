"""Whatever bytes a user writes, that record alone is refused with its coordinates, and everything behind it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer

from banditroute.runtime.broker.record_batch import EncodedBatch
from banditroute.runtime.process.metrics import Metrics
from tests.brokers import Broker
from tests.runtime.broker.test_damaged_records import record
from tests.runtime.harness import Stream

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

REQUEST = b'{"request_id":"%s","prompt":"x"}'


async def write(bootstrap: str, topic: str, body: bytes, count: int, compression: str = "none") -> None:
    """Append a batch of records as they are."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        batch = EncodedBatch(body, count, 1_800_000_000_000, compression)
        await (await producer.send_batch(batch, topic, partition=0))
    finally:
        await producer.stop()


@pytest.mark.parametrize("tier", ["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
async def test_a_header_key_that_is_not_utf8_is_a_dead_letter_and_everything_behind_it_is_read(
    tier: str, request: pytest.FixtureRequest
) -> None:
    bootstrap = request.getfixturevalue(f"{tier}_bootstrap")
    stream = Stream(Broker(tier, bootstrap))
    odd = (b"\xff\xfe", b"x")

    async def poison(topic: str, value: bytes) -> None:
        await write(bootstrap, topic, record(0, value, odd), 1)

    async with stream.users():
        await stream.create()
        await poison(stream.names.requests, REQUEST % b"odd-1")
        async with stream.running() as engine:
            ids = await stream.request(4)
            await stream.until(lambda: engine.ledger()["first"] >= 4)
            await poison(stream.names.feedback, b'{"request_id":"odd-1","kind":"thumb","value":true}')
            await poison(stream.names.requests, REQUEST % b"odd-2")
            await stream.feedback(ids)
            ids += await stream.request(4)
            await stream.until(lambda: engine.ledger()["first"] >= 8)
            await stream.until(lambda: engine.ledger()["applied"] >= 4)
        for topic, value in ((stream.names.requests, REQUEST % b"odd-3"), (stream.names.feedback, b"{}")):
            await poison(topic, value)
        async with stream.running() as engine:  # what users wrote stops no restart
            ids += await stream.request(4)
            await stream.until(lambda: engine.ledger()["first"] >= 12)
            letters = await stream.dead_letters()
        await stream.prove()
        assert await stream.prove_one_decision_each(ids) == 0
    said = {(letter["topic"], letter["offset"], letter["reason"]) for letter in letters}
    assert {topic for topic, _, _ in said} == {stream.names.requests, stream.names.feedback}
    assert {reason for _, _, reason in said} == {"a header has a key that is not UTF-8"}
    assert len(said) == 5


@pytest.mark.kafka
async def test_a_batch_that_would_unpack_to_gigabytes_is_a_dead_letter_and_takes_no_memory(
    kafka_bootstrap: str,
) -> None:
    stream = Stream(Broker("kafka", kafka_bootstrap))
    bomb = record(0, b'{"request_id":"bomb","prompt":"' + b"x" * (200 << 20) + b'"}')
    async with stream.users():
        await stream.create()
        async with stream.running() as engine:
            await write(kafka_bootstrap, stream.names.requests, bomb, 1, "zstd")
            await write(kafka_bootstrap, stream.names.requests, record(0, REQUEST % b"after"), 1)
            await stream.until(lambda: engine.ledger()["first"] >= 1)
            (letter,) = await stream.dead_letters()
    assert (letter["topic"], letter["offset"]) == (stream.names.requests, 0)
    assert "unpacks to more than 64 MiB" in letter["reason"]


@pytest.mark.kafka
async def test_what_a_transaction_took_back_is_neither_decided_nor_learned(kafka_bootstrap: str) -> None:
    stream = Stream(Broker("kafka", kafka_bootstrap))
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka_bootstrap, transactional_id=f"{stream.broker.prefix}users"
    )

    async def send(topic: str, event: dict[str, Any]) -> None:
        await producer.send_and_wait(topic, json.dumps(event).encode(), partition=0)

    def asked(request_id: str) -> dict[str, Any]:
        return {"request_id": request_id, "prompt": "x"}

    async with stream.users():
        await stream.create()
        await producer.start()
        try:
            async with stream.running() as engine:
                metrics = Metrics(engine)
                async with producer.transaction():
                    for number in range(3):
                        await send(stream.names.requests, asked(f"kept-{number}"))
                await stream.until(lambda: engine.ledger()["first"] >= 3)
                await producer.begin_transaction()
                await send(stream.names.requests, asked("aborted"))
                await send(
                    stream.names.feedback,
                    {"request_id": "kept-0", "kind": "score", "value": 0.0, "source": "a"},
                )
                await producer.abort_transaction()
                async with producer.transaction():
                    await send(stream.names.requests, asked("last"))
                    await send(stream.names.feedback, {"request_id": "kept-0", "kind": "score", "value": 1.0})
                await stream.until(lambda: engine.ledger()["first"] >= 4)
                await stream.until(lambda: engine.ledger()["applied"] >= 1)

                async def nothing_left() -> bool:
                    metrics._asked = -1e9
                    await metrics._ask()
                    return bool(metrics._lags) and set(metrics._lags.values()) == {0}

                await stream.until(nothing_left)
        finally:
            await producer.stop()
        async with stream.running():  # the markers of transactions stop no restart
            pass
        results = await stream.prove()
        assert await stream.prove_one_decision_each(["kept-0", "kept-1", "kept-2", "last"]) == 0
    assert sum(result.ledger.get("applied", 0) for result in results.values()) == 1
