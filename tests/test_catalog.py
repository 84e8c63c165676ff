"""The catalog: names are unique, and what a request asks for decides who may serve it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from banditroute.catalog import MAX_MODELS, Catalog, Model
from banditroute.errors import ConfigError
from banditroute.events import Request


def model(name: str, **fields: Any) -> Model:
    """A model with prices."""
    return Model(name=name, input_usd_per_mtok=1.0, output_usd_per_mtok=2.0, **fields)


def request(**fields: Any) -> Request:
    """A request that asks for nothing else."""
    return Request(request_id="r", prompt="x", **fields)


CATALOG = Catalog(
    [
        model("small", capabilities=("json",), tags=("cheap",), context_window=1000),
        model("large", capabilities=("json", "vision"), tags=("strong", "eu")),
        model("local", tags=("cheap", "eu")),
    ]
)


def eligible(tokens: float = 10.0, catalog: Catalog = CATALOG, **fields: Any) -> list[str]:
    """Names of the models that may serve a request."""
    flags = catalog.eligible(request(**fields), tokens)
    return [name for name, flag in zip(catalog.names, flags, strict=True) if flag]


def test_a_catalog_keeps_the_order_it_was_given() -> None:
    assert CATALOG.names == ("small", "large", "local")
    assert [entry.name for entry in CATALOG] == ["small", "large", "local"]
    assert len(CATALOG) == 3
    assert "small" in CATALOG
    assert "Small" not in CATALOG
    assert None not in CATALOG


def test_an_empty_catalog_is_refused() -> None:
    with pytest.raises(ConfigError, match="the catalog is empty: add at least one"):
        Catalog([])


def test_two_models_of_one_name_are_refused_also_with_other_generations() -> None:
    with pytest.raises(ConfigError, match="two models are named 'a'"):
        Catalog([model("a"), model("b"), model("a", generation=1)])


@pytest.mark.parametrize(
    ("likes", "message"),
    [
        ({"a": "bb"}, "model 'a' is like 'bb', which is not in the catalog; did you mean 'b'?"),
        ({"a": "zz"}, "model 'a' is like 'zz', which is not in the catalog; models are: a, b, c"),
        ({"a": "a"}, "models are like each other in a circle: 'a' is like 'a'; take one `like` out"),
        (
            {"a": "b", "b": "c", "c": "b"},
            "models are like each other in a circle: 'b' is like 'c' is like 'b'; take one `like` out",
        ),
    ],
)
def test_a_likeness_that_leads_nowhere_or_in_a_circle_is_refused(likes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Catalog([model(name, like=likes.get(name)) for name in "abc"])
    assert str(caught.value) == message


def test_a_model_starts_from_a_declared_quality_or_from_another_model_but_not_from_both() -> None:
    with pytest.raises(ConfigError, match="has both like and prior_quality"):
        Catalog([model("a"), model("b", like="a", prior_quality=0.5)])


def test_a_model_may_be_like_one_that_is_like_another_in_any_order() -> None:
    Catalog([model("a", like="b"), model("b", like="c"), model("c")])


def test_a_catalog_has_a_largest_size() -> None:
    assert len(Catalog([model(f"m{i}") for i in range(MAX_MODELS)])) == MAX_MODELS
    with pytest.raises(ConfigError, match=f"at most {MAX_MODELS}"):
        Catalog([model(f"m{i}") for i in range(MAX_MODELS + 1)])


def test_names_are_bounded_in_bytes() -> None:
    Catalog([model("é" * 128)])
    with pytest.raises(ConfigError, match=r"models\[1\].name has more than 256 bytes"):
        Catalog([model("a"), model("é" * 129)])


def test_a_request_that_asks_for_nothing_may_go_anywhere() -> None:
    assert eligible() == ["small", "large", "local"]


@pytest.mark.parametrize(
    ("needs", "names"),
    [
        (["json"], ["small", "large"]),
        (["json", "vision"], ["large"]),
        (["audio"], []),
        ([], ["small", "large", "local"]),
    ],
)
def test_needs_are_all_met(needs: list[str], names: list[str]) -> None:
    assert eligible(needs=tuple(needs)) == names


@pytest.mark.parametrize(
    ("allow", "names"),
    [
        (["small"], ["small"]),
        (["cheap"], ["small", "local"]),
        (["large", "cheap"], ["small", "large", "local"]),
        (["no"], []),
    ],
)
def test_allow_holds_names_or_tags(allow: list[str], names: list[str]) -> None:
    assert eligible(allow=tuple(allow)) == names


@pytest.mark.parametrize(
    ("deny", "names"),
    [(["small"], ["large", "local"]), (["eu"], ["small"]), (["no"], ["small", "large", "local"])],
)
def test_deny_holds_names_or_tags(deny: list[str], names: list[str]) -> None:
    assert eligible(deny=tuple(deny)) == names


def test_deny_wins_over_allow() -> None:
    assert eligible(allow=("cheap",), deny=("eu",)) == ["small"]
    assert eligible(allow=("small",), deny=("small",)) == []


def test_the_window_holds_input_and_output() -> None:
    assert "small" in eligible(tokens=1000.0)
    assert "small" not in eligible(tokens=1000.5)
    assert "small" in eligible(tokens=600.0, max_output_tokens=400)
    assert "small" not in eligible(tokens=600.0, max_output_tokens=401)


def test_only_a_catalog_without_windows_is_unrestricted() -> None:
    assert Catalog([model("a"), model("b", tags=("t",), paused=True)]).unrestricted
    assert not CATALOG.unrestricted


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"input_usd_per_mtok": -1},
        {"output_usd_per_mtok": "1"},
        {"output_usd_per_mtok": float("nan")},
        {"generation": -1},
        {"context_window": 0},
        {"prior_quality": 1.01},
        {"prior_latency_ms": 0},
        {"tags": "cheap"},
        {"prize": 1},
    ],
)
def test_wrong_values_of_a_model_are_refused(wrong: dict[str, Any]) -> None:
    right = {"name": "a", "input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
    msgspec.convert(right, Model)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(right | wrong, Model)
