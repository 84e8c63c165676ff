"""Rules of the spec: what it names, what it refuses, and that its digest stays."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import re
from typing import Any

import pytest

import banditroute_features
from banditroute_features import Block, FeatureSpec
from banditroute_features.columns import block_scales


def test_the_public_names_are_exactly_these() -> None:
    assert banditroute_features.__all__ == ["Block", "Encoder", "FeatureSpec", "Message", "RequestLike"]
    assert all(hasattr(banditroute_features, name) for name in banditroute_features.__all__)


@pytest.mark.parametrize(
    "module", ["", ".columns", ".compile", ".encoder", ".protocol", ".spec", "._kernels"]
)
def test_the_examples_in_the_docstrings_run(module: str) -> None:
    found = importlib.import_module("banditroute_features" + module)
    assert doctest.testmod(found).failed == 0


def test_the_default_spec_has_32_columns_in_four_blocks() -> None:
    spec = FeatureSpec()
    assert spec.d == len(spec.columns) == len(set(spec.columns)) == 32
    assert spec.blocks == (
        Block("intercept", 0, 1),
        Block("tag", 1, 13),
        Block("tenant", 13, 16),
        Block("stat", 16, 32),
    )
    assert [spec.columns[i] for i in (0, 4, 16)] == ["intercept", "tag.3", "stat.log_bytes"]


def test_a_block_that_is_switched_off_has_no_columns_and_leaves_its_share_to_the_others() -> None:
    spec = FeatureSpec(tenant=0, statistics=False)
    assert spec.blocks == (Block("intercept", 0, 1), Block("tag", 1, 13))
    assert block_scales(spec) == {"tag": 1.0, "tenant": 0.0, "stat": 0.0}
    assert FeatureSpec(tags=0, tenant=0, statistics=0).d == 1


def test_a_spec_is_a_frozen_value_that_survives_a_round_trip() -> None:
    spec = FeatureSpec(tags=5, statistics=True, seed=2**63 - 1)
    assert FeatureSpec.from_dict(spec.to_dict()) == spec == FeatureSpec(tags=5, statistics=16, seed=2**63 - 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.tags = 6  # type: ignore[misc]


def test_the_spec_id_is_stable_and_differs_with_every_field() -> None:
    assert FeatureSpec().spec_id == FeatureSpec(statistics=True).spec_id == "f7065f9caedd4eec"
    others = [FeatureSpec(tags=11), FeatureSpec(tenant=2), FeatureSpec(statistics=15), FeatureSpec(seed=1)]
    assert len({spec.spec_id for spec in [FeatureSpec(), *others]}) == 5


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        (
            {"statistic": 3},
            (
                "features: unknown key 'statistic'; expected one of 'tags', 'tenant', 'statistics', 'seed' "
                "(nearest: 'statistics')"
            ),
        ),
        ({"tags": -1}, "features.tags: expected an integer from 0 to 256, got -1"),
        ({"tags": True}, "features.tags: expected an integer from 0 to 256, got True"),
        ({"tenant": "3"}, "features.tenant: expected an integer from 0 to 256, got '3'"),
        ({"statistics": 17}, "features.statistics: expected true, false or an integer from 0 to 16, got 17"),
        ({"seed": 1.0}, "features.seed: expected an integer from 0 to 9223372036854775807, got 1.0"),
        ({"tags": 200, "tenant": 200}, "features: expected at most 256 columns in all, got 417"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_sentence_that_names_it(
    mapping: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        FeatureSpec.from_dict(mapping)


def test_a_key_that_resembles_nothing_is_still_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'ω'; expected one of .* \(nearest: '\w+'\)"):
        FeatureSpec.from_dict({"ω": 1})
