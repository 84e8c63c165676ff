"""Rules of the encoder: equal to the oracle, total, bounded, and blind to its neighbours."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.events import Message as WireMessage
from banditroute.events import Request as WireRequest
from banditroute_features import Encoder, FeatureSpec, Fitted
from banditroute_features.columns import BLOCK_FIELDS, CLIP, TAG_CLIP, block_scales
from tests import naive_features as naive

GOLDEN = Path(__file__).parents[1] / "golden" / "features_v2.json"


@dataclass(frozen=True)
class Message:
    role: str
    content: Any


@dataclass(frozen=True)
class Request:
    prompt: str | None = None
    messages: Sequence[Message] | None = None
    tenant: str | None = None
    tags: Sequence[str] = field(default_factory=tuple)
    input_tokens: int | None = None
    session_id: str | None = None
    language: str | None = None
    hour: int | None = None
    max_output_tokens: int | None = None
    embedding: Sequence[float] | None = None
    context: Sequence[float] | None = None


@dataclass(frozen=True)
class BareRequest:
    """What a caller without any of the optional attributes sends."""

    prompt: str | None = None
    messages: Sequence[Message] | None = None
    tenant: str | None = None
    tags: Sequence[str] = ()
    input_tokens: int | None = None


NOTHING = {"tags": 0, "tenant": 0, "statistics": 0, "scripts": 0}
TEXT = FeatureSpec(tags=0, tenant=0, statistics=True, scripts=True, chars=64, words=32)
EVERYTHING = FeatureSpec(
    tags=7,
    tenant=3,
    session=2,
    language=2,
    hour=2,
    cross=5,
    crosses=(("tag", "tenant"), ("hour", "language")),
    numeric=2,
    statistics=True,
    scripts=True,
    chat=True,
    chars=48,
    words=24,
    embedding=6,
    context=3,
    seed=5,
)
FITTED = FeatureSpec(
    statistics=4,
    embedding=2,
    context=2,
    fitted=Fitted(
        scales={"stat.log_bytes": (3.0, 0.25), "context.1": (10.0, 0.5)},
        mean=(0.5, -0.25, 0.125),
        components=((1.0, 0.5, 0.25), (-0.75, 1.5, 0.1)),
    ),
)


def encode_all(spec: FeatureSpec, requests: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    out = np.full((len(requests), spec.d), np.nan, np.float32)
    tokens = np.full(len(requests), np.nan)
    Encoder(spec).encode_batch(requests, out, tokens)
    return out, tokens


def assert_equals_oracle(spec: FeatureSpec, requests: Sequence[Any]) -> None:
    out, tokens = encode_all(spec, requests)
    for request, x, count in zip(requests, out, tokens, strict=True):
        expected, expected_count = naive.encode(spec, request)
        assert dict(zip(spec.columns, x.tolist(), strict=True)) == dict(
            zip(spec.columns, expected, strict=True)
        )
        assert count == expected_count


SIGNS = (
    "abzAZ019 \n\n\t\r\x00\x7f.,:;!?'\"()[]{}<>_`@#&|~+-*/=^%\\$"
    "éÿĀɏʰЖאعकกṽ—“∑中かカ한！？؟😀\ud800\udfff\U0010ffff"
)
PARTS = [
    *("def f(x):", "SELECT a", "function", "fun", "- item", "* b", "12. x", "(c) d", "A) opt", "b.", "(4)"),
    *("| a | b |", "> quoted", "```py", "```", "`", "````", '"key": 1', '"', "http://a.b", "3 + 4", "7*8"),
    *(
        "x = 1",
        "1  + 2",
        "\\frac{1}{2}",
        "$x$",
        "中文字",
        "？",
        "؟",
        "привет",
        "हिन्दी",
        "عرب",
        "ελ",
        "é",
        "😀",
    ),
    *(
        "\ud800",
        "\x00",
        "\x7f",
        "word",
        "Words",
        " ",
        " ",
        "\n",
        "\n",
        "\n  ",
        "\t",
        "Z",
        "9",
        "(",
        "# h",
        "def ",
    ),
]
anything = st.text(st.characters(exclude_categories=()), max_size=60)  # with lone surrogates
signs = st.text(st.sampled_from(SIGNS), max_size=200)
structured = st.lists(st.sampled_from(PARTS), max_size=60).map("".join)
repeated = st.tuples(structured, st.integers(1, 40)).map(lambda pair: pair[0] * pair[1])
texts = anything | signs | structured | repeated
names = anything | st.sampled_from(["code", "maths"])
counts = st.none() | st.integers(-2, 2**54) | st.sampled_from([10**30, -(10**30)])
numbers = (
    st.none()
    | st.lists(st.floats() | st.sampled_from([1e308, None, "x", True, 10**400]), max_size=5)
    | st.lists(st.floats(-1, 1), min_size=3, max_size=3).map(tuple)
)
requests_strategy = st.lists(
    st.builds(
        Request,
        prompt=st.none() | texts,
        messages=st.none()
        | st.lists(
            st.builds(
                Message,
                st.sampled_from(["user", "assistant", "system", "developer", "tool", ""]),
                texts | st.none() | st.just(7),
            ),
            max_size=4,
        ),
        tenant=st.none() | anything,
        tags=st.lists(names, max_size=6) | st.lists(names, max_size=3).map(tuple),
        input_tokens=counts,
        session_id=st.none() | anything,
        language=st.none() | st.sampled_from(["de", "zh"]),
        hour=st.none() | st.integers(-2, 30),
        max_output_tokens=counts,
        embedding=numbers,
        context=numbers,
    ),
    max_size=6,
)
widths = st.integers(0, 12)
specs = st.builds(
    FeatureSpec,
    tags=st.integers(0, 40),
    tenant=widths,
    session=widths,
    language=widths,
    hour=st.booleans(),
    cross=widths,
    numeric=st.integers(0, 2) | st.booleans(),
    statistics=st.integers(0, 23) | st.booleans(),
    scripts=st.integers(0, 7),
    chat=st.integers(0, 5),
    chars=st.integers(0, 64),
    words=widths,
    embedding=widths,
    context=widths,
    seed=st.integers(0, 2**63 - 1),
) | st.sampled_from([EVERYTHING, FITTED])


# -- equal to the oracle ----------------------------------------------------------------------------------


@settings(max_examples=400)
@given(requests_strategy, specs)
def test_every_context_and_token_estimate_equals_the_naive_oracle_bit_for_bit(
    requests: list[Request], spec: FeatureSpec
) -> None:
    assert_equals_oracle(spec, requests)


@settings(max_examples=100)
@given(st.binary(max_size=300), st.sampled_from(["latin-1", "utf-8", "utf-16-le", "utf-32-le"]))
def test_arbitrary_bytes_equal_the_naive_oracle_however_they_became_a_string(data: bytes, codec: str) -> None:
    assert_equals_oracle(TEXT, [Request(prompt=data.decode(codec, "replace"))])


def test_long_random_texts_equal_the_naive_oracle_bit_for_bit() -> None:
    rng = np.random.default_rng(11)
    letters = np.array(list(SIGNS))
    requests = [Request(prompt="".join(rng.choice(letters, size))) for size in (997, 4096, 20_001)]
    requests.append(Request(prompt="again and again, " * 500))
    requests += [Request(prompt="".join(rng.choice(PARTS, 3000))) for _ in range(3)]
    assert_equals_oracle(EVERYTHING, requests)


@pytest.mark.parametrize(
    "size", [0, 1, 2, 3, 5, 62, 63, 64, 65, 127, 128, 4031, 4032, 4095, 4096, 4097, 8191, 8193]
)
def test_texts_around_the_ends_of_blocks_and_buffers_equal_the_oracle(size: int) -> None:
    rng = random.Random(size)
    texts = ["".join(rng.choice('ab 1.\n-`>"') for _ in range(size)), "é" * (size // 2), "中" * (size // 3)]
    texts += ["x" * size, " " * size, "\n" * size, ("0123456789" * (size // 10 + 1))[:size], "`" * size]
    texts += [(" " * 70 + "- x\n" + "1" * 70 + ". x\n" + ">" + "y" * 130 + "\n") * (size // 200 + 1)]
    assert_equals_oracle(TEXT, [Request(prompt=text) for text in texts])


def test_every_byte_counts_as_in_the_oracle_alone_and_after_every_kind_of_byte() -> None:
    characters = [
        chr(i) for i in (*range(0x250), *range(0x250, 0x11000, 97), *range(0xD700, 0xE100, 13), 0x10FFFF)
    ]
    requests = [Request(prompt=c) for c in characters]
    requests += [Request(prompt=f"{before}{after}7") for before in SIGNS for after in SIGNS]
    assert_equals_oracle(TEXT, requests)


def raw(text: str, name: str) -> float:
    """One statistic, not scaled, as the encoder computes it."""
    scale = {f"stat.{name}": (0.0, 1e-3)}
    spec = FeatureSpec(tags=0, tenant=0, scripts=0, statistics=True, fitted=Fitted(scales=scale))
    x = encode_all(spec, [Request(prompt=text)])[0][0]
    return round(float(x[spec.columns.index(f"stat.{name}")]) / (1e-3 * block_scales(spec)["stat"]), 4)


@pytest.mark.parametrize("indent", ["", " ", "\t", " " * 8, " " * 90])
@pytest.mark.parametrize(
    ("name", "line", "counted"),
    [
        *[
            ("lists", line, 1)
            for line in ("- a", "+ a", "* b", "# c", "1. e", "12) f", "1234. g", "5)", "- ")
        ],
        *[("lists", line, 0) for line in ("-a", "*b*", "1 . d", "-", "7", "123", "", "x", "? j", "(1) a")],
        *[("options", line, 1) for line in ("B) h", "c. i", "(d) j", "(4) k", "(e)", "a.")],
        *[("options", line, 0) for line in ("ab) e", "(ab) f", "(-) g", "(h", "(", "x", "é. k", "1) a")],
        *[("tables", line, 1) for line in ("| a | b |", "|")],
        *[("tables", line, 0) for line in ("a | b", "")],
        *[("keywords", line, 1) for line in ("def f(x):", "function g() {", "func h()", "SELECT a FROM b")],
        *[("keywords", line, 0) for line in ("define", "select a", "a def b", "defunct")],
    ],
)
def test_what_begins_a_line_is_recognised_whatever_its_indentation(
    name: str, line: str, counted: int, indent: str
) -> None:
    assert raw(f"Intro: x\n{indent}{line}\nand then", name) == counted
    assert raw(f"{indent}{line}", name) == counted


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("arithmetic", "12 + 3", naive.log2p(2)),
        ("arithmetic", "12  + x", 0.0),
        ("arithmetic", "7*8", naive.log2p(2)),
        ("latex", "\\frac{a}{b} \\ x", 1.0),
        ("json", '{"a": 1, "b" : 2}', 1.0),
        ("urls", "see https://a.b and ftp://c", naive.log2p(2)),
        ("fences", "```x``` ````", naive.log2p(3)),
        ("questions", "a? b？ c؟", naive.log2p(3)),
        ("lines", "a\nb\nc", naive.log2p(2)),
        ("quoted", 'ab "cd" ef', round(math.sqrt(3 / 10), 4)),
        ("quoted", "> ab\ncd", round(math.sqrt(4 / 7), 4)),
        ("log_words", "one two, three", naive.log2p(3)),
        ("indentation", "a\n  b\n\tc", naive.log2p(2)),
    ],
)
def test_a_statistic_says_what_its_name_says(name: str, text: str, expected: float) -> None:
    assert raw(text, name) == round(expected, 4)


def test_repetition_grows_with_every_copy_of_a_text_and_ignores_its_length() -> None:
    rng = random.Random(3)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(600)]
    prose = raw(" ".join(words), "repetition")
    assert abs(prose - raw(" ".join(words[:150]), "repetition")) < 0.7
    copies = [raw(" ".join(words[:20] * k), "repetition") for k in (1, 4, 16)]
    assert copies[0] < copies[1] - 1 < copies[2] - 2


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("latin", "plain and é"),
        ("latin", "3 + 4 = 7"),
        ("cyrillic", "Как дела"),
        ("cjk", "请用中文かな한국"),
        ("arabic", "مرحبا"),
        ("devanagari", "नमस्ते"),
        ("other", "γειά ไทย שלום"),
    ],
)
def test_letters_are_counted_by_script(script: str, text: str) -> None:
    spec = FeatureSpec(**NOTHING | {"scripts": 6})
    x = encode_all(spec, [Request(prompt=text), Request(prompt="plain")])[0]
    at = spec.columns.index(f"script.{script}")
    assert not x[1, 1:].any()  # plain English is zeros, so that it costs nothing
    if script == "latin":
        assert not x[0, 1:].any()
    else:
        assert x[0, at] > 0
        assert x[0, 1] < 0
        assert (x[0, 2:] != 0).sum() == 1


# -- deterministic ----------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(requests_strategy, st.data())
def test_a_context_does_not_depend_on_the_split_into_batches(
    requests: list[Request], data: st.DataObject
) -> None:
    spec = EVERYTHING
    whole, whole_tokens = encode_all(spec, requests)
    cut = data.draw(st.integers(0, len(requests)))
    left, right = encode_all(spec, requests[:cut]), encode_all(spec, requests[cut:])
    assert np.concatenate([left[0], right[0]]).tobytes() == whole.tobytes()
    assert np.concatenate([left[1], right[1]]).tobytes() == whole_tokens.tobytes()
    encoder = Encoder(spec)
    alone = [encoder.encode(request) for request in requests]
    assert b"".join(x.tobytes() for x in alone) == whole.tobytes()


def test_a_batch_of_many_runs_and_bare_prompts_give_the_same_contexts() -> None:
    rng = random.Random(8)
    prompts = ["".join(rng.choices(PARTS, k=rng.randrange(40))) for _ in range(1000)]
    requests = [Request(prompt=prompt) for prompt in prompts]
    whole, tokens = encode_all(TEXT, requests)
    alone = np.concatenate([encode_all(TEXT, requests[i : i + 7])[0] for i in range(0, 1000, 7)])
    assert whole.tobytes() == alone.tobytes()
    out, counted = np.empty_like(whole), np.empty_like(tokens)
    Encoder(TEXT).encode_prompts(tuple(prompts), out, counted)
    assert out.tobytes() == whole.tobytes()
    assert counted.tobytes() == tokens.tobytes()
    full = np.empty((1000, EVERYTHING.d), np.float32)
    Encoder(EVERYTHING).encode_prompts(prompts, full)
    assert full.tobytes() == encode_all(EVERYTHING, requests)[0].tobytes()


def golden_contexts() -> list[dict[str, Any]]:
    """What the golden file holds, computed anew."""
    cases = json.loads(GOLDEN.read_text())["cases"]
    for case in cases:
        spec = FeatureSpec.from_dict(case["spec"])
        fields = dict(case["request"])
        if fields.get("messages") is not None:
            fields["messages"] = [Message(**message) for message in fields["messages"]]
        out, tokens = encode_all(spec, [Request(**fields)])
        case |= {"spec_id": spec.spec_id, "context": out[0].tolist(), "tokens": tokens[0]}
    return cases


def test_golden_contexts_of_version_2_never_change() -> None:
    assert golden_contexts() == json.loads(GOLDEN.read_text())["cases"]


def run_elsewhere(code: str, **environment: str) -> str:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'features'}", **environment},
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    return done.stdout


CHECK_GOLDEN = (
    "import importlib.util, json\n"
    f"spec = importlib.util.spec_from_file_location('t', {__file__!r})\n"
    "t = importlib.util.module_from_spec(spec); import sys; sys.modules['t'] = t; spec.loader.exec_module(t)\n"
    "print(t.golden_contexts() == json.loads(t.GOLDEN.read_text())['cases'])\n"
    "r = [t.Request(prompt=''.join(t.PARTS) * k) for k in (1, 7, 40)]\n"
    "print(t.encode_all(t.EVERYTHING, r)[0].tobytes().hex())\n"
)


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["generic", "x86-64-v3"])
def test_a_machine_without_wide_vectors_computes_the_same_bits(cpu: str) -> None:
    import platform

    if cpu.startswith("x86") and platform.machine() not in {"x86_64", "AMD64"}:
        pytest.skip("an x86 processor is compiled for")
    right, there = run_elsewhere(CHECK_GOLDEN, NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="").split()
    requests = [Request(prompt="".join(PARTS) * k) for k in (1, 7, 40)]
    assert right == "True"
    assert there == encode_all(EVERYTHING, requests)[0].tobytes().hex()


def test_another_process_with_another_hash_seed_gives_the_same_bytes() -> None:
    code = (
        "from types import SimpleNamespace as R\n"
        "from banditroute_features import *\n"
        "r = R(prompt='one\\ntwo 3+4?', messages=None, tenant='t', tags=['a', 'b'], input_tokens=None)\n"
        "print(Encoder(FeatureSpec(chars=32, words=16)).encode(r).tobytes().hex())\n"
    )
    request = Request(prompt="one\ntwo 3+4?", tenant="t", tags=["a", "b"])
    here = Encoder(FeatureSpec(chars=32, words=16)).encode(request)
    for hash_seed in ("1", "2"):
        assert run_elsewhere(code, PYTHONHASHSEED=hash_seed).strip() == here.tobytes().hex()


# -- total and bounded ------------------------------------------------------------------------------------


def squared_norm_bound(spec: FeatureSpec) -> float:
    """The largest squared norm that the clips leave."""
    factor, bound = block_scales(spec), 1.0
    for block in BLOCK_FIELDS:
        width, f = spec.width(block), factor[block] ** 2
        if block in ("tag", "tenant", "session", "language", "cross"):
            bound += f * width * TAG_CLIP**2
        elif block in ("numeric", "stat", "script", "chat", "context"):
            bound += f * width * CLIP**2
        else:  # unit vectors, and embeddings with a norm of 2 at most
            bound += f * (4.0 if block == "embedding" else 1.0)
    return bound


HARD = [
    "",
    "\x00",
    "\ud800",
    "7",
    "?",
    "A",
    "{",
    "1+",
    "\n",
    "\n  ",
    "\n- x",
    "中",
    "😀",
    "a",
    " ",
    "`",
    '"',
    "\n> ",
]


@pytest.mark.parametrize(
    "spec", [FeatureSpec(), EVERYTHING, FeatureSpec(tags=1, tenant=1, statistics=1, seed=9)]
)
def test_any_input_gives_a_finite_context_of_bounded_norm(spec: FeatureSpec) -> None:
    wild: dict[str, Any] = {"tags": ["same"] * 1000, "tenant": "t", "context": [math.inf, -1e308, math.nan]}
    requests = [Request(prompt=text * 5000, embedding=(1e-300, 1e150), **wild) for text in HARD]
    requests += [Request(messages=[Message("user", text * 5000)] * 50, **wild) for text in HARD]
    requests += [
        Request(embedding=values) for values in ((math.inf,), (1e308,) * 9, (5e-324,), (0.0,), (1.0,) * 999)
    ]
    out, tokens = encode_all(spec, requests)
    assert np.isfinite(out).all()
    assert np.isfinite(tokens).all()
    assert (tokens >= 0).all()
    assert ((out.astype(float) ** 2).sum(axis=1) <= squared_norm_bound(spec) * (1 + 1e-6)).all()
    assert (out[:, 0] == 1).all()


def test_an_ordinary_context_has_a_norm_of_about_one_beside_the_intercept() -> None:
    rng = random.Random(4)
    words = ["what", "is", "the", "number", "of", "these", "letters", "and", "does", "it", "matter", "Anna"]
    words += ["in", "town,", "who", "said", "so.", "Then", "people", "there", "had", "been", "waiting", "3"]
    requests = [
        Request(prompt=" ".join(rng.choices(words, k=rng.randrange(20, 120))) + ending, tags=[tag])
        for tag in ("maths", "chat", "code")
        for ending in (".", "?", "?\nA) 1 + 2\nB) 3\nC) 4", "\n\nHow many?")
        for _ in range(20)
    ]
    for spec in (FeatureSpec(), FeatureSpec.of_size(64), FeatureSpec(chars=32, words=16)):
        z = encode_all(spec, requests)[0][:, 1:].astype(float)
        assert 0.4 < (z * z).sum(axis=1).mean() < 1.6


@pytest.mark.parametrize("unit", ["\n        ", "\n(", "\n12", "a", "a ", "\ud800", "中", '"', "`", "\n>"])
def test_a_prompt_of_ten_times_the_bytes_takes_about_ten_times_as_long_whatever_it_holds(unit: str) -> None:
    encoder = Encoder(TEXT)

    def seconds(length: int) -> float:
        request = Request(prompt=unit * (length // len(unit)))
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            encoder.encode(request)
            best = min(best, time.perf_counter() - start)
        return best

    # Quadratic time would be a factor of 100; 40 leaves room for caches and a busy machine.
    assert seconds(1_000_000) < 40 * seconds(100_000)


@pytest.mark.parametrize("prompt", ["x" * 10_000_000, "ab 中\n" * 2_000_000], ids=["ascii", "mixed"])
def test_a_prompt_of_ten_megabytes_is_encoded_without_a_copy(prompt: str) -> None:
    encoder = Encoder(EVERYTHING)
    request = Request(prompt=prompt)
    encoder.encode(request)
    tracemalloc.start()
    x = encoder.encode(request)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.isfinite(x).all()
    assert peak < 50_000


def test_a_batch_allocates_nothing_per_request() -> None:
    encoder = Encoder(FeatureSpec(chars=16, words=8))
    requests = [
        WireRequest(request_id=str(i), prompt=f"{i} é " * 100, tags=("a", "b"), tenant="t")
        for i in range(4000)
    ]
    out, tokens = np.empty((4000, encoder.spec.d), np.float32), np.empty(4000)

    def peak(n: int) -> int:
        some, into, counts = requests[:n], out[:n], tokens[:n]
        tracemalloc.start()
        encoder.encode_batch(some, into, counts)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    encoder.encode_batch(requests, out, tokens)
    assert peak(4000) - peak(300) < 1000  # less than a byte per request


def test_nothing_of_a_request_is_kept() -> None:
    encoder = Encoder(EVERYTHING)
    prompt = "secret " * 1000
    request = Request(prompt=prompt, tags=["t"], messages=[Message("user", prompt)])
    before = sys.getrefcount(prompt)
    encoder.encode(request)
    encoder.encode_batch([request] * 600, np.empty((600, EVERYTHING.d), np.float32))
    assert sys.getrefcount(prompt) == before
    workspace = encoder._spare[0]
    assert not any(item is not None for item in workspace.slots)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": 7},
        {"prompt": b"bytes"},
        {"tags": None},
        {"tags": [1, None, "a"]},
        {"tenant": 9},
        {"input_tokens": "12"},
        {"input_tokens": 3.5},
        {"embedding": 5},
        {"embedding": [[1.0], [2.0]]},
        {"context": "abc"},
        {"session_id": 1, "language": b"x", "hour": "noon", "max_output_tokens": []},
        {"messages": []},
        {"messages": [Message("user", None), Message("assistant", 3)]},
        {"messages": [Message(7, "x")]},  # type: ignore[arg-type]
    ],
)
def test_an_attribute_of_a_wrong_type_counts_as_missing_and_never_crashes(fields: dict[str, Any]) -> None:
    for spec in (FeatureSpec(), EVERYTHING):
        out, tokens = encode_all(spec, [Request(prompt="before"), Request(**fields), Request(prompt="after")])
        assert np.isfinite(out).all()
        assert np.isfinite(tokens).all()
        alone = encode_all(spec, [Request(prompt="before"), Request(prompt="after")])[0]
        assert out[[0, 2]].tobytes() == alone.tobytes()


def test_threads_may_share_an_encoder() -> None:
    encoder = Encoder(TEXT)
    prompts = [("".join(random.Random(i).choices(PARTS, k=60))) for i in range(8)]
    expected = [encoder.encode(Request(prompt=prompt)).tobytes() for prompt in prompts]
    wrong: list[int] = []

    def work(i: int) -> None:
        requests = [Request(prompt=prompts[i])] * 50
        for _ in range(20):
            out = np.empty((50, TEXT.d), np.float32)
            encoder.encode_batch(requests, out)
            if any(row.tobytes() != expected[i] for row in out):
                wrong.append(i)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


# -- blocks -----------------------------------------------------------------------------------------------


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
