"""Decision records in columns are the bytes of their structs, and a record batch is one that Kafka's clients read."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from aiokafka.record.default_records import DefaultRecordBatch

from banditroute.bandit.choice.batch import Choices, DecideBatch
from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.events import Request, encode
from banditroute.flow.deciding import encoded
from banditroute.flow.deciding.chosen import Chosen
from banditroute.flow.deciding.decision_structs import DecisionStructs
from banditroute.flow.deciding.decision_writer import DecisionWriter, encode_headers
from banditroute.flow.records.header import HEADER_NAME, HeaderWriter
from banditroute.flow.records.kafka_records import InputRecord
from banditroute.runtime.broker.record_batch import EncodedBatch, encode_batch
from banditroute_features import FeatureSpec

SPEC = FeatureSpec.from_dict({})
IDS = ("r-{}", "ü-{}", 'quoted "{}"', "back\\slash {}", "line\nbreak {}", "\x7f{}", "plain {}")


def chosen(n: int, count: int, seed: int, *, default: int | None = None) -> Chosen:
    """Return columns as a decider makes them, with every special case among them."""
    draw = random.Random(seed)
    rng = np.random.default_rng(seed)
    fresh = []
    for i in range(n):
        tags = tuple(draw.choice(('t"1', "t2", "ä")) for _ in range(draw.randrange(3)))
        tenant = draw.choice((None, "acme", "o\\ther"))
        request = Request(request_id=draw.choice(IDS).format(i), prompt="?", tags=tags, tenant=tenant)
        headers = draw.choice(((), (("trace", b"\x00" * 200),), (("trace", None), ("other", b"x"))))
        fresh.append((InputRecord(1000 + 3 * i, 5, None, b"", headers), request))
    batch = DecideBatch.of(
        rng.normal(size=(n, SPEC.d)), np.arange(n), np.ones((count, 2)),
        latency_weight=draw.choice((0.0, 0.25)), input_estimated=rng.integers(0, 2, n), input_tokens=rng.random(n),
    )  # fmt: skip
    rank = np.full((n, count), -1, np.int32)
    info = np.zeros((n, 3), np.int32)
    for i in range(n):
        order = rng.permutation(count)[: draw.randrange(0, count + 1)]
        rank[i, : len(order)] = order
        info[i] = (order[0], 0, draw.randrange(2)) if len(order) else (-1, draw.randrange(1, 4), 0)
    candidates = rng.normal(size=(n, count, 5)) * 10.0 ** rng.integers(-9, 9, (n, count, 1))
    candidates[:, :, 4] = np.where(rng.random((n, count)) < 0.5, np.nan, rng.normal(size=(n, count)))
    chance = np.stack((rng.choice([1.0, 20.0, 0.1], n), rng.random(n)), axis=1)
    chance[info[:, 0] < 0, 1] = np.nan
    choices = Choices(info, candidates, rng.normal(size=(n, count)), rank, chance)
    stale = [] if default is None else sorted(draw.sample(range(n), n // 4))
    ids = [request.request_id.encode() for _, request in fresh]
    return Chosen.of(3, fresh, ids, batch, choices, stale, default, "12+3~ab")


def made(count: int, mode: Any) -> tuple[DecisionWriter, DecisionStructs, list[ModelKey]]:
    """Return a writer and its structs for so many models."""
    keys = [ModelKey(f'm"{k}' if k == 1 else f"model-{k}", k % 2) for k in range(count)]
    structs = DecisionStructs(keys, SPEC.spec_id, mode)
    return DecisionWriter(keys, SPEC, mode, ["trace"], structs), structs, keys


@pytest.mark.parametrize("mode", ["active", "shadow", "frozen"])
@pytest.mark.parametrize("count", [1, 2, 8, 50])
def test_a_record_written_in_columns_is_its_struct_encoded(mode: str, count: int) -> None:
    writer, structs, keys = made(count, mode)
    headers = HeaderWriter(keys, SPEC.spec_id, SPEC.d)
    for seed in range(12):
        given = chosen(1 if seed == 0 else 40, count, seed, default=0 if seed % 3 == 0 else None)
        records, known = writer.write(given)
        expected = [encode(decision) for decision in structs.of(given)]
        wanted = headers.write(
            given.offsets,
            given.batch.x,
            given.choices.candidates,
            given.tokens,
            given.counted,
            mode == "shadow",
        )
        assert len(records) == len(expected)
        assert [record.value for record in records] == expected
        assert (
            [record.key for record in records] == [r.request_id.encode() for _, r in given.fresh] == known.ids
        )
        assert [record.headers[0] for record in records] == [(HEADER_NAME, header) for header in wanted]
        assert list(known.headers) == list(wanted)
        for (source, _), record in zip(given.fresh, records, strict=True):
            passed = [(name, value or b"") for name, value in source.headers if name == "trace"]
            assert record.headers[1:] == passed
        assert records[-1] == records[len(records) - 1]
        assert records[1:3] == [records[i] for i in range(len(records))][1:3]


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_a_batch_of_encoded_records_is_read_back_by_a_kafka_client(
    compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, _, _ = made(8, "active")
    monkeypatch.setattr("banditroute.flow.deciding.decision_writer.BATCH_BYTES", 9_000)
    records, _ = writer.write(chosen(40, 8, 7))
    assert len(records.parts) > 3
    read = []
    for start, stop, body in records.parts:
        batch = EncodedBatch(body, stop - start, 1_700_000_000_123, compression)
        assert (batch.record_count(), batch.size(), batch.closed()) == (
            stop - start,
            len(batch._build()),
            True,
        )
        parsed = DefaultRecordBatch(batch._build())
        assert parsed.validate_crc()
        found = list(parsed)
        assert [record.offset for record in found] == list(range(stop - start))
        assert {record.timestamp for record in found} == {1_700_000_000_123}
        read += [(record.key, record.value, list(record.headers)) for record in found]
    assert read == [(record.key, record.value, list(record.headers)) for record in records]


def test_a_batch_that_compression_would_enlarge_is_sent_as_it_is() -> None:
    writer, _, _ = made(1, "active")
    records, _ = writer.write(chosen(1, 1, 1))
    (part,) = records.parts
    small = encode_batch(part.body[:40], 1, 0, "gzip")
    assert part.body[:40] in small


def test_headers_of_any_length_are_encoded_as_kafka_reads_them() -> None:
    for size in (0, 1, 63, 64, 8191, 8192, 70_000):
        data = encode_headers([("n" * 70, b"v" * size)])
        assert data.endswith(b"v" * size)
        assert data[:2] == bytes([140, 1])  # 70, zigzag, in two bytes


def test_the_bound_of_a_batch_is_below_what_brokers_take() -> None:
    assert encoded.BATCH_BYTES < 1_048_588
