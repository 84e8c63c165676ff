"""Rules of fitting, of the calibration of tokens, and of the command line of features."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from banditroute.cli.features import features_app
from banditroute.errors import ConfigError, DataSetError
from banditroute_features import Encoder, FeatureSpec, Fitted, TokenRatio
from banditroute_features.fitting import Principal, fit_projection, fit_scales, tags_alone
from tests import naive_features as naive

rng = np.random.default_rng(6)
WORDS = ["one", "two?", "3 + 4", "Five", "{six}", "seven\n", "- eight"]
PROMPTS = [" ".join(rng.choice(WORDS, rng.integers(1, 60))) for _ in range(400)]


def requests_of(prompts: list[str], **more: Any) -> list[Any]:
    base = {"messages": None, "tenant": None, "tags": (), "input_tokens": None}
    return [SimpleNamespace(prompt=prompt, **base | more) for prompt in prompts]


def test_fitted_scales_standardise_the_columns_of_the_data_set() -> None:
    spec = FeatureSpec(tags=0, tenant=0, scripts=0, statistics=12)
    fitted = FeatureSpec(
        tags=0, tenant=0, scripts=0, statistics=12, fitted=Fitted(fit_scales(spec, requests_of(PROMPTS)))
    )
    out = np.empty((len(PROMPTS), fitted.d), np.float32)
    Encoder(fitted).encode_prompts(PROMPTS, out)
    z = out[:, 1:] / np.sqrt(1 / (0.7 * 12))
    moving = [i for i, name in enumerate(fitted.columns[1:]) if name in fitted.fitted.scales]
    assert len(moving) >= 8
    assert np.abs(z[:, moving].mean(axis=0)).max() < 0.05  # a little is cut at 3
    assert np.abs(z[:, moving].std(axis=0) - 1).max() < 0.15


@pytest.mark.parametrize("seed", [0, 1])
def test_tags_with_a_column_to_themselves_are_counted(seed: int) -> None:
    names = [f"task {i}" for i in range(30)]
    columns = [naive.hashed(name, seed, "tag", 20)[0] for name in names]
    expected = sum(columns.count(column) == 1 for column in columns)
    assert tags_alone(FeatureSpec(embedding=4, seed=seed), [*names, *names]) == (30, expected)
    assert tags_alone(FeatureSpec(tags=0), names) == (30, 0)
    assert tags_alone(FeatureSpec(), []) == (0, 0)


def test_a_column_that_stands_still_keeps_its_fixed_scale() -> None:
    scales = fit_scales(FeatureSpec(statistics=True, scripts=True), requests_of(PROMPTS))
    assert "stat.log_bytes" in scales
    assert not {"stat.urls", "script.cjk", "script.latin"} & set(scales)
    assert fit_scales(FeatureSpec(), []) == {}


def test_the_projection_is_that_of_a_principal_component_analysis() -> None:
    data = rng.standard_normal((500, 4)) @ rng.standard_normal((4, 12)) + 0.5
    mean, components = fit_projection(data.tolist(), 3)
    unit = data / np.linalg.norm(data, axis=1, keepdims=True)
    assert np.allclose(mean, unit.mean(axis=0), atol=1e-6)
    _, _, right = np.linalg.svd(unit - unit.mean(axis=0))
    w = np.array(components)
    directions = w / np.linalg.norm(w, axis=1, keepdims=True)
    assert np.allclose(np.abs((directions * right[:3]).sum(axis=1)), 1, atol=1e-5)
    spec = FeatureSpec(
        tags=0, tenant=0, statistics=0, scripts=0, embedding=3, fitted=Fitted({}, mean, components)
    )
    out = np.empty((500, 4), np.float32)
    requests = [
        SimpleNamespace(**vars(r) | {"embedding": tuple(e)})
        for r, e in zip(requests_of([""] * 500), data.tolist(), strict=True)
    ]
    Encoder(spec).encode_batch(requests, out)
    assert np.allclose(
        (out[:, 1:].astype(float) ** 2).sum(axis=1).mean(), 1.0, atol=0.05
    )  # E|z|^2 = 1, little is cut
    assert np.abs(out[:, 1:].mean(axis=0)).max() < 0.05


def test_components_do_not_depend_on_the_batches_and_leave_out_what_says_nothing() -> None:
    data = rng.standard_normal((300, 8)).tolist()
    whole, parts = Principal(), Principal()
    whole.add(data)
    for start in range(0, 300, 70):
        parts.add([*data[start : start + 70], [0.0] * 8, [float("nan")] * 8])
    assert np.allclose(whole.components(2)[1], parts.components(2)[1], atol=1e-6)
    assert parts.count == 300
    with pytest.raises(ValueError, match=r"^embeddings: expected 8 numbers each, got 3$"):
        parts.add([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match=r"^embeddings: 9 components need as many .*, got 300 of 8$"):
        parts.components(9)
    with pytest.raises(ValueError, match=r"got 0 of 0$"):
        Principal().components(1)


# -- tokens -----------------------------------------------------------------------------------------------

reports = st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), max_size=20)


@given(reports, st.randoms())
def test_token_evidence_is_additive_in_any_order_and_can_be_taken_back(
    pairs: list[Any], shuffle: Any
) -> None:
    whole = TokenRatio()
    for actual, estimated in pairs:
        whole = whole.with_report(actual, estimated)
    shuffled = pairs[:]
    shuffle.shuffle(shuffled)
    left, right = TokenRatio(), TokenRatio()
    for i, pair in enumerate(shuffled):
        left, right = (left.with_report(*pair), right) if i % 2 else (left, right.with_report(*pair))
    assert (left + right).ratio == pytest.approx(whole.ratio)
    for pair in pairs:
        whole = whole.with_report(*pair, weight=-1)
    assert whole.ratio == pytest.approx(1.0)


def test_the_ratio_goes_from_one_to_what_the_model_reports() -> None:
    ratio, seen = TokenRatio(), []
    for _ in range(200):
        seen.append(ratio.ratio)
        ratio = ratio.with_report(actual=240, estimated=200)
    assert seen[0] == 1.0
    assert seen == sorted(seen)
    assert 1.19 < ratio.ratio < 1.2
    assert (
        ratio.with_report(0, 5)
        == ratio.with_report(float("nan"), 5)
        == ratio.with_report(5, float("inf"))
        == ratio
    )


# -- the command line -------------------------------------------------------------------------------------

CONFIG = """
[[models]]
name = "m"
input_usd_per_mtok = 1.0
output_usd_per_mtok = 1.0
[features]
"""


def run(*arguments: str, text: str | None = None) -> dict[str, Any]:
    result = CliRunner().invoke(features_app, [*arguments, "--json"], input=text, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_show_lists_every_column(tmp_path: Path) -> None:
    assert [row["name"] for row in run("show")["columns"]] == list(FeatureSpec().columns)
    config = tmp_path / "c.toml"
    config.write_text(CONFIG + "tags = 4\nstatistics = true\nhour = true\n")
    shown = run("show", "-c", str(config))
    assert shown["d"] == FeatureSpec(tags=4, statistics=True, hour=2).d == len(shown["columns"])
    assert shown["spec_id"] == FeatureSpec(tags=4, statistics=True, hour=2).spec_id
    plain = CliRunner().invoke(features_app, ["show"]).stdout
    assert len(plain.splitlines()) == 33


def test_explain_names_the_columns_that_are_not_zero(tmp_path: Path) -> None:
    found = run("explain", "--prompt", "What is 2 + 2?", "--tag", "maths", "--tenant", "acme")
    x = Encoder(FeatureSpec()).encode(
        SimpleNamespace(
            prompt="What is 2 + 2?", messages=None, tenant="acme", tags=["maths"], input_tokens=None
        )
    )
    assert found["columns"] == {n: float(v) for n, v in zip(FeatureSpec().columns, x, strict=True) if v}
    assert set(found["squared_norm"]) == {"tag", "tenant", "stat"}
    assert run("explain", "--prompt", "-", text="What is 2 + 2?")["tokens"] == found["tokens"]
    event = tmp_path / "event.json"
    event.write_text(
        json.dumps({"request_id": "r", "prompt": "What is 2 + 2?", "tags": ["maths"], "tenant": "acme"})
    )
    assert run("explain", "--request", str(event))["columns"] == found["columns"]
    plain = CliRunner().invoke(features_app, ["explain", "--prompt", "Hi"]).stdout
    assert "stat.log_tokens" in plain


def test_explain_wants_one_source_and_a_request_that_can_be_read(tmp_path: Path) -> None:
    for arguments in ([], ["--prompt", "a", "--request", "b"]):
        result = CliRunner().invoke(features_app, ["explain", *arguments])
        assert result.exit_code == 2
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    for path, error in ((bad, DataSetError), (tmp_path / "none.json", DataSetError)):
        with pytest.raises(error):
            run("explain", "--request", str(path))


def test_fit_writes_a_file_that_a_configuration_can_name(tmp_path: Path) -> None:
    lines = [
        json.dumps({"request_id": str(i), "prompt": prompt, "embedding": rng.standard_normal(5).tolist()})
        for i, prompt in enumerate(PROMPTS)
    ]
    data, fitted, config = tmp_path / "requests.jsonl", tmp_path / "fit.json", tmp_path / "c.toml"
    data.write_text("\n".join(lines) + "\n\n")
    config.write_text(CONFIG + "embedding = 3\n")
    report = run("fit", str(data), "-o", str(fitted), "-c", str(config))
    assert (report["requests"], report["components"], report["dimension"]) == (400, 3, 5)
    config.write_text(CONFIG + f'embedding = 3\nfitted = "{fitted}"\n')
    assert run("show", "-c", str(config))["spec_id"] == report["spec_id"] != FeatureSpec(embedding=3).spec_id
    again = tmp_path / "again.json"
    run("fit", str(data), "-o", str(again), "-c", str(config))
    assert again.read_bytes() == fitted.read_bytes()


def test_fit_reads_a_data_set_folder(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="data sets are parquet files")
    from pyarrow import parquet

    table = pyarrow.table({"id": list(map(str, range(400))), "prompt": PROMPTS, "task": ["t", "u"] * 200})
    parquet.write_table(table, tmp_path / "prompts.parquet")
    report = run("fit", str(tmp_path), "-o", str(tmp_path / "fit.json"))
    assert (report["tags"], report["tags_alone"]) == (2, 2)
    assert report["scales"] == len(Fitted.load(tmp_path / "fit.json").scales) > 4


@pytest.mark.parametrize("content", ["", "{}\n", "not json\n"])
def test_fit_refuses_a_data_set_that_it_cannot_use(tmp_path: Path, content: str) -> None:
    data = tmp_path / "requests.jsonl"
    data.write_text(content)
    with pytest.raises(DataSetError):
        run("fit", str(data), "-o", str(tmp_path / "fit.json"))
    with pytest.raises(DataSetError, match="cannot read"):
        run("fit", str(tmp_path), "-o", str(tmp_path / "fit.json"))


def test_a_wrong_features_table_is_one_sentence(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(CONFIG + "tags = -1\n")
    with pytest.raises(ConfigError, match=r"\[features\]: features.tags: expected"):
        run("show", "-c", str(config))
