"""Worlds are what they say: seeded, complete, and with feedback that goes astray in the way that is described."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from banditroute_sim.policies import POLICIES
from banditroute_sim.policies.base import Opaque
from banditroute_sim.scenarios import NEVER, SCENARIOS, draw
from banditroute_sim.scenarios.feedback import answered, late, opposed
from banditroute_sim.simulate.single import recovery, run

ROUNDS = 2000


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_drawn_from_its_seed_and_its_parts_fit(name):
    world, again, other = draw(name, 3, ROUNDS), draw(name, 3, ROUNDS), draw(name, 4, ROUNDS)
    rounds, models = world.mean.shape
    assert (world.name, rounds, len(world)) == (name, ROUNDS, ROUNDS)
    for field in ("quality", "cost", "available", "delay", "mean"):
        assert getattr(world, field).shape == (rounds, models)
        assert (getattr(world, field) == getattr(again, field)).all()
    assert (world.quality != other.quality).any()
    assert (world.x[:, 0] == 1.0).all()
    assert world.blocks[0] == (0, 1)
    assert world.blocks[-1][1] == world.x.shape[1]
    assert world.available.any(axis=1).all()
    assert len(set(world.names)) == models
    # blocks are normalised: a context has about one unit of energy beside its intercept
    energy = float((world.x[:, 1:].astype(float) ** 2).sum(axis=1).mean())
    assert world.x.shape[1] == 1 or energy == pytest.approx(1.0, abs=0.05)


def test_delay_sparse_answers_one_in_ten_after_delays_with_a_heavy_tail():
    delay = draw("delay-sparse", 1).delay
    assert (delay == delay[:, :1]).all()
    told = delay[:, 0][delay[:, 0] != NEVER]
    assert len(told) == pytest.approx(1000, abs=100)
    assert np.median(told) == pytest.approx(200, abs=40)
    assert told.mean() > 2.0 * np.median(told)


def test_mnar_hears_four_times_as_often_from_who_is_displeased():
    world = draw("mnar", 1)
    told = world.delay != NEVER
    assert told[world.quality == 0.0].mean() == pytest.approx(0.4, abs=0.02)
    assert told[world.quality == 1.0].mean() == pytest.approx(0.1, abs=0.02)


def test_poisoned_reverses_the_votes_of_one_in_ten_and_leaves_the_truth():
    world = draw("logistic", 1, 5000)
    wrong = opposed(np.random.default_rng(2), world, 0.1)
    reversed_rounds = (wrong.quality != world.quality).all(axis=1)
    assert reversed_rounds.mean() == pytest.approx(0.1, abs=0.02)
    assert (wrong.quality[~reversed_rounds] == world.quality[~reversed_rounds]).all()
    assert wrong.mean is world.mean


def test_many_models_has_fifty_and_no_two_tasks_share_their_order():
    world = draw("many-models", 1)
    assert world.mean.shape[1] == 50
    best = {tuple(row): int(mean.argmax()) for row, mean in zip(world.x.tolist(), world.mean, strict=True)}
    assert len(best) == 6
    assert len(set(best.values())) > 1


def test_a_vote_that_never_comes_stays_away_however_late_the_others_are():
    rng, world = np.random.default_rng(5), draw("linear", 1, 300)
    both = late(answered(rng, world, 0.5), np.full(300, 7.9))
    assert set(np.unique(both.delay)) == {NEVER, 7}
    assert (late(both, np.ones(300)).delay == np.where(both.delay == NEVER, NEVER, 8)).all()


def test_an_outage_takes_the_best_model_away_for_a_tenth_of_the_time():
    world = draw("outage", 1)
    away = ~world.available
    assert away.any(axis=0).sum() == 1
    assert np.flatnonzero(away.any(axis=1)).tolist() == list(range(*world.changes))


def test_a_judge_errs_in_votes_and_never_in_what_is_true():
    world = draw("judge-noise", 1)
    error = world.quality - world.mean
    assert error.std() == pytest.approx(0.6, abs=0.02)
    assert np.abs(error.mean(axis=0)).max() > 0.02


class Listener(Opaque):
    """Chooses models in turn and writes down what it hears."""

    def __init__(self):
        self.now, self.heard = -1, []

    def choose(self, t, x, cost, available):
        self.now = t
        return t % len(cost)

    def learn(self, t, x, model, quality):
        self.heard.append((self.now + 1, t, model, quality))


def test_a_vote_arrives_after_the_delay_of_the_model_that_served():
    world = draw("stationary", 1, 9)
    delay = np.array([[0, 2, NEVER]] * 9)
    listener = Listener()
    run(replace(world, delay=delay), listener)
    expected = [(t + 1 + delay[t, t % 3], t, t % 3, world.quality[t, t % 3]) for t in range(9) if t % 3 < 2]
    assert listener.heard == sorted(each for each in expected if each[0] < 9)


def test_moving_models_moves_all_that_belongs_to_them_and_the_oracle_misses_nothing():
    world = draw("mnar", 2, 500)
    order = np.random.default_rng(0).permutation(world.mean.shape[1])
    moved = world.shuffled(order)
    assert (moved.delay == world.delay[:, order]).all()
    assert (moved.quality == world.quality[:, order]).all()
    assert run(moved, POLICIES["oracle"](moved, 0)).total == 0.0


def test_recovery_counts_from_the_change_to_the_round_at_which_a_hundred_held_eighty():
    world = draw("flip", 1, 2000)
    result = run(world, POLICIES["oracle"](world, 0))
    assert recovery(world, result, 1000) == 100
    regret = np.zeros(2000)
    regret[1000:1050] = 1.0
    assert recovery(world, replace(result, regret=regret), 1000) == 130
    assert recovery(world, replace(result, regret=np.ones(2000)), 1000) == 1000
