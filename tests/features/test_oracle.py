"""Rules of the encoder: every context equals the naive oracle, and every statistic says what its name says."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute_features import FeatureSpec, Fitted
from banditroute_features.columns import block_scales
from tests import naive_features as naive
from tests.feature_cases import (
    EVERYTHING,
    NOTHING,
    PARTS,
    SIGNS,
    TEXT,
    Request,
    assert_equals_oracle,
    encode_all,
    requests_strategy,
    specs,
)


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
