"""Produce errors and lost acknowledgements over the real protocol: librdkafka's mock cluster answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from banditroute.bandit.evidence.evidence import RowKey
from banditroute.errors import BrokerError
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.partition import genesis_state
from banditroute.flow.records.snapshot import MAX_STATE_BYTES, Genesis, encode_state
from banditroute.runtime.broker.embedded import EmbeddedBroker
from banditroute.runtime.process import serve
from banditroute.runtime.state.topics import read_state
from banditroute.runtime.tasks.engine import Engine
from tests.brokers import Broker
from tests.runtime.harness import Stream, counts
from tests.runtime.tasks.test_outages import insist

confluent_kafka = pytest.importorskip("confluent_kafka")

pytestmark = [pytest.mark.embedded, pytest.mark.slow]

PRODUCE = 0  # the number of the request in Kafka's protocol
NOT_LEADER, NOT_ENOUGH_REPLICAS, TRANSPORT = 6, 19, -195


class Mock:
    """The mock cluster of an embedded broker, told by librdkafka's own functions what to answer."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        folder = Path(confluent_kafka.__file__).resolve().parent
        libraries = sorted(folder.parent.glob("confluent_kafka.libs/librdkafka*"))
        if not libraries:
            pytest.skip("librdkafka is not a library of its own in this build of confluent-kafka")
        self._library: Any = ctypes.CDLL(str(libraries[0]))
        self._library.rd_kafka_handle_mock_cluster.restype = ctypes.c_void_p
        self._library.rd_kafka_handle_mock_cluster.argtypes = [ctypes.c_void_p]
        # the first field of confluent-kafka's handle, behind the two of every Python object
        handle = ctypes.c_void_p.from_address(id(broker._owner) + 16).value
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_handle_mock_cluster(handle))
        assert self._cluster.value

    def fail(self, *errors: int) -> None:
        """Answer the next produce requests so; nothing is appended."""
        codes = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(PRODUCE), ctypes.c_size_t(len(errors)), codes
        )

    def delay(self, count: int, milliseconds: int) -> None:
        """Append what the next produce requests bring, and answer when nobody waits any more."""
        pairs = [ctypes.c_int(value) for _ in range(count) for value in (0, milliseconds)]
        self._library.rd_kafka_mock_broker_push_request_error_rtts(
            self._cluster, ctypes.c_int32(1), ctypes.c_int16(PRODUCE), ctypes.c_size_t(count), *pairs
        )


@pytest.fixture
def embedded() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as broker:
        yield broker


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(2))
async def test_produce_errors_and_lost_acknowledgements_change_nothing(
    embedded: EmbeddedBroker, seed: int
) -> None:
    chance = random.Random(seed)
    stream = Stream(
        Broker("embedded", embedded.bootstrap),
        kafka={"request_timeout": "1s"},
        engine={"max_batch": 10},
    )
    mock = Mock(embedded)
    ids: list[str] = []
    async with stream.users():
        async with stream.running(init=True) as engine:

            async def ask() -> None:
                fresh = [f"r-{len(ids) + k}" for k in range(30)]
                for request_id in fresh:
                    await insist(lambda request_id=request_id: stream.request(request_id=request_id))
                ids.extend(fresh)

            for _ in range(5):
                await ask()
                await insist(lambda: stream.feedback(ids[-30:], feedback_id="once"))
                if chance.random() < 0.5:
                    mock.fail(
                        *chance.choices(
                            [NOT_LEADER, NOT_ENOUGH_REPLICAS, TRANSPORT], k=chance.randrange(1, 6)
                        )
                    )
                else:
                    mock.delay(chance.randrange(1, 4), 1500)
                decided = len(ids) - 30  # the newest meet the fault
                await stream.until(lambda decided=decided: engine.ledger()["first"] >= decided)
            mock.delay(3, 1500)
            await ask()
            total = len(ids)
            await stream.until(lambda: engine.ledger()["first"] == total)
            await stream.until(lambda: engine.ledger()["applied"] == total - 30)
        ledger = counts(await stream.prove())
        later = await stream.prove_one_decision_each(ids)
        assert ledger.get("later", 0) == later
        assert ledger["applied"] == len(ids) - 30


def connections(engine: Engine) -> list[Any]:
    """Everything that an engine has open to its broker."""
    kafka: Any = engine.client
    producers = [kafka._producer, kafka._decision_producer]
    consumers = [kafka._group, kafka._follower, kafka._asker]
    clients = [*(one.client for one in producers), *(one._client for one in consumers)]
    return [
        connection for client in clients for connection in client._conns.values() if connection.connected()
    ]


def test_connections_that_are_lost_at_the_moment_of_writing_are_a_broker_that_is_away(
    embedded: EmbeddedBroker,
) -> None:
    pytest.importorskip("uvloop", reason="asyncio's own transports take such a write in silence")
    stream = Stream(Broker("embedded", embedded.bootstrap))

    async def work() -> None:
        async with stream.users():
            async with stream.running(init=True) as engine:
                ids: list[str] = []
                for _ in range(5):
                    ids += await stream.request(5)
                    await stream.feedback(ids[-5:])
                    for connection in connections(engine):
                        connection._reader.feed_data(b"\0")  # an answer had begun
                        connection._writer.transport.abort()
                    await asyncio.sleep(0)  # and nobody has read so far
                    with contextlib.suppress(BrokerError):
                        await engine.client.bounds(stream.names.journal, 0)
                    decided = len(ids)
                    await stream.until(lambda decided=decided: engine.ledger()["first"] >= decided)
                await stream.until(lambda: engine.ledger()["applied"] == len(ids))
            await stream.prove()
            assert await stream.prove_one_decision_each(ids) == counts(await stream.prove()).get("later", 0)

    serve.run(work())


@pytest.mark.asyncio
async def test_a_topic_is_not_said_to_be_missing_while_no_broker_answers() -> None:
    with EmbeddedBroker() as embedded:
        broker = Broker("embedded", embedded.bootstrap)
        stream = Stream(broker, kafka={"startup_timeout": "1s", "request_timeout": "1s"})
        await stream.user.start()
        assert await stream.user.partitions(stream.names.journal) == 4
    with pytest.raises(BrokerError, match="tells whether"):
        await stream.user.partitions(stream.names.state)
    await stream.user.stop()


DIAGONAL = np.cumsum(np.arange(1, 65)) - 1


@pytest.mark.asyncio
async def test_a_state_record_of_many_mebibytes_is_written_and_read_back(embedded: EmbeddedBroker) -> None:
    stream = Stream(Broker("embedded", embedded.bootstrap))
    spec = stream.spec
    state = genesis_state(0, 64, spec.spec_id, spec.settings, Genesis(log_epoch=1, hash_key=""))
    chance = np.random.default_rng(1)
    for number in range(400):
        row = state.evidence.row(RowKey(f"model-{number}"))
        row[:] = chance.random(row.shape)  # which no codec packs
        row[state.evidence.layout.a][DIAGONAL] += 10.0
    value = encode_state(state)
    assert 7 << 20 < len(value) < MAX_STATE_BYTES
    async with stream.users():
        await stream.user.append(stream.names.state, 0, [OutputRecord(state.key, value)])
        found, end, damaged = await read_state(stream.user, stream.config, 0, spec)
    assert (end, damaged) == (1, [])
    assert found is not None
    assert encode_state(found) == value
