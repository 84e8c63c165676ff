"""How the contract asks policies: in a small world, with arrays that are spoiled afterwards."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final, TypeVar

import numpy as np

from banditroute_sim.policies.base import GENERATOR, Bools, Chooser, Context, Floats, State
from banditroute_sim.scenarios.episode import Episode, episode

T = TypeVar("T")
Votes = list[tuple[int, int, float]]  # round, model, quality

MODELS: Final = 4
COLUMNS: Final = 4
ROUNDS: Final = 8000
SUM_ERROR: Final = 2e-4  # the quadrature of a propensity is good to 1e-4


class ContractError(AssertionError):
    """A policy does not keep the contract; ``rule`` says which part of it."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(f"{rule}: {text}")
        self.rule = rule


def small_world(seed: int) -> Episode:
    """Draw a small world with prices; everything in it is a plain number."""
    rng = np.random.default_rng([seed, 29])
    x = np.column_stack([np.ones(ROUNDS), rng.normal(0.0, 0.5, (ROUNDS, COLUMNS - 1))]).astype(np.float32)
    mean = np.clip(0.5 + x @ rng.normal(0.0, 0.15, (COLUMNS, MODELS)), 0.05, 0.95)
    quality = np.clip(mean + rng.normal(0.0, 0.2, mean.shape), 0.0, 1.0)
    return episode("contract", x, mean, quality, cost=np.tile(rng.uniform(0.0, 0.1, MODELS), (ROUNDS, 1)))


def votes(world: Episode, count: int, seed: int) -> Votes:
    """Return votes on the first rounds, each of a model that is drawn by lot."""
    models = np.random.default_rng([seed, 31]).integers(0, MODELS, count).tolist()
    return [(t, k, float(world.quality[t, k])) for t, k in enumerate(models)]


def everyone() -> Bools:
    """Return that every model may serve."""
    return np.ones(MODELS, np.bool_)


def ask(rule: str, question: Callable[..., T], t: int, x: Context, cost: Floats, available: Bools) -> T:
    """Ask with arrays that are spoiled afterwards: a policy may neither write to them nor keep them."""
    originals: list[Any] = [x, cost, available]
    given = [original.copy() for original in originals]
    answer = question(t, *given)
    for array, before in zip(given, originals, strict=True):
        if array.tobytes() != before.tobytes():
            raise ContractError(rule, "a policy does not write to what it is asked with")
        array[...] = np.nan if np.issubdtype(array.dtype, np.floating) else 1
    return answer


def choose(
    rule: str, policy: Chooser, world: Episode, t: int, available: Bools, x: Context | None = None
) -> int:
    """Return the choice, which is one of the models that may serve."""
    x = world.x[t] if x is None else x
    model = ask(rule, policy.choose, t, x, world.cost[t], available)
    if not 0 <= model < MODELS or not available[model]:
        raise ContractError(rule, f"model {model} was chosen of {np.flatnonzero(available).tolist()}")
    return model


def chances(
    rule: str, policy: Chooser, world: Episode, t: int, available: Bools, x: Context | None = None
) -> Floats | None:
    """Return the probabilities, if they are told; they are probabilities."""
    x = world.x[t] if x is None else x
    p = ask(rule, policy.probabilities, t, x, world.cost[t], available)
    if p is None:
        return None
    if p.shape != (MODELS,) or not np.isfinite(p).all() or (p < 0.0).any() or (p > 1.0 + SUM_ERROR).any():
        raise ContractError(rule, f"these are no probabilities: {p.tolist()}")
    if abs(p.sum() - 1.0) > SUM_ERROR:
        raise ContractError(rule, f"probabilities sum to one, not to {p.sum()}")
    if p[~available].any():
        raise ContractError(rule, f"a model that may not serve has no probability, got {p.tolist()}")
    return p


def teach(rule: str, policy: Chooser, world: Episode, given: Votes) -> None:
    """Let a policy decide, and learn votes on models that it may not have chosen."""
    for t, model, quality in given:
        choose(rule, policy, world, t, everyone())
        policy.learn(t, world.x[t].copy(), model, quality)


def live(rule: str, policy: Chooser, world: Episode, rounds: range) -> list[int]:
    """Let a policy decide and learn what it chose."""
    chosen = []
    for t in rounds:
        chosen.append(choose(rule, policy, world, t, everyone()))
        policy.learn(t, world.x[t].copy(), chosen[-1], float(world.quality[t, chosen[-1]]))
    return chosen


def differ(first: State, second: State, tolerance: float = 0.0) -> str | None:
    """Return the name of an array that differs by more than ``tolerance`` times its largest number; None for none."""
    if first.keys() != second.keys():
        return f"{sorted(first)} and {sorted(second)}"
    for name in first:
        one, other = first[name], second[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            return name
        if tolerance == 0.0 or not np.issubdtype(one.dtype, np.floating):
            if one.tobytes() != other.tobytes():
                return name
        elif one.size:
            allowed = tolerance * max(float(np.abs(one).max()), 1.0)
            if not float(np.abs(np.subtract(one, other)).max()) <= allowed:  # nor if either is NaN
                return name
    return None


def learned(state: State) -> State:
    """Return a state without its random generator."""
    return {name: array for name, array in state.items() if name != GENERATOR}


def packed(state: State) -> bytes:
    """Return a state as bytes, without pickling anything."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: state[name] for name in sorted(state)})
    return buffer.getvalue()


def unpacked(value: bytes) -> State:
    """Return the state that was packed."""
    with np.load(io.BytesIO(value), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
