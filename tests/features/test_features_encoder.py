"""Rules of the encoder: equal to the oracle, total, bounded, and blind to its neighbours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import banditroute_features
from banditroute_features import Encoder, FeatureSpec
from banditroute_features.columns import STATISTICS_CLIP, TAG_CLIP, block_scales
from tests import naive_features as naive

GOLDEN = Path(__file__).parents[1] / "golden" / "features_v1.json"


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class Request:
    prompt: str | None = None
    messages: Sequence[Message] | None = None
    tenant: str | None = None
    tags: Sequence[str] = field(default_factory=tuple)
    context: Sequence[float] | None = None
    input_tokens: int | None = None


def encode_all(spec: FeatureSpec, requests: Sequence[Request]) -> tuple[np.ndarray, np.ndarray]:
    out = np.full((len(requests), spec.d), np.nan, np.float32)
    tokens = np.full(len(requests), np.nan)
    Encoder(spec).encode_batch(requests, out, tokens)
    return out, tokens


def assert_equals_oracle(spec: FeatureSpec, requests: Sequence[Request]) -> None:
    out, tokens = encode_all(spec, requests)
    for request, x, count in zip(requests, out, tokens, strict=True):
        expected, expected_count = naive.encode(spec, request)
        assert dict(zip(spec.columns, x.tolist(), strict=True)) == dict(
            zip(spec.columns, expected, strict=True)
        )
        assert count == expected_count


SIGNS = (
    "abzAZ019 \n\n\t\r\x00\x7f.,:;!?'\"()[]{}<>_`@#&|~+-*/=^%\\$"
    "éÿĀɏʰЖאعกकṽ—“∑中かカ한！😀\ud800\udfff\U0010ffff"
)
anything = st.text(st.characters(exclude_categories=()), max_size=60)  # with lone surrogates
signs = st.text(st.sampled_from(SIGNS), max_size=120)
listing = st.lists(
    st.tuples(
        st.sampled_from(["", " ", "\t", "       ", "        ", "         "]),
        st.sampled_from(
            [
                "- a",
                "*b",
                "* b",
                "| c |",
                "# d",
                "1. e",
                "12) f",
                "123.",
                "1234. g",
                "B) h",
                "(c) i",
                "(",
                "d",
                "-",
            ]
        ),
    ).map("".join),
    max_size=6,
).map("\n".join)
texts = anything | signs | listing
requests_strategy = st.lists(
    st.builds(
        Request,
        prompt=st.none() | texts,
        messages=st.none()
        | st.lists(
            st.builds(Message, st.sampled_from(["user", "system", "developer", "tool", ""]), texts),
            max_size=4,
        ),
        tenant=st.none() | anything,
        tags=st.lists(anything | st.sampled_from(["code", "maths"]), max_size=6),
        input_tokens=st.none() | st.integers(-2, 2**54) | st.just(10**30),
    ),
    max_size=6,
)
specs = st.builds(
    FeatureSpec,
    tags=st.integers(0, 40),
    tenant=st.integers(0, 9),
    statistics=st.integers(0, 16) | st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(requests_strategy, specs)
def test_every_context_and_token_estimate_equals_the_naive_oracle_bit_for_bit(
    requests: list[Request], spec: FeatureSpec
) -> None:
    assert_equals_oracle(spec, requests)


def test_long_random_texts_equal_the_naive_oracle_bit_for_bit() -> None:
    random = np.random.default_rng(11)
    letters = np.array(list(SIGNS))
    requests = [Request(prompt="".join(random.choice(letters, size))) for size in (997, 4096, 20_001)]
    requests.append(Request(prompt="again and again, " * 500))
    assert_equals_oracle(FeatureSpec(), requests)


def test_every_byte_counts_as_in_the_oracle_alone_and_after_every_kind_of_byte() -> None:
    characters = [
        chr(i) for i in (*range(0x250), *range(0x250, 0x11000, 97), *range(0xD700, 0xE100, 13), 0x10FFFF)
    ]
    requests = [Request(prompt=c) for c in characters]
    requests += [Request(prompt=f"{before}{after}7") for before in SIGNS for after in SIGNS]
    assert_equals_oracle(FeatureSpec(tags=0, tenant=0), requests)


@pytest.mark.parametrize("indent", ["", " ", "\t", " " * 8, " " * 9])
@pytest.mark.parametrize(
    ("line", "marked"),
    [
        (line, 1)
        for line in [
            "- a",
            "+ a",
            "* b",
            "# c",
            "| d |",
            "1. e",
            "12) f",
            "123.g",
            "B) h",
            "c. i",
            "(d) j",
            "(4) k",
            "(e)",
            "5)",
            "- ",
            "a.",
        ]
    ]
    + [
        (line, 0)
        for line in [
            "-a",
            "*b*",
            "1234. c",
            "1 . d",
            "ab) e",
            "(ab) f",
            "(-) g",
            "(h",
            "-",
            "7",
            "123",
            "(",
            "x",
            "",
            "> i",
            "? j",
            "é. k",
        ]
    ],
)
def test_a_list_marker_is_a_sign_a_short_number_or_a_letter_at_the_start_of_a_line(
    line: str, marked: int, indent: str
) -> None:
    expected = marked and len(indent) <= 8
    assert naive.count([naive.as_bytes(indent + line)])["markers"] == expected
    requests = [
        Request(prompt=f"{before}{indent}{line}{after}") for before in ("", "x\n") for after in ("", "\ny")
    ]
    assert_equals_oracle(FeatureSpec(tags=0, tenant=0), requests)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(requests_strategy.filter(len), st.data())
def test_a_context_does_not_depend_on_the_split_into_batches(
    requests: list[Request], data: st.DataObject
) -> None:
    spec = FeatureSpec(seed=3)
    whole, whole_tokens = encode_all(spec, requests)
    cut = data.draw(st.integers(0, len(requests)))
    left, right = encode_all(spec, requests[:cut]), encode_all(spec, requests[cut:])
    assert np.concatenate([left[0], right[0]]).tobytes() == whole.tobytes()
    assert np.concatenate([left[1], right[1]]).tobytes() == whole_tokens.tobytes()
    encoder = Encoder(spec)
    assert np.stack([encoder.encode(request) for request in requests]).tobytes() == whole.tobytes()


def test_a_batch_with_more_text_than_fits_one_run_gives_the_same_contexts() -> None:
    spec = FeatureSpec()
    requests = [Request(prompt=f"{i} is a number. " * 9000, tags=[str(i)], input_tokens=i) for i in range(12)]
    whole, tokens = encode_all(spec, requests)
    alone = np.concatenate([encode_all(spec, [request])[0] for request in requests])
    assert whole.tobytes() == alone.tobytes()
    assert tokens.tolist() == list(range(12))


def test_golden_contexts_of_version_1_never_change() -> None:
    golden = json.loads(GOLDEN.read_text())
    for case in golden["cases"]:
        spec = FeatureSpec.from_dict(case["spec"])
        assert spec.spec_id == case["spec_id"]
        fields = dict(case["request"])
        if fields.get("messages") is not None:
            fields["messages"] = [Message(**message) for message in fields["messages"]]
        out, tokens = encode_all(spec, [Request(**fields)])
        assert out[0].tolist() == case["context"], case["name"]
        assert tokens[0] == case["tokens"], case["name"]


def test_another_process_with_another_hash_seed_gives_the_same_bytes() -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from types import SimpleNamespace as R\n"
        "from banditroute_features import *\n"
        "r = R(prompt='one\\ntwo 3+4?', messages=None, tenant='t', tags=['a', 'b'], input_tokens=None)\n"
        "print(Encoder(FeatureSpec()).encode(r).tobytes().hex())\n"
    )
    root = str(Path(banditroute_features.__file__).parents[1])
    here = Encoder(FeatureSpec()).encode(Request(prompt="one\ntwo 3+4?", tenant="t", tags=["a", "b"]))
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, root],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == here.tobytes().hex()


@pytest.mark.parametrize("spec", [FeatureSpec(), FeatureSpec(tags=1, tenant=1, statistics=1, seed=9)])
def test_any_input_gives_a_finite_context_of_bounded_norm(spec: FeatureSpec) -> None:
    scales = block_scales(spec)
    bound = 1 + spec.tags * (TAG_CLIP * scales["tag"]) ** 2 + scales["tenant"] ** 2
    bound += spec.statistics * (STATISTICS_CLIP * scales["stat"]) ** 2
    hard = ["", "\x00" * 5000, "\ud800" * 5000, "7" * 5000, "?" * 5000, "A" * 5000, "{" * 5000, "1+" * 5000]
    hard += ["\n" * 5000, "\n  " * 5000, "\n- x" * 5000, "中" * 5000, "😀" * 5000, "a" * 5000]
    requests = [Request(prompt=text, tags=["same"] * 1000, tenant="t") for text in hard]
    requests += [Request(messages=[Message("user", text)] * 50) for text in hard]
    out, tokens = encode_all(spec, requests)
    assert np.isfinite(out).all()
    assert np.isfinite(tokens).all()
    assert (tokens >= 0).all()
    assert ((out.astype(float) ** 2).sum(axis=1) <= bound * (1 + 1e-6)).all()
    assert (out[:, 0] == 1).all()


def test_a_prompt_of_ten_times_the_bytes_takes_about_ten_times_as_long_whatever_it_holds() -> None:
    encoder = Encoder(FeatureSpec())
    for unit in ("\n        ", "\n(", "\n12", "a", "\ud800"):

        def seconds(length: int, unit: str = unit) -> float:
            request = Request(prompt=unit * (length // len(unit)))
            best = float("inf")
            for _ in range(3):
                start = time.perf_counter()
                encoder.encode(request)
                best = min(best, time.perf_counter() - start)
            return best

        # Quadratic time would be a factor of 100; 40 leaves room for caches and a busy machine.
        assert seconds(1_000_000) < 40 * seconds(100_000)


def test_messages_count_like_their_contents_and_turns_leave_out_the_system_prompt() -> None:
    spec = FeatureSpec(tags=0, tenant=0)
    turns = spec.columns.index("stat.turns")
    chat = [Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", "So.")]
    alone = [Message("user", "Be brief."), Message("system", "Why?"), Message("developer", "So.")]
    two, one = encode_all(spec, [Request(messages=chat), Request(messages=alone)])[0]
    assert two[turns] > one[turns] == 0
    assert np.delete(two, turns).tobytes() == np.delete(one, turns).tobytes()
    single, prompt = encode_all(
        spec, [Request(messages=[Message("user", "Hi {x}")]), Request(prompt="Hi {x}")]
    )[0]
    assert single.tobytes() == prompt.tobytes()


def test_a_missing_part_is_zeros_and_an_empty_prompt_is_not_missing() -> None:
    spec = FeatureSpec()
    nothing, empty = encode_all(spec, [Request(), Request(prompt="")])[0]
    assert nothing.tolist() == [1.0] + [0.0] * 31
    tag, tenant, stat = spec.blocks[1:]
    assert not empty[tag.start : tenant.stop].any()
    assert empty[stat.start :].any()


def test_tags_share_one_unit_of_norm_and_their_order_does_not_matter() -> None:
    spec = FeatureSpec(tags=200, tenant=0, statistics=0)
    names = ["task-a", "task-b", "task-c"]
    there, back = encode_all(spec, [Request(tags=names), Request(tags=names[::-1])])[0]
    assert there.tobytes() == back.tobytes()
    assert np.isclose((there[1:] ** 2).sum(), 1.0)


def test_equal_strings_as_tag_and_as_tenant_are_hashed_apart() -> None:
    spec = FeatureSpec(tags=100, tenant=100, statistics=0)
    out = encode_all(spec, [Request(tags=[f"n{i}"], tenant=f"n{i}") for i in range(50)])[0]
    tag, tenant = out[:, 1:101].nonzero()[1], out[:, 101:].nonzero()[1]
    assert (tag == tenant).sum() <= 5  # 0.5 expected


def test_tag_columns_and_signs_are_spread_evenly() -> None:
    spec = FeatureSpec(tags=12, tenant=0, statistics=0)
    out = encode_all(spec, [Request(tags=[f"task {i}"]) for i in range(12_000)])[0][:, 1:]
    per_column = (out != 0).sum(axis=0)
    assert ((per_column - 1000) ** 2 / 1000).sum() < 31.3  # chi-squared with 11 degrees: 0.1 %
    assert abs((out > 0).sum() - 6000) < 3.3 * np.sqrt(3000)


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
