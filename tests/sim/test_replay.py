"""`banditroute replay`: the engine's own decisions on a data set, the same whoever runs them, and hindsight."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from banditroute import ConfigError, Router
from banditroute.cli import app
from banditroute.config import from_dict, load
from banditroute.errors import BanditrouteError, DataSetError
from banditroute.router import make_encoder
from banditroute_sim import DataSet
from banditroute_sim.data.encoding import encode
from banditroute_sim.data.listing import load_prices
from banditroute_sim.data.outcomes import load_outcomes
from banditroute_sim.replay import hindsight
from banditroute_sim.replay.curve import cost_curve
from banditroute_sim.replay.passes import NEVER, Course, answers, make_session, play
from banditroute_sim.replay.run import ReplayOptions, replay_outcomes
from tests.sim.sets import PRICES, configuration, data_set, tables, write

KEYS = {"mean_quality", "mean_cost_usd", "mean_utility"}


def run(*flags):
    """Return exit status, standard output and the error of a command."""
    result = CliRunner().invoke(app, [str(flag) for flag in flags])
    return result.exit_code, result.stdout, result.exception


def replayed(*flags):
    status, out, error = run("replay", *flags, "--json")
    assert status == 0, error
    return json.loads(out)


def refused(*flags):
    _, _, error = run("replay", *flags)
    assert isinstance(error, BanditrouteError), error
    return str(error)


def test_a_data_set_read_in_pieces_is_the_one_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("banditroute_sim.data.pieces._ROWS", 7)
    prompts, outcomes = tables(60)
    outcomes["quality"][11] = None
    outcomes["input_tokens"][4:6] = [None, None]
    folder = write(
        tmp_path, prompts, outcomes, {"prices_per_m": {name: PRICES[name] for name in ("small", "large")}}
    )
    encoder = make_encoder(
        from_dict({"models": [{"name": "m", "input_usd_per_mtok": 0, "output_usd_per_mtok": 0}]})
    )
    whole, pieces = DataSet.load(folder), load_outcomes(folder, encoder)
    known = encode(whole, encoder)
    assert pieces.models == whole.models
    assert pieces.dropped == whole.dropped == 1
    assert (pieces.x[pieces.rows] == known.x).all()
    assert (pieces.tokens[pieces.rows] == known.tokens).all()
    assert pieces.estimated[pieces.rows].tolist() == np.isnan(whole.request_tokens).tolist()
    for name in ("quality", "cost", "input_tokens", "output_tokens", "latency_s"):
        np.testing.assert_array_equal(getattr(pieces, name)[pieces.rows], getattr(whole, name))
    assert load_prices(folder) == whole.prices()


def test_large_arrays_live_on_disk_and_say_the_same(tmp_path, monkeypatch):
    folder = data_set(tmp_path)
    encoder = make_encoder(load(configuration(tmp_path / "c.toml")))
    held = load_outcomes(folder, encoder)
    monkeypatch.setattr("banditroute_sim.data.outcomes.IN_MEMORY", 100)
    mapped = load_outcomes(folder, encoder)
    assert isinstance(mapped.x.base, np.memmap)
    for name in ("x", "quality", "cost", "output_tokens"):
        np.testing.assert_array_equal(getattr(mapped, name), getattr(held, name))


@pytest.mark.parametrize(
    ("objective", "extra"),
    [
        ("cost_weight = 40.0\nlatency_weight = 0.01", ""),
        ("budget_usd_per_request = 0.0012", "[learning]\nseed = 3\nexploration_floor = 0.05"),
        ('quality_floor = 0.9\nreference = "large"', "[learning]\nscore_weight = 2.0"),
    ],
)
def test_a_replay_decides_what_the_router_decides(tmp_path, objective, extra):
    folder = data_set(tmp_path, 150)
    path = configuration(tmp_path / "c.toml", objective=objective, extra=extra)
    config = load(path)
    outcomes = load_outcomes(folder, make_encoder(config), config.catalog.names, catalog=config.catalog)
    session = make_session(config, outcomes.blocks, config.learning.seed)
    everyone = np.ones((1, 2), bool)
    delay = answers(150, 0.7, 5, 0)
    course = Course(outcomes.rows, outcomes.keys, (0,), outcomes.prices[None], everyone, delay)
    found = play(session, outcomes, course)
    router, whole = Router.from_config(path), DataSet.load(folder, models=config.catalog.names)
    chosen, propensity, waiting = [], [], {}
    for t in range(150):
        for asked in waiting.pop(t, []):
            model = chosen[asked]
            event = {
                "request_id": whole.ids[asked],
                "kind": "score",
                "value": float(whole.quality[asked, model]),
                "cost_usd": float(whole.cost[asked, model]),
                "input_tokens": int(whole.input_tokens[asked, model]),
                "output_tokens": int(whole.output_tokens[asked, model]),
                "latency_ms": 1000.0 * float(whole.latency_s[asked, model]),
            }
            assert router.learn(event) == "applied"
        request = {"request_id": whole.ids[t], "prompt": whole.prompts[t], "tags": [whole.tasks[t]]}
        decision = router.decide(request | {"input_tokens": int(whole.request_tokens[t])})
        chosen.append(config.catalog.names.index(decision.model))
        propensity.append(decision.propensity)
        if delay[t] != NEVER:
            waiting.setdefault(t + 1 + int(delay[t]), []).append(t)
    assert found.chosen.tolist() == chosen
    assert found.propensity.tolist() == propensity
    assert router.evidence == session.evidence


def test_the_numbers_are_what_the_issue_of_a_replay_promises(tmp_path):
    result = replayed("--dataset", data_set(tmp_path), "--shuffles", 3, "--cost-weight", 40)
    assert KEYS | {"budget_utilisation", "last_third", "per_shuffle", "decisions_per_second"} <= result.keys()
    for key in ("best_fixed", "best_mix", "oracle", "last_third"):
        assert result[key].keys() >= KEYS
    assert [one["shuffle"] for one in result["per_shuffle"]] == [1, 2, 3]
    assert result["mean_quality"] == pytest.approx(
        np.mean([one["mean_quality"] for one in result["per_shuffle"]])
    )
    assert result["mean_utility"] == pytest.approx(result["mean_quality"] - 40 * result["mean_cost_usd"])
    assert result["oracle"]["mean_utility"] >= result["best_fixed"]["mean_utility"]
    assert result["budget_utilisation"] is None
    assert 0.0 < result["CPT50"] <= result["CPT80"] <= result["CPT95"] <= 1.0
    assert result["APGR"] > 0.6  # the task tells which prompts the small model is good enough for


def test_the_order_of_a_data_set_is_one_pass(tmp_path):
    folder = data_set(tmp_path)
    first = replayed("--dataset", folder, "--shuffles", 0)
    assert first["shuffles"] == 0
    assert [one["shuffle"] for one in first["per_shuffle"]] == [0]
    assert first["standard_error"]["mean_quality"] is None


def test_numbers_do_not_depend_on_the_number_of_workers(tmp_path):
    folder = data_set(tmp_path)
    one, two = (
        replayed("--dataset", folder, "--shuffles", 3, "--feedback-share", 0.5, "--workers", workers)
        for workers in (1, 2)
    )
    for result in (one, two):
        del result["decisions_per_second"]
        for each in result["per_shuffle"]:
            del each["decisions_per_second"]
    assert one == two


def test_a_budget_is_kept_and_its_use_is_told(tmp_path):
    result = replayed(
        "--dataset", data_set(tmp_path, 800), "--shuffles", 2, "--budget-usd-per-request", 0.0012
    )
    assert result["budget_utilisation"] == pytest.approx(result["mean_cost_usd"] / 0.0012)
    assert 0.8 < result["budget_utilisation"] <= 1.01
    assert result["best_mix"]["mean_cost_usd"] == pytest.approx(result["mean_cost_usd"])
    assert result["mean_quality"] > result["best_mix"]["mean_quality"]


def test_a_quality_floor_tells_the_share_of_the_reference(tmp_path):
    folder = data_set(tmp_path, 600)
    result = replayed("--dataset", folder, "--shuffles", 2, "--quality-floor", 0.95, "--reference", "large")
    assert result["share_of_reference"] >= 0.93
    assert result["objective"] == {"quality_floor": 0.95, "reference": "large"}


def test_a_judge_is_learned_from_and_quality_scores(tmp_path):
    prompts, outcomes = tables(300)
    # a judge who likes the small model alone
    outcomes["judge"] = [1.0 if name == "small" else 0.0 for name in outcomes["model"]]
    folder = write(tmp_path, prompts, outcomes, {"prices_per_m": PRICES})
    fooled = replayed("--dataset", folder, "--shuffles", 1, "--judge", "judge")
    honest = replayed("--dataset", folder, "--shuffles", 1)
    assert fooled["share"]["small"] > 0.9
    assert fooled["mean_quality"] < honest["mean_quality"] - 0.05
    assert fooled["best_fixed"] == honest["best_fixed"]


def test_a_warm_start_begins_where_a_cold_one_ends(tmp_path):
    folder, before = data_set(tmp_path / "now", 60), data_set(tmp_path / "before", 500, seed=1)
    cold = replayed("--dataset", folder, "--shuffles", 8, "--cost-weight", 60)
    warm = replayed("--dataset", folder, "--shuffles", 8, "--cost-weight", 60, "--warmup", before)
    assert warm["mean_utility"] > cold["mean_utility"]


def test_a_configuration_says_models_prices_and_objective_and_flags_come_first(tmp_path):
    folder = data_set(tmp_path, models=("small", "large", "other"))
    path = configuration(tmp_path / "c.toml", objective="cost_weight = 10.0")
    assert replayed("--dataset", folder, "-c", path, "--shuffles", 1)["models"] == ["small", "large"]
    result = replayed("--dataset", folder, "-c", path, "--shuffles", 1, "--cost-weight", 30)
    assert result["objective"] == {"cost_weight": 30.0}


def test_a_paused_model_gets_nothing_and_a_short_window_leaves_long_prompts_to_others(tmp_path):
    folder = data_set(tmp_path)
    path = configuration(tmp_path / "c.toml")
    path.write_text(path.read_text().replace('name = "large"', 'name = "large"\npaused = true'))
    assert replayed("--dataset", folder, "-c", path, "--shuffles", 1)["share"]["large"] == 0.0
    path.write_text(path.read_text().replace("paused = true", "context_window = 1"))
    assert replayed("--dataset", folder, "-c", path, "--shuffles", 1)["share"]["large"] == 0.0


def test_csv_has_a_row_per_shuffle_and_the_page_holds_all_it_shows(tmp_path):
    page, table = tmp_path / "r.html", tmp_path / "r.csv"
    status, out, error = run(
        "replay", "--dataset", data_set(tmp_path), "--shuffles", 2, "--report", page, "--csv", table
    )
    assert status == 0, error
    assert "best fixed model" in out
    assert len(table.read_text().splitlines()) == 3
    text = page.read_text()
    assert text.count("<svg") == 6
    assert "http" not in text
    assert "src=" not in text


def test_the_best_mix_spends_what_it_may_and_lies_on_the_hull():
    quality, cost = np.array([0.5, 0.6, 0.9]), np.array([1.0, 2.0, 3.0])
    mix = hindsight.best_mix(quality, cost, 2.0)
    assert mix.tolist() == [0.5, 0.0, 0.5]
    assert hindsight.best_mix(quality, cost, 0.1).tolist() == [1.0, 0.0, 0.0]
    assert hindsight.best_mix(quality, cost, 9.0).tolist() == [0.0, 0.0, 1.0]


def test_the_best_fixed_model_is_what_the_objective_asks_for():
    quality, cost = np.array([0.5, 0.8, 0.9]), np.array([1.0, 2.0, 4.0])
    assert hindsight.Goal(cost_weight=0.0).best_fixed(quality, cost) == 2
    assert hindsight.Goal(cost_weight=0.1).best_fixed(quality, cost) == 1
    assert hindsight.Goal(budget=1.5).best_fixed(quality, cost) == 0
    assert hindsight.Goal(budget=0.5).best_fixed(quality, cost) == 0
    assert hindsight.Goal(floor=0.85, reference=2).best_fixed(quality, cost) == 1


@pytest.mark.parametrize(
    ("goal", "holds"),
    [
        (hindsight.Goal(budget=0.0008), lambda quality, cost, _: cost <= 0.0008),
        (
            hindsight.Goal(floor=0.97, reference=1),
            lambda quality, cost, reference: quality >= 0.97 * reference,
        ),
    ],
)
def test_the_oracle_keeps_a_budget_and_a_floor(tmp_path, goal, holds):
    config = load(configuration(tmp_path / "c.toml"))
    folder = data_set(tmp_path)
    outcomes = load_outcomes(folder, make_encoder(config), config.catalog.names, catalog=config.catalog)
    quality, cost = hindsight.oracle(outcomes, outcomes.rows, goal)
    means = outcomes.means()
    assert holds(quality, cost, means[0][1])
    fixed = goal.best_fixed(*means)
    better = quality >= means[0][fixed] if goal.budget is not None else cost <= means[1][fixed]
    assert better


def test_a_ranking_by_the_outcome_recovers_the_gap_first_and_one_against_it_last():
    rng = np.random.default_rng(0)
    quality = rng.random((500, 2))
    quality[:, 1] += 0.3
    gain = quality[:, 1] - quality[:, 0]
    best, random, worst = (
        cost_curve(quality, gain),
        cost_curve(quality, rng.random(500)),
        cost_curve(quality, -gain),
    )
    assert best.apgr > 0.7 > random.apgr > worst.apgr
    assert random.apgr == pytest.approx(0.5, abs=0.1)
    assert best.cpt[0] < 0.3 < worst.cpt[0]
    assert cost_curve(quality[:, [0, 0]], gain) is None
    swapped = cost_curve(quality[:, ::-1], -gain)
    assert swapped.strong == 0
    assert swapped.apgr == pytest.approx(best.apgr)


def test_ctrl_c_leaves_the_passes_that_are_done(tmp_path, monkeypatch):
    config = load(configuration(tmp_path / "c.toml"))
    folder = data_set(tmp_path, 60)
    outcomes = load_outcomes(folder, make_encoder(config), config.catalog.names, catalog=config.catalog)

    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    result = replay_outcomes(outcomes, config, ReplayOptions(shuffles=5), note=stop).result
    assert result["shuffles"] == 2
    assert result["notes"] == ["stopped after 2 of 5 passes"]
    assert result["interrupted"]
    monkeypatch.setattr("banditroute_sim.progress.bar", lambda *_: contextlib.nullcontext(stop))
    status, out, _ = run("replay", "--dataset", folder, "--shuffles", 5, "--json")
    assert status == 130
    assert json.loads(out)["shuffles"] == 2


def test_a_missing_column_an_unknown_model_and_no_quality_are_one_sentence(tmp_path):
    prompts, outcomes = tables(20)
    meta = {"prices_per_m": PRICES}

    def written(name, prompts=prompts, outcomes=outcomes):
        return write(tmp_path / name, prompts, outcomes, meta)

    for column in ("model", "quality", "cost_usd", "id"):
        less = {name: values for name, values in outcomes.items() if name != column}
        assert f"has no column '{column}'" in refused("--dataset", written(f"no-{column}", outcomes=less))
    less = {name: values for name, values in prompts.items() if name != "prompt"}
    assert "has no column 'prompt'" in refused("--dataset", written("no-prompt", prompts=less))
    good = written("good")
    assert "no column 'gold'" in refused("--dataset", good, "--judge", "gold")
    assert "no outcomes of the model 'huge'" in refused("--dataset", good, "--model", "huge")
    path = configuration(tmp_path / "c.toml", ("small", "other"))
    assert "no outcomes of the model 'other'" in refused("--dataset", good, "-c", path)
    quality, names = outcomes["quality"], outcomes["model"]
    none = [None if name == "large" else q for name, q in zip(names, quality, strict=True)]
    unknown = outcomes | {"quality": none}
    assert "knows no quality of the model 'large'" in refused("--dataset", written("nan", outcomes=unknown))
    crossed = outcomes | {"quality": [None if (i // 2 + i) % 2 else q for i, q in enumerate(quality)]}
    assert "choose fewer models" in refused("--dataset", written("crossed", outcomes=crossed))
    wrong = outcomes | {"quality": [1.5, *outcomes["quality"][1:]]}
    assert "quality holds 1.5" in refused("--dataset", written("wrong", outcomes=wrong))
    empty = {name: pa.array([], pa.string()) for name in ("id", "prompt")}
    assert "holds no prompts" in refused("--dataset", written("empty", prompts=empty))
    twice = prompts | {"id": ["p-0", "p-0", *prompts["id"][2:]]}
    assert "holds the id 'p-0' twice" in refused("--dataset", written("twice", prompts=twice))
    repeated = {name: [*values, values[-1]] for name, values in outcomes.items()}
    assert "twice: keep one" in refused("--dataset", written("repeated", outcomes=repeated))
    long = prompts | {"task": ["x" * 5000] * 20}
    assert "shorten it" in refused("--dataset", written("long", prompts=long))
    assert "is not a folder" in refused("--dataset", tmp_path / "nowhere")
    assert "is missing" in refused("--dataset", write(tmp_path / "half", prompts, None, meta))
    broken = written("broken")
    (broken / "outcomes.parquet").write_bytes(b"PAR1 is not enough")
    assert "cannot be read as parquet" in refused("--dataset", broken)


def test_a_file_that_is_cut_short_is_one_sentence(tmp_path):
    folder = data_set(tmp_path, 400)
    whole = (folder / "prompts.parquet").read_bytes()
    (folder / "prompts.parquet").write_bytes(whole[:100] + bytes(len(whole) - 2000) + whole[-1900:])
    assert "prompts.parquet" in refused("--dataset", folder)


def test_flags_that_contradict_each_other_are_one_sentence(tmp_path):
    folder = data_set(tmp_path, 30)
    given = ("--dataset", folder)
    assert "exclude each other" in refused(*given, "--cost-weight", 1, "--budget-usd-per-request", 1)
    assert "go together" in refused(*given, "--quality-floor", 0.9)
    assert "at most 1" in refused(*given, "--quality-floor", 1.5, "--reference", "large")
    assert "not in the catalog" in refused(*given, "--quality-floor", 0.5, "--reference", "huge")
    assert "more than 0" in refused(*given, "--budget-usd-per-request", -1)
    assert "finite" in refused(*given, "--cost-weight", "inf")
    path = configuration(tmp_path / "c.toml")
    assert "without -c" in refused(*given, "-c", path, "--model", "small")
    assert "cannot write" in refused(*given, "--report", tmp_path / "no" / "where.html")
    frozen = configuration(tmp_path / "f.toml", extra='[engine]\nmode = "frozen"')
    assert "learns nothing" in refused(*given, "-c", frozen)


def test_prices_that_do_not_follow_are_one_sentence_and_with_a_configuration_not_needed(tmp_path):
    prompts, outcomes = tables(40)
    rng = np.random.default_rng(0)
    folder = write(tmp_path, prompts, outcomes | {"cost_usd": rng.random(80).tolist()})
    assert "does not tell the prices" in refused("--dataset", folder)
    path = configuration(tmp_path / "c.toml")
    assert replayed("--dataset", folder, "-c", path, "--shuffles", 1)["prompts"] == 40


@pytest.mark.slow
def test_memory_does_not_grow_with_the_texts(tmp_path):
    """A file whose texts are 400 MB in one row group is read in a fraction of that."""
    import os
    import subprocess
    import sys

    prompts, size = 2000, 200_000
    rng = np.random.default_rng(0)
    letters = rng.integers(97, 123, size * 4, dtype=np.uint8).tobytes().decode()
    schema = pa.schema([("id", pa.string()), ("prompt", pa.string())])
    with pq.ParquetWriter(
        tmp_path / "prompts.parquet", schema, compression="none", use_dictionary=False
    ) as file:
        texts = [letters[i % size : i % size + size] for i in range(prompts)]
        file.write_table(pa.table({"id": [f"p-{i}" for i in range(prompts)], "prompt": texts}, schema))
    del texts
    _, outcomes = tables(prompts)
    write(tmp_path, None, outcomes, {"prices_per_m": PRICES})
    configuration(tmp_path / "c.toml")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from banditroute.config import load; from banditroute.router import make_encoder\n"
        "from banditroute_sim.data.outcomes import load_outcomes\n"
        "folder = Path(sys.argv[1]); config = load(folder / 'c.toml'); encoder = make_encoder(config)\n"
        "import pyarrow.parquet\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = load_outcomes(folder, encoder)\n"
        "print(len(found), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    count, grown = done.stdout.split()
    assert int(count) == prompts
    assert float(grown) < 200.0


def test_a_data_set_error_names_its_folder(tmp_path):
    with pytest.raises(DataSetError, match="nowhere"):
        load_prices(Path("nowhere"))


def test_latencies_that_are_no_measurement_are_unknown_and_told(tmp_path):
    prompts, outcomes = tables(60)
    outcomes["latency_s"][:3] = [0.0, 1e-6, 1e8]
    prices = {"prices_per_m": {name: PRICES[name] for name in ("small", "large")}}
    folder = write(tmp_path / "set", prompts, outcomes, prices)
    told = replayed("--dataset", folder, "--shuffles", 1)
    assert "3 latencies below 1 ms or above a day count as unknown" in told["notes"]
    assert np.isnan(DataSet.load(folder).latency_s).sum() == 3


def test_requests_longer_than_every_window_are_served_by_nobody_and_counted(tmp_path):
    folder = data_set(tmp_path / "set", 200)
    config = configuration(tmp_path / "c.toml", extra="context_window = 40")
    text = config.read_text().replace(
        "output_usd_per_mtok = 1.5", "output_usd_per_mtok = 1.5\ncontext_window = 20"
    )
    config.write_text(text)
    done = CliRunner().invoke(
        app, ["replay", "-c", str(config), "--dataset", str(folder), "--shuffles", "1", "--json"]
    )
    assert done.exit_code == 0, done.output
    (note,) = [each for each in json.loads(done.stdout)["notes"] if "context_window" in each]
    words = [len(row["prompt"]) for row in pq.read_table(folder / "prompts.parquet").to_pylist()]
    unserved = int(note.split()[0])
    assert 0 < unserved < 200
    assert note.startswith(f"{unserved} of 200 requests")
    assert sum(length > 4 * 40 for length in words) <= unserved <= sum(length > 3 * 20 for length in words)


def test_a_catalog_that_is_paused_cannot_be_replayed(tmp_path):
    folder = data_set(tmp_path / "set", 50)
    config = configuration(tmp_path / "c.toml")
    config.write_text(config.read_text().replace("name =", "paused = true\nname ="))
    for verb in (["replay", "--dataset", str(folder)], ["rehearse", "--log", str(folder)]):
        done = CliRunner().invoke(app, [*verb, "-c", str(config)])
        assert isinstance(done.exception, ConfigError)
        assert "paused" in str(done.exception)
