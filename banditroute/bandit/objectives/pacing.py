"""Objectives: which cost weight is in force, given, or solved for a budget or for a quality floor.

A cost weight is a decision input: it is logged with the decision and never touches evidence. It is solved by bisection
on a window of recent requests, scores and all, so that it acts at once; integrating a dual slowly loses to a trivial
mix of models.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice.batch import LIMITS, Choices, DecideBatch
from banditroute.bandit.choice.policy import Policy
from banditroute.bandit.objectives import _kernels_pacing
from banditroute.bandit.objectives.recent import Recent
from banditroute.bandit.posterior.posterior import Posterior

Floats = NDArray[np.float64]

COST_WEIGHT, HIGH_COST_WEIGHT, HIGH_SHARE = map(
    LIMITS.index, ("cost_weight", "high_cost_weight", "high_share")
)
MAX_COST, MAX_LATENCY = LIMITS.index("max_cost_usd"), LIMITS.index("max_latency_ms")
WINDOW: Final = 512  # recent requests that a cost weight is solved on
EVERY: Final = 32  # decisions between two solutions, at least, and a share of the window
AIM: Final = (
    0.98  # of the budget: what a model costs on the requests it is chosen for is a little underestimated
)
MOST_AT_ONCE: Final = 10.0  # budgets that one request may cost beyond what has been saved
PATIENCE: Final = 200.0  # requests over which a deviation is made up for
MOST_OWED: Final = 50.0  # budgets that were not spent and may be spent later; a debt is paid in full
ANSWERS_PRIOR: Final = 100.0  # budgets behind an answered share of 1
LEAST_ANSWERED: Final = 0.1
LEAST_RATE, MOST_RATE = 0.2, 3.0  # bounds of the rate, in budgets
CONFIDENCE: Final = 1.645  # standard deviations: 95 %, one-sided
DAY_MS: Final = 86_400_000.0
FORECAST_DAYS: Final = 0.1  # the forecast counts as much as this share of a day observed
_STEPS: Final = 30
_MOST_WEIGHT: Final = 1e9


class Pacer(Protocol):
    """Gives the cost weight in force."""

    def pace(self, policy: Policy, batch: DecideBatch, paced: NDArray[np.bool_], now_ms: float) -> None:
        """Write the cost weights of a batch that is about to be decided into its limits.

        Parameters
        ----------
        policy : Policy
            Which will decide it.
        batch : DecideBatch
            Its columns.
        paced : bool[n]
            Which requests leave the cost weight to the pacer; the others are left alone.
        now_ms : float
            The time, in milliseconds since the epoch.
        """

    def decided(self, choices: Choices, now_ms: float) -> None:
        """Take note of what was chosen."""

    def paid(self, actual: float, expected: float) -> None:
        """Take note of what decisions cost that were expected to cost something else, both in USD."""


class Fixed:
    """A cost weight that is given.

    Parameters
    ----------
    cost_weight : float
        Quality per USD.
    """

    def __init__(self, cost_weight: float) -> None:
        self._cost_weight = cost_weight

    def pace(self, policy: Policy, batch: DecideBatch, paced: NDArray[np.bool_], now_ms: float) -> None:  # noqa: ARG002
        """See `Pacer`."""
        batch.limits[paced, COST_WEIGHT] = self._cost_weight

    def decided(self, choices: Choices, now_ms: float) -> None:
        """See `Pacer`."""

    def paid(self, actual: float, expected: float) -> None:
        """See `Pacer`."""


class Window(Recent):
    """The last requests, scored without cost by the posterior in force: noise and bonus included.

    A score that a request had when it was decided would not do: exploration has moved on since.

    Attributes
    ----------
    score, cost, quality : float64[count, K]
        Score before cost (minus infinity where a model may not serve), expected cost, expected quality.
    """

    def __init__(self, models: int, d: int, size: int = WINDOW) -> None:
        super().__init__(models, d, size)
        self.fresh = 0  # since the last solution
        self.score = self.cost = self.quality = np.zeros((0, models))

    @property
    def due(self) -> int:
        """How many new requests make it worth while to score the window again."""
        return max(1, min(EVERY, self.count // 8))

    def add(self, batch: DecideBatch, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """See `Recent.add`; scores come without cost."""
        self.fresh += len(rows)
        at = super().add(batch, rows)
        self._limits[at, COST_WEIGHT] = self._limits[at, HIGH_SHARE] = 0.0
        return at

    def rescore(self, policy: Policy, prices: Floats) -> None:
        """Score all requests again."""
        choices = policy.decide(self.batch(prices), propensity=False)
        self.fresh = 0
        self.score = np.where(choices.allowed, choices.score, -np.inf)
        self.cost, self.quality = np.ascontiguousarray(choices.cost), choices.quality


def window_for(batch: DecideBatch, window: Window | None) -> Window:
    """Return the window, or a new one when the catalog has another length."""
    shape = batch.eligible.shape[1], batch.x.shape[1]
    return window if window is not None and window.shape == shape else Window(*shape)


class BudgetPacer:
    """Meets a mean cost per request, or a cost per day.

    The rate aimed at is the budget, and a share of what was spent too much or too little so far; the two cost weights
    between which the window's mean cost passes the rate are mixed so that it is met. A model whose
    request costs more than ten budgets and what has been saved so far is left out while there is another one.

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
        self._unit = 0.0  # budget of the last request
        self._expected = self._answered = (
            0.0  # expected cost of all decisions, and of those that were answered
        )
        self._window: Window | None = None
        self._out = np.zeros(3)
        self._too_dear = np.zeros(0, np.bool_)

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

    def pace(self, policy: Policy, batch: DecideBatch, paced: NDArray[np.bool_], now_ms: float) -> None:
        """See `Pacer`."""
        before, window = self._window, window_for(batch, self._window)
        if window is not before:
            self._window, self._too_dear = window, np.zeros(window.shape[0], np.bool_)
        window.add(batch, np.flatnonzero(paced))
        if window.fresh >= window.due:
            window.rescore(policy, batch.prices)
            budget = AIM * self.budget(now_ms)
            rate = budget
            if self._per_request is not None:
                rate += min(self._owed, MOST_OWED * budget) / PATIENCE
            rate = min(max(rate, LEAST_RATE * budget), MOST_RATE * budget)
            self._too_dear = window.cost.mean(axis=0) > max(self._owed, 0.0) + MOST_AT_ONCE * budget
            window.score[:, self._too_dear] = np.where(
                np.isfinite(window.score[:, ~self._too_dear]).any(axis=1, keepdims=True),
                -np.inf,
                window.score[:, self._too_dear],
            )
            _kernels_pacing.bracket(window.score, window.cost, rate, self._out)
        if self._too_dear.any():
            left = batch.eligible & ~self._too_dear
            # Where all are too dear, all stay, and also where a limit of the request may leave nothing else.
            unlimited = np.isinf(batch.limits[:, MAX_COST]) & np.isinf(batch.limits[:, MAX_LATENCY])
            rows = paced & left.any(axis=1) & unlimited
            batch.eligible[rows] = left[rows]
        batch.limits[paced, COST_WEIGHT] = self._out[0]
        batch.limits[paced, HIGH_COST_WEIGHT] = self._out[1]
        batch.limits[paced, HIGH_SHARE] = self._out[2]

    def decided(self, choices: Choices, now_ms: float) -> None:
        """See `Pacer`."""
        chosen = choices.chosen
        served = np.flatnonzero(chosen >= 0)
        budget = self._unit = self.budget(now_ms)
        self.requests += len(chosen)
        self._day_requests += len(chosen)
        self._owed += len(chosen) * AIM * budget
        expected = float(choices.cost[served, chosen[served]].sum())
        self._expected += expected
        self._charge(expected)

    def paid(self, actual: float, expected: float) -> None:
        """See `Pacer`."""
        # Decisions that are not answered miss their expectation as those that are.
        self._answered += expected
        self._charge((actual - expected) / self.answered)

    @property
    def answered(self) -> float:
        """Which share of what was expected to be spent has been heard of; 1 at first."""
        prior = ANSWERS_PRIOR * self._unit
        if not prior > 0.0:
            return 1.0
        return min(max((self._answered + prior) / (self._expected + prior), LEAST_ANSWERED), 1.0)

    def _charge(self, amount: float) -> None:
        self.spent += amount
        self._day_spent += amount
        self._owed -= amount

    def settle(self) -> None:
        """Forget what was spent too much or too little so far."""
        self._owed = 0.0


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

    def pace(self, policy: Policy, batch: DecideBatch, paced: NDArray[np.bool_], now_ms: float) -> None:  # noqa: ARG002
        """See `Pacer`."""
        window = self._window = window_for(batch, self._window)
        window.add(batch, np.flatnonzero(paced))
        if window.fresh >= window.due:
            window.rescore(policy, batch.prices)
            self._weight = self._solve(window, policy.posterior)
        batch.limits[paced, COST_WEIGHT] = self._weight

    def decided(self, choices: Choices, now_ms: float) -> None:
        """See `Pacer`."""

    def paid(self, actual: float, expected: float) -> None:
        """See `Pacer`."""

    def _solve(self, window: Window, posterior: Posterior) -> float:
        if not self._holds(window, posterior, 0.0):
            return 0.0
        scale = float(window.cost.max())
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
        chosen = (window.score - weight * window.cost).argmax(axis=1)
        quality, x = window.quality, window.x.astype(np.float64)
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
