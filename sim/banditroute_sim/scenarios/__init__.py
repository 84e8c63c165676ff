"""Worlds by name: each scenario draws an episode from a seed."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from banditroute_sim.scenarios import bernoulli, linear
from banditroute_sim.scenarios.episode import NEVER, Episode

__all__ = ["NEVER", "SCENARIOS", "Episode", "Scenario", "draw"]


class Scenario(NamedTuple):
    """How to draw an episode, and how long it is unless asked otherwise."""

    build: Callable[[np.random.Generator, int], Episode]
    horizon: int


SCENARIOS: Final = {
    "stationary": Scenario(bernoulli.stationary, 10_000),
    "close-models": Scenario(bernoulli.close_models, 20_000),
    "warm-prior": Scenario(bernoulli.warm_prior, 10_000),
    "contextual": Scenario(bernoulli.contextual, 10_000),
    "flip": Scenario(bernoulli.flip, 10_000),
    "gradual": Scenario(bernoulli.gradual, 10_000),
    "linear": Scenario(linear.linear, 10_000),
    "logistic": Scenario(linear.logistic, 10_000),
    "abrupt": Scenario(linear.abrupt, 10_000),
    "walk": Scenario(linear.walk, 10_000),
    "delay": Scenario(linear.delay, 10_000),
    "delay-sparse": Scenario(linear.delay_sparse, 10_000),
    "new-model": Scenario(linear.new_model, 10_000),
    "price-change": Scenario(linear.price_change, 10_000),
    "mnar": Scenario(linear.mnar, 10_000),
    "poisoned": Scenario(linear.poisoned, 10_000),
    "many-models": Scenario(bernoulli.many_models, 10_000),
    "task-shift": Scenario(bernoulli.task_shift, 10_000),
    "degradation": Scenario(linear.degradation, 10_000),
    "outage": Scenario(linear.outage, 10_000),
    "judge-noise": Scenario(linear.judge_noise, 10_000),
}


def draw(name: str, seed: int, horizon: int | None = None) -> Episode:
    """Draw an episode; the same name, seed and horizon give the same one.

    Raises
    ------
    KeyError
        If there is no scenario of that name.
    """
    scenario = SCENARIOS[name]
    # No two scenarios share their random numbers.
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    episode = scenario.build(rng, horizon or scenario.horizon)
    return episode.shuffled(rng.permutation(episode.mean.shape[1]))
