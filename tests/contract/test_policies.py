"""Every policy that is listed keeps the contract, or says what it cannot tell; a policy that breaks it is found out."""

from __future__ import annotations

import numpy as np
import pytest

from banditroute.bandit.evidence.evidence import Evidence, ModelKey, RowKey, Vote
from banditroute.errors import MissingExtraError
from banditroute.flow.records.position import Fields
from banditroute.flow.records.snapshot import Genesis, State, decode_state, encode_state
from banditroute_sim.policies import POLICIES
from banditroute_sim.policies.base import GENERATOR, only
from banditroute_sim.policies.baselines import BetaThompson, EpsilonGreedy, Ucb1, Uniform
from banditroute_sim.policies.contract import RULES, ContractError, check_policy
from banditroute_sim.policies.ours import Banditroute
from banditroute_sim.policies.probe import chances, choose, everyone, live, small_world
from banditroute_sim.policies.regressions import LinTs, LinUcb

SILENT = ("frequencies", "pure", "order", "bytes", "hostile", "permutation", "available")
OPAQUE = [name for name in POLICIES if name.startswith("river")] + ["router", "mabwiser"]
UNTOLD = dict.fromkeys(OPAQUE, SILENT) | {"vw": ("pure", "order", "bytes")}
# Before the first vote all of its predictions are equal, and the explorers take the first model for the best one; the
# votes are weighed by the probabilities that follow from it.
EXEMPT = {"vw": ("permutation",)}


@pytest.mark.parametrize("who", POLICIES)
def test_a_listed_policy_keeps_the_contract(who):
    try:
        untold = check_policy(POLICIES[who], exempt=EXEMPT.get(who, ()))
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert untold == UNTOLD.get(who, ())


@pytest.mark.slow
@pytest.mark.parametrize("who", ["banditroute", "ucb1", "beta-ts", "linucb"])
def test_a_million_equal_votes_do_no_harm(who):
    world = small_world(0)
    policy, x = POLICIES[who](world, 0), world.x[0]
    if isinstance(policy, Banditroute):
        evidence, inner, vote = policy.session.evidence, policy.session.policy, Vote(quality=1.0)
        key = inner.models[2].key
        for _ in range(1_000_000):  # as a session learns, but for the decision before each vote
            evidence.add(key, x, vote, 1.0)
            inner.observe(2, x, 1.0)
            if inner.due:
                inner.derive(evidence)
        assert evidence.rows[RowKey(*key)][:2].tolist() == [1e6, 1e6]
    else:
        for _ in range(1_000_000):
            policy.learn(0, x, 2, 1.0)
    assert chances("equal votes", policy, world, 1, everyone()) is not None
    choose("equal votes", policy, world, 1, everyone())
    assert not any(np.isnan(array).any() for name, array in policy.state().items() if name != GENERATOR)


def test_the_snapshot_of_a_policy_decides_as_it_does():
    world = small_world(3)
    policy, twin = Banditroute(world, 3), Banditroute(world, 3)
    live("snapshot", policy, world, range(200))
    evidence = policy.session.evidence
    state = State(
        partition=0, spec_id="s", d=evidence.layout.d, genesis=Genesis(log_epoch=1, hash_key="k"), digest="",
        j=0, replay_from=0, at=Fields(), anchor=Fields(), ledger={}, parked=0, evidence=evidence,
    )  # fmt: skip
    back = decode_state(encode_state(state)).evidence
    assert back == evidence
    policy.restore(policy.state())
    twin.session.evidence = back
    twin.session.policy.derive(back)
    assert live("snapshot", policy, world, range(200, 400)) == live("snapshot", twin, world, range(200, 400))
    for t in range(400, 420):
        one, other = (each.probabilities(t, world.x[t], world.cost[t], everyone()) for each in (policy, twin))
        assert (one == other).all()


def test_evidence_of_votes_and_contexts_whose_products_overflow_holds_no_nan():
    evidence, x = Evidence(1), np.full(1, 3e38, np.float32)
    for quality in (1e300, -1e300):
        try:
            evidence.add(ModelKey("a"), x, Vote(quality=quality), 1.0)
        except ValueError:
            continue  # refusing it would do
    assert not any(np.isnan(row).any() for row in evidence.rows.values())


def test_propensities_of_models_that_tie_for_certain_sum_to_one():
    world, zero = small_world(0), np.zeros(4, np.float32)
    policy = Banditroute(world, 0)
    for t in range(20):  # without even an intercept the mean context is 0, and no noise is left
        policy.choose(t, zero, np.zeros(4), everyone())
        policy.learn(t, zero, t % 4, 0.5)
    assert policy.probabilities(20, zero, np.zeros(4), everyone()).sum() == pytest.approx(1.0)


# -- policies that are broken in one way each -----------------------------------------------------


class Boastful(Uniform):
    """Says that it knows what it wants."""

    def probabilities(self, t, x, cost, available):
        return only(int(available.argmax()), len(available))


class Lopsided(EpsilonGreedy):
    """Tells probabilities that do not sum to one."""

    def probabilities(self, t, x, cost, available):
        return 1.02 * super().probabilities(t, x, cost, available)


class Understated(LinTs):
    """Tells the probabilities of half of its noise."""

    def probabilities(self, t, x, cost, available):
        noise, self._noise = self._noise, 0.5 * self._noise
        try:
            return super().probabilities(t, x, cost, available)
        finally:
            self._noise = noise


class Nosy(BetaThompson):
    """Draws from its generator when it is asked for probabilities."""

    def probabilities(self, t, x, cost, available):
        self.rng.random()
        return super().probabilities(t, x, cost, available)


class Eager(LinUcb):
    """Learns from deciding."""

    def choose(self, t, x, cost, available):
        model = super().choose(t, x, cost, available)
        self.mu[model] *= 1.0 - 1e-9
        return model


class Leaky(Ucb1):
    """Hands out its own memory."""

    def state(self):
        return dict(super().state()) | {"n": self.n}


class Scribbler(Ucb1):
    """Writes to the costs that it is asked with."""

    def score(self, t, x, cost):
        cost -= 0.01
        return super().score(t, x, cost)


class Keeper(LinUcb):
    """Keeps the context that it decided on instead of a copy."""

    def choose(self, t, x, cost, available):
        self._x = x
        return super().choose(t, x, cost, available)

    def learn(self, t, x, model, quality):
        super().learn(t, self._x, model, quality)


class Forgetful(EpsilonGreedy):
    """Weighs late votes more."""

    def learn(self, t, x, model, quality):
        self.total *= 0.99
        self.n *= 0.99
        super().learn(t, x, model, quality)


class Careless(LinUcb):
    """Leaves what it needs to go on out of its state."""

    ARRAYS = ("b", "mu")


class Reseeded(LinTs):
    """Does not save its generator."""

    def restore(self, state):
        drawn = self.rng.bit_generator.state
        super().restore(state)
        self.rng.bit_generator.state = drawn


class Squaring(EpsilonGreedy):
    """Squares votes, and trusts that the result is a number."""

    def learn(self, t, x, model, quality):
        with np.errstate(all="ignore"):
            square = np.float64(quality) * quality
            super().learn(t, x, model, quality)
            self.total[model] += square - square


class Fragile(LinTs):
    """Divides by the length of a context."""

    def learn(self, t, x, model, quality):
        super().learn(t, x / float(np.abs(x).max()) if quality else x, model, quality / float(x @ x))


class Loyal(EpsilonGreedy):
    """Likes the first model better."""

    def _best(self, cost, available):
        return super()._best(cost - np.array([1.0, 0.0, 0.0, 0.0]), available)


class Alphabetical(LinTs):
    """Draws less noise for the last model, and says so."""

    def estimate(self, x, cost):
        mean, width = super().estimate(x, cost)
        return mean, width * np.array([1.0, 1.0, 1.0, 0.9])


class Stubborn(Ucb1):
    """Falls back to the first model, whether it may serve or not, when few may."""

    def choose(self, t, x, cost, available):
        return 0 if available.sum() < 2 else super().choose(t, x, cost, available)


class Hopeful(EpsilonGreedy):
    """Leaves a model that may not serve a chance."""

    def probabilities(self, t, x, cost, available):
        return super().probabilities(t, x, cost, everyone())


class Unseeded(Uniform):
    """Takes its random numbers from the system."""

    def __init__(self, episode, seed):
        super().__init__(episode, seed)
        self.rng = np.random.default_rng()


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (Boastful, "frequencies"),
        (Lopsided, "frequencies"),
        (Understated, "frequencies"),
        (Scribbler, "frequencies"),
        (Nosy, "pure"),
        (Eager, "pure"),
        (Leaky, "pure"),
        (Forgetful, "order"),
        (Careless, "bytes"),
        (Reseeded, "bytes"),
        (Squaring, "hostile"),
        (Fragile, "hostile"),
        (Loyal, "permutation"),
        (Alphabetical, "permutation"),
        (Stubborn, "available"),
        (Hopeful, "available"),
        (Unseeded, "seeded"),
    ],
)
def test_check_policy_catches_one_that_breaks_a_rule(broken, rule):
    others = [name for name in RULES if name != rule]
    with pytest.raises(ContractError, match=rf"^{rule}: "):
        check_policy(broken, exempt=others)


def test_check_policy_catches_one_that_learns_from_a_buffer_that_is_not_its_own():
    with pytest.raises(ContractError):
        check_policy(Keeper)


def test_check_policy_catches_one_that_fails_on_equal_votes():
    class Tired(EpsilonGreedy):
        def learn(self, t, x, model, quality):
            super().learn(t, x, model, quality)
            self.n[model] = np.nan if self.n[model] > 4000 else self.n[model]

    with pytest.raises(ContractError, match=r"^equal votes: "):
        check_policy(Tired)
