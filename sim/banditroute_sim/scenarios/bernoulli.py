"""Worlds of thumbs: every vote is 0 or 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.scenarios.episode import Episode, Floats, episode

_PROBABILITIES = (0.9, 0.5, 0.1)
_CLOSE = (0.62, 0.60, 0.58, 0.56, 0.54)
_CLUSTERS = ((0.85, 0.50, 0.15), (0.15, 0.50, 0.85))
_DECLARED = (0.85, 0.50, 0.15)
_MANY, _TASKS, _SKILL, _SKILL_SD, _TASK_SD = 50, 6, 0.55, 0.12, 0.12
_MIX = ((0.9, 0.1), (0.2, 0.8))
_GRADUAL = ((0.9, 0.5, 0.1), (0.3, 0.5, 0.7))


def _thumbs(rng: np.random.Generator, mean: Floats) -> Floats:
    return (rng.random(mean.shape) < mean).astype(np.float64)


def _plain(rounds: int) -> NDArray[np.float32]:
    return np.ones((rounds, 1), np.float32)


def stationary(rng: np.random.Generator, horizon: int) -> Episode:
    """One model is clearly the best, and stays so."""
    mean = np.tile(_PROBABILITIES, (horizon, 1))
    return episode("stationary", _plain(horizon), mean, _thumbs(rng, mean))


def close_models(rng: np.random.Generator, horizon: int) -> Episode:
    """Five models two points apart."""
    mean = np.tile(_CLOSE, (horizon, 1))
    return episode("close-models", _plain(horizon), mean, _thumbs(rng, mean))


def warm_prior(rng: np.random.Generator, horizon: int) -> Episode:
    """As `stationary`, with declared qualities that are nearly right."""
    mean = np.tile(_PROBABILITIES, (horizon, 1))
    declared = np.array(_DECLARED)
    return episode(
        "warm-prior", _plain(horizon), mean, _thumbs(rng, mean), declared=declared - declared.mean()
    )


def contextual(rng: np.random.Generator, horizon: int) -> Episode:
    """Two clusters of requests whose best models are opposite."""
    cluster = rng.integers(0, 2, horizon)
    mean = np.array(_CLUSTERS)[cluster]
    x = np.column_stack([np.ones(horizon), np.eye(2)[cluster]]).astype(np.float32)
    return episode("contextual", x, mean, _thumbs(rng, mean))


def flip(rng: np.random.Generator, horizon: int) -> Episode:
    """Let the best and the worst model change places half-way."""
    mean = np.tile(_PROBABILITIES, (horizon, 1))
    half = horizon // 2
    mean[half:] = mean[half:, ::-1]
    return episode("flip", _plain(horizon), mean, _thumbs(rng, mean), changes=(half,))


def gradual(rng: np.random.Generator, horizon: int) -> Episode:
    """Let the best model fade while the worst one rises."""
    step = np.linspace(0.0, 1.0, horizon)[:, None]
    mean = (1.0 - step) * np.array(_GRADUAL[0]) + step * np.array(_GRADUAL[1])
    return episode("gradual", _plain(horizon), mean, _thumbs(rng, mean))


def many_models(rng: np.random.Generator, horizon: int) -> Episode:
    """Fifty models and six tasks: a model has a skill of its own, and is better at some tasks than at others."""
    skill = rng.normal(_SKILL, _SKILL_SD, _MANY) + rng.normal(0.0, _TASK_SD, (_TASKS, _MANY))
    task = rng.integers(0, _TASKS, horizon)
    mean = np.clip(skill, 0.02, 0.98)[task]
    x = np.column_stack([np.ones(horizon), np.eye(_TASKS)[task]]).astype(np.float32)
    return episode("many-models", x, mean, _thumbs(rng, mean))


def task_shift(rng: np.random.Generator, horizon: int) -> Episode:
    """As `contextual`, but a cluster that is rare becomes the common one half-way; no model changes."""
    half = horizon // 2
    cluster = np.concatenate([rng.choice(2, half, p=_MIX[0]), rng.choice(2, horizon - half, p=_MIX[1])])
    mean = np.array(_CLUSTERS)[cluster]
    x = np.column_stack([np.ones(horizon), np.eye(2)[cluster]]).astype(np.float32)
    return episode("task-shift", x, mean, _thumbs(rng, mean), changes=(half,))
