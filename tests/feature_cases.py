"""What the tests of the encoder share: requests, specs, and strategies for all that a request may hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from banditroute_features import Encoder, FeatureSpec, Fitted
from tests import naive_features as naive


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
