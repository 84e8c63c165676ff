"""Worlds in which quality, or its logit, is linear in the context: K = 8, d = 32."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.scenarios.episode import Episode, Floats, episode
from banditroute_sim.scenarios.feedback import answered, judged, late, opposed

MODELS, COLUMNS = 8, 32
_INTERCEPT, _INTERCEPT_SD, _WEIGHT_SD, _NOISE = 0.5, 0.1, 0.25, 0.3
_LOGIT_SD = 1.2
_FALL, _LEAD, _RISE = 0.15, 0.1, 0.4
_DEAREST = 0.2
_DELAY, _ANSWERED = 2000.0, 0.05
_SPARSE, _MEDIAN_DELAY, _DELAY_SPREAD = 0.1, 200.0, 1.5
_ANSWERED_BAD, _ANSWERED_GOOD = 0.4, 0.1
_POISONED = 0.1
_WORSE, _OUTAGE = 0.3, 0.1
_JUDGE_NOISE, _JUDGE_BIAS = 0.6, 0.03


def _contexts(rng: np.random.Generator, horizon: int) -> NDArray[np.float32]:
    z = rng.normal(0.0, 1.0 / math.sqrt(COLUMNS - 1), (horizon, COLUMNS - 1))
    return np.column_stack([np.ones(horizon), z]).astype(np.float32)


def _weights(rng: np.random.Generator, count: int = MODELS) -> Floats:
    """Return float64[K, d]: an intercept and weights for each model."""
    theta = rng.normal(0.0, _WEIGHT_SD, (count, COLUMNS))
    theta[:, 0] = rng.normal(_INTERCEPT, _INTERCEPT_SD, count)
    return theta


def _noisy(rng: np.random.Generator, mean: Floats) -> Floats:
    return mean + rng.normal(0.0, _NOISE, mean.shape)


def linear(rng: np.random.Generator, horizon: int) -> Episode:
    """Nothing changes."""
    x = _contexts(rng, horizon)
    mean = x @ _weights(rng).T
    return episode("linear", x, mean, _noisy(rng, mean))


def logistic(rng: np.random.Generator, horizon: int) -> Episode:
    """Thumbs whose logit is linear."""
    x = _contexts(rng, horizon)
    theta = _weights(rng)
    level = np.clip(theta[:, 0], 0.01, 0.99)
    logit = np.log(level / (1.0 - level)) + x[:, 1:] @ (theta[:, 1:] * (_LOGIT_SD / _WEIGHT_SD)).T
    mean = 1.0 / (1.0 + np.exp(-logit))
    return episode("logistic", x, mean, (rng.random(mean.shape) < mean).astype(np.float64))


def abrupt(rng: np.random.Generator, horizon: int) -> Episode:
    """Half-way the best model is redrawn and falls, and the worst is redrawn."""
    x = _contexts(rng, horizon)
    theta = _weights(rng)
    best, worst, half = int(theta[:, 0].argmax()), int(theta[:, 0].argmin()), horizon // 2
    later, fresh = theta.copy(), _weights(rng, 2)
    later[best, 1:], later[worst] = fresh[0, 1:], fresh[1]
    later[best, 0] -= _FALL
    mean = np.concatenate([x[:half] @ theta.T, x[half:] @ later.T])
    return episode("abrupt", x, mean, _noisy(rng, mean), changes=(half,))


def walk(rng: np.random.Generator, horizon: int) -> Episode:
    """Every weight wanders: an AR(1) process with a time constant of a fifth of the horizon."""
    x = _contexts(rng, horizon)
    keep = math.exp(-5.0 / horizon)
    centre = np.zeros(COLUMNS)
    centre[0] = _INTERCEPT
    spread = np.full(COLUMNS, _WEIGHT_SD)
    spread[0] = _INTERCEPT_SD
    theta = _weights(rng) - centre
    mean = np.empty((horizon, MODELS))
    for t in range(horizon):
        mean[t] = (theta + centre) @ x[t]
        theta = keep * theta + math.sqrt(1.0 - keep * keep) * rng.normal(0.0, 1.0, theta.shape) * spread
    return episode("walk", x, mean, _noisy(rng, mean))


def delay(rng: np.random.Generator, horizon: int) -> Episode:
    """One decision in twenty is answered, after two thousand rounds on average."""
    world = late(replace(linear(rng, horizon), name="delay"), rng.exponential(_DELAY, horizon))
    return answered(rng, world, _ANSWERED)


def delay_sparse(rng: np.random.Generator, horizon: int) -> Episode:
    """One decision in ten is answered, half of them within two hundred rounds, some after thousands."""
    rounds = _MEDIAN_DELAY * rng.lognormal(0.0, _DELAY_SPREAD, horizon)
    return answered(rng, late(replace(linear(rng, horizon), name="delay-sparse"), rounds), _SPARSE)


def mnar(rng: np.random.Generator, horizon: int) -> Episode:
    """Thumbs that are missing not at random: who is displeased answers four times as often."""
    world = replace(logistic(rng, horizon), name="mnar")
    return answered(rng, world, np.where(world.quality > 0.0, _ANSWERED_GOOD, _ANSWERED_BAD))


def poisoned(rng: np.random.Generator, horizon: int) -> Episode:
    """Thumbs of which one voter in ten always gives the opposite."""
    return opposed(rng, replace(logistic(rng, horizon), name="poisoned"), _POISONED)


def new_model(rng: np.random.Generator, horizon: int) -> Episode:
    """Half-way the eighth model appears, better than the best by a tenth."""
    x = _contexts(rng, horizon)
    theta, half = _weights(rng, MODELS - 1), horizon // 2
    newcomer = _weights(rng, 1)
    newcomer[0, 0] = theta[:, 0].max() + _LEAD
    mean = x @ np.concatenate([theta, newcomer]).T
    available = np.ones(mean.shape, np.bool_)
    available[:half, -1] = False
    return episode("new-model", x, mean, _noisy(rng, mean), available=available, changes=(half,))


def price_change(rng: np.random.Generator, horizon: int) -> Episode:
    """Half-way the price of the best model rises."""
    x = _contexts(rng, horizon)
    theta, half = _weights(rng), horizon // 2
    prices = rng.uniform(0.0, _DEAREST, MODELS)
    mean = x @ theta.T
    cost = np.tile(prices, (horizon, 1))
    cost[half:, int((theta[:, 0] - prices).argmax())] += _RISE
    return episode("price-change", x, mean, _noisy(rng, mean), cost=cost, changes=(half,))


def degradation(rng: np.random.Generator, horizon: int) -> Episode:
    """Half-way the best model becomes worse without a word."""
    x = _contexts(rng, horizon)
    theta, half = _weights(rng), horizon // 2
    mean = x @ theta.T
    mean[half:, int(theta[:, 0].argmax())] -= _WORSE
    return episode("degradation", x, mean, _noisy(rng, mean), changes=(half,))


def outage(rng: np.random.Generator, horizon: int) -> Episode:
    """Half-way the best model is away for a tenth of the time."""
    world, half = linear(rng, horizon), horizon // 2
    available = world.available.copy()
    available[half : half + int(_OUTAGE * horizon), int(world.mean.mean(axis=0).argmax())] = False
    return replace(world, name="outage", available=available, changes=(half, half + int(_OUTAGE * horizon)))


def judge_noise(rng: np.random.Generator, horizon: int) -> Episode:
    """Votes of a judge that is twice as noisy and likes some models a little better than they are."""
    world = replace(linear(rng, horizon), name="judge-noise")
    return judged(rng, world, _JUDGE_NOISE, rng.normal(0.0, _JUDGE_BIAS, MODELS))
