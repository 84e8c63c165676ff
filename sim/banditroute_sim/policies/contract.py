"""What every policy has to keep: `check_policy` finds out whether one does.

A policy that cannot tell its probabilities or its state says so (`Chooser`), and is then judged by what it does. The
checks are seeded: one that passes passes again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

import numpy as np

from banditroute_sim.policies.base import Bools, Chooser, PolicyFactory
from banditroute_sim.policies.probe import (
    COLUMNS,
    MODELS,
    SUM_ERROR,
    ContractError,
    chances,
    choose,
    differ,
    everyone,
    learned,
    live,
    packed,
    small_world,
    teach,
    unpacked,
    votes,
)
from banditroute_sim.scenarios.episode import Episode

__all__ = ["RULES", "ContractError", "check_policy"]

Make = Callable[[Episode], Chooser]

DEVIATIONS: Final = 5.0  # of a frequency, in standard deviations
SAME: Final = 1e-6  # between probabilities that are equal but for the order of sums
EQUAL_VOTES: Final = 5_000
_SAMPLES: Final = 3000


def check_policy(
    factory: PolicyFactory, seed: int = 0, equal_votes: int = EQUAL_VOTES, exempt: Collection[str] = ()
) -> tuple[str, ...]:
    """Check a policy against every rule of ``RULES``.

    Parameters
    ----------
    factory : callable
        Makes the policy from an episode and a seed.
    seed : int
        Of the policy and of the world that it is checked in.
    equal_votes : int
        How many times the policy has to hear the same vote on the same context.
    exempt : collection of str
        Rules that it is not checked against.

    Returns
    -------
    tuple of str
        Rules that could not be checked, or only in part, because the policy does not tell its probabilities or state.

    Raises
    ------
    ContractError
        If it breaks a rule.

    Examples
    --------
    >>> from banditroute_sim.policies import POLICIES
    >>> check_policy(POLICIES["epsilon-greedy"], equal_votes=100)
    ()
    """
    small = small_world(seed)

    def make(episode: Episode) -> Chooser:
        return factory(episode, seed)

    untold = [name for name, rule in RULES.items() if name not in exempt and not rule(name, make, small)]
    _equal_votes(make, small, equal_votes)
    return tuple(untold)


def _frequencies(rule: str, make: Make, small: Episode) -> bool:
    """Check that probabilities sum to one and are those with which models are chosen."""
    told = True
    for count, some in ((0, everyone()), (12, everyone()), (300, everyone()), (12, _all_but(1))):
        policy = make(small)
        teach(rule, policy, small, votes(small, count, 1))
        expected, variance, seen = np.zeros(MODELS), np.zeros(MODELS), np.zeros(MODELS)
        p = None
        first = count
        for t in range(first, first + _SAMPLES):
            # the chances of a policy that takes no chances may change with the round, those of the others do not
            if p is None or p.max() == 1.0 or t % 100 == 0:
                p = chances(rule, policy, small, t, some, small.x[first])
            seen[choose(rule, policy, small, t, some, small.x[first])] += 1.0
            if p is None:
                told = False
                continue
            expected += p
            variance += p * (1.0 - p)
        if told and (np.abs(seen - expected) > DEVIATIONS * np.sqrt(variance) + SUM_ERROR * _SAMPLES).any():
            raise ContractError(
                rule, f"after {count} votes {seen.tolist()} choices, expected {expected.round(1).tolist()}"
            )
    return told


def _pure(rule: str, make: Make, small: Episode) -> bool:
    """Check that asking changes nothing, deciding learns nothing, and a state is a copy."""
    policy, asked = make(small), make(small)
    teach(rule, policy, small, votes(small, 40, 2))
    teach(rule, asked, small, votes(small, 40, 2))
    before = policy.state()
    for t in range(40, 80):
        chances(rule, asked, small, t, everyone())
        if choose(rule, policy, small, t, everyone()) != choose(rule, asked, small, t, everyone()):
            raise ContractError(
                rule, "two that were taught alike decide differently once one is asked for its chances"
            )
    after, other = policy.state(), asked.state()
    if before is None or after is None or other is None:
        return False
    changed = differ(learned(before), learned(after)) or differ(after, other)
    if changed is not None:
        raise ContractError(rule, f"deciding learned something: {changed} changed")
    for array in after.values():
        array[...] = 0  # a state is a copy
    again = policy.state()
    if again is None or differ(again, other) is not None:
        raise ContractError(rule, "a state is not the policy's own memory")
    return True


def _order(rule: str, make: Make, small: Episode) -> bool:
    """Check that the same votes in another order give the same state, as far as the policy declares."""
    given = votes(small, 200, 3)
    mixed = [given[i] for i in np.random.default_rng(37).permutation(len(given))]
    states, policies = [], [make(small), make(small)]
    for policy, order in zip(policies, (given, mixed), strict=True):
        for t, _, _ in given:
            choose(rule, policy, small, t, everyone())
        for t, model, quality in order:
            policy.learn(t, small.x[t].copy(), model, quality)
        states.append(policy.state())
    first, second = states
    if first is None or second is None or policies[0].ORDER is None:
        return False
    name = differ(learned(first), learned(second), policies[0].ORDER)
    if name is not None:
        raise ContractError(rule, f"another order of the votes gives another {name}")
    return True


def _bytes(rule: str, make: Make, small: Episode) -> bool:
    """Check that a policy that is restored from bytes goes on as the one that wrote them."""
    policy, twin = make(small), make(small)
    teach(rule, policy, small, votes(small, 60, 4))
    state = policy.state()
    if state is None:
        return False
    value = packed(state)
    live(rule, twin, small, range(60, 90))  # what it knew before has to go
    for each in (policy, twin):
        each.restore(unpacked(value))
        restored = each.state()
        if restored is None or differ(state, restored) is not None:
            raise ContractError(rule, "a restored policy does not give the state that it was restored from")
    for t in range(100, 110):
        one, other = (chances(rule, each, small, t, everyone()) for each in (policy, twin))
        if one is not None and other is not None and not np.array_equal(one, other):
            raise ContractError(rule, f"restored from the same bytes: {one.tolist()} and {other.tolist()}")
    if live(rule, policy, small, range(110, 300)) != live(rule, twin, small, range(110, 300)):
        raise ContractError(rule, "two policies restored from the same bytes decide differently")
    return True


def _hostile(rule: str, make: Make, small: Episode) -> bool:
    """Check that no vote and no context that is a number leads to NaN or to an exception."""
    rng = np.random.default_rng(41)
    # what a vote adds is finite as long as quality times context is
    plain = [np.array([1.0, 0.0, v, -v], np.float32) for v in (0.0, 1e-45, -1e-40, 1e-20, 1.0, 1e5)]
    plain += [np.full(COLUMNS, v, np.float32) for v in (0.0, 1e-42, 1.0)]
    huge = [np.full(COLUMNS, v, np.float32) for v in (1e30, -3e38, 3e38)]
    huge += [np.array([1.0, 0.0, v, -v], np.float32) for v in (1e6, 1e12, 1e19)]
    qualities = [s * v for s in (1.0, -1.0) for v in (0.0, 5e-324, 1e-300, 1e-20, 0.5, 1e20, 1e300)]
    told = True
    for wild, contexts in ((False, [*plain, *huge]), (True, plain)):
        policy = make(small)
        for t in range(400):
            x = contexts[int(rng.integers(len(contexts)))]
            quality = qualities[int(rng.integers(len(qualities)))] if wild else float(rng.random())
            try:
                choose(rule, policy, small, t, everyone(), x)
                told = chances(rule, policy, small, t, everyone(), x) is not None and told
                policy.learn(t, x.copy(), int(rng.integers(MODELS)), quality)
            except ContractError:
                raise
            except Exception as error:
                raise ContractError(
                    rule, f"{error!r} at quality {quality} and context {x.tolist()}"
                ) from error
        _finite(rule, policy)
    return told


def _finite(rule: str, policy: Chooser) -> None:
    for name, array in (policy.state() or {}).items():
        if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
            raise ContractError(rule, f"there is a NaN in {name}")


def _equal_votes(make: Make, small: Episode, count: int) -> None:
    rule = "equal votes"
    policy = make(small)
    for _ in range(count):
        policy.choose(0, small.x[0], small.cost[0], everyone())
        policy.learn(0, small.x[0], 2, 1.0)
    chances(rule, policy, small, 0, everyone())
    choose(rule, policy, small, 0, everyone())
    _finite(rule, policy)


def _permutation(rule: str, make: Make, small: Episode) -> bool:
    """Check that the same models in another order are chosen with the same probabilities."""
    order = np.array([2, 0, 3, 1])
    place = np.argsort(order).tolist()
    moved = replace(small.shuffled(order), names=tuple(small.names[k] for k in order))
    given = votes(small, 60, 5)
    one, other = make(small), make(moved)
    teach(rule, one, small, given)
    teach(rule, other, moved, [(t, place[k], quality) for t, k, quality in given])
    told = True
    seen = np.zeros((2, MODELS))
    for t in range(60, 60 + _SAMPLES):
        first = chances(rule, one, small, t, everyone(), small.x[60])
        second = chances(rule, other, moved, t, everyone(), small.x[60])
        if first is not None and second is not None:
            if np.abs(first[order] - second).max() > SAME:
                raise ContractError(rule, f"{first[order].tolist()} became {second.tolist()}")
            if t > 160:
                return True
        else:
            told = False
            seen[0, choose(rule, one, small, t, everyone(), small.x[60])] += 1.0
            seen[1, order[choose(rule, other, moved, t, everyone(), small.x[60])]] += 1.0
    share = seen.mean(axis=0) / _SAMPLES
    allowed = DEVIATIONS * np.sqrt(2.0 * _SAMPLES * share * (1.0 - share)) + 1.0
    if (np.abs(seen[0] - seen[1]) > allowed).any():
        raise ContractError(rule, f"{seen[0].tolist()} choices became {seen[1].tolist()}")
    return told


def _available(rule: str, make: Make, small: Episode) -> bool:
    """Check that a model that may not serve is never chosen, and one alone always is."""
    rng = np.random.default_rng(43)
    policy = make(small)
    told = True
    for t in range(400):
        some = rng.random(MODELS) < 0.5
        some[int(rng.integers(MODELS))] = True
        told = chances(rule, policy, small, t, some) is not None and told
        model = choose(rule, policy, small, t, some)
        policy.learn(t, small.x[t].copy(), model, float(small.quality[t, model]))
    for t in range(400, 400 + 10 * MODELS):
        alone = np.zeros(MODELS, np.bool_)
        alone[t % MODELS] = True
        choose(rule, policy, small, t, alone)
        p = chances(rule, policy, small, t, alone)
        if p is not None and p[t % MODELS] != 1.0:
            raise ContractError(rule, f"a model alone is chosen for certain, got {p.tolist()}")
    return told


def _seeded(rule: str, make: Make, small: Episode) -> bool:
    """Check that the same world and seed give the same decisions."""
    if live(rule, make(small), small, range(300)) != live(rule, make(small), small, range(300)):
        raise ContractError(rule, "the same seed gave other decisions")
    return True


def _all_but(model: int) -> Bools:
    some = everyone()
    some[model] = False
    return some


RULES: Final[dict[str, Callable[[str, Make, Episode], bool]]] = {
    "frequencies": _frequencies,
    "pure": _pure,
    "order": _order,
    "bytes": _bytes,
    "hostile": _hostile,
    "permutation": _permutation,
    "available": _available,
    "seeded": _seeded,
}
