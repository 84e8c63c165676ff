"""The books of a run, and what is printed and drawn of them."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from banditroute.errors import ConfigError
from banditroute_sim import DemoOptions, DemoWorld, Tally, TrafficOptions, print_summary
from banditroute_sim.demo.view import render, sparkline

WORLD = DemoWorld(seed=0)
DATA = WORLD.draw(10)


def tally(requests=20, choices=()):
    books = Tally(DATA, requests, WORLD.cost_weight)
    for number, model in enumerate(choices):
        books.send(1, float(number))
        books.decide(number, model, number + 0.01 * (number + 1))
    return books


def test_means_and_baselines_are_over_the_requests_that_were_decided():
    summary = tally(choices=["nano", "large", "nano"]).summary()
    rows, columns = [0, 1, 2], [0, 3, 0]
    assert summary.mean_quality == pytest.approx(DATA.quality[rows, columns].mean())
    assert summary.mean_utility == pytest.approx(DATA.utility(20.0)[rows, columns].mean())
    assert summary.best_fixed == DATA.best_fixed(20.0, np.array(rows))
    assert summary.oracle_utility == DATA.oracle_utility(20.0, np.array(rows))
    assert summary.share == pytest.approx(
        {"nano": 2 / 3, "small": 0, "medium": 0, "large": 1 / 3, "reasoner": 0}
    )


def test_prompts_repeat_when_there_are_more_requests():
    summary = tally(choices=["small"] * 20).summary()
    assert summary.mean_quality == pytest.approx(DATA.quality[:, 1].mean())


def test_a_later_decision_is_a_duplicate_and_changes_nothing():
    books = tally(choices=["nano"])
    before = books.summary()
    assert not books.decide(0, "large", 9.0)
    after = books.summary()
    assert (before.duplicates, after.duplicates) == (0, 1)
    assert after.mean_quality == before.mean_quality
    assert after.decisions == 1


def test_an_unknown_outcome_counts_as_a_decision_and_never_as_a_number():
    summary = tally(choices=["nano", None, "stranger"]).summary()
    assert (summary.decisions, summary.unknown_outcomes, summary.undecided) == (3, 2, 0)
    assert summary.mean_quality == DATA.quality[0, 0]
    assert summary.share["(none)"] == summary.share["stranger"] == pytest.approx(1 / 3)


def test_without_decisions_there_are_no_means():
    books = tally()
    books.send(5, 0.0)
    summary = books.summary()
    assert (summary.requests, summary.undecided) == (5, 5)
    assert summary.mean_utility is summary.best_fixed is summary.oracle_utility is None
    assert summary.decisions_per_second is None
    assert summary.latency_ms == {"p50": None, "p99": None}


def test_latency_and_rate_are_those_of_the_clock_given():
    books = tally(choices=["nano"] * 5)
    assert books.latency_ms()["p50"] == pytest.approx(30.0)
    assert books.latency_ms(last=1)["p50"] == pytest.approx(50.0)
    assert books.summary().decisions_per_second == pytest.approx(5 / 4.05)
    assert books.rate(4.05, 2.0) == pytest.approx(1.0)


@pytest.mark.parametrize("choices", [(), ["nano", "large", None, "stranger"]])
def test_a_summary_is_json_and_prints_without_a_terminal(choices):
    summary = tally(choices=choices).summary().to_dict()
    assert json.loads(json.dumps(summary)) == summary
    out = io.StringIO()
    print_summary(summary | {"feedback_applied": 7}, Console(file=out, width=80))
    assert "\x1b" not in out.getvalue()
    assert "feedback applied 7" in out.getvalue()
    assert ("large" in out.getvalue()) == bool(choices)


@pytest.mark.parametrize("choices", [(), ["nano"], ["nano", "large", None, "stranger"] * 5])
def test_the_view_can_be_drawn_at_any_time_and_fits_a_small_terminal(choices):
    out = io.StringIO()
    Console(file=out, width=80).print(render(tally(choices=choices), 30.0))
    assert "reasoner" in out.getvalue()
    assert "…" not in out.getvalue()


def test_a_sparkline_scales_to_its_top():
    assert sparkline([0.0, 0.25, 0.5, 9.0], 0.5) == " ▄██"
    assert sparkline([0.0], 0.0) == " "


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"requests": 0}, "requests"),
        ({"rate": -1.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"seconds": 0.0}, "seconds"),
        ({"feedback_share": 1.1}, "feedback_share"),
        ({"feedback_delay": -1.0}, "feedback_delay"),
        ({"feedback_delay": (2.0, 1.0)}, "feedback_delay"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"stall_timeout": 0.0}, "stall_timeout"),
        ({"partitioner": "md5"}, "partitioner"),
        ({"seed": -1}, "seed"),
    ],
)
def test_an_option_out_of_range_is_one_sentence_that_names_it(options, name):
    with pytest.raises(ConfigError, match=f"^{name} is .*: expected"):
        TrafficOptions(**{"requests": 1} | options)


def test_the_demo_runs_twenty_seconds_unless_told_otherwise():
    assert (DemoOptions().traffic().requests, DemoOptions().traffic().seconds) == (10_000, 20.0)
    assert (DemoOptions(requests=70).traffic().requests, DemoOptions(requests=70).traffic().seconds) == (
        70,
        None,
    )
    assert DemoOptions(seconds=3.0, rate=100.0).traffic().requests == 300
    assert DemoOptions(seconds=3.0, rate=0.0).traffic().requests > 10_000
    for wrong in ({"seconds": -1.0}, {"requests": 0}, {"rate": -1.0}, {"seed": -1}):
        with pytest.raises(ConfigError):
            DemoOptions(**wrong)
