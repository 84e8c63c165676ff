"""Rules of the encoder: the same bits everywhere, total, bounded, and blind to its neighbours."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.events import Request as WireRequest
from banditroute_features import Encoder, FeatureSpec
from banditroute_features.columns import BLOCK_FIELDS, CLIP, TAG_CLIP, block_scales
from tests.feature_cases import EVERYTHING, PARTS, TEXT, Message, Request, encode_all, requests_strategy

GOLDEN = Path(__file__).parents[1] / "golden" / "features_v2.json"


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
            start = time.thread_time()
            encoder.encode(request)
            best = min(best, time.thread_time() - start)
        return best

    # Quadratic time would be a factor of 100; 40 leaves room for caches and a busy machine.
    assert seconds(10_000_000) < 40 * seconds(1_000_000)


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
        {"tags": 7},
        {"tags": {"a": 1}},
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
        {"messages": [Message([], "x")]},  # type: ignore[arg-type]
        {"messages": 5},
        {"messages": "abc"},
        {"messages": {"role": "user"}},
        {"messages": [None, "x", 3]},
        {"hour": math.nan, "input_tokens": object(), "embedding": {"a"}, "context": {1: 2}},
    ],
)
def test_an_attribute_of_a_wrong_type_counts_as_missing_and_never_crashes(fields: dict[str, Any]) -> None:
    for spec in (FeatureSpec(), EVERYTHING):
        out, tokens = encode_all(spec, [Request(prompt="before"), Request(**fields), Request(prompt="after")])
        assert np.isfinite(out).all()
        assert np.isfinite(tokens).all()
        alone = encode_all(spec, [Request(prompt="before"), Request(prompt="after")])[0]
        assert out[[0, 2]].tobytes() == alone.tobytes()


def test_a_request_may_be_a_mapping_or_have_only_some_of_the_attributes() -> None:
    chat = [Message("system", "Be brief."), Message("user", "Why?")]
    fields: dict[str, Any] = {
        "messages": chat,
        "tags": ["a"],
        "hour": 5,
        "embedding": [1.0, 2.0],
        "context": [0.5],
    }
    x = encode_all(EVERYTHING, [Request(**fields)])[0].tobytes()
    plain = fields | {"messages": [{"role": m.role, "content": m.content} for m in chat]}
    for request in (plain, SimpleNamespace(**plain), SimpleNamespace(**fields)):
        assert encode_all(EVERYTHING, [request])[0].tobytes() == x
    assert encode_all(EVERYTHING, [{}, 7, None])[0].tolist() == [[1.0] + [0.0] * (EVERYTHING.d - 1)] * 3
    one_tag = encode_all(EVERYTHING, [Request(tags="code"), Request(tags=("code",))])[0]
    assert one_tag[0].tobytes() == one_tag[1].tobytes()


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
