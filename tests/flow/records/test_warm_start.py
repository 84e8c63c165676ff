"""A prior file from a data set: what it holds, when it is refused, and that it is only ever added."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from banditroute import ConfigError, Router, cli
from banditroute.bandit.choice.policy import Policy
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, RowKey, Vote
from banditroute.bandit.evidence.row_layout import TOK_N, N
from banditroute.bandit.posterior.posterior import ModelPrior, derive
from banditroute.flow.records.warm_start import decode_warm_start, encode_warm_start
from banditroute_features import FeatureSpec

KEYS = [ModelKey("small"), ModelKey("large")]
SPEC, D = "0123456789abcdef", 3
BLOCKS = [(0, 1), (1, D)]


def evidence(seed: int, votes: int = 30) -> Evidence:
    rng, made = np.random.default_rng(seed), Evidence(D)
    for i in range(votes):
        x = rng.normal(0.0, 0.5, D).astype(np.float32)
        x[0] = 1.0
        made.add(KEYS[i % 2], x, Vote(float(rng.random()), output_tokens=float(rng.integers(1, 900))), 0.5)
    return made


def decode(data: bytes, keys: Any = KEYS, spec: str = SPEC, d: int = D) -> Any:
    return decode_warm_start(data, "prior.json", spec, d, keys)


def test_a_file_gives_back_every_bit_and_the_same_evidence_gives_the_same_file() -> None:
    made = evidence(1)
    data = encode_warm_start(made, SPEC, 100.0)
    warm = decode(data)
    assert warm.evidence == made
    assert (warm.cold, warm.ignored) == ([], [])
    assert data == encode_warm_start(made.copy(), SPEC, 100.0)
    assert warm.digest != decode(encode_warm_start(evidence(2), SPEC, 100.0)).digest


def test_a_model_that_the_catalog_does_not_have_is_ignored_and_one_that_the_file_does_not_have_is_cold() -> (
    None
):
    data = encode_warm_start(evidence(1), SPEC, 100.0)
    warm = decode(data, [ModelKey("large"), ModelKey("new"), ModelKey("small", 1)])
    assert list(warm.evidence.rows) == [RowKey("large")]
    assert (warm.cold, warm.ignored) == (["new", "small"], ["small"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"[]", "was not written by"),
        (lambda data: data[:-20], "was not written by"),
        (lambda data: data.replace(b'"votes":100.0', b'"votes":101.0'), "does not match its digest"),
        (lambda data: data.replace(b'"version":1', b'"version":2'), "version 2; this build reads 1"),
    ],
)
def test_a_damaged_file_is_refused_with_a_sentence(change: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(change(encode_warm_start(evidence(1), SPEC, 100.0)))


def test_a_file_of_another_spec_is_refused() -> None:
    data = encode_warm_start(evidence(1), SPEC, 100.0)
    message = "fitted under the feature spec 0123456789abcdef, and this configuration has ffff"
    with pytest.raises(ConfigError, match=message):
        decode(data, spec="ffff")


def test_the_posterior_is_that_of_the_sum() -> None:
    warm, own = evidence(1), evidence(2)
    models = [ModelPrior(key) for key in KEYS]
    policy = Policy(models, BLOCKS, warm=warm)
    first = derive(warm, models, BLOCKS)
    assert policy.posterior.mu.tobytes() == first.mu.tobytes()
    both = derive(Evidence.merge([warm, own]), models, BLOCKS)
    assert policy.derive(own).mu.tobytes() == both.mu.tobytes()
    assert policy.derive(own).mu.tobytes() == both.mu.tobytes()  # and nothing is added twice
    assert warm == evidence(1)
    assert own == evidence(2)


MODELS = [
    {"name": "small", "input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4},
    {"name": "large", "input_usd_per_mtok": 2.0, "output_usd_per_mtok": 8.0},
    {"name": "new", "input_usd_per_mtok": 2.0, "output_usd_per_mtok": 8.0},
]
TABLE = "".join(
    f'[[models]]\nname = "{m["name"]}"\ninput_usd_per_mtok = {m["input_usd_per_mtok"]}\n'
    f"output_usd_per_mtok = {m['output_usd_per_mtok']}\n"
    for m in MODELS
)


def data_set(folder: Path, prompts: int = 40) -> Path:
    pa = pytest.importorskip("pyarrow", reason="data sets are parquet files")
    from pyarrow import parquet

    ids = [str(i) for i in range(prompts)]
    parquet.write_table(
        pa.table({"id": ids, "prompt": [f"prompt {i}" for i in ids]}), folder / "prompts.parquet"
    )
    columns: dict[str, list[Any]] = {
        "id": [],
        "model": [],
        "quality": [],
        "cost_usd": [],
        "output_tokens": [],
    }
    for name, quality in (("small", 0.1), ("large", 0.95), ("other", 0.5)):
        columns["id"] += ids
        columns["model"] += [name] * prompts
        columns["quality"] += [quality] * prompts
        columns["cost_usd"] += [0.001] * prompts
        columns["output_tokens"] += [200.0] * prompts
    parquet.write_table(pa.table(columns), folder / "outcomes.parquet")
    return folder


def command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["banditroute", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_fit_prior_writes_a_file_that_a_router_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, prior = tmp_path / "banditroute.toml", tmp_path / "prior.json"
    config.write_text(TABLE, encoding="utf-8")
    fit = ("fit-prior", data_set(tmp_path), "-c", config, "-o", prior)
    assert command(monkeypatch, *fit, "--votes", 10, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["models"], report["cold"], report["votes"]) == (["small", "large"], ["new"], 10)

    document = {"models": MODELS, "learning": {"prior": str(prior)}}
    router = Router.from_dict(document)
    assert router.posterior.n.tolist() == pytest.approx([10.0, 10.0, 0.0])
    posterior = router.posterior
    told = posterior.mu @ posterior.xbar  # what it expects of a mean prompt
    assert told[1] > 0.8
    assert told[0] < 0.3 < told[2] < told[1]
    assert router.evidence == Evidence(FeatureSpec().d)
    warm = decode(prior.read_bytes(), spec=report["spec_id"], d=FeatureSpec().d)
    row = warm.evidence.rows[RowKey(*KEYS[0])]
    assert row[N] == pytest.approx(10.0)
    assert row[TOK_N] == pytest.approx(10.0)
    decision = router.decide({"request_id": "a", "prompt": "b"})
    assert decision.posterior_version == f"0+0~{warm.digest}"
    router.decide({"request_id": "b", "prompt": "c"})
    for request in "ab":
        router.learn({"request_id": request, "kind": "score", "value": 1.0})
    assert float(router.posterior.n.sum()) == pytest.approx(22.0)

    with pytest.raises(ConfigError, match="fitted under the feature spec"):
        Router.from_dict({**document, "features": {"tags": 4}})
    with pytest.raises(ConfigError, match=r"learning.prior: cannot read 'none.json': No such file"):
        Router.from_dict({"models": MODELS, "learning": {"prior": "none.json"}})


def test_fit_prior_refuses_what_it_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "banditroute.toml"
    config.write_text(TABLE.replace("small", "x").replace("large", "y"), encoding="utf-8")
    data = data_set(tmp_path)
    assert command(monkeypatch, "fit-prior", data, "-c", config, "-o", tmp_path / "prior.json") == 2
    assert "knows no model of the catalog" in capsys.readouterr().err
    config.write_text(TABLE, encoding="utf-8")
    assert command(monkeypatch, "fit-prior", data, "-c", config, "-o", tmp_path / "none" / "prior.json") == 2
    assert "cannot write" in capsys.readouterr().err
    assert command(monkeypatch, "fit-prior", tmp_path / "none", "-c", config, "-o", tmp_path / "p.json") == 2
    assert "outcomes.parquet" in capsys.readouterr().err
