"""Models that cannot win are not explored, and what exploration costs is counted."""

from __future__ import annotations

import numpy as np
import pytest

from banditroute.bandit.choice.batch import DecideBatch
from banditroute.bandit.choice.policy import Policy
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, Vote
from banditroute.bandit.objectives.exploration import SAMPLED, Exploration
from banditroute.bandit.posterior.posterior import ModelPrior

NAMES = ("good", "fair", "hopeless")
PRICES = np.array([[10.0, 0.0], [10.0, 0.0], [10.0, 0.0]])


def taught(votes=400, quality=(0.9, 0.899, 0.2), special=None):
    """A policy of three models and two kinds of request; ``special`` is the quality of the last on the rarer kind."""
    policy = Policy([ModelPrior(ModelKey(name)) for name in NAMES], [(0, 1), (1, 2)], seed=3)
    evidence = Evidence(2)
    rng = np.random.default_rng(5)
    for k, name in enumerate(NAMES):
        for t in range(votes):
            rare = t % 20 == 0
            x = np.array([1.0, 1.0 if rare else 0.0], np.float32)
            mean = special if rare and special is not None and k == 2 else quality[k]
            evidence.add(ModelKey(name), x, Vote(mean + 0.1 * rng.normal()), 1.0)
    policy.derive(evidence)
    return policy


def asked(policy, exploration, n=2000, prices=PRICES, weight=0.0, eligible=None):
    """Decide requests, one in twenty of the rarer kind."""
    x = np.ones((n, 2), np.float32)
    x[:, 1] = np.arange(n) // SAMPLED % 20 == 0
    batch = DecideBatch.of(
        x, np.arange(n, dtype=np.uint64), prices, eligible=eligible, input_tokens=1000.0, cost_weight=weight
    )
    choices = policy.decide(batch, every=True)
    exploration.decided(policy, batch, choices)
    return choices


def test_a_model_that_cannot_win_rests_and_is_never_drawn():
    policy, exploration = taught(), Exploration()
    before = asked(policy, exploration)
    assert before.propensities[:, 2].max() > 0.0
    exploration.rest(policy)
    assert exploration.resting.tolist() == [False, False, True]
    after = asked(policy, exploration)
    assert after.propensities[:, 2].max() <= 1e-300
    np.testing.assert_allclose(after.propensities.sum(axis=1), 1.0, atol=1e-9)


def test_a_model_that_rests_serves_where_no_other_may():
    policy, exploration = taught(), Exploration()
    asked(policy, exploration)
    exploration.rest(policy)
    choices = asked(policy, exploration, eligible=[False, False, True])
    assert set(choices.chosen) == {2}
    assert set(choices.propensity) == {1.0}


def test_a_model_that_is_best_for_few_requests_does_not_rest():
    policy, exploration = taught(special=0.99), Exploration()
    asked(policy, exploration)
    exploration.rest(policy)
    assert not exploration.resting.any()


def test_a_price_or_a_weight_wakes_a_model_and_sends_another_to_rest():
    policy, exploration = taught(), Exploration()
    cheap = np.array([[1000.0, 0.0], [1000.0, 0.0], [0.0, 0.0]])
    for weight, resting in (
        (0.0, [False, False, True]),
        (2.0, [True, True, False]),
        (0.0, [False, False, True]),
    ):
        policy.rest(np.zeros(3, bool))
        asked(policy, exploration, prices=cheap, weight=weight)
        exploration.rest(policy)
        assert exploration.resting.tolist() == resting


def test_without_votes_nobody_rests():
    policy, exploration = taught(votes=0), Exploration()
    asked(policy, exploration)
    exploration.rest(policy)
    assert not exploration.resting.any()


def test_a_derive_wakes_everybody():
    policy, exploration = taught(), Exploration()
    asked(policy, exploration)
    exploration.rest(policy)
    policy.derive(Evidence(2))
    assert (asked(policy, Exploration()).propensities > 0.01).all()


def test_a_vote_does_not_wake_a_model_that_rests():
    policy, exploration = taught(), Exploration()
    asked(policy, exploration)
    exploration.rest(policy)
    policy.observe(2, np.array([1.0, 0.0], np.float32), 0.3)
    assert asked(policy, exploration).propensities[:, 2].max() <= 1e-300


def test_few_requests_say_nothing():
    policy, exploration = taught(), Exploration()
    asked(policy, exploration, n=SAMPLED * 10)
    exploration.rest(policy)
    assert exploration.resting.size == 0


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_share_and_cost_of_exploration_are_those_of_its_decisions(weight):
    policy, exploration = taught(votes=10, quality=(0.7, 0.65, 0.6)), Exploration()
    prices = np.array([[20.0, 0.0], [10.0, 0.0], [1.0, 0.0]])
    choices = asked(policy, exploration, prices=prices, weight=weight)
    utility = choices.quality - weight * choices.cost
    rows = np.arange(len(utility))
    forgone = utility.max(axis=1) - utility[rows, choices.chosen]
    assert exploration.decisions == len(rows)
    assert exploration.explored == np.count_nonzero(forgone)
    assert 0 < exploration.explored < len(rows)
    assert exploration.forgone == pytest.approx(forgone.sum())


def test_a_model_that_may_not_serve_is_no_choice_that_was_forgone():
    policy, exploration = taught(), Exploration()
    asked(policy, exploration, eligible=[False, False, True])
    assert (exploration.explored, exploration.forgone) == (0, 0.0)
    asked(policy, exploration, eligible=[False, False, False])
    assert (exploration.decisions, exploration.forgone) == (2000, 0.0)
