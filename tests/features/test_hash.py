"""Rules of the hashes: which n-grams there are, and how often names and n-grams collide."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banditroute_features import Encoder, FeatureSpec
from tests import naive_features as naive

NOTHING = {"tags": 0, "tenant": 0, "statistics": 0, "scripts": 0}


def encode_tags(columns: int, tags: list[str], seed: int = 0) -> np.ndarray:
    spec = FeatureSpec(**NOTHING | {"tags": columns, "seed": seed})
    requests = [
        SimpleNamespace(prompt=None, messages=None, tenant=None, tags=(tag,), input_tokens=None)
        for tag in tags
    ]
    out = np.empty((len(tags), spec.d), np.float32)
    Encoder(spec).encode_batch(requests, out)
    return out[:, 1:]


@pytest.mark.parametrize("columns", [8, 12, 20, 64])
@pytest.mark.parametrize("style", ["task-{}", "{}", "team/{}/summarise", "分类{}"])
def test_tags_collide_as_often_as_balls_in_bins(columns: int, style: str) -> None:
    tags = [style.format(i) for i in range(20)]
    pairs = len(tags) * (len(tags) - 1) / 2
    same_column, same_sign, seeds = [], [], 200
    for seed in range(seeds):
        z = encode_tags(columns, tags, seed)
        at = np.abs(z).argmax(axis=1)
        signs = z[np.arange(len(tags)), at] > 0
        equal = np.triu(at[:, None] == at[None], 1)
        same_column.append(equal.sum() / pairs)
        same_sign.append((equal & (signs[:, None] == signs[None])).sum() / pairs)
    # Pairs within a seed are pairwise independent, so the mean over seeds has at most this standard error.
    error = np.sqrt(1 / columns / pairs / seeds)
    assert abs(np.mean(same_column) - 1 / columns) < 5 * error
    assert abs(np.mean(same_sign) - 1 / (2 * columns)) < 5 * error


@pytest.mark.parametrize("columns", [12, 20, 32, 64])
@pytest.mark.parametrize("number", [3, 10, 30, 66])
def test_the_share_of_tags_that_have_a_column_to_themselves_is_as_expected(columns: int, number: int) -> None:
    tags, seeds = [f"task {i}" for i in range(number)], 200
    alone = []
    for seed in range(seeds):
        at = np.abs(encode_tags(columns, tags, seed)).argmax(axis=1)
        count = Counter(at.tolist())
        alone.append(sum(count[column] == 1 for column in at.tolist()) / number)
    theory = (1 - 1 / columns) ** (number - 1)
    assert abs(np.mean(alone) - theory) < 5 * np.sqrt(theory * (1 - theory) / number / seeds) + 0.01


def test_tag_columns_and_signs_are_spread_evenly() -> None:
    out = encode_tags(12, [f"task {i}" for i in range(12_000)])
    per_column = (out != 0).sum(axis=0)
    assert ((per_column - 1000) ** 2 / 1000).sum() < 31.3  # chi-squared with 11 degrees: 0.1 %
    assert abs((out > 0).sum() - 6000) < 3.3 * np.sqrt(3000)


def gram_places(seed: int, grams: list[bytes]) -> list[tuple[int, int]]:
    keys = naive.gram_keys(seed)
    return [naive.gram_place(gram, keys) for gram in grams]


def test_n_grams_collide_no_more_often_than_in_the_theory_of_multilinear_hashing() -> None:
    rng = random.Random(5)
    letters = b"etaoinshrdlu 0123"
    grams = sorted({bytes(rng.choices(letters, k=rng.choice((3, 4, 5)))) for _ in range(300)})
    pairs = len(grams) * (len(grams) - 1) / 2
    rates = []
    for seed in range(60):
        places = Counter(gram_places(seed, grams))
        rates.append(sum(k * (k - 1) / 2 for k in places.values()) / pairs)
    assert np.mean(rates) < 1.15 / 128  # 64 columns with a sign; strongly universal up to the odd keys


def test_signs_of_n_grams_cancel_so_that_dot_products_are_kept_on_average() -> None:
    texts = ["the old mill by the river", "the old miller by the sea", "print(x[0]) # code"]
    counts = [Counter(naive.character_grams(text.encode())) for text in texts]
    exact = np.array([[sum(a[g] * b[g] for g in a) for b in counts] for a in counts], float)
    found = []
    for seed in range(400):
        rows = []
        for count in counts:
            row = np.zeros(64)
            for (column, sign), k in zip(gram_places(seed, list(count)), count.values(), strict=True):
                row[column] += sign * k
            rows.append(row)
        found.append(np.array(rows) @ np.array(rows).T)
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - exact) < 5 * error + 1e-9).all()


ascii_text = st.text(st.sampled_from("abcXYZ09 .,-\n\t"), max_size=80)


@given(ascii_text)
def test_the_n_grams_are_those_of_scikit_learn(text: str) -> None:
    sklearn = pytest.importorskip(
        "sklearn.feature_extraction.text", reason="scikit-learn is a peer of the bench"
    )
    analyze = sklearn.HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5)).build_analyzer()
    assert Counter(gram.encode() for gram in analyze(text)) == Counter(naive.character_grams(text.encode()))


def test_a_unit_of_n_grams_counts_every_gram_once_with_its_sign() -> None:
    spec = FeatureSpec(**NOTHING | {"chars": 64})
    out = np.empty((1, 65), np.float32)
    Encoder(spec).encode_prompts(["ab"], out)
    grams = [b" ab", b"ab ", b" ab "]
    expected = np.zeros(64)
    for column, sign in gram_places(0, grams):
        expected[column] += sign
    assert np.allclose(out[0, 1:], expected / np.linalg.norm(expected))
