"""Evaluation refuses what the log cannot tell, says why, and covers what it can; the command line speaks for it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from banditroute import cli
from banditroute.bandit.objectives.pacing import BudgetPacer
from banditroute.config import from_dict
from banditroute.errors import ConfigError, DataSetError
from banditroute_sim.evaluate.known import KnownWorld, known_log
from banditroute_sim.evaluate.log import ExportedLog
from banditroute_sim.evaluate.open_bandit import OpenBanditLog, open_bandit_files
from banditroute_sim.evaluate.question import Question, make_target
from banditroute_sim.evaluate.run import EvaluationOptions, evaluate
from banditroute_sim.evaluate.targets import Objective, Uniform
from tests.data_sets import data_set
from tests.sim.exported import DOCUMENT, cost_of, records, write_lines


def world_of(seed: int) -> KnownWorld:
    return KnownWorld.draw(np.random.default_rng([seed, 1]))


@pytest.mark.slow
@pytest.mark.parametrize("budget", [None, 0.003])
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_sampled_frequencies_match_logged_propensities(budget: float | None, floor: float) -> None:
    z = []
    for seed in range(1000, 1012):
        pacer = None if budget is None else BudgetPacer(per_request=budget)
        log = known_log(world_of(seed), seed, 600, floor=floor, pacer=pacer, every=True)
        np.testing.assert_array_equal(log.every[np.arange(600), log.batch.chosen], log.batch.propensity)
        np.testing.assert_allclose(log.every.sum(axis=1), 1.0, atol=1e-6)
        chosen = np.eye(log.every.shape[1])[log.batch.chosen]
        z += (
            (chosen - log.every).sum(axis=0) / np.sqrt((log.every * (1.0 - log.every)).sum(axis=0))
        ).tolist()
    # 48 numbers of mean 0 and variance 1, those of a log a little dependent: five standard errors
    assert abs(np.mean(z)) < 5.0 / np.sqrt(len(z))
    assert 0.5 < np.std(z) < 1.5


@pytest.mark.slow
def test_intervals_of_a_known_policy_cover_the_truth() -> None:
    hits = {"bootstrap": 0, "empirical_bernstein": 0}
    logs = 60
    for seed in range(1000, 1000 + logs):
        world = world_of(seed)
        target = world.softmax(20.0, 0.1)
        truth, _ = world.worth(target.table)
        options = EvaluationOptions(replicates=500, seed=seed, logged_floor=0.2)
        result = evaluate(known_log(world, seed, 1200, floor=0.2), target, options)
        assert result["refused"] is None
        for kind in hits:
            low, high = result["estimates"]["quality"]["dr"][kind]
            hits[kind] += low <= truth <= high
    assert hits["bootstrap"] >= 51  # 57 of 60 on average, 51 with probability 0.995
    assert hits["empirical_bernstein"] == logs


def test_a_target_that_the_log_never_takes_is_refused_however_good_its_weights_look() -> None:
    # without a floor the log converges: what it left behind early cannot be judged by the weights that were seen
    world = world_of(1)
    log = known_log(world, 1, 1500)
    result = evaluate(log, Uniform(), EvaluationOptions(replicates=100, least_ess=10.0))
    assert "hardly ever" in result["refused"]
    assert result["estimates"] is None
    assert result["weights"]["overlap"]["unsupported_share"] > 0.3


def test_a_thin_sample_is_refused() -> None:
    world = world_of(1)
    log = known_log(world, 1, 800, floor=0.2)
    options = EvaluationOptions(replicates=100, logged_floor=0.2, least_ess=600.0)
    assert "effective sample size is" in evaluate(log, Uniform(), options)["refused"]
    assert (
        evaluate(log, Uniform(), EvaluationOptions(replicates=100, logged_floor=0.2, least_ess=30.0))[
            "refused"
        ]
        is None
    )
    assert "only 20 decisions" in evaluate(known_log(world, 1, 20, floor=1.0), Uniform())["refused"]


def test_wrong_propensities_are_noticed() -> None:
    log = known_log(world_of(2), 2, 1000, floor=0.5)
    log.batch.propensity[:] = np.minimum(1.0, 2.0 * log.batch.propensity)
    log.batch.sd[:] = np.nan  # nothing but the weights to go by
    result = evaluate(log, Uniform(), EvaluationOptions(replicates=100, logged_floor=0.5))
    assert "weights average 0." in result["refused"]


def test_a_model_without_an_answer_is_refused() -> None:
    log = known_log(world_of(2), 2, 500, floor=0.5)
    log.batch.outcome[log.batch.chosen == 1, 0] = np.nan
    result = evaluate(log, Uniform(), EvaluationOptions(replicates=100, logged_floor=0.5))
    assert "holds no answered decision" in result["refused"]
    assert "'model-1'" in result["refused"]


def test_answers_that_depend_on_the_model_are_warned_of() -> None:
    log = known_log(world_of(2), 2, 800, floor=0.5)
    silent = (log.batch.chosen == 1) & (np.arange(800) % 2 == 0)
    log.batch.outcome[silent, 0] = np.nan
    result = evaluate(log, Uniform(), EvaluationOptions(replicates=100, logged_floor=0.5))
    assert any("not answered equally often" in one for one in result["warnings"])


def test_reckoned_propensities_are_near_the_logged_ones() -> None:
    for seed in (1, 2, 3):
        log = known_log(world_of(seed), seed, 2000, every=True)
        reckoned = Objective(sampled=True).plan(log.batch).probabilities
        greedy = Objective().plan(log.batch).probabilities
        off = np.abs(reckoned - log.every).sum(axis=1).mean()
        assert off < 0.75 * np.abs(greedy - log.every).sum(axis=1).mean()


def test_without_costs_there_is_an_estimate_of_quality_alone() -> None:
    log = known_log(world_of(2), 2, 600, floor=0.5)
    log.batch.outcome[:, 1] = np.nan
    result = evaluate(log, Uniform(), EvaluationOptions(replicates=100, logged_floor=0.5))
    assert result["refused"] is None
    assert result["estimates"]["quality"]["dr"]["bootstrap"] is not None
    for outcome in ("cost_usd", "utility"):
        nothing = {"value": None, "bootstrap": None, "empirical_bernstein": None}
        assert result["estimates"][outcome]["ips"] == nothing
    assert any("no cost was reported" in one for one in result["warnings"])


@pytest.mark.parametrize("value", [1.5, -0.1])
def test_a_quality_outside_of_0_to_1_is_refused(value: float) -> None:
    log = known_log(world_of(2), 2, 50, floor=0.5)
    log.batch.outcome[3, 0] = value
    with pytest.raises(DataSetError, match=f"quality holds {value:g}; expected numbers from 0 to 1"):
        evaluate(log, Uniform())


# --- Open Bandit columns -------------------------------------------------------------------------------------------


def _bandit_log(folder: Path, rows: list[dict[str, Any]]) -> OpenBanditLog:
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return OpenBanditLog(open_bandit_files(folder))


ROW = {"item_id": 1, "position": 1, "click": 0, "propensity_score": 0.5}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{k: v for k, v in ROW.items() if k != "propensity_score"}], "no column 'propensity_score'"),
        ([{**ROW, "propensity_score": 0.0}], r"expected numbers in \(0, 1\]"),
        ([{**ROW, "propensity_score": 1.5}], r"expected numbers in \(0, 1\]"),
        ([ROW, {**ROW, "propensity_score": None}], r"propensity_score holds nan"),
        ([{**ROW, "click": 2}], "click holds 2"),
        ([ROW, {**ROW, "click": None}, {**ROW, "item_id": None}], "no item_id"),
        ([{**ROW, "policy": "a"}, {**ROW, "policy": "b"}], "say which with --logged-by"),
    ],
)
def test_open_bandit_logs_that_cannot_be_used_are_refused(tmp_path: Path, rows: Any, sentence: str) -> None:
    with pytest.raises(DataSetError, match=sentence):
        list(_bandit_log(tmp_path, rows).batches())


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder for each campaign of the Open Bandit Dataset that is there."""
    table = pq.read_table(data_set("obd") / "log.parquet")
    column = np.array(table.column("campaign").to_pylist())
    folders = []
    for name in np.unique(column).tolist():
        folder = tmp_path_factory.mktemp(name)
        pq.write_table(table.filter(pa.array(column == name)), folder / "log.parquet")
        folders.append(folder)
    return folders


@pytest.mark.parametrize(
    ("logged", "other", "policy"),
    [
        ("random", "bts", "policy:bts"),
        ("bts", "random", "uniform"),
        ("bts", "random", "policy:random"),
    ],
)
def test_an_interval_of_one_logging_policy_from_the_log_of_the_other_holds_its_own_mean(
    campaigns: list[Path], logged: str, other: str, policy: str
) -> None:
    for folder in campaigns:
        files = open_bandit_files(folder)
        log, there = OpenBanditLog(files, logged), OpenBanditLog(files, other)
        truth = np.concatenate([batch.outcome[:, 0] for batch in there.batches()]).mean()
        target, _ = make_target(log, Question(policy=policy))
        result = evaluate(log, target)
        assert result["refused"] is None
        for name in ("ips", "snips", "dr"):
            for interval in ("bootstrap", "empirical_bernstein"):
                ends = result["estimates"]["quality"][name][interval]
                assert ends is None or ends[0] <= truth <= ends[1], (folder.name, name, interval)


# --- The command line ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = write_lines(tmp_path_factory.mktemp("log"), *records(700))
    (place / "old.toml").write_text(_toml(20.0))
    (place / "new.toml").write_text(_toml(5.0, dear=8.0))
    return place


def _toml(weight: float, dear: float = 20.0) -> str:
    models = "\n".join(
        f'[[models]]\nname = "{m["name"]}"\ninput_usd_per_mtok = {m["input_usd_per_mtok"]}\n'
        f"output_usd_per_mtok = {dear if m['name'] == 'large' else m['output_usd_per_mtok']}"
        for m in DOCUMENT["models"]
    )
    return f"{models}\n[objective]\ncost_weight = {weight}\n[learning]\nexploration_floor = 0.3\n"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path) -> Any:
    def call(*arguments: object) -> tuple[int, str, str]:
        words = ["banditroute", "evaluate", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words if "--log" in words else [*words, "--log", str(folder)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(bool(end.code))
        out, err = capsys.readouterr()
        return status, out, err

    return call


FLOOR = ("--logged-floor", 0.3, "--replicates", 200)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--policy", "uniform"),
        ("--policy", "fixed:large"),
        ("--policy", "logging"),
        ("--cost-weight", 5),
        ("--cost-weight", 5, "--greedy"),
        ("--budget-usd-per-request", 0.002),
        ("--model", "small", "--model", "large"),
        (),
    ],
)
def test_every_kind_of_target_gives_numbers(run: Any, arguments: tuple[object, ...]) -> None:
    status, out, err = run(*arguments, *FLOOR, "--json", "--seed", 4)
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert result["seed"] == 4
    for outcome in ("quality", "cost_usd", "utility"):
        for name in ("ips", "snips", "dm", "dr"):
            low, high = result["estimates"][outcome][name]["bootstrap"]
            value = result["estimates"][outcome][name]["value"]
            assert low - 1e-12 <= value <= high + 1e-12 or name == "dm"
    assert run(*arguments, *FLOOR, "--json", "--seed", 4)[1] == out


def test_a_page_for_people_has_every_estimator(run: Any) -> None:
    status, out, _ = run("--policy", "uniform", *FLOOR)
    assert status == 0
    for word in (
        "IPS",
        "SNIPS",
        "DM",
        "DR",
        "as logged",
        "effective sample size",
        "utility = quality - 20 x cost",
    ):
        assert word in out


def test_another_configuration_brings_its_prices(run: Any, folder: Path) -> None:
    status, out, _ = run(
        "--target-config", folder / "new.toml", "-c", folder / "old.toml", "--replicates", 200, "--json"
    )
    assert status == 0
    result = json.loads(out)
    assert result["cost_weight"] == 5.0
    assert result["estimates"]["cost_usd"]["snips"]["value"] < cost_of("large")
    assert result["weights"]["bound_from"] == "logged_floor"


def test_a_budget_is_met(folder: Path) -> None:
    log = ExportedLog(folder)
    target, weight = make_target(log, Question(budget=0.002, floor=0.0))
    (batch,) = log.batches()
    plan = target.plan(batch)
    spent = (plan.probabilities * plan.cost).sum(axis=1).mean()
    assert weight > 0.0
    assert spent == pytest.approx(0.98 * 0.002, rel=0.1)


def test_refusal_is_status_1(run: Any) -> None:
    status, out, err = run("--policy", "uniform", "--min-ess", 10_000, *FLOOR, "--json")
    assert (status, err) == (1, "")
    assert json.loads(out)["estimates"] is None
    status, out, _ = run("--policy", "uniform", "--min-ess", 10_000, *FLOOR)
    assert status == 1
    assert "no: the effective sample size is" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--policy", "fixed:nobody"), "knows nothing of the model 'nobody': it has large, middle, small"),
        (("--model", "nobody"), "knows nothing of the model 'nobody'"),
        (("--price", "large=1,2"), "give the configuration of the log with -c"),
        (("--price", "large=1"), "--price is MODEL=INPUT,OUTPUT"),
        (("--price", "large=nan,1"), "--price is MODEL=INPUT,OUTPUT"),
        (("--policy", "best"), "--policy is logging, uniform, fixed:MODEL or policy:NAME"),
        (("--policy", "policy:bts"), "Open Bandit columns"),
        (("--kind", "stars"), "--kind is thumb"),
        (("--confidence", 1.0), "--confidence is between 0 and 1"),
        (("--cost-weight", "inf"), "--cost-weight is a finite number"),
        (("--cost-weight", 1, "--budget-usd-per-request", 1), "give one of them"),
        (("--budget-usd-per-request", 0), "is more than 0"),
        (("--log", "/nowhere"), "/nowhere is not a folder"),
        (("--policy", "uniform", "--price", "large=1,2"), "--price is for an objective"),
        (("--log", "topic"), "give the configuration with -c"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    run: Any, arguments: tuple[object, ...], sentence: str
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_quality_floor_cannot_be_evaluated(folder: Path) -> None:
    config = from_dict({**DOCUMENT, "objective": {"quality_floor": 0.9, "reference": "large"}})
    with pytest.raises(ConfigError, match="quality_floor cannot be evaluated"):
        make_target(ExportedLog(folder), Question(target=config))
