"""What `evaluate` makes of logs as people have them: read, or refused with a sentence, never half of it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from banditroute.cli import app
from banditroute.errors import DataSetError
from banditroute_features.fitted import Fitted
from banditroute_sim.evaluate.files import batches, find
from tests.sim.exported import records, write_lines
from tests.sim.sets import configuration, data_set

PROGRAM = [sys.executable, "-c", "from banditroute.cli import main; main()"]


def run(*arguments: object, code: int = 0) -> str:
    """Run the program; return what it printed, and demand its status."""
    done = subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, (done.returncode, done.stdout[-1500:], done.stderr[-1500:])
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def write_log(folder: Path, requests: int) -> None:
    write_lines(folder, *records(requests))


def thumbs_down_as_minus_one(folder: Path) -> None:
    """Make every fourth event of a log a thumb down, as many tools write it."""
    path = next(folder.glob("feedback*.jsonl"))
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for number, event in enumerate(events):
        event |= {"kind": "thumb", "value": -1 if number % 4 == 0 else 1}
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_an_evaluation_never_leaves_out_the_thumbs_down_in_silence(tmp_path: Path) -> None:
    write_log(tmp_path, 600)
    thumbs_down_as_minus_one(tmp_path)
    said = run("evaluate", "--log", tmp_path, "--policy", "logging", code=2)
    assert "150 of 600 feedback events cannot be used (150 x " in said
    assert "--allow-dropped 0.26" in said
    told = run("evaluate", "--log", tmp_path, "--policy", "logging", "--allow-dropped", "0.26")
    assert "dropped: 150 of 600 feedback events" in told
    found = json.loads(
        run("evaluate", "--log", tmp_path, "--policy", "logging", "--allow-dropped", "0.26", "--json")
    )
    assert (found["log"]["dropped"]["read"], found["log"]["dropped"]["dropped"]) == (600, 150)


def test_a_few_rows_that_cannot_be_used_are_counted_and_named(tmp_path: Path) -> None:
    write_log(tmp_path, 600)
    path = next(tmp_path.glob("feedback*.jsonl"))
    path.write_text(path.read_text() + '\n{"request_id": "r-1", "kind": "applause"}\n')
    found = json.loads(run("evaluate", "--log", tmp_path, "--policy", "logging", "--json"))
    (reason,) = found["log"]["dropped"]["reasons"]
    assert found["log"]["dropped"]["dropped"] == 1
    assert "$.kind" in reason


# -- tables with names, words and nothing ----------------------------------------------------------


def bandit(folder: Path, **columns: Any) -> None:
    rows = []
    for number in range(400):
        row = {
            "item_id": number % 2,
            "position": 1 + number % 3,
            "click": number % 5 == 0,
            "propensity_score": 0.5,
        }
        rows.append(row | {name: values[number % len(values)] for name, values in columns.items()})
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "columns",
    [
        {"item_id": ["gpt", "small"]},
        {"position": ["left", "middle", "right"]},
        {"position": [None, 1.0, 2.0]},
        {"position": [float("nan"), 1, 2]},
        {"click": ["True", "False"]},
        {"click": [1.0, 0.0]},
        {"item_id": [3.0, 4.0]},
        {"propensity_score": ["0.5"]},
    ],
)
def test_an_open_bandit_table_with_names_is_read(tmp_path: Path, columns: dict[str, Any]) -> None:
    bandit(tmp_path, **columns)
    found = json.loads(run("evaluate", "--log", tmp_path, "--policy", "uniform", "--json"))
    assert found["log"]["decisions"] == 400


@pytest.mark.parametrize("columns", [{"click": ["often"]}, {"propensity_score": ["half"]}, {"click": [{}]}])
def test_what_is_no_number_is_refused_with_a_sentence(tmp_path: Path, columns: dict[str, Any]) -> None:
    bandit(tmp_path, **columns)
    said = run("evaluate", "--log", tmp_path, "--policy", "uniform", code=2)
    assert "expected a number" in said


# -- files -------------------------------------------------------------------------------------------


def test_a_packed_file_that_is_cut_off_or_none_is_refused_with_its_name_and_the_place(tmp_path: Path) -> None:
    write_log(tmp_path, 300)
    plain = next(tmp_path.glob("feedback*.jsonl"))
    text = plain.read_bytes()
    plain.unlink()
    packed = tmp_path / "feedback.jsonl.gz"
    for data in (gzip.compress(text)[:-200], text, gzip.compress(text)[:200] + b"x" * 500, b""):
        packed.write_bytes(data)
        said = run("evaluate", "--log", tmp_path, "--policy", "logging", code=2)
        assert "feedback.jsonl.gz" in said


def test_shards_are_read_in_the_order_of_their_numbers_whatever_their_names(tmp_path: Path) -> None:
    write_log(tmp_path, 600)
    plain = next(tmp_path.glob("decisions*.jsonl"))
    lines = plain.read_text().splitlines(keepends=True)
    plain.unlink()
    for shard in range(12):
        (tmp_path / f"decisions-{shard}.ndjson").write_text("".join(lines[50 * shard : 50 * shard + 50]))
    assert [path.name for path in find(tmp_path, "decisions")][:3] == [
        "decisions-0.ndjson", "decisions-1.ndjson", "decisions-2.ndjson",
    ]  # fmt: skip
    found = json.loads(run("evaluate", "--log", tmp_path, "--policy", "logging", "--json"))
    assert (found["log"]["decisions"], found["log"]["left_out"]) == (600, {})


def test_a_byte_order_mark_and_a_cut_character_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": "\\ud83d"}\n{"a": NaN}\n')
    (rows,) = batches(path)
    assert [str(row["a"]).encode("utf-8", "replace") for row in rows] == [b"1", b"?", b"nan"]


def test_deep_nesting_and_long_numbers_are_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for line in (b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff\xfe"):
        path.write_bytes(line + b"\n")
        with pytest.raises(DataSetError, match="line 1"):
            list(batches(path))


# -- status ------------------------------------------------------------------------------------------


def test_a_defect_is_status_70_and_never_1(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "import banditroute.cli.entry as e; e.load = lambda *_: 1 / 0; e.main()"
    done = subprocess.run(
        [sys.executable, "-c", crash, "check", "-c", "any.toml"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr
    assert CliRunner().invoke(app, ["--version"]).exit_code == 0


# -- crafted files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"[" * 200_000, b'{"prices_per_m": ' + b"9" * 5000 + b"}", b"\xff\xfe", b"[1]", b""]
)
def test_a_crafted_meta_json_is_refused_with_one_sentence(tmp_path: Path, content: bytes) -> None:
    folder = data_set(tmp_path / "set", 30)
    (folder / "meta.json").write_bytes(content)
    config = configuration(tmp_path / "c.toml")
    said = run("replay", "-c", config, "--dataset", folder, "--shuffles", "1", code=2)
    assert "meta.json" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["/dev/zero", "."])
def test_a_file_that_never_ends_or_is_none_is_refused(tmp_path: Path, name: str) -> None:
    said = run("check", "-c", name, "--offline", code=2)
    assert "cannot read the configuration" in said


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b"{}",
        b'{"version": 1, "scales": {"a": [1, ' + b"9" * 400 + b']}, "mean": [], "components": []}',
    ],
)
def test_a_crafted_fitted_file_is_a_value_error_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fitted.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"fitted\.json"):
        Fitted.load(path)


# -- logs of other tools -------------------------------------------------------------------------------


def test_a_table_of_another_tool_is_read_by_its_own_columns(tmp_path: Path) -> None:
    lines = ["arm,prob,reward,usd"]
    lines += [f"{'ab'[n % 2]},0.5,{(n % 4 == 0) + 0.0},{0.01 * (1 + n % 2)}" for n in range(400)]
    for name in ("log.csv",):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    maps = [
        "--map",
        "model=arm",
        "--map",
        "propensity=prob",
        "--map",
        "quality=reward",
        "--map",
        "cost_usd=usd",
    ]
    found = json.loads(run("evaluate", "--log", tmp_path, "--policy", "fixed:a", *maps, "--json"))
    assert found["log"]["decisions"] == 400
    assert found["estimates"]["quality"]["snips"]["value"] == pytest.approx(0.5)
    assert found["estimates"]["cost_usd"]["snips"]["value"] == pytest.approx(0.01)


def test_events_of_vowpal_wabbit_are_read_as_they_are(tmp_path: Path) -> None:
    rows = [
        {"_label_cost": -float(n % 3 == 0), "_label_probability": 0.5, "_label_Action": 1 + n % 2,
         "_labelIndex": n % 2, "EventId": str(n), "a": [1, 2], "p": [0.5, 0.5], "c": {}}
        for n in range(400)
    ]  # fmt: skip
    (tmp_path / "events.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = json.loads(run("evaluate", "--log", tmp_path, "--policy", "uniform", "--map", "dsjson", "--json"))
    assert found["log"]["decisions"] == 400


def test_all_fields_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("arm,prob\na,0.5\n")
    said = run("evaluate", "--log", tmp_path, "--policy", "uniform", "--map", "model=arm", code=2)
    assert "propensity, quality" in said
    maps = ["--map", "model=which", "--map", "propensity=prob", "--map", "quality=reward"]
    said = run("evaluate", "--log", tmp_path, "--policy", "uniform", *maps, code=2)
    assert "which (model), reward (quality)" in said
