"""A state record with a good checksum and absurd content is refused as damaged, before memory is taken for it."""

from __future__ import annotations

import contextlib
import copy
import json
import random
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest

from banditroute.bandit.evidence.evidence import Evidence, ModelKey, Vote
from banditroute.bandit.posterior.posterior import derive
from banditroute.bandit.posterior.prior import ModelPrior
from banditroute.errors import StateError
from banditroute.flow.records.position import LearnerSettings
from banditroute.flow.records.snapshot import (
    Genesis,
    believable_state,
    decode_state,
    encode_state,
    genesis_state,
)

D = 4


def good() -> bytes:
    state = genesis_state(0, D, "0" * 16, LearnerSettings(), Genesis(log_epoch=1 << 20, hash_key="00"))
    draw = np.random.default_rng(1)
    state.evidence = Evidence(D)
    for _ in range(20):
        x = draw.standard_normal(D).astype(np.float32)
        for name in ("a", "b"):
            vote = Vote(quality=draw.random(), output_tokens=50.0, cost_usd=0.01, latency_ms=20.0)
            state.evidence.add(ModelKey(name), x, vote, 1.0, 1.0, 1, "score")
    state.j = state.at.D = 10
    state.at.hi = {0: 4}
    return encode_state(state)


def parts(value: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack_from("<I", value, 8)[0]
    return json.loads(value[12 : 12 + length]), value[12 + length : -4]


def signed(meta: dict[str, Any] | bytes, numbers: bytes) -> bytes:
    text = meta if isinstance(meta, bytes) else json.dumps(meta).encode()
    body = struct.pack("<4sHHI", b"BRS1", 1, 0, len(text)) + text + numbers
    return body + struct.pack("<I", zlib.crc32(body))


def changed(path: str, value: Any) -> bytes:
    meta, numbers = parts(good())
    node = meta
    *steps, last = path.split(".")
    for step in steps:
        node = node[step]
    node[last] = value
    return signed(meta, numbers)


def test_a_good_record_is_read() -> None:
    meta, numbers = parts(good())
    assert encode_state(decode_state(signed(meta, numbers))) == good()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("d", 100_000), ("d", 0), ("d", -3), ("d", 1 << 70), ("j", -1), ("j", 1 << 64), ("j", 1 << 400),
        ("replay_from", 11), ("replay_from", -1), ("partition", -1), ("parked", -1), ("parked", 1 << 63),
        ("keys", [["a", -1, "score", True]] * 2), ("keys", [["a", 1 << 40, "score", True]]), ("keys", []),
        ("ledger", {"applied": -1}), ("ledger", {"applied": 1 << 80}), ("feedback_start", {"0": -4}),
        ("start", [0, -1, 0]), ("journal_mark", [-1, 0]), ("decisions_mark", [1 << 63, 0]), ("log_epoch", 1 << 90),
        ("at.hi", {"0": 1 << 64}), ("at.hi", {"-1": 3}), ("at.D", -1), ("at.X", 11), ("at.rD", 1 << 63),
        ("at.cursor", -2), ("at.clock", -1), ("at.epochs", {"a": -1}), ("at.prices", {"a": [-1.0, 2.0]}),
        ("anchor.rX", 1 << 62 | 1), ("reign", -1),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_damage(path: str, value: Any) -> None:
    record = changed(path, value)
    tracemalloc.start()
    with pytest.raises(StateError) as refused:
        decode_state(record)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, -1e30, 1e300])
def test_statistics_that_are_no_sums_of_votes_are_damage(number: float) -> None:
    meta, numbers = parts(good())
    refused = 0
    for at in range(0, len(numbers), 8):
        record = signed(meta, numbers[:at] + struct.pack("<d", number) + numbers[at + 8 :])
        try:
            state = believable_state(record)
        except StateError:
            refused += 1
        else:  # what is not refused does not break the posterior
            derive(state.evidence, [ModelPrior(ModelKey(name)) for name in "ab"], [(0, 1), (1, D)])
    assert refused > 0


def test_deep_nesting_is_damage() -> None:
    with pytest.raises(StateError):
        decode_state(signed(b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", b""))


@pytest.mark.parametrize("seed", range(300))
def test_whatever_a_record_says_it_is_read_or_refused_with_a_sentence(seed: int) -> None:
    chance = random.Random(seed)
    meta, numbers = parts(good())
    absurd = [
        None,
        -1,
        0,
        1.5,
        1 << 31,
        1 << 62,
        1 << 64,
        "x",
        "",
        [],
        {},
        [[]],
        True,
        1e308,
        {"a": 1},
        ["a", 0],
    ]
    for _ in range(1 + seed % 3):
        node: Any = meta
        while True:
            key = chance.choice(list(node if isinstance(node, dict) else range(len(node))) or [None])
            if key is None:
                break
            if isinstance(node[key], dict | list) and node[key] and chance.random() < 0.6:
                node = node[key]
                continue
            node[key] = copy.deepcopy(chance.choice(absurd))
            break
    with contextlib.suppress(StateError):
        encode_state(decode_state(signed(meta, numbers)))
