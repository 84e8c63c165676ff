"""Target policies: with which probability another policy would have chosen each model of a logged decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice._kernels_propensity import propensity
from banditroute.bandit.choice.state_layout import CURIOSITY, NOISE
from banditroute.errors import DataSetError
from banditroute_sim.evaluate.log import Batch

Floats = NDArray[np.float64]
Price = tuple[float, float]
_WINDOW = 64  # decisions from which noise is told: fewer lag less behind a posterior that learns


@dataclass(frozen=True, slots=True)
class Plan:
    """What a target does with a batch.

    Attributes
    ----------
    probabilities : float64[n, K]
        Of every model; a row of zeros where the target has no model for a request.
    weight : float64[n]
        Probability of the logged choice over its propensity.
    cost : float64[n, K]
        Expected cost at the target's prices, USD.
    paid : float64[n]
        What the logged choice cost, at the target's prices.
    """

    probabilities: Floats
    weight: Floats
    cost: Floats
    paid: Floats


class Target(Protocol):
    """A policy to be evaluated."""

    @property
    def label(self) -> str:
        """What it is, for people."""

    def plan(self, batch: Batch) -> Plan:
        """Return what it would do."""


def _plan(
    batch: Batch, probabilities: Floats, cost: Floats | None = None, paid: Floats | None = None
) -> Plan:
    chance = probabilities[np.arange(len(batch)), batch.chosen]
    return Plan(
        probabilities,
        chance / batch.propensity,
        batch.cost if cost is None else cost,
        batch.outcome[:, 1] if paid is None else paid,
    )


def _allowed(batch: Batch, models: frozenset[str] | None) -> NDArray[np.bool_]:
    if models is None:
        return batch.eligible
    return batch.eligible & np.array([name in models for name in batch.names])


def _even(allowed: NDArray[np.bool_]) -> Floats:
    return allowed / np.maximum(allowed.sum(axis=1, keepdims=True), 1)


@dataclass(frozen=True, slots=True)
class Logged:
    """The logging policy itself: every weight is 1, and every estimate the mean of what was logged."""

    label: str = "the logging policy"

    def plan(self, batch: Batch) -> Plan:
        """See `Target.plan`."""
        chosen = np.zeros((len(batch), len(batch.names)))
        chosen[np.arange(len(batch)), batch.chosen] = 1.0
        return Plan(chosen, np.ones(len(batch)), batch.cost, batch.outcome[:, 1])


@dataclass(frozen=True, slots=True)
class Uniform:
    """Each model that may serve, with the same probability.

    Parameters
    ----------
    models : frozenset of str, optional
        These alone.
    """

    models: frozenset[str] | None = None

    @property
    def label(self) -> str:
        """See `Target.label`."""
        return "uniform"

    def plan(self, batch: Batch) -> Plan:
        """See `Target.plan`."""
        return _plan(batch, _even(_allowed(batch, self.models)))


@dataclass(frozen=True, slots=True)
class Always:
    """One model wherever it may serve."""

    model: str

    @property
    def label(self) -> str:
        """See `Target.label`."""
        return f"always {self.model}"

    def plan(self, batch: Batch) -> Plan:
        """See `Target.plan`."""
        return _plan(batch, _allowed(batch, frozenset([self.model])).astype(np.float64))


@dataclass(frozen=True, slots=True)
class ByCell:
    """Fixed probabilities per kind of context: float64[K] in the order of the log's models."""

    label: str
    table: Mapping[int, Floats]

    def plan(self, batch: Batch) -> Plan:
        """See `Target.plan`."""
        nothing = np.zeros(len(batch.names))
        return _plan(batch, np.array([self.table.get(cell, nothing) for cell in batch.cell.tolist()]))


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in USD per million input and output tokens: those that were in force, and others."""

    logged: Mapping[str, Price]
    target: Mapping[str, Price]

    def costs(self, batch: Batch) -> tuple[Floats, Floats]:
        """Return expected costs float64[n, K] and what the logged choice cost float64[n], at the target's prices.

        What was expected changes in proportion, so that calibration stays. What was paid is worked out from reported
        tokens, and where they are unknown it changes in proportion, too.
        """
        missing = [name for name in batch.names if name not in self.logged]
        if missing:
            raise DataSetError(
                f"the log has the model '{missing[0]}', of which the configuration knows no price: "
                "give the configuration that was in force with -c"
            )
        old = np.array([self.logged[name] for name in batch.names])
        new = np.array([self.target.get(name, self.logged[name]) for name in batch.names])
        given, written = np.nan_to_num(batch.input_tokens)[:, None], np.expm1(np.nan_to_num(batch.log_tokens))
        before, after = given * old[:, 0] + written * old[:, 1], given * new[:, 0] + written * new[:, 1]
        factor = np.divide(after, before, out=np.ones_like(after), where=before > 0.0)
        cost = np.where(before > 0.0, batch.cost * factor, 1e-6 * after)
        rows = np.arange(len(batch))
        _, paid, given_to, written_by = batch.outcome.T
        exact = 1e-6 * (given_to * new[batch.chosen, 0] + written_by * new[batch.chosen, 1])
        changed = (old != new).any(axis=1)[batch.chosen]
        scaled = np.where(changed, paid * factor[rows, batch.chosen], paid)
        return cost, np.where(changed & ~np.isnan(exact), exact, scaled)


@dataclass(frozen=True, slots=True)
class Objective:
    """The largest expected utility under another objective, by the predictions that were logged.

    Parameters
    ----------
    cost_weights : tuple of (cost weight, share), optional
        Quality per USD; several are mixed, as a budget does. Default: the logged ones.
    latency_weight : float, optional
        Quality per second; default: the logged ones.
    models : frozenset of str, optional
        These alone.
    prices : Prices, optional
        Other prices.
    floor : float
        Probability of choosing by lot.
    sampled : bool
        Whether it explores as the engine does, with bonus and noise; they are not in the log, and are told from the
        predictive deviations of the last decisions. Otherwise the choice is greedy.
    label : str
        What it is, for people.
    """

    cost_weights: tuple[tuple[float, float], ...] | None = None
    latency_weight: float | None = None
    models: frozenset[str] | None = None
    prices: Prices | None = None
    floor: float = 0.0
    sampled: bool = False
    label: str = "another objective"

    def plan(self, batch: Batch) -> Plan:
        """See `Target.plan`."""
        if not batch.predicted:
            raise DataSetError(
                "the decisions carry no header `banditroute`, so what other objectives choose cannot be told: "
                "export the log with headers, or evaluate uniform or fixed:MODEL"
            )
        cost, paid = (batch.cost, None) if self.prices is None else self.prices.costs(batch)
        allowed = _allowed(batch, self.models)
        score, spread = free_score(batch, self.latency_weight), None
        if self.sampled:
            bonus, spread = noise(batch)
            score = score + bonus
        total = np.zeros_like(cost)
        for weight, share in self.cost_weights or ((None, 1.0),):
            value = score - (batch.cost_weight[:, None] if weight is None else weight) * cost
            total += share * (_best(value, allowed) if spread is None else _sampled(value, spread, allowed))
        if self.floor > 0.0:
            total = (1.0 - self.floor) * total + self.floor * _even(allowed)
        return _plan(batch, total, cost, paid)


def free_score(batch: Batch, latency_weight: float | None = None) -> Floats:
    """Return expected utility without cost; float64[n, K]. Of an unknown latency nothing is subtracted."""
    weight = batch.latency_weight[:, None] if latency_weight is None else latency_weight
    seconds = np.where(np.isnan(batch.log_latency), 0.0, 1e-3 * np.exp(np.nan_to_num(batch.log_latency)))
    return batch.quality - weight * seconds


def noise(batch: Batch) -> tuple[Floats, Floats]:
    """Return the bonus and the spread of every score, both float64[n, K], as far as the log tells them.

    A logged deviation is σ√(1 + q) with q = xᵀVx: the smallest of the last decisions stands for σ, and a model's
    smallest q for its uncertainty as a whole.
    """
    sd = batch.sd
    bonus, spread = np.empty_like(sd), np.empty_like(sd)
    for start in range(0, len(sd), _WINDOW):
        rows = slice(start, start + _WINDOW)
        sigma = sd[rows].min()
        q = np.maximum((sd[rows] / sigma) ** 2 - 1.0, 0.0)
        bonus[rows] = CURIOSITY * sigma * q
        spread[rows] = NOISE * sigma * np.sqrt(q.min(axis=0))
    return bonus, spread


def _best(value: Floats, allowed: NDArray[np.bool_]) -> Floats:
    chosen = np.where(allowed, value, -np.inf).argmax(axis=1)
    one = np.zeros_like(value)
    one[np.arange(len(value)), chosen] = 1.0
    return np.where(allowed, one, 0.0)


def _sampled(center: Floats, spread: Floats, allowed: NDArray[np.bool_]) -> Floats:
    """Return the probability that each score is the largest; float64[n, K]."""
    n, k = center.shape
    chance, u, w = np.zeros((n, k)), np.empty(k), np.empty(k)
    places = np.arange(k, dtype=np.uint64)  # of scores that are equal and certain the first is taken
    for i in range(n):
        ok = np.ascontiguousarray(allowed[i])
        for column in np.flatnonzero(ok).tolist():
            chance[i, column] = propensity(center[i], spread[i], ok, places, column, u, w)
        chance[i] /= chance[i].sum() or 1.0
    return chance
