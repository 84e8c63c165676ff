"""A world that is fitted to a log: what every model is believed to make of the requests that were logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.posterior.posterior import derive
from banditroute.bandit.posterior.prior import Block
from banditroute.config import Config
from banditroute.router import model_priors
from banditroute_sim.rehearse.sample import LoggedSample
from banditroute_sim.rehearse.world import Drawn, How

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_LEAST_POOL: Final = 20  # residuals of a model that are drawn from by itself; with fewer, from all models'
_MOST_RATIO: Final = 20.0
_DAY_MS: Final = 86_400_000.0


class LoggedWorld:
    """The world of a log, in which only the model that served has an outcome.

    Quality is a linear model per model, as the product's own posterior of the whole log has it; each draw takes
    its weights from that posterior, so that draws differ by what the log does not tell, and adds what was left
    unexplained of one of the model's votes. Tokens are the product's regression and a residual; costs are prices times
    tokens, in the ratio of what was paid; latencies are drawn from those reported.

    Parameters
    ----------
    sample : LoggedSample
        What was read.
    config : Config
        Models and prices.
    blocks : sequence of (start, stop)
        Of a context.
    name : str
        Of the log.
    """

    fresh = True
    present = "the models that served in the log"

    def __init__(self, sample: LoggedSample, config: Config, blocks: Sequence[Block], name: str) -> None:
        self.name, self.blocks = name, blocks
        self.models = config.catalog.names
        self.size = len(sample.x)
        self.sample = sample
        left = ", ".join(f"{count:,} {reason}" for reason, count in sample.left_out.items() if count)
        told = [f"decisions left out: {left}"] if left else []
        self.notes: Sequence[str] = [*told, *filter(None, [sample.dropped.sentence()])]
        priors = model_priors(config.catalog, config.learning.price_prior)
        self._posterior = posterior = derive(sample.evidence, priors, blocks)
        self._spread = [np.linalg.cholesky(posterior.sigma2 * (v + v.T) / 2.0) for v in posterior.V]
        self._prices = np.array([[m.input_usd_per_mtok, m.output_usd_per_mtok] for m in config.catalog])
        x = sample.x.astype(np.float64)
        rows = np.arange(self.size)
        quality, cost, given, written = sample.outcome.T
        left = quality - (x @ posterior.mu.T)[rows, sample.served]
        self._left = _pools(
            left - _mean_by(left, sample.served, len(self.models)), sample.served, len(self.models)
        )
        self._log_tokens = x @ posterior.token_beta
        residual = np.log1p(written) - self._log_tokens
        self._token_left = _pools(residual, sample.served, len(self.models), posterior.token_offset)
        self._latency = _pools(sample.latency_s, sample.served, len(self.models), np.nan)
        # what models count of the input, and what was paid beyond prices times tokens
        known = ~np.isnan(given)
        self._given = np.where(known, given, sample.tokens)
        ratio = _ratio(given, sample.tokens, sample.served, len(self.models))
        self._input = np.where(
            sample.estimated[:, None], sample.tokens[:, None] * ratio, sample.tokens[:, None]
        )
        price = self._prices[sample.served]
        used = np.where(
            np.isnan(written), np.expm1(self._log_tokens + posterior.token_offset[sample.served]), written
        )
        said = (self._input[rows, sample.served] * price[:, 0] + used * price[:, 1]) / 1e6
        self._paid = _ratio(cost, said, sample.served, len(self.models))

    def draw(self, seed: int, requests: int, how: How) -> Drawn:  # noqa: ARG002 - every draw is fresh
        """See `World.draw`: rows are drawn from a resample of the log, weights from the posterior."""
        rng = np.random.default_rng([seed, 11])
        return self._outcomes(
            rng, rng.integers(self.size, size=self.size)[rng.integers(self.size, size=requests)]
        )

    def _outcomes(self, rng: np.random.Generator, row: Rows) -> Drawn:
        sample, count, requests = self.sample, len(self.models), len(row)
        each = zip(self._posterior.mu, self._spread, strict=True)
        weights = np.stack([mu + spread @ rng.standard_normal(len(mu)) for mu, spread in each])
        quality = sample.x[row].astype(np.float64) @ weights.T
        written, latency = np.empty((requests, count)), np.empty((requests, count))
        for k in range(count):
            quality[:, k] += _drawn(rng, self._left[k], requests)
            written[:, k] = np.expm1(
                np.maximum(self._log_tokens[row] + _drawn(rng, self._token_left[k], requests), 0.0)
            )
            latency[:, k] = _drawn(rng, self._latency[k], requests)
        given = self._input[row]
        cost = (given * self._prices[:, 0] + written * self._prices[:, 1]) / 1e6 * self._paid
        return Drawn(
            row, sample.x[row], sample.tokens[row], sample.estimated[row], quality, cost, given, written, latency,
            sample.served[row],
        )  # fmt: skip

    def delays(self, seed: int, requests: int) -> Rows:
        """See `World.delays`: drawn from those of the log, in decisions at its rate."""
        rng = np.random.default_rng([seed, 13])
        sample = self.sample
        heard = rng.random(requests) < sample.answered / sample.decisions
        known = sample.delay_ms[~np.isnan(sample.delay_ms)]
        if not len(known) or not sample.per_day > 0.0:
            return np.where(heard, 0, -1)
        later = rng.choice(known, requests) * sample.per_day / _DAY_MS
        return np.where(heard, np.minimum(later, 1e9).astype(np.int64), -1)

    def means(self) -> tuple[Floats, Floats]:
        """See `World.means`."""
        drawn = self.draw(0, self.size, "order")
        return self.sample.x.astype(np.float64).mean(axis=0) @ self._posterior.mu.T, drawn.cost.mean(axis=0)

    def check(self) -> dict[str, dict[str, float | None]]:
        """Return what the log and the world say of the models that served: mean quality and cost."""
        sample = self.sample
        x, rows = sample.x.astype(np.float64), np.arange(self.size)
        quality, cost = sample.outcome[:, 0], sample.outcome[:, 1]
        told = ~np.isnan(quality)
        believed = (x @ self._posterior.mu.T)[rows, sample.served]
        paid = ~np.isnan(cost)
        drawn = self._outcomes(np.random.default_rng(0), np.repeat(np.flatnonzero(paid), 4))
        at = np.arange(len(drawn)), drawn.present
        return {
            "quality": {
                "log": float(quality[told].mean()),
                "world": float(believed[told].mean()),
                "error": float(quality[told].std() / told.sum() ** 0.5),
            },
            "cost_usd": {
                "log": float(cost[paid].mean()) if paid.any() else None,
                "world": float(drawn.cost[at].mean()) if paid.any() else None,
                "error": float(cost[paid].std() / paid.sum() ** 0.5) if paid.any() else None,
            },
        }


def _mean_by(values: Floats, group: Rows, count: int) -> Floats:
    """Return for each row the mean of its group, NaN left out."""
    known = ~np.isnan(values)
    total = np.bincount(group[known], values[known], count)
    mean = total / np.maximum(np.bincount(group[known], minlength=count), 1)
    found: Floats = mean[group]
    return found


def _pools(values: Floats, group: Rows, count: int, otherwise: Floats | float = 0.0) -> list[Floats]:
    """Return the known values of each group; with too few, those of all groups, about ``otherwise``."""
    known = ~np.isnan(values)
    fallback = np.broadcast_to(otherwise, (count,))
    everyone = values[known]
    pools = []
    for k in range(count):
        own = values[known & (group == k)]
        if len(own) < _LEAST_POOL:
            about = 0.0 if not len(everyone) else everyone - everyone.mean()
            own = np.atleast_1d(fallback[k] + about)
        pools.append(own)
    return pools


def _drawn(rng: np.random.Generator, pool: Floats, count: int) -> Floats:
    found: Floats = pool[rng.integers(len(pool), size=count)]
    return found


def _ratio(actual: Floats, said: Floats, group: Rows, count: int) -> Floats:
    """Return actual / said of each group over what is known; 1 where nothing is."""
    known = ~np.isnan(actual) & (said > 0.0)
    total = np.bincount(group[known], actual[known], count)
    base = np.bincount(group[known], said[known], count)
    ratio = np.divide(total, base, out=np.ones(count), where=(base > 0.0) & (total > 0.0))
    return np.clip(ratio, 1.0 / _MOST_RATIO, _MOST_RATIO)
