"""Compiled kernels of the output-token model: offsets taken out of the common regression, and how far it spreads."""

from __future__ import annotations

from typing import Any

from banditroute.bandit.posterior._kernels_solve import kernel


@kernel
def take_offsets_out(ta: Any, tb: Any, tx: Any, y: Any, n: Any, precision: float) -> None:
    """Take the models' offsets out of the normal equations ``ta`` (packed), ``tb[d]`` of the common regression.

    With o_k = (Σy − Σxᵀβ) / (n + precision) put into Σxxᵀβ + Σ_k Σx o_k = Σxy, β solves what is left:
    Σxxᵀ − Σ_k Σx Σxᵀ / (n + precision), Σxy − Σ_k Σx Σy / (n + precision). Without it β learns from which requests
    went to a verbose model that such requests have long answers.
    """
    d = tb.shape[0]
    for k in range(n.shape[0]):
        share = 1.0 / (n[k] + precision)
        start = 0
        for i in range(d):
            c = share * tx[k, i]
            tb[i] -= c * y[k]
            for j in range(i + 1):
                ta[start + j] -= c * tx[k, j]
            start += i + 1


@kernel
def spread(packed: Any, mean: Any, n: float, beta: Any) -> float:
    """Return the variance of xᵀbeta over votes of weight ``n``, from their packed Σxxᵀ and mean context."""
    square = 0.0
    level = 0.0
    start = 0
    for i in range(beta.shape[0]):
        row = 0.0
        for j in range(i):
            row += packed[start + j] * beta[j]
        square += beta[i] * (2.0 * row + packed[start + i] * beta[i])
        level += mean[i] * beta[i]
        start += i + 1
    return max(square / n - level * level, 0.0)
