"""Worlds by name: each scenario draws an episode from a seed, at once or piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np

from banditroute_sim.scenarios import bernoulli, linear, mixed
from banditroute_sim.scenarios.draw import Draw
from banditroute_sim.scenarios.episode import NEVER, Episode

__all__ = ["NEVER", "PIECE", "SCENARIOS", "SUITE", "Draw", "Episode", "Scenario", "draw", "pieces"]

PIECE: Final = 32_768  # rounds that are drawn at once, of a long episode


class Scenario(NamedTuple):
    """How to draw an episode, and how long it is unless asked otherwise."""

    build: Callable[[Draw], Episode]
    horizon: int = 10_000


SCENARIOS: Final = {
    "stationary": Scenario(bernoulli.stationary),
    "close-models": Scenario(bernoulli.close_models, 20_000),
    "warm-prior": Scenario(bernoulli.warm_prior),
    "contextual": Scenario(bernoulli.contextual),
    "flip": Scenario(bernoulli.flip),
    "gradual": Scenario(bernoulli.gradual),
    "thumbs": Scenario(mixed.thumbs),
    "delay-sparse": Scenario(mixed.delay_sparse),
    "new-model": Scenario(linear.new_model),
    "price-change": Scenario(linear.price_change),
    "degradation": Scenario(linear.degradation),
    "outage": Scenario(mixed.outage),
    "judge-noise": Scenario(mixed.judge_noise),
    "poisoned": Scenario(mixed.poisoned),
    "many-models": Scenario(bernoulli.many_models),
    "task-shift": Scenario(bernoulli.task_shift),
    "burst": Scenario(mixed.burst),
    # beyond the suite
    "linear": Scenario(linear.linear),
    "logistic": Scenario(linear.logistic),
    "abrupt": Scenario(linear.abrupt),
    "walk": Scenario(linear.walk),
    "periodic": Scenario(bernoulli.periodic),
    "delay": Scenario(mixed.delay),
    "mnar": Scenario(mixed.mnar),
    "retired-model": Scenario(mixed.retired_model),
    "heavy-tails": Scenario(mixed.heavy_tails),
    "messages": Scenario(mixed.messages),
}
SUITE: Final = tuple(SCENARIOS)[: tuple(SCENARIOS).index("linear")]


def draw(name: str, seed: int, horizon: int | None = None) -> Episode:
    """Draw an episode at once; the same name, seed and horizon give the same one.

    Raises
    ------
    KeyError
        If there is no scenario of that name.
    """
    length = horizon or SCENARIOS[name].horizon
    return next(pieces(name, seed, length, length))


def pieces(name: str, seed: int, horizon: int | None = None, size: int = PIECE) -> Iterator[Episode]:
    """Draw an episode in pieces of ``size`` rounds; the first one is what `draw` gives for up to ``size`` rounds.

    Raises
    ------
    KeyError
        If there is no scenario of that name.
    """
    scenario = SCENARIOS[name]
    length = horizon or scenario.horizon
    kept: dict[str, Any] = {}
    for number, start in enumerate(range(0, length, size)):
        # No two scenarios, and no two pieces, share their random numbers.
        key = [seed, zlib.crc32(name.encode())]
        rng = np.random.default_rng([*key, number] if number else key)
        part = Draw(rng, length, start, min(start + size, length), kept)
        piece = scenario.build(part)
        order = part.once("order", lambda: rng.permutation(piece.mean.shape[1]))  # noqa: B023 - called at once
        yield replace(piece.shuffled(order), start=start)
