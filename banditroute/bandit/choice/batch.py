"""The columns of a batch: what a decision needs and what it gives, for n requests and K models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

LIMITS: Final = (
    "input_tokens", "max_output_tokens", "cost_weight", "latency_weight", "max_cost_usd", "max_latency_ms",
    "high_cost_weight", "high_share", "input_estimated",
)  # fmt: skip
UNLIMITED: Final = (0.0, np.inf, 0.0, 0.0, np.inf, np.inf, 0.0, 0.0, 0.0)


@dataclass(slots=True)
class DecideBatch:
    """The columns of n requests and K models that a decision needs.

    Parameters
    ----------
    x : float32[n, d]
        Contexts.
    keys : uint64[n]
        ``chance.request_key`` of each request.
    limits : float64[n, 9]
        Per request, in the order of ``LIMITS``: input tokens, largest number of output tokens, cost weight (quality
        per USD), latency weight (quality per second), largest cost (USD), largest latency (ms); infinity is no limit.
        Then another cost weight, and the probability that it is the one in use: a budget is met by two of them.
        Last, 1 where the input tokens are an estimate, which each model's ratio corrects, and 0 where they are a count.
    eligible : bool[n, K]
        Which models may serve.
    prices : float64[K, 2] or float64[K, 3 + 3T]
        USD per million input and output tokens. Where a model has more to it: a price per request in USD, and T tiers
        by rising input tokens: the number above which it holds, its price of input and of output.
    """

    x: NDArray[np.float32]
    keys: NDArray[np.uint64]
    limits: Floats
    eligible: NDArray[np.bool_]
    prices: Floats

    @classmethod
    def of(
        cls,
        x: NDArray[np.float32],
        keys: NDArray[np.uint64],
        prices: ArrayLike,
        *,
        eligible: ArrayLike | None = None,
        input_tokens: ArrayLike = 0.0,
        max_output_tokens: ArrayLike = np.inf,
        cost_weight: ArrayLike = 0.0,
        latency_weight: ArrayLike = 0.0,
        max_cost_usd: ArrayLike = np.inf,
        max_latency_ms: ArrayLike = np.inf,
        high_cost_weight: ArrayLike = 0.0,
        high_share: ArrayLike = 0.0,
        input_estimated: ArrayLike = 0.0,
    ) -> DecideBatch:
        """Build a batch from named columns; a scalar stands for every request."""
        x = np.ascontiguousarray(x, dtype=np.float32)
        limits = np.empty((len(x), len(LIMITS)))
        limits[:, 0], limits[:, 1], limits[:, 2] = input_tokens, max_output_tokens, cost_weight
        limits[:, 3], limits[:, 4], limits[:, 5] = latency_weight, max_cost_usd, max_latency_ms
        limits[:, 6], limits[:, 7], limits[:, 8] = high_cost_weight, high_share, input_estimated
        table = np.ascontiguousarray(prices, dtype=np.float64)
        allowed = np.ones((len(x), len(table)), dtype=np.bool_)
        if eligible is not None:
            allowed[:] = eligible
        return cls(x, np.ascontiguousarray(keys, dtype=np.uint64), limits, allowed, table)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice) -> DecideBatch:
        """Return the batch of a range of requests (views)."""
        return DecideBatch(self.x[rows], self.keys[rows], self.limits[rows], self.eligible[rows], self.prices)


@dataclass(slots=True)
class Choices:
    """What was decided for n requests among K models.

    Attributes
    ----------
    chosen : int32[n]
        Index of the chosen model, -1 when none may serve.
    blocked : int32[n]
        Which filter left no model: 0 none, 1 eligibility, 2 ``max_cost_usd``, 3 ``max_latency_ms``.
    candidates : float64[n, K, 5]
        Quality, sd, log tokens, cost and log latency of every model, also of those that may not serve; the columns
        are also properties. A row is contiguous, in the order of a decision's header.
    score : float64[n, K]
        What the choice compared, noise and bonus included.
    rank : int32[n, K]
        The chosen model, then the others that may serve by falling expected utility, then -1.
    chance : float64[n, 2 or 2 + K]
        The cost weight in use, the propensity of the chosen model and, if asked for, of every model: the probability
        that it would be chosen, over everything random. NaN when none may serve, at least 1e-300 for a chosen one.
    explored : bool[n]
        Whether another model has a larger expected utility.
    """

    info: NDArray[np.int32]
    candidates: Floats
    score: Floats
    rank: NDArray[np.int32]
    chance: Floats

    @property
    def cost_weight(self) -> Floats:
        """The cost weight in use; float64[n]."""
        return self.chance[:, 0]

    @property
    def propensity(self) -> Floats:
        """Probability that the chosen model would be chosen; float64[n]."""
        return self.chance[:, 1]

    @property
    def propensities(self) -> Floats:
        """Probability of every model, 0 for one that may not serve; float64[n, K], or [n, 0] if not asked for."""
        return self.chance[:, 2:]

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Which models could have been chosen; bool[n, K]."""
        allowed = np.zeros(self.score.shape, np.bool_)
        served, place = np.nonzero(self.rank >= 0)
        allowed[served, self.rank[served, place]] = True
        return allowed

    @property
    def chosen(self) -> NDArray[np.int32]:
        """Index of the chosen model, -1 when none may serve; int32[n]."""
        return self.info[:, 0]

    @property
    def blocked(self) -> NDArray[np.int32]:
        """Which filter left no model; int32[n]."""
        return self.info[:, 1]

    @property
    def explored(self) -> NDArray[np.bool_]:
        """Whether another model has a larger expected utility; bool[n]."""
        return self.info[:, 2] != 0

    @property
    def quality(self) -> Floats:
        """Expected quality xᵀμ; float64[n, K]."""
        return self.candidates[:, :, 0]

    @property
    def sd(self) -> Floats:
        """Predictive standard deviation of one vote, σ·√(1 + xᵀVx); float64[n, K]."""
        return self.candidates[:, :, 1]

    @property
    def log_tokens(self) -> Floats:
        """log(1 + output tokens) before calibration, at most log(1 + max_output_tokens); float64[n, K].

        The calibration ratio is not in it: it comes from the posterior of the day, not from what was logged.
        """
        return self.candidates[:, :, 2]

    @property
    def cost(self) -> Floats:
        """Expected cost in USD: input tokens (calibrated if estimated), calibrated output tokens up to the limit.

        float64[n, K].
        """
        return self.candidates[:, :, 3]

    @property
    def log_latency(self) -> Floats:
        """Mean log(ms), NaN when unknown; float64[n, K]."""
        return self.candidates[:, :, 4]
