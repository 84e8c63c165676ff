"""Models declared to be like another: they start where that one stands, not at the pooled mean.

The weights of a model that is like b are those of b plus a difference of 0.7 of the block scales s by which models of
this catalog differ from each other: θ ~ N(μ_b, σ²V_b + diag((0.7 s)²)). What b's own votes leave open stays open, so
the start is never surer than b is, and votes of its own take over as they do for any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.posterior import _kernels_solve as _kernels
from banditroute.bandit.posterior.prior import ModelPrior

Floats = NDArray[np.float64]
Pairs = list[tuple[int, int]]

SHARE: Final = 0.7  # of the scale that models differ by


def pairs(models: Sequence[ModelPrior]) -> Pairs:
    """Return (model, the one it is like) as indices, every model after the one it is like.

    Raises
    ------
    ValueError
        If a model is like one that is not listed, or, directly or not, like itself.
    """
    index = {model.key: k for k, model in enumerate(models)}
    likes = {k: model.like for k, model in enumerate(models) if model.like is not None}
    for k, like in likes.items():
        if like not in index:
            raise ValueError(f"{models[k].key} is like {like}, which is not listed")
    order: Pairs = []
    done = set(range(len(models))) - likes.keys()
    while len(done) < len(models):
        ready = [k for k in likes if k not in done and index[likes[k]] in done]
        if not ready:
            raise ValueError(
                f"{[models[k].key for k in likes if k not in done]} are like each other in a circle"
            )
        order += [(k, index[likes[k]]) for k in ready]
        done.update(ready)
    return order


def start(v: Floats, scale2: Floats, sigma2: float) -> Floats:
    """Return the covariance, in units of ``sigma2``, that a model begins with when the one it is like has ``v``."""
    wider = v.copy()
    wider[np.diag_indices(len(wider))] += SHARE * SHARE * scale2 / sigma2
    return wider


def apply(
    order: Pairs, a: Floats, b: Floats, n: Floats, scale2: Floats, sigma2: float, mu: Floats, v: Floats
) -> None:
    """Rewrite mean and covariance of the models in ``order``, from their own votes and the model each is like.

    Parameters
    ----------
    order : list of (int, int)
        As `pairs` gives it.
    a, b, n : float64[K, d, d], float64[K, d], float64[K]
        Sums of the votes.
    scale2 : float64[d]
        Prior variance of each weight around the pooled mean.
    sigma2 : float
        Noise variance of a vote.
    mu, v : float64[K, d], float64[K, d, d]
        Read for the other models, written for those in ``order``.
    """
    prior = np.empty_like(v[0])
    for k, like in order:
        wide = start(v[like], scale2, sigma2)
        if not n[k] > _kernels.TINY:
            mu[k], v[k] = mu[like], wide
            continue
        most = wide.diagonal().copy()
        _kernels.invert(wide, prior)
        _kernels.invert(prior + a[k], v[k])
        got = v[k].diagonal()
        if not ((got >= 0.0) & (got <= most * (1.0 + 1e-6))).all():  # no sum of squares is left of A
            v[k] = np.diag(1.0 / (prior.diagonal() + np.maximum(a[k].diagonal(), 0.0)))
        mu[k] = (v[k] * ((prior * mu[like]).sum(axis=1) + b[k])).sum(axis=1)
