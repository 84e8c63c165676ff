"""The command line: status 0 is done, 2 is bad input with one sentence on stderr; never a traceback."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from banditroute import cli

MODEL = """
[[models]]
name = "small"
input_usd_per_mtok = 0.1
output_usd_per_mtok = 0.4
"""
NO_BROKER = '[kafka]\nbootstrap_servers = "127.0.0.1:1"\nstartup_timeout = "1s"\n'


class Result(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command in this process, as the entry point does."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["banditroute", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return call


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """Write a configuration."""

    def write(text: str, name: str = "banditroute.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(result: Result, *parts: str) -> None:
    """Status 2, nothing on stdout, one sentence at the end of stderr that says all of this."""
    assert result.status == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    sentence = result.err.splitlines()[-1]
    assert sentence.startswith("banditroute: ")
    for part in parts:
        assert part in sentence


def test_init_prints_the_annotated_example(run: Any, file: Any) -> None:
    result = run("init")
    assert result.status == 0
    assert result.out == resources.files("banditroute").joinpath("example.toml").read_text(encoding="utf-8")
    assert result.err == ""


@pytest.mark.parametrize("verb", [["run"], ["check"], ["topics", "create"], ["control", "price"]])
def test_a_configuration_that_cannot_be_used_is_one_sentence(
    run: Any, file: Any, tmp_path: Path, verb: list[str]
) -> None:
    rest = ["small", 1, 2] if verb == ["control", "price"] else []

    def with_config(path: Path) -> Result:
        return run(*verb, "-c", path, *rest)

    refused(with_config(tmp_path / "none.toml"), "cannot read the configuration", "none.toml")
    refused(with_config(tmp_path), "cannot read the configuration")
    refused(with_config(file("a = = 1")), "not valid TOML", "line 1")
    refused(with_config(file("")), "the catalog is empty")
    refused(with_config(file(MODEL + "[engin]\n")), "unknown key 'engin'", "did you mean 'engine'?")
    refused(with_config(file(MODEL + "[kafka]\ngrp = 1\n")), "unknown key 'kafka.grp'", "kafka.group")
    refused(with_config(file(MODEL + "[engine]\nmax_batch = 0\n")), "engine.max_batch", "at least 1")


@pytest.mark.parametrize(
    "verb", [["run"], ["run", "--init"], ["check"], ["check", "--json"], ["topics", "create"]]
)
def test_no_broker_is_told_after_the_start_up_bound(run: Any, file: Any, verb: list[str]) -> None:
    result = run(*verb, "-c", file(MODEL + NO_BROKER))
    refused(result, "no broker answered at 127.0.0.1:1 within 1 s", "kafka.bootstrap_servers")


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ('[kafka]\nstartup_timeout = "1s"\nbootstrap_servers = "host:port"\n', "kafka.bootstrap_servers"),
        ('[kafka]\nstartup_timeout = "1s"\nsecurity_protocol = "SASL_SSL"\n', "kafka.sasl_username"),
        ('[kafka]\nsecurity_protocol = "SSL"\nssl_cafile = "/nowhere/ca.pem"\n', "kafka.ssl_cafile"),
        ('[kafka]\nsecurity_protocol = "SSL"\nssl_cafile = "pyproject\\u0000"\n', "kafka.ssl_cafile"),
        (f'[kafka]\nsecurity_protocol = "SSL"\nssl_cafile = "{__file__}"\n', "kafka.ssl_cafile"),
        ("[features]\ntagz = 1\n", "'tagz'"),
        ("[features]\ntags = 300\n", "features.tags"),
    ],
)
def test_what_only_shows_at_the_start_is_one_sentence_too(run: Any, file: Any, table: str, part: str) -> None:
    refused(run("check", "-c", file(MODEL + table)), part)


def test_a_price_of_a_model_that_is_not_in_the_catalog_is_refused(run: Any, file: Any) -> None:
    refused(run("control", "price", "-c", file(MODEL), "large", 1, 2), "model 'large'", "small")


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_pause_of_a_model_that_is_not_in_the_catalog_is_refused(run: Any, file: Any, verb: str) -> None:
    refused(run("control", verb, "-c", file(MODEL), "large"), "model 'large'", "small")


@pytest.mark.parametrize("price", ["nan", "inf", "1e13"])
def test_a_price_that_no_engine_would_take_is_refused(run: Any, file: Any, price: str) -> None:
    config = file(MODEL + NO_BROKER)
    result = run("control", "price", "-c", config, "small", price, 2)
    assert result.status == 2
    assert "no broker" not in result.err
    refused(result, "INPUT_USD_PER_MTOK", "from 0 to 1000000", f"{float(price):g}")
    refused(run("control", "price", "-c", config, "small", 2, price), "OUTPUT_USD_PER_MTOK")
    refused(run("control", "price", "-c", config, "--", "small", -1, 2), "INPUT_USD_PER_MTOK", "got -1")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["check"], ["check", "-c"], ["run", "--no-such-flag"], ["topics"], []]
)
def test_bad_usage_is_status_2_without_a_traceback(run: Any, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.status == 2
    assert "Traceback" not in result.err
    assert "Error: " in result.err or "Usage: " in result.err + result.out


def test_help_names_every_verb(run: Any) -> None:
    result = run("--help")
    assert result.status == 0
    for verb in ("init", "run", "check", "topics", "control", "demo", "traffic", "features"):
        assert verb in result.out


# -- features -------------------------------------------------------------------------------------------


def test_features_show_lists_the_columns_of_a_configuration(run: Any, file: Any) -> None:
    assert run("features", "show").out.splitlines()[0].endswith(", 32 columns")
    shown = run("features", "show", "--json", "-c", file(MODEL + "[features]\ntags = 3\ntenant = 0\n"))
    assert (shown.status, shown.err) == (0, "")
    assert [row["name"] for row in json.loads(shown.out)["columns"]][:5] == [
        "intercept",
        "tag.0",
        "tag.1",
        "tag.2",
        "stat.log_tokens",
    ]


@pytest.mark.parametrize(
    "prompt", ["def f(x): return x", "把这段代码翻译成 Python：排序算法", "", "\udcff", "🙂"]
)
def test_features_explain_shows_what_becomes_of_a_prompt(run: Any, prompt: str) -> None:
    explained = run("features", "explain", "--prompt", prompt, "--tag", "代码")
    assert (explained.status, explained.err) == (0, "")
    assert "stat.log_tokens" in explained.out
    assert " tag 0." in explained.out
    found = json.loads(run("features", "explain", "--json", "--prompt", prompt).out)
    assert found["columns"]["intercept"] == 1.0
    assert not any(name.startswith("tag") for name in found["columns"])


def test_features_explain_reads_standard_input(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def standard_input(raw: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii"))

    given = run("features", "explain", "--json", "--prompt", "你好").out
    standard_input("你好".encode())
    assert run("features", "explain", "--json", "--prompt", "-").out == given
    standard_input(b"a\xff")
    refused(run("features", "explain", "--prompt", "-"), "standard input", "UTF-8", "0xff")
    standard_input('{"request_id": "r", "prompt": "你好"}'.encode())
    assert run("features", "explain", "--json", "--request", "-").out == given


def test_features_explain_refuses_what_is_no_request(run: Any, file: Any, tmp_path: Path) -> None:
    explain = ("features", "explain")
    refused(run(*explain, "--request", tmp_path / "none.json"), "cannot read", "none.json", "No such file")
    refused(run(*explain, "--request", tmp_path), "cannot read", "directory")
    refused(run(*explain, "--request", file("{}", "r.json")), "r.json", "request_id")
    refused(run(*explain, "--prompt", "a", "--tenant", "x" * 300), "tenant", "256")
    refused(run(*explain, "--prompt", "a", "-c", tmp_path / "none.toml"), "cannot read the configuration")
    for arguments in ([], ["--prompt", "a", "--request", "b"], ["--request", "b", "--tag", "c"]):
        result = run(*explain, *arguments)
        assert (result.status, result.out) == (2, "")
        assert result.err.splitlines()[-1].startswith("Error: ")


def test_features_fit_writes_a_file_that_the_configuration_can_name(
    run: Any, file: Any, tmp_path: Path
) -> None:
    prompts = ["def f(x): return x", "把这段代码翻译成 Python", "What is 2 + 2?\n" * 9]
    lines = [json.dumps({"request_id": str(i), "prompt": prompt}) for i, prompt in enumerate(prompts)]
    data, fitted = file("\n".join(lines), "requests.jsonl"), tmp_path / "fit.json"
    done = run("features", "fit", data, "-o", fitted, "--json")
    assert (done.status, done.err) == (0, "")
    report = json.loads(done.out)
    assert report["requests"] == 3
    config = file(f'{MODEL}[features]\nfitted = "{fitted}"\n')
    assert json.loads(run("features", "show", "--json", "-c", config).out)["spec_id"] == report["spec_id"]
    refused(run("features", "fit", data, "-o", tmp_path / "none" / "fit.json"), "cannot write", "fit.json")
    fitted.write_text("[]", encoding="utf-8")
    refused(run("features", "show", "-c", config), "features.fitted", "fit.json")


def test_features_fit_refuses_a_data_set_that_cannot_be_read(run: Any, file: Any, tmp_path: Path) -> None:
    def fitting(data: Path, *more: object) -> Result:
        return run("features", "fit", data, "-o", tmp_path / "fit.json", *more)

    def row(number: int, embedding: list[float]) -> str:
        return json.dumps({"request_id": str(number), "prompt": "a", "embedding": embedding})

    refused(fitting(tmp_path / "none.jsonl"), "cannot read", "none.jsonl", "No such file")
    refused(fitting(file("\n", "empty.jsonl")), "empty.jsonl", "at least one request")
    refused(fitting(file('{"request_id": "a", "prompt": "b"}\n{]\n', "bad.jsonl")), "bad.jsonl: line 2")
    config = file(MODEL + "[features]\nembedding = 2\n")
    ragged = file(f"{row(0, [1.0, 2.0])}\n{row(1, [3.0])}\n", "ragged.jsonl")
    refused(fitting(ragged, "-c", config), "ragged.jsonl", "expected one length, got 1 and 2")
    few = file(row(0, [1.0, 2.0]), "few.jsonl")
    refused(fitting(few, "-c", config), "few.jsonl", "2 components")
    assert not (tmp_path / "fit.json").exists()


def test_features_fit_refuses_a_table_that_holds_no_prompts(run: Any, file: Any, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="data sets are parquet files")
    from pyarrow import parquet

    def table(columns: dict[str, list[Any]]) -> Path:
        path = tmp_path / "prompts.parquet"
        parquet.write_table(pyarrow.table(columns), path)
        return path

    def fitting(data: Path) -> Result:
        return run("features", "fit", data, "-o", tmp_path / "fit.json")

    refused(fitting(tmp_path), "cannot read", "prompts.parquet", "No such file")
    refused(fitting(file("no table", "bad.parquet")), "cannot read", "bad.parquet")
    refused(fitting(table({"text": ["a"]})), "prompts.parquet", "a column 'prompt', found text")
    refused(fitting(table({"prompt": ["a", None]})), "prompts.parquet", "row 1")
    refused(fitting(table({"prompt": ["a"], "embedding": ["x"]})), "row 0", "embedding")
    assert fitting(table({"prompt": ["a", "你好"], "task": ["t", None]})).status == 0
    assert fitting(tmp_path).status == 0


# -- secrets and the program ----------------------------------------------------------------------------


def test_secrets_do_not_appear_in_errors(run: Any, file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDITROUTE_TEST_PASSWORD", "hunter2")
    security = 'security_protocol = "SASL_PLAINTEXT"\nsasl_username = "router"\n'
    password = 'sasl_password = { env = "BANDITROUTE_TEST_PASSWORD" }\n'
    result = run("check", "-c", file(MODEL + NO_BROKER + security + password))
    refused(result, "no broker answered")
    assert "hunter2" not in result.err


def test_the_program_itself_ends_with_status_2_and_one_sentence(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(str(root / folder) for folder in (".", "features", "sim"))
    done = subprocess.run(
        [sys.executable, "-c", "from banditroute.cli import main; main()", "check", "-c", "none.toml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "banditroute: cannot read the configuration none.toml: No such file or directory\n"


def test_json_is_one_object_and_nothing_else(run: Any, file: Any, kafka_bootstrap: str) -> None:
    prefix = f"cli-{os.getpid()}-"
    names = ("requests", "feedback", "decisions", "journal", "state", "control", "dead_letter", "alerts")
    topics = "".join(f'{name} = "{prefix}{name}"\n' for name in names)
    kafka = f'[kafka]\nbootstrap_servers = "{kafka_bootstrap}"\ngroup = "{prefix}group"\npartitions = 2\n'
    config = file(f"{MODEL}{kafka}[kafka.topics]\n{topics}")

    refused(run("check", "--json", "-c", config), "does not exist", "topics create")
    created = run("topics", "create", "--json", "-c", config)
    assert (created.status, created.err) == (0, "")
    done = json.loads(created.out)["done"]
    assert sum("created topic" in line for line in done) == len(names)
    assert sum("genesis" in line for line in done) == 2
    assert json.loads(run("topics", "create", "--json", "-c", config).out) == {"done": []}
    assert run("topics", "create", "-c", config).out == "everything is there already\n"

    checked = run("check", "--json", "-c", config)
    assert (checked.status, checked.err) == (0, "")
    assert checked.out.count("\n") == 1
    found = json.loads(checked.out)
    assert found["ok"] is True
    assert found["partitions"] == 2
    assert found["models"] == ["small"]
    plain = run("check", "-c", config)
    assert plain.status == 0
    assert "spec_id" in plain.out

    for number in range(2):
        price = run("control", "price", "--json", "-c", config, "small", 1, 2)
        assert json.loads(price.out) == {"control": number, "model": "small", "warnings": []}
