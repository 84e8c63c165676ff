"""Rules of the blocks: what a column means, and what is zeros."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from banditroute.events import Message as WireMessage
from banditroute.events import Request as WireRequest
from banditroute_features import Encoder, FeatureSpec
from banditroute_features.columns import CLIP, block_scales
from tests.feature_cases import EVERYTHING, NOTHING, BareRequest, Message, Request, encode_all


def test_wire_requests_are_requests_and_optional_attributes_may_be_absent() -> None:
    chat = (WireMessage(role="system", content="Be brief."), WireMessage(role="user", content="Why?"))
    wire = WireRequest(
        request_id="r", messages=chat, tags=("a",), tenant="t", session_id="s", embedding=(1.0, 2.0)
    )
    same = Request(
        messages=[Message(m.role, m.content) for m in chat],
        tags=["a"],
        tenant="t",
        session_id="s",
        embedding=[1.0, 2.0],
    )
    assert encode_all(EVERYTHING, [wire])[0].tobytes() == encode_all(EVERYTHING, [same])[0].tobytes()
    bare = BareRequest(prompt="x", tags=("a",))
    full = Request(prompt="x", tags=("a",))
    assert encode_all(EVERYTHING, [bare])[0].tobytes() == encode_all(EVERYTHING, [full])[0].tobytes()


def test_messages_count_like_their_contents_and_turns_leave_out_the_system_prompt() -> None:
    spec = FeatureSpec(tags=0, tenant=0, scripts=0, chat=True)
    chat = [Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", "So.")]
    alone = [Message("user", "Be brief."), Message("system", "Why?"), Message("developer", "So.")]
    two, one = encode_all(spec, [Request(messages=chat), Request(messages=alone)])[0]
    block = spec.blocks[-1]
    turns = spec.columns.index("chat.turns")
    assert two[turns] > one[turns] == 0
    assert two[: block.start].tobytes() == one[: block.start].tobytes()
    single, prompt = encode_all(
        spec, [Request(messages=[Message("user", "Hi {x}")]), Request(prompt="Hi {x}")]
    )[0]
    assert single[: block.start].tobytes() == prompt[: block.start].tobytes()
    assert single[block.start :].any()
    assert not prompt[block.start :].any()


def test_a_missing_part_is_zeros_and_an_empty_prompt_is_not_missing() -> None:
    nothing, empty = encode_all(FeatureSpec(), [Request(), Request(prompt="")])[0]
    assert nothing.tolist() == [1.0] + [0.0] * 31
    tag, tenant, stat, _ = FeatureSpec().blocks[1:]
    assert not empty[tag.start : tenant.stop].any()
    assert empty[stat.start : stat.stop].any()
    assert encode_all(EVERYTHING, [Request()])[0][0].tolist() == [1.0] + [0.0] * (EVERYTHING.d - 1)


def test_tags_share_one_unit_of_norm_and_their_order_does_not_matter() -> None:
    spec = FeatureSpec(**NOTHING | {"tags": 200})
    there, back = encode_all(spec, [Request(tags=list("abc")), Request(tags=list("cba"))])[0]
    assert there.tobytes() == back.tobytes()
    assert np.isclose((there[1:] ** 2).sum(), 1.0)


def test_equal_names_are_hashed_apart_in_different_blocks() -> None:
    spec = FeatureSpec(**NOTHING | {"tags": 60, "tenant": 60, "session": 60})
    requests = [Request(tags=[f"n{i}"], tenant=f"n{i}", session_id=f"n{i}") for i in range(60)]
    out = encode_all(spec, requests)[0]
    columns = [out[:, block.start : block.stop].nonzero()[1] for block in spec.blocks[1:]]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (columns[a] == columns[b]).sum() <= 6  # 1 expected


def test_hours_lie_on_a_circle() -> None:
    spec = FeatureSpec(**NOTHING | {"hour": 2})
    z = encode_all(spec, [Request(hour=hour) for hour in range(24)])[0][:, 1:].astype(float)
    angles = 2 * np.pi * np.arange(24) / 24
    assert np.allclose(z, np.stack([np.cos(angles), np.sin(angles)], axis=1), atol=1e-6)
    assert not encode_all(spec, [Request(hour=24), Request(hour=-1), Request()])[0][:, 1:].any()


def test_a_cross_tells_pairs_apart_that_the_fields_alone_do_not() -> None:
    spec = FeatureSpec(**NOTHING | {"cross": 64})
    requests = [Request(tags=[tag], tenant=tenant) for tag in "ab" for tenant in "xy"]
    rows = encode_all(spec, [*requests, Request(tags=["a"]), Request(tenant="x")])[0]
    assert len({row.tobytes() for row in rows[:4]}) == 4
    assert not rows[4:, 1:].any()


def test_the_seeded_projection_is_orthogonal_and_keeps_norms_on_average() -> None:
    spec = FeatureSpec(**NOTHING | {"embedding": 16})
    d = 96
    unit = encode_all(spec, [Request(embedding=tuple(row)) for row in np.eye(d)])[0][:, 1:].astype(float)
    rows = unit.T * np.sqrt(16 / d)  # as it acts on unit vectors, times the factor that keeps norms
    assert np.allclose(rows @ rows.T, np.eye(16), atol=1e-6)
    rng = np.random.default_rng(2)
    random_ones = [Request(embedding=tuple(row)) for row in rng.standard_normal((400, d)).tolist()]
    squared = (encode_all(spec, random_ones)[0][:, 1:].astype(float) ** 2).sum(axis=1)
    assert 0.9 < squared.mean() < 1.1
    scaled = [Request(embedding=tuple(1000 * np.array(request.embedding))) for request in random_ones[:20]]
    assert np.allclose(encode_all(spec, scaled)[0], encode_all(spec, random_ones[:20])[0], atol=1e-6)


def test_the_numbers_of_the_caller_are_taken_in_order_and_cut() -> None:
    spec = FeatureSpec(**NOTHING | {"context": 3})
    x = encode_all(spec, [Request(context=(0.5, -9.0)), Request(context=(math.nan, 1, 2, 3, 4))])[0]
    unit = block_scales(spec)["context"]
    assert np.allclose(x[:, 1:], np.array([[0.5, -CLIP, 0], [0, 1, 2]]) * unit)


def test_token_counts_of_the_caller_win_unless_they_are_no_counts() -> None:
    given_counts: list[Any] = [0, 7, 2**53 - 1, None, -1, 2**53, 10**40]
    tokens = encode_all(
        FeatureSpec(), [Request(prompt="four small words here", input_tokens=k) for k in given_counts]
    )[1]
    assert tokens[:3].tolist() == [0.0, 7.0, 2.0**53 - 1]
    assert len(set(tokens[3:])) == 1
    assert 4 <= tokens[3] <= 8


def test_an_empty_batch_is_fine() -> None:
    Encoder(FeatureSpec()).encode_batch([], np.empty((0, 32), np.float32), np.empty(0))
    Encoder(FeatureSpec()).encode_prompts([], np.empty((0, 32), np.float32), np.empty(0))


@pytest.mark.parametrize(
    ("out", "tokens", "sentence"),
    [
        (
            np.empty((2, 32), np.float32),
            None,
            "out: expected float32 of shape (1, 32), got float32 of shape (2, 32)",
        ),
        (np.empty((1, 32)), None, "out: expected float32 of shape (1, 32), got float64 of shape (1, 32)"),
        (np.empty((1, 64), np.float32)[:, ::2], None, "out: expected a C-contiguous, writeable array"),
        ([[0.0] * 32], None, "out: expected a numpy array of float32, got list"),
        (
            np.empty((1, 32), np.float32),
            np.empty(2),
            "tokens: expected float64 of shape (1,), got float64 of shape (2,)",
        ),
    ],
)
def test_an_array_that_cannot_be_filled_is_refused_in_one_sentence(
    out: Any, tokens: Any, sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        Encoder(FeatureSpec()).encode_batch([Request(prompt="x")], out, tokens)
