"""Compiled players choose what the step-by-step policies choose, however an episode is cut into pieces."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from banditroute.bandit.choice.change import THRESHOLD, ChangeDetector
from banditroute.bandit.evidence.evidence import ModelKey
from banditroute_sim.policies import POLICIES
from banditroute_sim.scenarios import NEVER, PIECE, SCENARIOS, SUITE, draw, pieces
from banditroute_sim.simulate._kernels_ours import _watch
from banditroute_sim.simulate.compiled import BASELINES, CompiledBaseline, CompiledOurs
from banditroute_sim.simulate.measures import Measure, Recovery, Truth, stretches
from banditroute_sim.simulate.players import PLACES, Played, Stepped
from banditroute_sim.simulate.run import Job, _contiguous, play_seed
from banditroute_sim.simulate.single import recovery, run

ROUNDS, SIZE, SEED = 1500, 400, 9
FIELDS = ("x", "mean", "quality", "cost", "available", "delay")


def cut(name, seed=5, rounds=ROUNDS, size=SIZE):
    """Return the pieces of an episode, and the whole of it."""
    parts = [_contiguous(piece) for piece in pieces(name, seed, rounds, size)]
    whole = replace(parts[0], **{f: np.concatenate([getattr(part, f) for part in parts]) for f in FIELDS})
    return parts, whole


def chosen(player, parts):
    return np.concatenate([player.play(part).chosen for part in parts])


@pytest.mark.parametrize("name", SCENARIOS)
def test_ours_compiled_chooses_and_learns_what_ours_does_one_by_one(name):
    parts, whole = cut(name)
    plain, compiled = POLICIES["banditroute"](whole, SEED), CompiledOurs(parts[0], SEED, ROUNDS, sampled=7)
    assert (run(whole, plain).chosen == chosen(compiled, parts)).all()
    for key, row in plain.session.evidence.rows.items():
        assert (compiled.evidence.rows[key] == row).all()
    assert (compiled.policy.working[0] == plain.session.policy.working[0]).all()
    assert [model for _, model in compiled.changes] == [model for _, model in plain.session.changes]


def test_a_verdict_is_reached_in_the_same_round():
    parts, whole = cut("flip", rounds=3000)
    plain, compiled = POLICIES["banditroute"](whole, SEED), CompiledOurs(parts[0], SEED, 3000)
    assert (run(whole, plain).chosen == chosen(compiled, parts)).all()
    assert len(compiled.changes) == len(plain.session.changes) == 1


@pytest.mark.parametrize("who", BASELINES)
@pytest.mark.parametrize("name", ["flip", "many-models", "price-change", "burst", "delay-sparse"])
def test_a_compiled_baseline_chooses_what_it_does_one_by_one(name, who):
    parts, whole = cut(name)
    plain = POLICIES[who](whole, SEED)
    merit = plain._merit if who in {"best-fixed", "cheapest"} else None
    compiled = CompiledBaseline(who, parts[0], SEED, ROUNDS, merit)
    assert (run(whole, plain).chosen == chosen(compiled, parts)).all()


@pytest.mark.parametrize("name", ["outage", "delay-sparse", "thumbs"])
def test_a_stepped_player_does_what_a_plain_run_does_in_pieces(name):
    parts, whole = cut(name)
    expected = run(whole, POLICIES["lints"](whole, SEED)).chosen
    assert (chosen(Stepped(POLICIES["lints"](whole, SEED), ROUNDS), parts) == expected).all()


def test_more_votes_on_their_way_than_there_are_places_are_all_heard():
    rounds = 6 * PLACES
    whole = draw("stationary", 1, rounds)
    delay = np.random.default_rng(3).integers(3 * PLACES, 5 * PLACES, whole.delay.shape)
    delay[::7] = NEVER
    whole = _contiguous(replace(whole, delay=delay))
    for plain, compiled in (
        (POLICIES["banditroute"](whole, SEED), CompiledOurs(whole, SEED, rounds)),
        (POLICIES["ucb1"](whole, SEED), CompiledBaseline("ucb1", whole, SEED, rounds)),
    ):
        assert (run(whole, plain).chosen == compiled.play(whole).chosen).all()


def test_propensities_of_a_sample_are_those_of_the_decisions_and_change_no_choice():
    whole = _contiguous(draw("contextual", 2, 800))
    without = CompiledOurs(whole, SEED, 800).play(whole)
    played = CompiledOurs(whole, SEED, 800, sampled=10).play(whole)
    assert (played.chosen == without.chosen).all()
    known = ~np.isnan(played.propensity)
    assert np.flatnonzero(known).tolist() == list(range(0, 800, 10))
    assert ((played.propensity[known] > 0.0) & (played.propensity[known] <= 1.0)).all()
    plain = POLICIES["banditroute"](whole, SEED)
    chances = []
    for t in range(800):
        if t % 10 == 0:
            chances.append(plain.probabilities(t, whole.x[t], whole.cost[t], whole.available[t]))
        model = plain.choose(t, whole.x[t], whole.cost[t], whole.available[t])
        plain.learn(t, whole.x[t], model, float(whole.quality[t, model]))
    expected = [chance[played.chosen[10 * i]] for i, chance in enumerate(chances)]
    assert (played.propensity[known] == expected).all()


def test_the_compiled_watch_is_the_change_detector():
    rng = np.random.default_rng(4)
    detector, key, sums = ChangeDetector(), ModelKey("a"), np.zeros(4)
    alarms = 0
    for i in range(5000):
        residual = float(rng.normal(1.5 if i % 500 > 450 else 0.0, 1.0))
        variance = float(1.0 + rng.random())
        alarm = detector.observe(key, 1.0, residual, variance)
        assert alarm == _watch(sums, residual, variance)
        assert (sums == detector.sums[detector.row(key)]).all()
        alarms += alarm
    assert alarms > 0
    assert THRESHOLD == 13.0


# --- worlds in pieces ---


def test_the_suite_is_the_one_that_is_promised():
    assert SUITE == (
        "stationary", "close-models", "warm-prior", "contextual", "flip", "gradual", "thumbs", "delay-sparse",
        "new-model", "price-change", "degradation", "outage", "judge-noise", "poisoned", "many-models", "task-shift",
        "burst",
    )  # fmt: skip
    for each in SCENARIOS.values():
        assert each.build.__doc__


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_first_piece_is_what_is_drawn_at_once_and_later_ones_fit(name):
    parts = list(pieces(name, 3, 1000, 300))
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    assert [part.start for part in parts] == [0, 300, 600, 900]
    assert len({part.changes for part in parts}) == len({part.mean.shape[1] for part in parts}) == 1
    again = list(pieces(name, 3, 1000, 300))
    alone = next(pieces(name, 3, 1000, 1000))
    assert alone.x.shape[0] == 1000
    assert (draw(name, 3, 1000).quality == alone.quality).all()
    for part, same in zip(parts, again, strict=True):
        for field in FIELDS:
            assert (getattr(part, field) == getattr(same, field)).all()
    assert (parts[0].quality[:100] != parts[1].quality[:100]).any()


@pytest.mark.parametrize(
    "name", ["flip", "degradation", "new-model", "price-change", "outage", "retired-model"]
)
def test_what_changes_half_way_changes_at_the_same_round_in_pieces(name):
    for size in (1000, 300, 7):
        parts = list(pieces(name, 3, 1000, size))
        offered = np.concatenate([np.where(p.available, p.mean - p.cost, -9.0) for p in parts])
        early = offered[:500] - offered[:500].mean() if name == "flip" else offered[:500]
        assert not np.allclose(
            np.sort(early.mean(axis=0)), np.sort(offered[500:].mean(axis=0)), atol=1e-3
        ) or (offered[:500].mean(axis=0).argmax() != offered[500:].mean(axis=0).argmax())
        assert parts[0].changes[0] == 500


def test_heavy_tails_are_heavy_and_costs_are_what_they_are_said_to_be_on_average():
    world = draw("heavy-tails", 1, 20_000)
    ratio = world.paid.mean(axis=0) / world.cost.mean(axis=0)
    assert ratio == pytest.approx(np.ones(8), abs=0.1)
    assert (world.paid / world.cost).max() > 20.0
    slow = world.latency_ms
    assert (np.quantile(slow, 0.999, axis=0) > 8.0 * np.median(slow, axis=0)).all()


def test_a_burst_makes_votes_later_and_the_best_model_refuse():
    world = draw("burst", 1)
    busy = (np.arange(10_000) * 5 / 10_000) % 1.0 >= 0.9
    assert world.delay[busy].mean() > 5.0 * world.delay[~busy].mean()
    refused = ~world.available
    assert refused[~busy].sum() == 0
    assert refused[busy].any(axis=1).mean() == pytest.approx(0.5, abs=0.06)


def test_thumbs_are_sparse_and_the_displeased_are_sooner():
    world = draw("thumbs", 1)
    told = world.delay != NEVER
    assert told.any(axis=1).mean() == pytest.approx(0.2, abs=0.02)
    bad = world.quality == 0.0
    assert np.median(world.delay[told & bad]) < 0.7 * np.median(world.delay[told & ~bad])


# --- measures ---


def test_measures_do_not_depend_on_the_pieces():
    parts, whole = cut("flip", rounds=2000, size=333)
    picked = run(whole, POLICIES["ucb1"](whole, SEED))
    at, pieced, at_once = 0, Measure("u", 2000, 3, whole.changes), Measure("u", 2000, 3, whole.changes)
    at_once.add(whole, Truth(whole), Played(picked.chosen))
    for part in parts:
        pieced.add(part, Truth(part), Played(picked.chosen[at : at + len(part)]))
        at += len(part)
    one, other = at_once.outcome(), pieced.outcome()
    assert one.recovery == other.recovery == [recovery(whole, picked, 1000)]
    assert (one.shares == other.shares).all()
    assert one.shares.sum() == 2000
    assert one.curve == pytest.approx(other.curve)
    assert one.regret == pytest.approx(picked.total)
    assert one.curve[-1] == one.regret
    assert one.best_share == other.best_share == (picked.regret <= 0.0).mean()


def test_recovery_is_a_hundred_at_least_and_nothing_before_the_change_counts():
    watch = Recovery(50)
    watch.add(0, np.ones(120, bool))
    assert watch.rounds is None
    watch.add(120, np.ones(100, bool))
    assert watch.rounds == 100
    slow = Recovery(0)
    slow.add(0, np.zeros(30, bool))
    slow.add(30, np.ones(200, bool))
    assert slow.rounds == 110


def test_stretches_tile_the_episode():
    for horizon in (1, 2, 99, 100, 101, 12_345):
        ends = stretches(horizon)
        assert ends[-1] == horizon
        assert (np.diff(ends) > 0).all()
        assert len(ends) == min(horizon, 100)


def test_a_long_episode_needs_the_memory_of_a_piece():
    def peak(rounds):
        tracemalloc.start()
        play_seed(Job("flip", 1, rounds, ("banditroute", "uniform", "best-fixed")))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)  # compiles
    assert peak(10 * PIECE) < 1.1 * peak(4 * PIECE)
