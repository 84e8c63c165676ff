"""Worlds of thumbs: every vote is 0 or 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.scenarios.draw import Draw
from banditroute_sim.scenarios.episode import Episode, Floats, episode

_PROBABILITIES = (0.9, 0.5, 0.1)
_CLOSE = (0.62, 0.60, 0.58, 0.56, 0.54)
_CLUSTERS = ((0.85, 0.50, 0.15), (0.15, 0.50, 0.85))
_DECLARED = (0.85, 0.50, 0.15)
_MANY, _TASKS, _SKILL, _SKILL_SD, _TASK_SD = 50, 6, 0.55, 0.12, 0.12
_MIX = ((0.9, 0.1), (0.2, 0.8))
_GRADUAL = ((0.9, 0.5, 0.1), (0.3, 0.5, 0.7))
_PERIODS, _SWING = 4, 0.3


def thumbs(rng: np.random.Generator, mean: Floats) -> Floats:
    """Draw thumbs of the given probabilities."""
    return (rng.random(mean.shape) < mean).astype(np.float64)


def _plain(draw: Draw) -> NDArray[np.float32]:
    return np.ones((draw.count, 1), np.float32)


def _clusters(cluster: NDArray[np.int64], table: Floats) -> tuple[NDArray[np.float32], Floats]:
    """Return contexts that tell the cluster of every round, and its means."""
    known = np.eye(len(table))[cluster]
    return np.column_stack([np.ones(len(cluster)), known]).astype(np.float32), table[cluster]


def stationary(draw: Draw) -> Episode:
    """One model is clearly the best, and stays so."""
    mean = np.tile(_PROBABILITIES, (draw.count, 1))
    return episode("stationary", _plain(draw), mean, thumbs(draw.rng, mean))


def close_models(draw: Draw) -> Episode:
    """Five models two points apart."""
    mean = np.tile(_CLOSE, (draw.count, 1))
    return episode("close-models", _plain(draw), mean, thumbs(draw.rng, mean))


def warm_prior(draw: Draw) -> Episode:
    """As `stationary`, with declared qualities that are nearly right."""
    mean = np.tile(_PROBABILITIES, (draw.count, 1))
    declared = np.array(_DECLARED)
    return episode(
        "warm-prior", _plain(draw), mean, thumbs(draw.rng, mean), declared=declared - declared.mean()
    )


def contextual(draw: Draw) -> Episode:
    """Two clusters of requests whose best models are opposite."""
    x, mean = _clusters(draw.rng.integers(0, 2, draw.count), np.array(_CLUSTERS))
    return episode("contextual", x, mean, thumbs(draw.rng, mean))


def flip(draw: Draw) -> Episode:
    """Let the best and the worst model change places half-way."""
    mean = np.tile(_PROBABILITIES, (draw.count, 1))
    after = draw.place(draw.half)
    mean[after:] = mean[after:, ::-1]
    return episode("flip", _plain(draw), mean, thumbs(draw.rng, mean), changes=(draw.half,))


def gradual(draw: Draw) -> Episode:
    """Let the best model fade while the worst one rises."""
    last = draw.horizon - 1
    step = np.where(draw.rounds < last, draw.rounds * (1.0 / max(last, 1)), 1.0 if last else 0.0)[:, None]
    mean = (1.0 - step) * np.array(_GRADUAL[0]) + step * np.array(_GRADUAL[1])
    return episode("gradual", _plain(draw), mean, thumbs(draw.rng, mean))


def periodic(draw: Draw) -> Episode:
    """Let the best and the worst model change places and back, four times, as day and night do."""
    turn = np.cos(2.0 * np.pi * _PERIODS * draw.rounds / draw.horizon)[:, None]
    mean = 0.5 + _SWING * turn * np.array((1.0, 0.0, -1.0))
    return episode("periodic", _plain(draw), mean, thumbs(draw.rng, mean))


def many_models(draw: Draw) -> Episode:
    """Fifty models and six tasks: a model has a skill of its own, and is better at some tasks than at others."""
    rng = draw.rng
    skill = draw.once(
        "skill",
        lambda: rng.normal(_SKILL, _SKILL_SD, _MANY) + rng.normal(0.0, _TASK_SD, (_TASKS, _MANY)),
    )
    x, mean = _clusters(rng.integers(0, _TASKS, draw.count), np.clip(skill, 0.02, 0.98))
    return episode("many-models", x, mean, thumbs(rng, mean))


def task_shift(draw: Draw) -> Episode:
    """As `contextual`, but a cluster that is rare becomes the common one half-way; no model changes."""
    before = draw.place(draw.half)
    parts = [draw.rng.choice(2, n, p=mix) for n, mix in zip((before, draw.count - before), _MIX, strict=True)]
    x, mean = _clusters(np.concatenate(parts), np.array(_CLUSTERS))
    return episode("task-shift", x, mean, thumbs(draw.rng, mean), changes=(draw.half,))
