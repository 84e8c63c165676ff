"""What is believed before any evidence: the constants of the prior and what is declared about each model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence import ModelKey

Block = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PriorConfig:
    """Constants of the prior; one default for every workload.

    Quality is in its own units (0 to 1), tokens are counts, latencies are milliseconds.
    """

    pool_mean: float = 0.6  # prior mean of the pooled intercept
    pool_precision_intercept: float = 0.5  # in units of one vote
    pool_precision: float = 30.0
    scale_intercept: float = 0.2  # prior sd of a model's intercept around the pooled one
    scale_context: float = 0.2  # prior sd of every other weight
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
        Declared quality minus the pooled mean; 0 when nothing is declared.
    latency_ms : float
        Declared latency in milliseconds; NaN when nothing is declared.
    like : ModelKey, optional
        The model whose posterior it starts from instead of the pooled mean; ``quality_offset`` does not count then.
    """

    key: ModelKey
    quality_offset: float = 0.0
    latency_ms: float = math.nan
    like: ModelKey | None = None


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
