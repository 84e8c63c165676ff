"""Objectives: which cost weight is in force, given, or solved for a budget or for a quality floor.

A cost weight is a decision input: it is logged with the decision and never touches evidence. It is solved by bisection
on a window of recent requests, scores and all, so that it acts at once; integrating a dual slowly loses to a trivial
mix of models.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit import _kernels_pacing
from banditroute.bandit.batch import Choices, DecideBatch
from banditroute.bandit.posterior import Posterior

Floats = NDArray[np.float64]

WINDOW: Final = 512  # recent requests that a cost weight is solved on
EVERY: Final = 10  # decisions between two solutions
AIM: Final = 0.99  # of the budget
PATIENCE: Final = 200.0  # requests over which a deviation is made up for
LEAST_RATE, MOST_RATE = 0.2, 3.0  # bounds of the rate, in budgets
CONFIDENCE: Final = 1.645  # standard deviations: 95 %, one-sided
DAY_MS: Final = 86_400_000.0
FORECAST_DAYS: Final = 0.1  # the forecast counts as much as this share of a day observed
_STEPS: Final = 30
_MOST_WEIGHT: Final = 1e9


class CostWeights(NamedTuple):
    """Two cost weights and the probability of the higher one."""

    low: float
    high: float = 0.0
    high_share: float = 0.0


class Pacer(Protocol):
    """Gives the cost weight in force."""

    def weights(self, posterior: Posterior, now_ms: float) -> CostWeights:
        """Return what is in force for the next batch."""

    def decided(self, batch: DecideBatch, choices: Choices, paced: NDArray[np.bool_], now_ms: float) -> None:
        """Take note of a batch; ``paced`` says which requests left the cost weight to the pacer."""

    def paid(self, difference: float) -> None:
        """Take note that a decision cost this much more than expected, in USD."""


class Fixed:
    """A cost weight that is given.

    Parameters
    ----------
    cost_weight : float
        Quality per USD.
    """

    def __init__(self, cost_weight: float) -> None:
        self._weights = CostWeights(cost_weight)

    def weights(self, posterior: Posterior, now_ms: float) -> CostWeights:  # noqa: ARG002 - nothing depends on them
        """See `Pacer`."""
        return self._weights

    def decided(self, batch: DecideBatch, choices: Choices, paced: NDArray[np.bool_], now_ms: float) -> None:
        """See `Pacer`."""

    def paid(self, difference: float) -> None:
        """See `Pacer`."""


class Window:
    """The last requests: contexts, scores without cost (noise and bonus included), costs and expected qualities."""

    def __init__(self, models: int, d: int, size: int = WINDOW) -> None:
        self.x = np.zeros((size, d), np.float32)
        self.score = np.zeros((size, models))
        self.cost = np.zeros((size, models))
        self.quality = np.zeros((size, models))
        self.fresh = 0  # since the last solution
        self._next = 0
        self._size = size
        self.count = 0

    def add(self, batch: DecideBatch, choices: Choices, rows: NDArray[np.intp]) -> None:
        """Add some requests of a batch, the last ones if they are more than the window holds."""
        self.fresh += len(rows)
        rows = rows[-self._size :]
        at = (self._next + np.arange(len(rows))) % self._size
        self._next = int((self._next + len(rows)) % self._size)
        self.count = min(self._size, self.count + len(rows))
        cost = choices.cost[rows]
        score = choices.score[rows] + choices.cost_weight[rows, None] * cost
        rank = choices.rank[rows]
        allowed = np.zeros(score.shape, np.bool_)
        served, place = np.nonzero(rank >= 0)
        allowed[served, rank[served, place]] = True
        self.x[at], self.cost[at], self.quality[at] = batch.x[rows], cost, choices.quality[rows]
        self.score[at] = np.where(allowed, score, -np.inf)


class BudgetPacer:
    """Meets a mean cost per request, or a cost per day.

    The rate aimed at is the budget, and a share of what was spent too much or too little so far; the two cost weights
    between which the window's mean cost passes the rate are mixed so that it is met.

    Parameters
    ----------
    per_request : float, optional
        USD.
    per_day : float, optional
        USD per UTC day; the budget of a request is what is left, shared out over the requests that are expected.
    requests_per_day : float
        The traffic forecast that ``per_day`` starts from.

    Raises
    ------
    ValueError
        Unless exactly one budget is given, and positive.
    """

    def __init__(
        self, per_request: float | None = None, per_day: float | None = None, requests_per_day: float = 0.0
    ) -> None:
        given = [budget for budget in (per_request, per_day) if budget is not None]
        if len(given) != 1 or not given[0] > 0.0 or (per_day is not None and not requests_per_day > 0.0):
            raise ValueError(
                "expected a budget per request, or one per day and a forecast of requests per day"
            )
        self.share = 1.0  # of the day's budget and traffic that are this process's
        self.spent = 0.0
        self.requests = 0
        self._per_request = per_request
        self._per_day = per_day
        self._forecast = requests_per_day
        self._day = -1.0
        self._day_share = 1.0  # of the day that was left when it was first seen
        self._day_spent = self._day_requests = 0.0
        self._owed = 0.0  # budgets so far minus what was spent
        self._window: Window | None = None
        self._out = np.zeros(3)

    def budget(self, now_ms: float) -> float:
        """Return the budget of the next request in USD."""
        if self._per_request is not None:
            return self._per_request
        assert self._per_day is not None
        day, place = divmod(now_ms / DAY_MS, 1.0)
        if day != self._day:
            self._day_share = 1.0 - place if self._day < 0 else 1.0
            self._day, self._day_spent, self._day_requests = day, 0.0, 0.0
        seen = place - (1.0 - self._day_share)
        daily = (self._day_requests + FORECAST_DAYS * self._forecast * self.share) / (seen + FORECAST_DAYS)
        left = self._per_day * self.share * self._day_share - self._day_spent
        return max(left, 0.0) / max(daily * (1.0 - place), 1.0)

    def weights(self, posterior: Posterior, now_ms: float) -> CostWeights:  # noqa: ARG002 - scores tell it all
        """See `Pacer`."""
        window = self._window
        if window is not None and window.fresh >= EVERY:
            window.fresh = 0
            budget = AIM * self.budget(now_ms)
            rate = budget + self._owed / PATIENCE if self._per_request is not None else budget
            rate = min(max(rate, LEAST_RATE * budget), MOST_RATE * budget)
            rows = slice(0, window.count)
            _kernels_pacing.bracket(window.score[rows], window.cost[rows], rate, self._out)
        return CostWeights(*self._out.tolist())

    def decided(self, batch: DecideBatch, choices: Choices, paced: NDArray[np.bool_], now_ms: float) -> None:
        """See `Pacer`."""
        n, models = len(batch), choices.score.shape[1]
        chosen = choices.chosen
        served = np.flatnonzero(chosen >= 0)
        cost = float(choices.cost[served, chosen[served]].sum())
        budget = self.budget(now_ms)
        self.requests += n
        self._day_requests += n
        self._owed += n * AIM * budget
        self.paid(cost)
        if self._window is None or self._window.score.shape[1] != models:
            self._window = Window(models, batch.x.shape[1])
        self._window.add(batch, choices, np.flatnonzero(paced & (chosen >= 0)))

    def paid(self, difference: float) -> None:
        """See `Pacer`."""
        self.spent += difference
        self._day_spent += difference
        self._owed -= difference


class FloorPacer:
    """Keeps a share of a reference model's quality at the least cost.

    The largest cost weight at which the window's mean quality is, with 95 % confidence under the posterior, at least
    ``floor`` times that of the reference model on the same requests.

    Parameters
    ----------
    floor : float
        Between 0 and 1.
    reference : int
        Index of the reference model.
    """

    def __init__(self, floor: float, reference: int) -> None:
        self._floor, self._reference = floor, reference
        self._window: Window | None = None
        self._weight = 0.0

    def weights(self, posterior: Posterior, now_ms: float) -> CostWeights:  # noqa: ARG002 - no clock is needed
        """See `Pacer`."""
        window = self._window
        if window is not None and window.fresh >= max(EVERY, window.count // 16):
            window.fresh = 0
            self._weight = self._solve(window, posterior)
        return CostWeights(self._weight)

    def decided(self, batch: DecideBatch, choices: Choices, paced: NDArray[np.bool_], now_ms: float) -> None:  # noqa: ARG002
        """See `Pacer`."""
        models = choices.score.shape[1]
        if self._window is None or self._window.score.shape[1] != models:
            self._window = Window(models, batch.x.shape[1])
        self._window.add(batch, choices, np.flatnonzero(paced & (choices.chosen >= 0)))

    def paid(self, difference: float) -> None:
        """See `Pacer`."""

    def _solve(self, window: Window, posterior: Posterior) -> float:
        if not self._holds(window, posterior, 0.0):
            return 0.0
        scale = float(window.cost[: window.count].max())
        if scale <= 0.0:
            return 0.0
        low, high = 0.0, 1e-3 / scale
        while self._holds(window, posterior, high):
            low, high = high, 4.0 * high
            if high > _MOST_WEIGHT / scale:
                return low
        for _ in range(_STEPS):
            middle = 0.5 * high if low == 0.0 else math.sqrt(low * high)
            if self._holds(window, posterior, middle):
                low = middle
            else:
                high = middle
        return low

    def _holds(self, window: Window, posterior: Posterior, weight: float) -> bool:
        rows = slice(0, window.count)
        chosen = (window.score[rows] - weight * window.cost[rows]).argmax(axis=1)
        quality, x = window.quality[rows], window.x[rows].astype(np.float64)
        gain = (
            quality[np.arange(window.count), chosen].mean() - self._floor * quality[:, self._reference].mean()
        )
        # The mean gain is linear in the weights of the models: a sum of contexts each, and its variance.
        sums = np.zeros((quality.shape[1], x.shape[1]))
        np.add.at(sums, chosen, x)
        sums[self._reference] -= self._floor * x.sum(axis=0)
        sums /= window.count
        variance = posterior.sigma2 * float(np.einsum("ki,kij,kj->", sums, posterior.V, sums))
        return bool(gain >= CONFIDENCE * math.sqrt(max(variance, 0.0)))
