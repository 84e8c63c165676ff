"""A provider answers with a snapshot, a prefix or another case: it is our model if that is clear."""

from __future__ import annotations

import json

import pytest

from banditroute import Router, errors
from banditroute.catalog import Catalog, Model
from banditroute.flow.copying.copier import Copier
from banditroute.flow.copying.partitioner import PartitionerWatch
from banditroute.flow.records.kafka_records import InputRecord


def catalog(*names: str, **aliases: tuple[str, ...]) -> Catalog:
    """A catalog of models with these names; aliases by name."""
    return Catalog(
        Model(name=name, input_usd_per_mtok=1.0, output_usd_per_mtok=1.0, aliases=aliases.get(name, ()))
        for name in names
    )


@pytest.mark.parametrize(
    ("names", "reported", "model"),
    [
        (("gpt-4o", "gpt-4o-mini"), "gpt-4o-2024-08-06", "gpt-4o"),
        (("gpt-4o", "gpt-4o-mini"), "gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        (("gpt-4o", "gpt-4o-mini"), "OpenAI/GPT-4o", "gpt-4o"),
        (("gpt-4o",), "openrouter/openai/gpt-4o-2024-08-06", "gpt-4o"),
        (("gpt-4",), "gpt-4-0613", "gpt-4"),
        (("claude-sonnet-4",), "claude-sonnet-4-20250514", "claude-sonnet-4"),
        (("claude-sonnet-4",), "claude-sonnet-4@20250514", "claude-sonnet-4"),
        (("claude-3-5-sonnet",), "anthropic/claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
        (("openai/gpt-4o",), "gpt-4o", "openai/gpt-4o"),
        (("gpt-4o-2024-08-06",), "gpt-4o", "gpt-4o-2024-08-06"),
        (("gpt-4o", "gpt-4o-2024-05-13"), "gpt-4o-2024-08-06", "gpt-4o"),
        (("gpt-4o", "gpt-4o-2024-05-13"), "openai/gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        (("gpt-4o", "openai/gpt-4o"), "openai/gpt-4o-2024-05-13", "openai/gpt-4o"),
    ],
)
def test_a_reported_name_is_the_model_that_it_can_only_mean(
    names: tuple[str, ...], reported: str, model: str
) -> None:
    assert catalog(*names).resolve(reported) == model


@pytest.mark.parametrize(
    ("names", "reported", "candidates"),
    [
        (("openai/gpt-4o", "azure/gpt-4o"), "gpt-4o", ("openai/gpt-4o", "azure/gpt-4o")),
        (("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"), "gpt-4o", ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06")),
        (("GPT-4o", "gpt-4o"), "Gpt-4o", ("GPT-4o", "gpt-4o")),
        (("gpt-4o-2024-05-13",), "gpt-4o-2024-08-06", ()),
        (("azure/gpt-4o",), "openai/gpt-4o", ()),
        (("gpt-4",), "gpt-4o", ()),
        (("model",), "model-1000", ()),
        (("small",), "smaller", ()),
    ],
)
def test_a_name_that_is_not_clear_is_no_model(
    names: tuple[str, ...], reported: str, candidates: tuple[str, ...]
) -> None:
    assert catalog(*names).resolve(reported) == candidates


def test_an_alias_is_a_name_as_good_as_the_first() -> None:
    models = catalog("small", "large", small=("acme/tiny", "tiny-v2"))
    assert (
        models.resolve("tiny-v2") == models.resolve("Tiny-V2") == models.resolve("tiny-2024-01-01") == "small"
    )


def test_an_alias_of_two_models_is_an_error() -> None:
    with pytest.raises(errors.ConfigError, match="an alias names one model"):
        catalog("small", "large", small=("large",))


def test_the_journal_holds_our_name() -> None:
    copier = Copier(catalog("gpt-4o", "a/m", "b/m"), PartitionerWatch("any", 1), {}, lambda _id, _tenant: 0)
    votes = [
        json.dumps({"request_id": "r", "kind": "score", "value": 1, "model": model}).encode()
        for model in ("openai/gpt-4o-2024-08-06", "m", "unheard-of")
    ]
    batch = copier.copy(0, [InputRecord(i, 0, None, vote) for i, vote in enumerate(votes)])
    [record] = batch.targets[0]
    assert json.loads(record.value)["feedback"]["model"] == "gpt-4o"
    ambiguous, unknown = [refused.reason for refused in batch.poison]
    assert "a/m or b/m" in ambiguous
    assert "not in the catalog" in unknown


def test_the_library_learns_under_our_name() -> None:
    model = {"name": "gpt-4o", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
    router = Router.from_dict({"models": [model]})
    for name in "ab":
        router.decide({"request_id": name, "prompt": "x"})
    vote = {"kind": "score", "value": 1, "model": "gpt-4o-2024-08-06"}
    assert router.learn({"request_id": "a", **vote}) == "applied"
    assert router.learn_many([{"request_id": "b", **vote}]) == ["applied"]
    with pytest.raises(errors.InputError, match="not in the catalog"):
        router.learn({"request_id": "a", **vote, "model": "gpt-5"})
