"""Worlds put together from parts: a kind of quality, and what happens to votes and to service."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from banditroute_sim.scenarios import bernoulli, linear
from banditroute_sim.scenarios.draw import Draw
from banditroute_sim.scenarios.episode import Episode, Messages
from banditroute_sim.scenarios.feedback import answered, judged, late, lognormal_delay, opposed
from banditroute_sim.scenarios.service import away, limited, priced, timed

_DELAY, _ANSWERED = 2000.0, 0.05
_SPARSE, _MEDIAN_DELAY, _DELAY_SPREAD = 0.1, 200.0, 1.5
_ANSWERED_BAD, _ANSWERED_GOOD = 0.4, 0.1
_POISONED, _OUTAGE, _THUMBS = 0.1, 0.1, 0.2
_JUDGE_NOISE, _JUDGE_BIAS = 0.6, 0.03
_BURSTS, _BURST, _FASTER, _CALM_DELAY, _REFUSED = 5, 0.1, 10.0, 20.0, 0.5
_DEAREST, _COST_SPREAD, _SLOWEST_MS = 0.2, 1.2, 4000.0


def delay(draw: Draw) -> Episode:
    """One decision in twenty is answered, after two thousand rounds on average."""
    world = linear.linear(draw, "delay")
    return answered(draw.rng, late(world, draw.rng.exponential(_DELAY, draw.count)), _ANSWERED)


def delay_sparse(draw: Draw) -> Episode:
    """One decision in ten is answered, half of them within two hundred rounds, some after thousands."""
    rounds = _MEDIAN_DELAY * draw.rng.lognormal(0.0, _DELAY_SPREAD, draw.count)
    return answered(draw.rng, late(linear.linear(draw, "delay-sparse"), rounds), _SPARSE)


def thumbs(draw: Draw) -> Episode:
    """Thumbs, of one request in five; who is displeased answers twice as fast, slow models are answered late."""
    world = linear.logistic(draw, "thumbs")
    slow = draw.once("slow", lambda: draw.rng.uniform(5.0, 50.0, linear.MODELS))
    return answered(draw.rng, lognormal_delay(draw.rng, world, slow, 1.0, 0.5), _THUMBS)


def mnar(draw: Draw) -> Episode:
    """Thumbs that are missing not at random: who is displeased answers four times as often."""
    world = linear.logistic(draw, "mnar")
    return answered(draw.rng, world, np.where(world.quality > 0.0, _ANSWERED_GOOD, _ANSWERED_BAD))


def poisoned(draw: Draw) -> Episode:
    """Thumbs of which one voter in ten always gives the opposite."""
    return opposed(draw.rng, linear.logistic(draw, "poisoned"), _POISONED)


def judge_noise(draw: Draw) -> Episode:
    """Votes of a judge that is twice as noisy and likes some models a little better than they are."""
    world = linear.linear(draw, "judge-noise")
    bias = draw.once("bias", lambda: draw.rng.normal(0.0, _JUDGE_BIAS, linear.MODELS))
    return judged(draw.rng, world, _JUDGE_NOISE, bias)


def outage(draw: Draw) -> Episode:
    """Half-way the best model is away for a tenth of the time."""
    world = linear.linear(draw, "outage")
    best = draw.once("best", lambda: int(world.mean.mean(axis=0).argmax()))
    ends = (draw.half, draw.half + int(_OUTAGE * draw.horizon))
    return away(world, best, slice(*map(draw.place, ends))).changed(*ends)


def retired_model(draw: Draw) -> Episode:
    """Half-way the best model goes for good."""
    world = linear.linear(draw, "retired-model")
    best = draw.once("best", lambda: int(world.mean.mean(axis=0).argmax()))
    return away(world, best, slice(draw.place(draw.half), None)).changed(draw.half)


def burst(draw: Draw) -> Episode:
    """Five times traffic is ten times as dense for a while: votes come later, and the best model refuses half."""
    world = linear.linear(draw, "burst")
    best = draw.once("best", lambda: int(world.mean.mean(axis=0).argmax()))
    busy = (draw.rounds * _BURSTS / draw.horizon) % 1.0 >= 1.0 - _BURST
    wait = draw.rng.exponential(_CALM_DELAY, draw.count) * np.where(busy, _FASTER, 1.0)
    return limited(draw.rng, late(world, wait), best, busy, _REFUSED)


def heavy_tails(draw: Draw) -> Episode:
    """Models have prices; what an answer costs and how long it takes has a heavy tail, and votes wait for it."""
    rng = draw.rng
    world = linear.linear(draw, "heavy-tails")
    prices = draw.once("prices", lambda: rng.uniform(0.0, _DEAREST, linear.MODELS))
    slow = draw.once("slow", lambda: rng.uniform(0.1, 1.0, linear.MODELS))
    world = timed(rng, priced(rng, world, prices, _COST_SPREAD), _SLOWEST_MS * slow)
    return lognormal_delay(rng, world, _CALM_DELAY * slow, _DELAY_SPREAD)


def messages(draw: Draw) -> Episode:
    """As `stationary`, but one message in ten comes twice and one in five late: the policy `router` has a wire."""
    return replace(
        bernoulli.stationary(draw), name="messages", messages=Messages(repeated=0.1, reordered=0.2)
    )
