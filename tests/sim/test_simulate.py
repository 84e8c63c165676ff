"""`banditroute simulate`: paired seeds, the same numbers from any number of workers, one sentence for bad input."""

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from typer.testing import CliRunner

from banditroute import cli
from banditroute.errors import ConfigError, MissingExtraError
from banditroute_sim.policies import POLICIES
from banditroute_sim.scenarios import SCENARIOS
from banditroute_sim.simulate import run as running
from banditroute_sim.simulate.options import SimulateOptions
from banditroute_sim.simulate.page import report
from banditroute_sim.simulate.run import simulate
from banditroute_sim.simulate.summary import document, interval, text
from tests.sim.pages import parse

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(str(ROOT / folder) for folder in (".", "features", "sim"))
COMMAND = [sys.executable, "-c", "from banditroute.cli import main; main()", "simulate"]


def numbers(found):
    """Return a document without what depends on the clock."""
    plain = json.loads(json.dumps(document(found)))
    for scenario in plain["scenarios"].values():
        for policy in scenario["policies"].values():
            del policy["decisions_per_second"]
    return plain


def small(**given):
    defaults = {"scenarios": ("flip", "price-change"), "seeds": 3, "horizon": 600}
    return SimulateOptions(**(defaults | given))


def run_cli(*arguments):
    """Run the command in this process; return its exit status, stdout and stderr."""
    result = CliRunner().invoke(cli.app, ["simulate", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_number_of_workers_changes_no_number():
    assert numbers(simulate(small())) == numbers(simulate(small(workers=2)))


@pytest.mark.parametrize("backend", ["threading", "multiprocessing"])
def test_another_backend_of_joblib_changes_no_number(backend):
    with joblib.parallel_config(backend=backend):
        found = simulate(small(workers=2, horizon=300))
    assert numbers(found) == numbers(simulate(small(horizon=300)))


def test_every_policy_meets_the_same_world_whoever_else_is_there():
    together = numbers(simulate(small()))["scenarios"]["flip"]["policies"]
    for who in ("ucb1", "banditroute"):
        alone = numbers(simulate(small(policies=(who,))))["scenarios"]["flip"]["policies"][who]
        alone["regret_above_ours"] = together[who]["regret_above_ours"]
        assert alone == together[who]


def test_pieces_and_seeds_are_those_that_were_asked_for():
    found = simulate(small(seeds=2, first_seed=40))
    assert [(each.job.scenario, each.job.seed) for each in found.seeds] == [
        ("flip", 40), ("flip", 41), ("price-change", 40), ("price-change", 41),
    ]  # fmt: skip
    first = simulate(small(seeds=1, first_seed=41)).seeds[0]
    assert [each.regret for each in first.outcomes] == [each.regret for each in found.seeds[1].outcomes]


def test_a_horizon_of_one_round_and_of_more_than_a_piece_are_played(monkeypatch):
    assert simulate(small(horizon=1)).seeds[0].outcomes[0].shares.sum() == 1
    whole = numbers(simulate(small(scenarios=("flip",), seeds=1)))
    pieces = running.pieces
    monkeypatch.setattr(running, "pieces", lambda name, seed, horizon: pieces(name, seed, horizon, 250))
    cut = simulate(small(scenarios=("flip",), seeds=1))
    assert cut.seeds[0].outcomes[0].shares.sum() == 600
    assert document(cut)["scenarios"]["flip"]["changes"] == whole["scenarios"]["flip"]["changes"] == [300]


def test_hindsight_and_oracle_are_the_bounds_that_they_are():
    found = document(simulate(small(seeds=5, horizon=2000)))["scenarios"]
    for scenario in found.values():
        regret = {who: each["regret"]["mean"] for who, each in scenario["policies"].items()}
        assert regret["oracle"] == 0.0
        assert regret["best-fixed"] <= regret["cheapest"] + 1e-9
        assert regret["banditroute"] < 0.5 * regret["best-fixed"]


def test_a_budget_is_met_and_reported():
    given = small(
        scenarios=("price-change",), horizon=3000, seeds=2, budget=0.08, policies=("banditroute", "uniform")
    )
    found = document(simulate(given))["scenarios"]["price-change"]["policies"]
    assert found["banditroute"]["budget_use"] == pytest.approx(1.0, abs=0.05)
    assert found["banditroute"]["cost"]["mean"] == pytest.approx(0.08 * found["banditroute"]["budget_use"])
    assert found["uniform"]["budget_use"] > 1.1
    assert "budget use" in text(document(simulate(given)))


@pytest.mark.parametrize("who", [name for name in POLICIES if name.startswith("river") or name == "router"])
def test_policies_of_others_and_the_router_play(who):
    found = document(simulate(small(policies=(who,), horizon=200, seeds=1)))
    for scenario in found["scenarios"].values():
        assert scenario["policies"][who]["regret"]["mean"] >= 0.0
        assert scenario["policies"][who]["regret"]["low"] is None


def test_the_router_learns_each_vote_once_though_messages_come_twice_and_out_of_order():
    world = next(running.pieces("messages", 1, 2000))
    policy = POLICIES["router"](world, 3)
    chosen = running.Stepped(policy, 2000).play(world).chosen
    ledger = policy.router.ledger
    assert ledger["applied"] > 1900
    assert ledger["duplicate"] == pytest.approx(200, abs=50)
    assert sum(row[0] for row in policy.router.evidence.rows.values()) == ledger["applied"]
    best = world.mean.mean(axis=0).argmax()
    assert (chosen[200:] == best).mean() > 0.95


def test_the_router_chooses_nearly_as_the_session_does():
    world = next(running.pieces("warm-prior", 1, 1000))
    ours = running.Stepped(POLICIES["banditroute"](world, 3), 1000).play(world).chosen
    router = running.Stepped(POLICIES["router"](world, 3), 1000).play(world).chosen
    assert (ours == router).mean() > 0.95


def test_intervals_are_those_of_student():
    mean, low, high = interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert mean == 2.5
    assert high - mean == pytest.approx(mean - low) == pytest.approx(3.182446 * 1.290994 / 2.0)
    assert np.isnan(interval(np.array([1.0]))[1])


# --- the command ---


def test_json_is_one_object_and_csv_and_report_are_written(tmp_path):
    table, page = tmp_path / "a.csv", tmp_path / "a.html"
    status, out, _ = run_cli(
        "--scenario", "flip", "--scenario", "price-change", "--seeds", 2, "--horizon", 300,
        "--policy", "banditroute", "--policy", "ucb1", "--json", "--csv", table, "--report", page,
    )  # fmt: skip
    assert status == 0
    found = json.loads(out)
    assert list(found["scenarios"]) == ["flip", "price-change"]
    flip = found["scenarios"]["flip"]
    assert (flip["horizon"], flip["seeds"], flip["changes"]) == (300, 2, [150])
    ours = flip["policies"]["banditroute"]
    assert ours["regret"]["low"] <= ours["regret"]["mean"] <= ours["regret"]["high"]
    assert ours["regret_above_ours"] is None
    assert ours["recovery"][0]["change"] == 150
    assert ours["curve"]["rounds"][-1] == 300
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    of_ours = [
        float(row["regret"]) for row in rows if (row["scenario"], row["policy"]) == ("flip", "banditroute")
    ]
    assert np.mean(of_ours) == ours["regret"]["mean"]
    html = page.read_text(encoding="utf-8")
    assert "http" not in html
    assert "<script" not in html
    assert html.count("<svg") == html.count("<figure>") == 4 + 5


def test_a_page_of_every_kind_of_world_is_made():
    found = simulate(small(scenarios=tuple(SCENARIOS), seeds=1, horizon=64))
    html = report(found).html()
    assert parse(html).tags.count("h2") == len(SCENARIOS) + 1


def test_the_list_names_worlds_and_policies():
    status, out, _ = run_cli("--list")
    assert status == 0
    for name in (*SCENARIOS, *POLICIES):
        assert name in out
    assert json.loads(run_cli("--list", "--json")[1])["policies"] == list(POLICIES)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--scenario", "flop"], "there is no scenario 'flop': did you mean 'flip'?"),
        (["--scenario", "\x1b]0;"], "there is no scenario '.*': there are: stationary"),
        (["--policy", "linuc"], "there is no policy 'linuc': did you mean 'linucb'?"),
        (["--seeds", "0"], "--seeds is a number from 1 to .*, got 0"),
        (["--first-seed", "-1"], "--first-seed is a number from 0 to .*, got -1"),
        (["--horizon", "0"], "--horizon is a number from 1 to .*, got 0"),
        (["--horizon", "99999999999"], "--horizon is a number from 1 to 2,147,483,647, got 99999999999"),
        (["--workers", "0"], "--workers is a number from 1 to"),
        (["--budget", "nan"], "--budget is a number above 0, got nan"),
        (["--budget", "-1"], "--budget is a number above 0, got -1"),
        (["--budget", "0.1"], "--budget needs costs, and in scenario 'stationary' nothing costs anything"),
        (["--report", "/nowhere/a.html"], "cannot write '/nowhere/a.html': No such file or directory"),
        (["--csv", "/"], "cannot write '/': Is a directory"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("?", r"\?")):
        run_cli(*arguments)


def test_a_missing_library_is_one_sentence_before_anything_is_played(monkeypatch):
    monkeypatch.setitem(sys.modules, "vowpalwabbit", None)
    monkeypatch.setattr(running, "play_seed", lambda _job: pytest.fail("it was played"))
    with pytest.raises(MissingExtraError, match=r"The policy 'vw' needs an optional dependency: pip install"):
        run_cli("--policy", "vw")
    monkeypatch.setitem(sys.modules, "river", None)
    with pytest.raises(MissingExtraError, match=r"banditroute\[sim\]"):
        run_cli("--policy", "river-ucb")


def environment():
    return {**os.environ, "PYTHONPATH": PATHS}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_keeps_the_seeds_that_are_finished(tmp_path, workers):
    table = tmp_path / "a.csv"
    command = [*COMMAND, "--scenario", "flip", "--seeds", "5000", "--horizon", "20000", "--policy", "banditroute",
               "--policy", "ucb1", "--workers", str(workers), "--json", "--csv", str(table)]  # fmt: skip
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    seen = b""
    deadline = time.monotonic() + 200.0
    while not re.search(rb"\b[2-9]/5000", seen) and time.monotonic() < deadline:
        seen += os.read(main, 65536)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    out, _ = process.communicate(timeout=100)
    rest = b""
    try:
        while chunk := os.read(main, 65536):
            rest += chunk
    except OSError:
        pass
    os.close(main)
    assert process.returncode == 130
    found = json.loads(out)
    assert found["interrupted"] is True
    seeds = found["scenarios"]["flip"]["seeds"]
    assert 2 <= seeds < 5000
    assert len(table.read_text(encoding="utf-8").splitlines()) == 1 + 2 * seeds
    assert f"interrupted, {seeds} of 5000 seeds are finished".encode() in rest
    assert b"Traceback" not in rest


@pytest.mark.slow
def test_a_pipe_gets_no_progress_and_a_refusal_status_2():
    quiet = subprocess.run(
        [*COMMAND, "--seeds", "1", "--horizon", "50"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert quiet.stdout.startswith("stationary: 50 rounds, 1 seed\npolicy")
    refused = subprocess.run(
        [*COMMAND, "--seeds", "none"], env=environment(), capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    wrong = subprocess.run(
        [*COMMAND, "--scenario", "x"], env=environment(), capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("banditroute: there is no scenario 'x'")
    assert wrong.stderr.count("\n") == 1
