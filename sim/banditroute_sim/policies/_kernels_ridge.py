"""Compiled kernels of the textbook policies' ridge regressions; every sum in the order of its index."""

from __future__ import annotations

import math
from typing import Any

from banditroute_features.compile import njit_cached

kernel = njit_cached(_nrt=False)


@kernel
def times(v: Any, x: Any, out: Any) -> None:
    """Write V x of a symmetric matrix: a sum of rows, which compiles to vector instructions."""
    for j in range(x.shape[0]):
        out[j] = 0.0
    for i in range(x.shape[0]):
        line, xi = v[i], x[i]
        for j in range(x.shape[0]):
            out[j] += xi * line[j]


@kernel
def expect(x: Any, v: Any, mu: Any, vx: Any) -> tuple[float, float]:
    """Return expected quality and √(xᵀVx) of a model; ``vx`` is scratch space."""
    times(v, x, vx)
    mean = square = 0.0
    for i in range(x.shape[0]):
        mean += mu[i] * x[i]
        square += vx[i] * x[i]
    return mean, math.sqrt(max(square, 0.0))


@kernel
def expect_all(x: Any, v: Any, mu: Any, vx: Any, mean: Any, width: Any) -> None:
    """Write what `expect` says of every model."""
    for k in range(mean.shape[0]):
        mean[k], width[k] = expect(x, v[k], mu[k], vx)


@kernel
def add(x: Any, quality: float, v: Any, b: Any, mu: Any, vx: Any) -> None:
    """Add a vote to the regression of a model (Sherman and Morrison, 1950); ``vx`` is scratch space."""
    times(v, x, vx)
    square = 0.0
    for i in range(x.shape[0]):
        square += vx[i] * x[i]
    for i in range(x.shape[0]):
        b[i] += quality * x[i]
        if square >= 0.0:  # rounding takes it below 0 where contexts are beyond what can be squared
            line, own = v[i], vx[i]
            for j in range(x.shape[0]):
                line[j] -= own * vx[j] / (1.0 + square)
    times(v, b, mu)
