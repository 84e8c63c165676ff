"""The cost weight in force meets the budget, or keeps the floor, on the requests of the window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.bandit.choice.policy import DecideBatch, Policy
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, Vote
from banditroute.bandit.objectives import _kernels_pacing
from banditroute.bandit.objectives.pacing import AIM, DAY_MS, BudgetPacer, Fixed, FloorPacer
from banditroute.bandit.posterior.posterior import ModelPrior

PRICES = np.array([[1.0, 0.0], [10.0, 0.0], [100.0, 0.0]])  # 1,000 input tokens: 0.001, 0.01 and 0.1 USD
QUALITY = (0.3, 0.6, 0.9)


def taught(votes: int = 3000) -> Policy:
    policy = Policy([ModelPrior(ModelKey(f"m{k}")) for k in range(3)], [(0, 1)], seed=4)
    evidence = Evidence(1)
    x = np.ones(1, np.float32)
    for k, quality in enumerate(QUALITY):
        if votes:
            evidence.add(ModelKey(f"m{k}"), x, Vote(quality=quality), float(votes))
    policy.derive(evidence)
    return policy


def requests(n: int, first: int = 0, prices=PRICES, **columns: object) -> DecideBatch:
    keys = np.arange(first, first + n, dtype=np.uint64) * np.uint64(104729)
    return DecideBatch.of(np.ones((n, 1)), keys, prices, input_tokens=1000.0, **columns)


def in_force(policy, pacer):
    batch = requests(1, 10**6)
    pacer.pace(policy, batch, np.ones(1, bool), 0.0)
    return batch.limits[0, [2, 6, 7]].tolist()


def run(policy, pacer, batches=60, size=20, prices=PRICES, now=0.0):
    costs, chosen = [], []
    for index in range(batches):
        batch = requests(size, index * size, prices)
        pacer.pace(policy, batch, np.ones(size, bool), now)
        choices = policy.decide(batch)
        pacer.decided(choices, now)
        rows = np.arange(size)
        costs += choices.cost[rows, choices.chosen].tolist()
        chosen += choices.chosen.tolist()
    return np.array(costs), np.array(chosen)


scores = st.integers(1, 4).flatmap(
    lambda k: st.lists(
        st.tuples(
            st.lists(st.floats(-1, 2), min_size=k, max_size=k),
            st.lists(st.floats(1e-6, 1), min_size=k, max_size=k),
        ),
        min_size=1,
        max_size=30,
    )
)


@settings(deadline=None)
@given(scores, st.floats(1e-7, 1.5))
def test_the_mix_of_two_cost_weights_costs_the_rate_or_no_weight_is_needed(window, rate):
    score = np.array([row[0] for row in window])
    cost = np.array([row[1] for row in window])

    def spend(weight):
        chosen = (score - weight * cost).argmax(axis=1)
        return cost[np.arange(len(cost)), chosen].mean()

    out = np.empty(3)
    _kernels_pacing.bracket(score, cost, rate, out)
    low, high, share = out
    if spend(0.0) <= rate:
        assert (low, high, share) == (0.0, 0.0, 0.0)
    elif cost.min(axis=1).mean() > rate:
        assert high == low
        assert spend(high) == pytest.approx(cost.min(axis=1).mean())
    else:
        assert 0.0 <= low <= high
        assert 0.0 <= share <= 1.0
        assert (1.0 - share) * spend(low) + share * spend(high) <= rate * (1 + 1e-9) + 1e-12 or spend(
            high
        ) <= rate
        if spend(low) > rate:
            mixed = (1.0 - share) * spend(low) + share * spend(high)
            assert mixed == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("budget", [0.002, 0.006, 0.03, 0.08])
def test_a_budget_per_request_is_met_and_not_exceeded(budget):
    costs, _ = run(taught(), BudgetPacer(budget), batches=120)
    settled = costs[600:]
    assert settled.mean() <= 1.01 * budget
    assert settled.mean() >= 0.93 * budget


def test_a_budget_that_binds_nobody_leaves_the_cost_weight_at_zero():
    pacer = BudgetPacer(1.0)
    run(taught(), pacer)
    assert in_force(taught(), pacer) == [0.0, 0.0, 0.0]


def test_a_budget_below_the_cheapest_model_takes_the_cheapest():
    _, chosen = run(taught(), BudgetPacer(1e-5))
    assert (chosen[200:] == 0).all()


def test_what_was_spent_too_much_is_made_up_for():
    pacer, policy = BudgetPacer(0.02), taught()
    run(policy, pacer, batches=30)
    before = in_force(policy, pacer)
    pacer.paid(0.02 * 150, 0.0)
    costs, _ = run(policy, pacer, batches=30)
    assert costs.mean() < 0.02
    assert in_force(policy, pacer) != before


def test_what_is_settled_is_forgotten():
    pacer, policy = BudgetPacer(0.02), taught()
    run(policy, pacer, batches=30)
    pacer.paid(0.02 * 150, 0.0)
    pacer.settle()
    costs, _ = run(policy, pacer, batches=60)
    assert costs.mean() == pytest.approx(AIM * 0.02, rel=0.03)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_unanswered_decisions_are_taken_to_cost_what_the_answered_ones_teach(share):
    """Everything costs 1.5 times its expectation, and only some decisions are ever heard of."""
    pacer, policy, rng = BudgetPacer(0.02), taught(), np.random.default_rng(3)
    costs = []
    for index in range(300):
        batch = requests(20, index * 20)
        pacer.pace(policy, batch, np.ones(20, bool), 0.0)
        choices = policy.decide(batch)
        pacer.decided(choices, 0.0)
        expected = choices.cost[np.arange(20), choices.chosen]
        heard = rng.random(20) < share
        pacer.paid(1.5 * expected[heard].sum(), expected[heard].sum())
        costs += (1.5 * expected).tolist()
    assert np.mean(costs[3000:]) == pytest.approx(
        0.02, rel=0.05
    )  # a third more if the silent ones were trusted


def test_a_dearer_price_is_paced_from_the_next_solution_on():
    pacer, policy = BudgetPacer(0.02), taught()
    run(policy, pacer, batches=60)
    dearer = PRICES * np.array([[1.0], [1.0], [3.0]])
    costs, _ = run(policy, pacer, batches=120, prices=dearer)
    assert costs[600:].mean() == pytest.approx(AIM * 0.02, rel=0.1)


def test_a_day_that_is_half_over_has_half_of_its_budget():
    pacer = BudgetPacer(per_day=100.0, requests_per_day=10_000)
    assert pacer.budget(10.5 * DAY_MS) == pytest.approx(50.0 / 5_000)
    fresh = BudgetPacer(per_day=100.0, requests_per_day=10_000)
    assert fresh.budget(10.0 * DAY_MS) == pytest.approx(100.0 / 10_000)


def test_a_day_with_more_traffic_than_forecast_spends_less_on_each_request():
    pacer, policy = BudgetPacer(per_day=100.0, requests_per_day=1_000), taught()
    plain = pacer.budget(0.0)
    run(policy, pacer, batches=100, now=0.25 * DAY_MS)  # 2,000 requests in no time
    assert pacer.budget(0.25 * DAY_MS) < plain


def test_a_new_day_has_a_new_budget():
    pacer = BudgetPacer(per_day=100.0, requests_per_day=1_000)
    pacer.budget(0.0)
    pacer.paid(100.0, 0.0)
    assert pacer.budget(0.5 * DAY_MS) == 0.0
    assert pacer.budget(1.0 * DAY_MS) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "arguments", [{}, {"per_request": 0.0}, {"per_request": 1.0, "per_day": 1.0}, {"per_day": 1.0}]
)
def test_a_budget_that_cannot_be_meant_is_refused(arguments):
    with pytest.raises(ValueError, match="expected a budget per request, or one per day and a forecast"):
        BudgetPacer(**arguments)


@pytest.mark.parametrize(("floor", "least"), [(0.99, 0.885), (0.8, 0.72), (0.5, 0.45)])
def test_a_quality_floor_is_kept_at_less_cost_than_the_reference(floor, least):
    policy = taught()
    costs, chosen = run(policy, FloorPacer(floor, reference=2), batches=80)
    quality = np.array(QUALITY)[chosen[400:]].mean()
    assert quality >= least - 0.01
    assert costs[400:].mean() <= 0.1
    if floor < 0.9:
        assert costs[400:].mean() < 0.06


def test_a_quality_floor_costs_nothing_in_quality_while_too_little_is_known():
    policy = taught(votes=0)
    pacer = FloorPacer(0.95, reference=2)
    run(policy, pacer, batches=20)
    assert in_force(policy, pacer)[0] == 0.0


def test_a_given_cost_weight_is_what_is_in_force():
    pacer = Fixed(2.5)
    run(taught(), pacer, batches=2)
    assert in_force(taught(), pacer) == [2.5, 0.0, 0.0]


def test_a_request_with_a_cost_weight_of_its_own_keeps_it():
    policy, pacer = taught(), BudgetPacer(0.002)
    run(policy, pacer)
    batch = requests(4, cost_weight=[7.0, 0.0, 8.0, 0.0])
    pacer.pace(policy, batch, np.array([False, True, False, True]), 0.0)
    assert batch.limits[[0, 2], 2].tolist() == [7.0, 8.0]
    assert batch.limits[[0, 2], 7].tolist() == [0.0, 0.0]
    assert (batch.limits[[1, 3], 2] > 0.0).all()


def test_a_model_dearer_than_ten_budgets_and_the_savings_is_left_out_while_there_is_another():
    policy = Policy([ModelPrior(ModelKey("cheap")), ModelPrior(ModelKey("dear"))], [(0, 1)], seed=1)
    pacer = BudgetPacer(per_request=1e-6)
    prices = np.array([[1.0, 0.0], [500.0, 0.0]])
    chosen = []
    for t in range(0, 600, 20):
        keys = np.arange(t, t + 20, dtype=np.uint64)
        batch = DecideBatch.of(np.ones((20, 1)), keys, prices, input_tokens=1.0)
        batch.eligible[0] = (False, True)
        batch.limits[1, 5] = 1e6  # a limit that would leave the dear one alone must find it
        pacer.pace(policy, batch, np.ones(20, np.bool_), 0.0)
        choices = policy.decide(batch)
        pacer.decided(choices, 0.0)
        chosen.append(choices.chosen.copy())
    later = np.array(chosen[5:])
    assert (later[:, 0] == 1).all()
    assert (later[:, 2:] == 0).all()
    assert batch.eligible[1].all()
