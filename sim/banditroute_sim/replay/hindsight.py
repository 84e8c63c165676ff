"""What a replay is compared with: the best fixed model, the best mix of fixed models, and the oracle, in hindsight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from banditroute.config import Config, Objective
from banditroute_sim.data.outcomes import Outcomes

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_PART: Final = 65_536  # rows that are looked at at once
_SOLVED: Final = 200_000  # rows that an oracle's cost weight is solved on
_STEPS: Final = 60


@dataclass(frozen=True, slots=True)
class Goal:
    """An objective, in the terms of hindsight.

    Attributes
    ----------
    cost_weight : float, optional
        Quality per USD, where it is given.
    budget : float, optional
        USD per request.
    floor : float, optional
        Share of the quality of ``reference``, a column.
    """

    cost_weight: float | None = None
    budget: float | None = None
    floor: float | None = None
    reference: int | None = None

    @classmethod
    def of(cls, config: Config) -> Goal:
        """Return the goal of a configuration; a budget per day is shared out over the requests expected."""
        objective: Objective = config.objective
        if objective.quality_floor is not None and objective.reference is not None:
            return cls(
                floor=objective.quality_floor, reference=config.catalog.names.index(objective.reference)
            )
        budget = objective.budget_usd_per_request
        if budget is None and objective.budget_usd_per_day and objective.requests_per_day:
            budget = objective.budget_usd_per_day / objective.requests_per_day
        return cls(objective.cost_weight) if budget is None else cls(budget=budget)

    def best_fixed(self, quality: Floats, cost: Floats) -> int:
        """Return the best of K models by their means: feasible first, then by what the objective asks for."""
        if self.cost_weight is not None:
            return int((quality - self.cost_weight * cost).argmax())
        if self.budget is not None:
            fits = cost <= self.budget
            return int(np.where(fits, quality, -np.inf).argmax()) if fits.any() else int(cost.argmin())
        assert self.floor is not None
        assert self.reference is not None
        return int(np.where(quality >= self.floor * quality[self.reference], cost, np.inf).argmin())


def parts(rows: Rows) -> Iterator[Rows]:
    """Yield rows some at a time, so that what is taken of them stays small."""
    for start in range(0, len(rows), _PART):
        yield rows[start : start + _PART]


def fixed_means(outcomes: Outcomes, rows: Rows) -> tuple[Floats, Floats]:
    """Return mean quality and cost of every model over some rows; float64[K] each."""
    sums = np.zeros((2, len(outcomes.models)))
    for part in parts(rows):
        sums += outcomes.quality[part].sum(axis=0), outcomes.cost[part].sum(axis=0)
    quality, cost = sums / len(rows)
    return quality, cost


def best_mix(quality: Floats, cost: Floats, spend: float) -> Floats:
    """Return the shares of the random mix of at most two fixed models that gets the most for a spend; float64[K].

    Parameters
    ----------
    quality, cost : float64[K]
        Means of the models.
    spend : float
        USD per request. Where nothing is that cheap, the cheapest model is the mix.
    """
    shares = np.zeros(len(cost))
    shares[int(cost.argmin())] = 1.0
    best = float(quality[cost.argmin()])
    for cheap in np.flatnonzero(cost <= spend).tolist():
        for dear in [cheap, *np.flatnonzero(cost > spend).tolist()]:
            part = 0.0 if dear == cheap else (spend - cost[cheap]) / (cost[dear] - cost[cheap])
            value = float(quality[cheap] + part * (quality[dear] - quality[cheap]))
            if value > best:
                best = value
                shares[:] = 0.0
                shares[cheap] += 1.0 - part
                shares[dear] += part
    return shares


def oracle(outcomes: Outcomes, rows: Rows, goal: Goal) -> tuple[float, float]:
    """Return mean quality and cost of the best model of each single prompt, under the objective."""
    weight = goal.cost_weight
    if weight is None:
        step = max(1, len(rows) // _SOLVED)
        weight = _solve(outcomes.quality[rows[::step]], outcomes.cost[rows[::step]], goal)
    total = np.zeros(2)
    for part in parts(rows):
        quality, cost = outcomes.quality[part], outcomes.cost[part]
        at = np.arange(len(part)), _cheapest_best(quality, cost, weight)
        total += quality[at].sum(), cost[at].sum()
    return float(total[0] / len(rows)), float(total[1] / len(rows))


def _cheapest_best(quality: Floats, cost: Floats, weight: float) -> Rows:
    """Return the model of largest utility of each row, the cheapest of equals."""
    utility = quality - weight * cost
    ties = utility >= utility.max(axis=1, keepdims=True) - 1e-12
    best: Rows = np.where(ties, cost, np.inf).argmin(axis=1)
    return best


def _solve(quality: Floats, cost: Floats, goal: Goal) -> float:
    """Return the cost weight at which the oracle meets a budget, or the largest at which it keeps a floor."""
    index = np.arange(len(quality))

    def meets(weight: float) -> bool:
        at = index, _cheapest_best(quality, cost, weight)
        if goal.budget is not None:
            return bool(cost[at].mean() <= goal.budget)
        assert goal.floor is not None
        assert goal.reference is not None
        return bool(quality[at].mean() >= goal.floor * quality[:, goal.reference].mean())

    scale = max(float(cost.max()), 1e-12)
    low, high = 1e-9 / scale, 1e9 / scale
    budgeted = goal.budget is not None
    if meets(0.0) and budgeted:
        return 0.0
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        # a budget is met from some weight on, a floor up to some weight
        if meets(middle) == budgeted:
            high = middle
        else:
            low = middle
    return high if budgeted else low


def told(quality: float, cost: float, cost_weight: float) -> dict[str, Any]:
    """Return means as JSON has them."""
    return {"mean_quality": quality, "mean_cost_usd": cost, "mean_utility": quality - cost_weight * cost}
