"""Worlds in which quality, or its logit, is linear in the context: K = 8, d = 32."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.scenarios.draw import Draw
from banditroute_sim.scenarios.episode import Episode, Floats, episode

MODELS, COLUMNS = 8, 32
INTERCEPT, INTERCEPT_SD, WEIGHT_SD, NOISE = 0.5, 0.1, 0.25, 0.3
_LOGIT_SD = 1.2
_FALL, _LEAD, _RISE, _WORSE = 0.15, 0.1, 0.4, 0.3
_DEAREST = 0.2


def contexts(draw: Draw) -> NDArray[np.float32]:
    """Draw contexts of unit energy beside the intercept."""
    x = np.ones((draw.count, COLUMNS), np.float32)
    x[:, 1:] = draw.rng.normal(0.0, 1.0 / math.sqrt(COLUMNS - 1), (draw.count, COLUMNS - 1))
    return x


def weights(rng: np.random.Generator, count: int = MODELS) -> Floats:
    """Return float64[K, d]: an intercept and weights for each model."""
    theta = rng.normal(0.0, WEIGHT_SD, (count, COLUMNS))
    theta[:, 0] = rng.normal(INTERCEPT, INTERCEPT_SD, count)
    return theta


def noisy(rng: np.random.Generator, mean: Floats) -> Floats:
    """Return scores around their means."""
    return mean + rng.normal(0.0, NOISE, mean.shape)


def _theta(draw: Draw) -> Floats:
    return draw.once("theta", lambda: weights(draw.rng))


def linear(draw: Draw, name: str = "linear") -> Episode:
    """Nothing changes."""
    x = contexts(draw)
    mean = x @ _theta(draw).T
    return episode(name, x, mean, noisy(draw.rng, mean))


def logistic(draw: Draw, name: str = "logistic") -> Episode:
    """Thumbs whose logit is linear."""
    x = contexts(draw)
    theta = _theta(draw)
    level = np.clip(theta[:, 0], 0.01, 0.99)
    logit = np.log(level / (1.0 - level)) + x[:, 1:] @ (theta[:, 1:] * (_LOGIT_SD / WEIGHT_SD)).T
    mean = 1.0 / (1.0 + np.exp(-logit))
    return episode(name, x, mean, (draw.rng.random(mean.shape) < mean).astype(np.float64))


def abrupt(draw: Draw) -> Episode:
    """Half-way the best model is redrawn and falls, and the worst is redrawn."""
    x = contexts(draw)
    theta = _theta(draw)
    best, worst, half = int(theta[:, 0].argmax()), int(theta[:, 0].argmin()), draw.place(draw.half)
    later, fresh = theta.copy(), draw.once("fresh", lambda: weights(draw.rng, 2))
    later[best, 1:], later[worst] = fresh[0, 1:], fresh[1]
    later[best, 0] -= _FALL
    mean = np.concatenate([x[:half] @ theta.T, x[half:] @ later.T])
    return episode("abrupt", x, mean, noisy(draw.rng, mean), changes=(draw.half,))


def walk(draw: Draw) -> Episode:
    """Every weight wanders: an AR(1) process with a time constant of a fifth of the horizon."""
    x = contexts(draw)
    keep = math.exp(-5.0 / draw.horizon)
    centre = np.zeros(COLUMNS)
    centre[0] = INTERCEPT
    spread = np.full(COLUMNS, WEIGHT_SD)
    spread[0] = INTERCEPT_SD
    theta = draw.once("theta", lambda: weights(draw.rng) - centre)
    mean = np.empty((draw.count, MODELS))
    for t in range(draw.count):
        mean[t] = (theta + centre) @ x[t]
        theta = keep * theta + math.sqrt(1.0 - keep * keep) * draw.rng.normal(0.0, 1.0, theta.shape) * spread
    draw.kept["theta"] = theta
    return episode("walk", x, mean, noisy(draw.rng, mean))


def new_model(draw: Draw) -> Episode:
    """Half-way the eighth model appears, better than the best by a tenth."""
    x = contexts(draw)
    theta = draw.once("theta", lambda: weights(draw.rng, MODELS - 1))
    newcomer = draw.once("newcomer", lambda: weights(draw.rng, 1))
    newcomer[0, 0] = theta[:, 0].max() + _LEAD
    mean = x @ np.concatenate([theta, newcomer]).T
    available = np.ones(mean.shape, np.bool_)
    available[: draw.place(draw.half), -1] = False
    return episode("new-model", x, mean, noisy(draw.rng, mean), available=available, changes=(draw.half,))


def price_change(draw: Draw) -> Episode:
    """Half-way the price of the best model rises."""
    x = contexts(draw)
    theta = _theta(draw)
    prices = draw.once("prices", lambda: draw.rng.uniform(0.0, _DEAREST, MODELS))
    mean = x @ theta.T
    cost = np.tile(prices, (draw.count, 1))
    cost[draw.place(draw.half) :, int((theta[:, 0] - prices).argmax())] += _RISE
    return episode("price-change", x, mean, noisy(draw.rng, mean), cost=cost, changes=(draw.half,))


def degradation(draw: Draw) -> Episode:
    """Half-way the best model becomes worse without a word."""
    x = contexts(draw)
    theta = _theta(draw)
    mean = x @ theta.T
    mean[draw.place(draw.half) :, int(theta[:, 0].argmax())] -= _WORSE
    return episode("degradation", x, mean, noisy(draw.rng, mean), changes=(draw.half,))
