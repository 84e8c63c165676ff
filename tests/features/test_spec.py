"""Rules of the spec: what it names, what it refuses, and that its digest stays."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import banditroute_features
from banditroute_features import Block, FeatureSpec, Fitted
from banditroute_features.columns import BLOCK_FIELDS, block_scales

EVERY_BLOCK = FeatureSpec(
    tags=4,
    tenant=3,
    session=2,
    language=2,
    hour=2,
    cross=5,
    numeric=2,
    statistics=True,
    scripts=True,
    chat=True,
    chars=16,
    words=8,
    embedding=6,
    context=3,
)


def test_the_public_names_are_exactly_these() -> None:
    assert banditroute_features.__all__ == [
        "Block",
        "Encoder",
        "FeatureSpec",
        "Fitted",
        "Message",
        "RequestLike",
        "TokenRatio",
    ]
    assert all(hasattr(banditroute_features, name) for name in banditroute_features.__all__)


@pytest.mark.parametrize(
    "module", ["", ".columns", ".compile", ".encoder", ".fitted", ".fitting", ".protocol", ".spec", ".tokens"]
)
def test_the_examples_in_the_docstrings_run(module: str) -> None:
    found = importlib.import_module("banditroute_features" + module)
    assert doctest.testmod(found).failed == 0


def test_the_default_spec_has_32_columns_in_five_blocks() -> None:
    spec = FeatureSpec()
    assert spec.d == len(spec.columns) == len(set(spec.columns)) == 32
    assert spec.blocks == (
        Block("intercept", 0, 1),
        Block("tag", 1, 21),
        Block("tenant", 21, 23),
        Block("stat", 23, 31),
        Block("script", 31, 32),
    )
    assert [spec.columns[i] for i in (0, 4, 23, 31)] == [
        "intercept",
        "tag.3",
        "stat.log_tokens",
        "script.latin",
    ]


def test_every_block_can_be_had_and_blocks_cover_the_columns_without_gaps() -> None:
    blocks = EVERY_BLOCK.blocks
    assert [block.name for block in blocks[1:]] == list(BLOCK_FIELDS)
    assert [block.start for block in blocks[1:]] == [block.stop for block in blocks[:-1]]
    assert blocks[-1].stop == EVERY_BLOCK.d == len(set(EVERY_BLOCK.columns))
    assert all(
        name.startswith(f"{block.name}.")
        for block in blocks[1:]
        for name in EVERY_BLOCK.columns[block.start : block.stop]
    )


def test_a_block_that_is_switched_off_has_no_columns_and_leaves_its_share_to_the_others() -> None:
    spec = FeatureSpec(tags=12, tenant=0, statistics=False, scripts=False)
    assert spec.blocks == (Block("intercept", 0, 1), Block("tag", 1, 13))
    scales = block_scales(spec)
    assert scales.pop("tag") == 1.0
    assert set(scales.values()) == {0.0}
    assert FeatureSpec(tags=0, tenant=0, statistics=0, scripts=0).d == 1


@pytest.mark.parametrize("d", range(8, 257))
def test_any_number_of_columns_from_8_to_256_can_be_had(d: int) -> None:
    spec = FeatureSpec.of_size(d)
    assert spec.d == d
    assert spec.width("tag") >= 4
    assert spec.width("stat") >= 2


def test_a_size_can_be_had_with_some_blocks_fixed_and_an_impossible_one_is_refused() -> None:
    spec = FeatureSpec.of_size(48, tags=4, embedding=16)
    assert (spec.d, spec.tags, spec.embedding) == (48, 4, 16)
    for d in (7, 257):
        with pytest.raises(ValueError, match=f"^features.d: expected an integer from 8 to 256, got {d}$"):
            FeatureSpec.of_size(d)
    with pytest.raises(ValueError, match=r"^features: 200 columns cannot hold exactly what is fixed"):
        FeatureSpec.of_size(200, tags=1)
    with pytest.raises(ValueError, match=r"^features: 8 columns cannot hold exactly what is fixed"):
        FeatureSpec.of_size(8, tags=20)


def test_a_configuration_may_say_how_many_columns_there_are_in_all() -> None:
    assert FeatureSpec.from_dict({"d": 32}) == FeatureSpec()
    spec = FeatureSpec.from_dict({"d": 64, "chars": 0, "language": 4, "seed": 3})
    assert (spec.d, spec.chars, spec.language, spec.seed) == (64, 0, 4, 3)
    assert FeatureSpec.from_dict(spec.to_dict()) == spec
    assert FeatureSpec.of_size(36, language=4) == FeatureSpec(language=4)


def test_a_spec_is_a_frozen_value_that_survives_a_round_trip() -> None:
    for spec in (FeatureSpec(tags=5, statistics=True, seed=2**63 - 1), EVERY_BLOCK):
        assert FeatureSpec.from_dict(spec.to_dict()) == spec
        assert FeatureSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
        assert hash(spec) == hash(FeatureSpec.from_dict(spec.to_dict()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVERY_BLOCK.tags = 6  # type: ignore[misc]


def test_the_spec_id_is_stable_and_differs_with_every_field() -> None:
    assert FeatureSpec().spec_id == FeatureSpec(scripts=1).spec_id == "dab3d899e122cdd6"
    others = [FeatureSpec(**{key: 4}) for key in ("tags", "tenant", "session", "language", "cross")]
    others += [FeatureSpec(**{key: 3}) for key in ("statistics", "scripts", "chat", "chars", "words")]
    others += [FeatureSpec(hour=2), FeatureSpec(numeric=1), FeatureSpec(embedding=3), FeatureSpec(context=2)]
    others += [FeatureSpec(seed=1), FeatureSpec(crosses=(("tag", "hour"),)), FeatureSpec(fitted=Fitted())]
    others += [FeatureSpec(fitted=Fitted(scales={"stat.code": (0.0, 1.0)}))]
    assert len({spec.spec_id for spec in [FeatureSpec(), *others]}) == 1 + len(others)


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"d": 7}, "features.d: expected an integer from 8 to 256, got 7"),
        ({"d": "64"}, "features.d: expected an integer from 8 to 256, got '64'"),
        ({"tags": -1}, "features.tags: expected an integer from 0 to 256, got -1"),
        ({"tags": True}, "features.tags: expected an integer from 0 to 256, got True"),
        ({"tenant": "3"}, "features.tenant: expected an integer from 0 to 256, got '3'"),
        ({"statistics": 24}, "features.statistics: expected true, false or an integer from 0 to 23, got 24"),
        ({"hour": 1}, "features.hour: expected true, false, 0 or 2, got 1"),
        ({"chars": 65}, "features.chars: expected an integer from 0 to 64, got 65"),
        ({"seed": 1.0}, "features.seed: expected an integer from 0 to 9223372036854775807, got 1.0"),
        (
            {"crosses": [["tag", "colour"]]},
            (
                "features.crosses: expected pairs of 'tag', 'tenant', 'session', 'language', 'hour', "
                "got [['tag', 'colour']]"
            ),
        ),
        ({"fitted": 7}, "features.fitted: expected the path of a file, got 7"),
        ({"tags": 200, "tenant": 200}, "features: expected at most 256 columns in all, got 410"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_sentence_that_names_it(
    mapping: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        FeatureSpec.from_dict(mapping)


def test_a_wrong_key_is_refused_in_one_sentence_with_the_nearest_one() -> None:
    with pytest.raises(
        ValueError, match=r"^features: unknown key 'statistic'; expected one of .* \(nearest: 'statistics'\)$"
    ):
        FeatureSpec.from_dict({"statistic": 3})
    with pytest.raises(ValueError, match=r"unknown key 'ω'; expected one of .* \(nearest: '\w+'\)"):
        FeatureSpec.from_dict({"ω": 1})


# -- fitted files -----------------------------------------------------------------------------------------


def test_a_fitted_file_is_named_by_its_content_and_not_by_its_place(tmp_path: Path) -> None:
    fitted = Fitted(scales={"stat.code": (0.1, 9.5)}, mean=(0.25, 0.0), components=((1.0, 0.1), (0.0, -1.0)))
    (tmp_path / "other").mkdir()
    paths = [tmp_path / "a.json", tmp_path / "other" / "b.json"]
    for path in paths:
        fitted.save(path)
    specs = [FeatureSpec.from_dict({"embedding": 2, "fitted": str(path)}) for path in paths]
    assert specs[0] == specs[1] == FeatureSpec(embedding=2, fitted=fitted)
    assert specs[0].spec_id == specs[1].spec_id == FeatureSpec(embedding=2, fitted=fitted).spec_id
    assert specs[0].to_dict()["fitted"] == str(paths[0])
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "cannot read"),
        ("[]", "was not written by `banditroute features fit`"),
        ('{"version": 2, "scales": {}, "mean": [], "components": []}', "was not written by"),
        ('{"version": 1, "scales": {"a": [1]}, "mean": [], "components": []}', "not enough values"),
        (
            '{"version": 1, "scales": {"a": [1, NaN]}, "mean": [], "components": []}',
            "centre and gain for 'a'",
        ),
        ('{"version": 1, "scales": {}, "mean": [1], "components": [[1e300]]}', "finite numbers up to 1e"),
        ('{"version": 1, "scales": {}, "mean": [1], "components": [[1, 2]]}', "rows of one length"),
        ('{"version": 1, "scales": [], "mean": [1], "components": [[1]]}', "'list' object"),
    ],
)
def test_a_broken_fitted_file_is_refused_in_one_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "fit.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"^features.fitted: ") as caught:
        FeatureSpec(fitted=str(path))  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_a_fitted_file_that_is_not_there_or_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^features.fitted: cannot read '.*no\.json'"):
        FeatureSpec(fitted=str(tmp_path / "no.json"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^features.embedding: expected at most the 1 components"):
        FeatureSpec(embedding=2, fitted=Fitted(mean=(0.0,), components=((1.0,),)))
