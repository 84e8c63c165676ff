"""What is believed before any evidence: the constants of the prior and what is declared about each model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import ModelKey

Block = tuple[int, int]

PRICE_SLOPE: Final = 0.06  # quality per unit of log price, before any vote
USUAL_PRICE: Final = (
    2.0  # USD per million tokens of input and output together: a model of this price starts at the mean
)
LEAST_PRICE: Final = 0.05  # what is cheaper, or free, counts as this
MOST_OFFSET: Final = 0.25  # that a price alone makes


@dataclass(frozen=True, slots=True)
class PriorConfig:
    """Constants of the prior; one default for every workload.

    Quality is in its own units (0 to 1), tokens are counts, latencies are milliseconds.
    """

    pool_mean: float = 0.6  # prior mean of the pooled intercept
    pool_precision_intercept: float = 0.5  # in units of one vote
    pool_precision: float = 30.0
    scale_intercept: float = 0.2  # prior sd of a model's intercept around the pooled one
    scale_context: float = 0.14  # prior sd of every other weight
    scale_count: float = 2.0  # pseudo-observations behind those two
    noise_variance: float = 0.10  # of one vote
    noise_count: float = 5.0  # pseudo-observations behind it
    iterations: int = 4  # fixed-point steps for scales and noise variance
    token_prior: float = 300.0  # output tokens before anything is known
    token_precision_intercept: float = 0.1
    token_precision: float = 1.0
    token_calibration: float = 900.0  # tokens behind a calibration ratio of 1
    input_calibration: float = 900.0  # input tokens behind a ratio of 1
    latency_count: float = 1.0  # pseudo-observations behind a latency prior
    latency_slope_count: float = 10.0  # pseudo-observations behind a slope of 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or (value <= 0 and field.name not in ("pool_mean", "iterations")):
                raise ValueError(f"{field.name} is a positive number, got {value}")


@dataclass(frozen=True, slots=True)
class ModelPrior:
    """What is declared about a model before any vote.

    Parameters
    ----------
    key : ModelKey
        Name and generation.
    quality_offset : float
        Expected quality minus the pooled mean, as `quality_offsets` gives it.
    latency_ms : float
        Declared latency in milliseconds; NaN when nothing is declared.
    like : ModelKey, optional
        The model whose posterior it starts from instead of the pooled mean; ``quality_offset`` does not count then.
    """

    key: ModelKey
    quality_offset: float = 0.0
    latency_ms: float = math.nan
    like: ModelKey | None = None


def quality_offsets(
    prices: Sequence[tuple[float, float]],
    declared: Sequence[float | None] | None = None,
    slope: float = PRICE_SLOPE,
) -> list[float]:
    """Return what each model's quality differs by from the pooled mean, as far as it is known before any vote.

    What is dear is better, on the whole: a model whose price is e times that of another starts ``slope`` above it. That
    is worth a few votes, no more, and a declared quality replaces it: declared qualities say how their models differ
    from each other, prices how all of them differ from the others.

    Parameters
    ----------
    prices : sequence of (float, float)
        USD per million tokens of input and of output.
    declared : sequence of float or None, optional
        Declared quality of each model.
    slope : float
        Quality per unit of log price.

    Examples
    --------
    >>> [round(offset, 3) for offset in quality_offsets([(0.5, 1.5), (5.0, 15.0)])]
    [0.0, 0.138]
    >>> [
    ...     round(offset, 3)
    ...     for offset in quality_offsets([(0.5, 1.5), (0.5, 1.5), (5.0, 15.0)], [0.9, 0.7, None])
    ... ]
    [0.1, -0.1, 0.138]
    """
    known = declared if declared is not None else [None] * len(prices)
    levels = [
        min(max(slope * math.log(max(sum(price), LEAST_PRICE) / USUAL_PRICE), -MOST_OFFSET), MOST_OFFSET)
        for price in prices
    ]
    told = [(value, level) for value, level in zip(known, levels, strict=True) if value is not None]
    shift = math.fsum(level - value for value, level in told) / len(told) if told else 0.0
    return [level if value is None else value + shift for value, level in zip(known, levels, strict=True)]


def same_prior(first: ModelPrior, second: ModelPrior) -> bool:
    """Return whether two declarations agree (two absent latencies do)."""
    latencies = (first.latency_ms, second.latency_ms)
    return (
        first.key == second.key
        and first.like == second.like
        and first.quality_offset == second.quality_offset
        and (latencies[0] == latencies[1] or all(math.isnan(value) for value in latencies))
    )


def check_models(models: Iterable[ModelPrior]) -> None:
    """Raise ValueError if a model is listed twice or a declared number is infinite or NaN where it may not be."""
    seen = set()
    for model in models:
        if model.key in seen:
            raise ValueError(f"{model.key} is listed twice")
        seen.add(model.key)
        if not math.isfinite(model.quality_offset) or math.isinf(model.latency_ms):
            raise ValueError(f"declared numbers are finite, got {model}")


def check_blocks(blocks: Sequence[Block], d: int) -> NDArray[np.int64]:
    """Return the blocks as int64[B, 2]; raise ValueError unless they tile 0..d in order, the intercept alone first."""
    ends = [0, *(stop for _, stop in blocks)]
    tiled = all(start == end < stop for (start, stop), end in zip(blocks, ends, strict=False))
    if not blocks or not tiled or ends[-1] != d or tuple(blocks[0]) != (0, 1):
        raise ValueError(f"blocks tile 0..{d} and begin with (0, 1), got {list(blocks)}")
    return np.array(blocks, dtype=np.int64)
