"""`banditroute rehearse`: worlds that keep to the data, forecasts that hold, scenarios, rules, exit status."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace

import msgspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from banditroute.cli import app
from banditroute.config import Objective, from_dict, load
from banditroute.errors import BanditrouteError
from banditroute.router import make_encoder
from banditroute_sim.data.outcomes import load_outcomes
from banditroute_sim.rehearse.forecast import Forecast, confident_after, forecast
from banditroute_sim.rehearse.logged import LoggedWorld
from banditroute_sim.rehearse.rules import Limits
from banditroute_sim.rehearse.run import RehearsalOptions, rehearse
from banditroute_sim.rehearse.sample import read_log
from banditroute_sim.rehearse.stress import NEWCOMER, STRESSES, stage
from banditroute_sim.rehearse.world import RecordedWorld
from banditroute_sim.replay.passes import NEVER
from tests.sim import exported
from tests.sim.sets import configuration, data_set, tables, write

STRESS = {stress.name: stress for stress in STRESSES}
QUICK = ("--runs", 4, "--requests", 200)


def run(*flags):
    """Return exit status, standard output and the error of a command."""
    result = CliRunner().invoke(app, ["rehearse", *(str(flag) for flag in flags)])
    return result.exit_code, result.stdout, result.exception


def refused(*flags):
    _, _, error = run(*flags)
    assert isinstance(error, BanditrouteError), error
    return str(error)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A data set of 300 prompts, its configuration, and its world."""
    folder = tmp_path_factory.mktemp("set")
    data_set(folder / "data", 300)
    path = configuration(folder / "c.toml", objective="cost_weight = 40.0")
    config = load(path)
    outcomes = load_outcomes(
        folder / "data", make_encoder(config), config.catalog.names, catalog=config.catalog
    )
    return folder / "data", path, config, outcomes, RecordedWorld(outcomes, "large")


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A log of 600 decisions with timestamps, ten seconds apart, answered a minute later."""
    folder = tmp_path_factory.mktemp("log")
    decisions, events = exported.records(600, answered=0.8)
    rows = [
        {"value": one.value, "banditroute": exported.header_of(one), "timestamp": 10_000 * i}
        for i, one in enumerate(decisions)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "decisions.parquet")
    votes = [
        {"value": orjson.dumps(event), "timestamp": 10_000 * int(event["request_id"][2:]) + 60_000}
        for event in events
    ]
    pq.write_table(pa.Table.from_pylist(votes), folder / "feedback.parquet")
    config = from_dict(exported.DOCUMENT)
    spec = make_encoder(config).spec
    sample = read_log(folder, config, spec.spec_id, spec.d)
    blocks = [(block.start, block.stop) for block in spec.blocks]
    return folder, config, sample, LoggedWorld(sample, config, blocks, "log")


def toml_of(document, path):
    """Write the configuration of a log."""
    text = "".join(
        f'[[models]]\nname = "{one["name"]}"\ninput_usd_per_mtok = {one["input_usd_per_mtok"]}\n'
        f"output_usd_per_mtok = {one['output_usd_per_mtok']}\n"
        for one in document["models"]
    )
    path.write_text(f"{text}[objective]\ncost_weight = 20.0\n")
    return path


def with_objective(config, **objective):
    """Return a configuration of the same models with another objective."""
    return msgspec.structs.replace(config, objective=Objective(**objective))


def test_the_first_pass_of_a_world_is_the_data_set(recorded):
    _, _, _, outcomes, world = recorded
    drawn = world.draw(0, 300, "order")
    assert sorted(drawn.row.tolist()) == list(range(300))
    np.testing.assert_array_equal(drawn.quality, outcomes.quality[outcomes.rows[drawn.row]])
    np.testing.assert_array_equal(drawn.cost, outcomes.cost[outcomes.rows[drawn.row]])
    assert set(drawn.present.tolist()) == {1}


def test_a_prompt_that_returns_has_other_outcomes_with_the_same_means(recorded):
    world = recorded[-1]
    drawn = world.draw(1, 3000, "order")
    first, again = drawn.quality[:300], drawn.quality[300:]
    twice = drawn.row[300:600]
    place = np.argsort(drawn.row[:300])
    assert (first[place[twice]] == drawn.quality[300:600]).all(axis=1).mean() < 0.02
    assert again.mean(axis=0) == pytest.approx(first.mean(axis=0), abs=0.02)
    assert again.std(axis=0) == pytest.approx(first.std(axis=0), rel=0.1)


def test_sums_over_a_draw_are_those_of_the_rows_drawn_in_every_task(recorded):
    _, _, _, outcomes, world = recorded
    for how, requests in (("resample", 300), ("resample", 1000), ("order", 450)):
        drawn = world.draw(2, requests, how)
        row = outcomes.rows[drawn.row]
        for task in np.unique(outcomes.task):
            here = outcomes.task[row] == task
            assert (drawn.quality[here] != outcomes.quality[row[here]]).any()
            unexplained = (drawn.quality - world._mean[drawn.row])[here].sum(axis=0)
            np.testing.assert_allclose(unexplained, world._residual[drawn.row[here]].sum(axis=0), atol=1e-9)


def test_a_draw_is_a_function_of_its_seed(recorded, logged):
    for world in (recorded[-1], logged[-1]):
        one, two, other = (
            world.draw(3, 100, "order"),
            world.draw(3, 100, "order"),
            world.draw(4, 100, "order"),
        )
        np.testing.assert_array_equal(one.quality, two.quality)
        assert (world.delays(3, 100) == world.delays(3, 100)).all()
        assert not (one.row == other.row).all()


def test_a_log_is_read_with_who_served_what_came_back_and_when(logged):
    _, _, sample, world = logged
    assert sample.decisions == 600
    assert sample.answered == pytest.approx(480, abs=40)
    assert sample.per_day == pytest.approx(8640, rel=0.01)
    assert np.nanmin(sample.delay_ms) == np.nanmax(sample.delay_ms) == 60_000.0
    delays = world.delays(0, 2000)
    assert set(delays.tolist()) == {NEVER, 6}
    assert (delays == NEVER).mean() == pytest.approx(0.2, abs=0.05)


def test_the_world_of_a_log_has_the_means_of_the_log_and_knows_what_it_does_not_know(logged):
    _, _, sample, world = logged
    for what, one in world.check().items():
        assert one["world"] == pytest.approx(one["log"], rel=0.03), what
    quality, cost = world.means()
    truth = [exported.QUALITY[name] for name in world.models]
    assert quality == pytest.approx(truth, abs=0.12)
    assert cost == pytest.approx([exported.cost_of(name) for name in world.models], rel=0.05)
    means = np.array([world.draw(seed, 500, "order").quality.mean(axis=0) for seed in range(60)])
    known = np.bincount(sample.served, minlength=3)
    # the model that served least is known least
    assert means.std(axis=0).argmax() == known.argmin()
    covered = np.abs(means.mean(axis=0) - truth) < 3.0 * means.std(axis=0)
    assert covered.all()


def test_a_shadow_log_counts_what_really_served(tmp_path):
    decisions, events = exported.records(400)
    served = ["small", "large"]
    lines = []
    for one in decisions:
        decision = json.loads(one.value) | {"mode": "shadow"}
        lines.append({"value": json.dumps(decision).encode(), "banditroute": exported.header_of(one)})
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "decisions.parquet")
    votes = [
        {"value": orjson.dumps(event | {"model": served[i % 2]})} for i, event in enumerate(events) if i % 4
    ]
    pq.write_table(pa.Table.from_pylist(votes), tmp_path / "feedback.parquet")
    config = from_dict(exported.DOCUMENT)
    spec = make_encoder(config).spec
    sample = read_log(tmp_path, config, spec.spec_id, spec.d)
    assert sample.decisions == 300
    assert sample.left_out == {"not known who served": 100}
    assert np.bincount(sample.served, minlength=3).tolist() == [100, 0, 200]
    assert math.isnan(sample.per_day)


def test_an_outage_takes_the_target_away_and_back(recorded):
    _, _, config, _, world = recorded
    drawn = world.draw(0, 200, "order")
    staged = stage(config, drawn, world.delays(0, 200), STRESS["outage"], 1, np.array([1, 0]))
    assert (staged.start, staged.stop) == (100, 150)
    assert staged.course.starts == (0, 100, 150)
    assert staged.course.eligible.tolist() == [[True, True], [True, False], [True, True]]
    assert set(staged.drawn.present[100:150].tolist()) == {0}
    assert set(np.delete(staged.drawn.present, np.s_[100:150]).tolist()) == {1}


def test_a_price_a_quality_and_feedback_change_from_the_middle_on(recorded):
    _, _, config, _, world = recorded
    drawn, delay = world.draw(0, 200, "order"), world.delays(0, 200)
    ranked = np.array([1, 0])
    dearer = stage(config, drawn, delay, STRESS["price-change"], 1, ranked)
    np.testing.assert_array_equal(dearer.drawn.cost[100:, 1], 3.0 * drawn.cost[100:, 1])
    np.testing.assert_array_equal(dearer.drawn.cost[:100], drawn.cost[:100])
    assert (dearer.course.prices[1, 1] == 3.0 * dearer.course.prices[0, 1]).all()
    worse = stage(config, drawn, delay, STRESS["degradation"], 1, ranked)
    np.testing.assert_array_equal(worse.drawn.quality[100:, 1], 0.7 * drawn.quality[100:, 1])
    silent = stage(config, drawn, np.full(200, 5), STRESS["feedback-loss"], 1, ranked)
    assert (silent.course.delay[:95] == 5).all()
    assert (silent.course.delay[95:] == NEVER).all()


def test_a_bad_new_model_claims_to_be_like_the_target_at_half_its_price(recorded):
    _, _, config, _, world = recorded
    drawn = world.draw(0, 200, "order")
    staged = stage(config, drawn, world.delays(0, 200), STRESS["new-model"], 1, np.array([1, 0]))
    new = staged.config.models[-1]
    assert (new.name, new.like, new.output_usd_per_mtok) == (NEWCOMER, "large", 7.5)
    assert staged.course.eligible.tolist() == [[True, True, False], [True, True, True]]
    np.testing.assert_array_equal(staged.drawn.quality[:, 2], 0.7 * drawn.quality[:, 0])
    np.testing.assert_array_equal(staged.drawn.cost[:, 2], 0.5 * drawn.cost[:, 1])


def test_a_forecast_holds_both_samples_and_the_luck_of_the_router():
    """Means of n draws predict means of N further ones: the variance is 1/n + 1/N, and coverage what is asked for."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        world = rng.normal(size=100)
        order = np.full(12, world.mean())
        resample = rng.choice(world, (24, 50)).mean(axis=1)
        low, high = forecast(order, resample, 50, 100).interval(0.9)
        inside += low <= rng.normal(size=50).mean() <= high
    assert 0.86 <= inside / 400 <= 0.95


def test_a_skewed_cost_has_a_skewed_interval_and_a_share_a_mirrored_one():
    rng = np.random.default_rng(0)
    cost = np.exp(rng.normal(size=2000))
    low, high = forecast(np.empty(0), cost, 1, 1, "log").interval(0.95)
    assert (low, high) == pytest.approx((math.exp(-1.96), math.exp(1.96)), rel=0.1)
    share = forecast(np.empty(0), 1.0 - cost, 1, 1, "share")
    assert share.interval(0.95) == pytest.approx((1.0 - high, 1.0 - low))
    assert share.quantile(0.1) < share.quantile(0.9)
    assert share.above(share.quantile(0.3)) == pytest.approx(0.7)
    assert forecast(np.empty(0), np.array([0.0, 1.0]), 1, 1, "log").scale == "plain"
    assert Forecast(1.0, 1.0, 0.0, 3).above(0.5) == 1.0


def test_confidence_counts_from_where_it_stays():
    looks = np.array([10.0, 20.0, 40.0, 80.0])
    lower = [np.array([0.0, 0.0, 0.0, 0.0]), np.array([0.0, -1.0, 0.0, 0.0]), np.array([0.0, 0.0, 0.0, -1.0])]
    assert confident_after(looks, lower, -0.1) == [10.0, 40.0, math.inf]


def test_the_numbers_of_a_rehearsal_do_not_depend_on_the_number_of_workers(recorded):
    _, _, config, _, world = recorded
    options = RehearsalOptions(requests=150, runs=4)
    one = rehearse(world, config, options).result
    assert one == rehearse(world, config, replace(options, workers=2)).result
    assert one != rehearse(world, config, replace(options, seed=1)).result


def test_rules_decide_and_each_says_what_it_found(recorded):
    _, _, config, _, world = recorded
    lenient = Limits(max_quality_loss=1.0, min_saving=-9.0, max_scenario_loss=1.0)
    options = RehearsalOptions(requests=200, runs=4, limits=lenient, requests_per_day=100.0)
    result = rehearse(world, config, options).result
    assert result["go"]
    assert [rule["name"] for rule in result["rules"]] == ["quality", "saving", *STRESS]
    assert result["days"] == 2.0
    assert result["expected"]["saving"]["low"] < result["expected"]["saving"]["value"]
    strict = replace(lenient, min_saving=0.999, max_days=0.01)
    refused_one = rehearse(world, config, replace(options, limits=strict)).result
    assert not refused_one["go"]
    assert [rule["name"] for rule in refused_one["rules"] if not rule["holds"]] == ["saving", "confidence"]


def test_a_budget_has_a_probability_of_being_breached(recorded):
    _, path, config, outcomes, world = recorded
    cost = outcomes.means()[1]
    small, wide = (
        rehearse(
            world,
            with_objective(config, budget_usd_per_request=float(budget)),
            RehearsalOptions(requests=300, runs=6, scenarios=False),
        ).result["budget"]
        for budget in (0.5 * cost.min(), 2.0 * cost.max())
    )
    assert small["breach_probability"] > 0.95
    assert wide["breach_probability"] < 0.05
    assert wide["utilisation"] < 0.6
    assert path.exists()


def test_a_degraded_model_is_noticed_and_left(recorded):
    _, _, config, _, world = recorded
    free = with_objective(config)
    result = rehearse(world, free, RehearsalOptions(requests=800, runs=9)).result
    told = {one["name"]: one for one in result["scenarios"]}
    worse = told["degradation"]
    assert worse["share_at_end"] < 0.75 * worse["share_before"]  # it is still the best for what is hard
    assert worse["noticed_after"] is not None
    assert told["outage"]["share_while"] == 0.0
    assert told["outage"]["share_at_end"] > 0.5 * told["outage"]["share_before"]
    assert told["new-model"]["share_at_end"] < 0.1
    assert told["feedback-loss"]["quality"] == pytest.approx(
        told["feedback-loss"]["steady_quality"], abs=0.02
    )


def test_exit_status_is_0_for_go_and_1_for_no_go_and_the_page_says_why(recorded, tmp_path):
    folder, path, _, _, _ = recorded
    given = ("-c", path, "--log", folder, *QUICK)
    page, rows = tmp_path / "r.html", tmp_path / "r.csv"
    lenient = ("--max-quality-loss", 1, "--min-saving", -9, "--max-scenario-loss", 1)
    status, out, error = run(*given, *lenient, "--report", page, "--csv", rows, "--requests-per-day", 50)
    assert status == 0, error
    assert out.startswith("Go: all 7 rules hold.")
    assert "4.0 days" in out
    text = page.read_text()
    assert text.count("<svg") == 12
    assert "http" not in text
    assert len(rows.read_text().splitlines()) == 1 + 4 + 3 * 5
    status, out, _ = run(*given, "--min-saving", 0.9999, "--report", page)
    assert status == 1
    assert "No-go" in page.read_text()
    status, out, _ = run(*given, *lenient, "--json")
    assert status == 0
    assert json.loads(out)["go"]


def after(count):
    """Return what stops a rehearsal once so many runs are done."""

    def stop(done):
        if done == count:
            raise KeyboardInterrupt

    return stop


def test_ctrl_c_leaves_the_steady_runs_that_are_done(recorded):
    _, _, config, _, world = recorded
    options = RehearsalOptions(requests=200, runs=6)
    found = rehearse(world, config, options, note=after(7))
    result = found.result
    assert result["interrupted"]
    assert not result["go"]
    assert result["notes"] == ["stopped after 7 of 10 steady runs, and before the scenarios"]
    assert result["scenarios"] == []
    assert len(found.steady) == 3
    whole = rehearse(world, config, options)
    assert not whole.result["interrupted"]
    for one, same in zip(found.steady, whole.steady, strict=False):
        np.testing.assert_array_equal(one.all, same.all)
    with pytest.raises(KeyboardInterrupt):  # too few for an interval
        rehearse(world, config, options, note=after(2))


def test_ctrl_c_leaves_the_scenarios_that_are_done(recorded):
    _, _, config, _, world = recorded
    options = RehearsalOptions(requests=200, runs=4)
    whole = rehearse(world, config, options).result
    result = rehearse(world, config, options, note=after(8 + 3 + 3 + 1)).result
    assert result["interrupted"]
    assert result["notes"] == [f"stopped after 7 of {3 * len(STRESSES)} runs of scenarios"]
    assert result["scenarios"] == whole["scenarios"][:2]
    assert result["expected"] == whole["expected"]


def test_an_interrupted_rehearsal_is_shown_and_exits_with_130(recorded, tmp_path, monkeypatch):
    folder, path, _, _, _ = recorded
    page, rows = tmp_path / "r.html", tmp_path / "r.csv"
    flags = ("-c", path, "--log", folder, *QUICK, "--report", page, "--csv", rows)
    monkeypatch.setattr("banditroute_sim.progress.bar", lambda *_: contextlib.nullcontext(after(12)))
    status, out, _ = run(*flags)
    assert status == 130
    assert out.startswith("No verdict: it was stopped")
    assert "note: stopped after 4 of 15 runs of scenarios" in out
    assert "No verdict" in page.read_text(encoding="utf-8")
    assert len(rows.read_text().splitlines()) == 1 + 4 + 3
    status, out, _ = run(*flags, "--json")
    assert status == 130
    assert json.loads(out)["interrupted"]
    monkeypatch.setattr("banditroute_sim.progress.bar", lambda *_: contextlib.nullcontext(after(1)))
    assert run(*flags)[0] == 130  # nothing to report


def test_a_log_is_rehearsed_against_what_served_in_it(logged, tmp_path):
    folder, _, _, _ = logged
    path = toml_of(exported.DOCUMENT, tmp_path / "c.toml")
    status, out, error = run("-c", path, "--log", folder, *QUICK, "--json")
    assert status in {0, 1}, error
    result = json.loads(out)
    assert result["present_policy"] == "the models that served in the log"
    assert result["requests_per_day"] == pytest.approx(8640, rel=0.01)
    assert {"quality of the world", "cost of the world"} <= {rule["name"] for rule in result["rules"]}
    assert result["expected"]["present_quality"]["value"] == pytest.approx(0.58, abs=0.1)


def test_what_cannot_be_rehearsed_is_one_sentence(recorded, logged, tmp_path):
    folder, path, _, _, _ = recorded
    good = ("-c", path, "--log", folder)
    assert "is not a folder" in refused("-c", path, "--log", tmp_path / "nowhere")
    assert "neither a data set" in refused("-c", path, "--log", tmp_path)
    assert "--present names 'huge'" in refused(*good, "--present", "huge")
    assert "between 0 and 1" in refused(*good, "--confidence", 1.0)
    assert "more than 0" in refused(*good, "--requests-per-day", 0)
    assert "finite" in refused(*good, "--min-saving", "nan")
    assert "--max-days needs the traffic" in refused(*good, "--max-days", 3)
    prompts, outcomes = tables(20)
    assert "50 at least" in refused("-c", path, "--log", write(tmp_path / "few", prompts, outcomes))
    paused = tmp_path / "paused.toml"
    paused.write_text(path.read_text().replace('name = "', 'paused = true\nname = "'))
    assert "paused" in refused("-c", paused, "--log", folder)
    log, _, _, _ = logged
    assert "not in the catalog" in refused("-c", path, "--log", log)
    other = toml_of(exported.DOCUMENT, tmp_path / "c.toml")
    assert "for a data set" in refused("-c", other, "--log", log, "--present", "small")
    other.write_text(other.read_text() + "[features]\ntags = 5\n")
    assert "features" in refused("-c", other, "--log", log)
    few = tmp_path / "short"
    exported.write_parquet(few, *exported.records(50))
    assert "100 at least" in refused("-c", toml_of(exported.DOCUMENT, tmp_path / "d.toml"), "--log", few)


def test_where_today_costs_nothing_costs_that_rise_are_no_go(tmp_path):
    texts, outcomes = tables(120)
    free = [
        cost if name == "large" else 0.0
        for name, cost in zip(outcomes["model"], outcomes["cost_usd"], strict=True)
    ]
    folder = write(
        tmp_path / "set",
        texts,
        {**outcomes, "cost_usd": free},
        {"prices_per_m": {"small": [0, 0], "large": [5, 15]}},
    )
    text = configuration(tmp_path / "c.toml").read_text().replace("0.5", "0.0", 1).replace("1.5", "0.0", 1)
    (tmp_path / "c.toml").write_text(text)
    options = ["--log", folder, "--present", "small", "--runs", "4", "--requests", "150", "--json"]
    done = CliRunner().invoke(app, ["rehearse", "-c", str(tmp_path / "c.toml"), *map(str, options)])
    assert done.exit_code == 1, done.output
    result = json.loads(done.stdout)
    assert result["expected"]["saving"]["value"] is None
    assert result["expected"]["saving_usd"]["value"] < 0.0
    assert "saving" in [rule["name"] for rule in result["rules"] if not rule["holds"]]
    told = CliRunner().invoke(app, ["rehearse", "-c", str(tmp_path / "c.toml"), *map(str, options[:-1])])
    assert "today costs nothing" in told.output


def test_one_model_is_rehearsed_and_an_outage_of_it_hits_today_as_well(tmp_path):
    folder = data_set(tmp_path / "set", models=("small",))
    config = configuration(tmp_path / "c.toml", models=("small",))
    options = ["--log", folder, "--runs", "4", "--requests", "150", "--json"]
    done = CliRunner().invoke(app, ["rehearse", "-c", str(config), *map(str, options)])
    assert done.exit_code in (0, 1), done.output
    (outage,) = [one for one in json.loads(done.stdout)["scenarios"] if one["name"] == "outage"]
    assert outage["quality"] == outage["present_quality"] == 0.0
