"""Intervals: a paired BCa bootstrap over blocks of decisions, and the empirical Bernstein bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from banditroute_sim.evaluate.estimators import Statistic

Floats = NDArray[np.float64]
Interval = tuple[float, float]

_CHUNK: Final = 1 << 21  # numbers of a chunk of resampling counts
_LEAST_FREEDOM, _MOST_FREEDOM = 2.0, 1e9


def resampled_sums(rows: Floats, replicates: int, seed: int) -> Floats:
    """Return the column sums of ``replicates`` resamples of the rows, with replacement; float64[B, C].

    Statistics of one array of sums are paired: they come from the same resamples.
    """
    rng = np.random.default_rng([seed, 17])
    n = len(rows)
    sums = np.empty((replicates, rows.shape[1]))
    step = max(1, _CHUNK // n)
    for start in range(0, replicates, step):
        count = min(step, replicates - start)
        counts = np.empty((count, n))
        for b in range(count):
            counts[b] = np.bincount(rng.integers(n, size=n), minlength=n)
        sums[start : start + count] = counts @ rows
    return sums


def bootstrap(
    rows: Floats, statistics: Mapping[str, Statistic], *, replicates: int, seed: int, confidence: float
) -> dict[str, Interval]:
    """Return bootstrap intervals: bias-corrected and accelerated (Efron 1987), all from the same resamples.

    Their levels are expanded from the normal distribution to Student's t (Hesterberg 2015), with as many degrees of
    freedom as the variance of the statistic is known by: see `freedom`.

    Parameters
    ----------
    rows : float64[N, C]
        Columns of decisions, or sums of blocks of consecutive decisions.
    statistics : mapping of str to Statistic
        What to estimate.
    replicates : int
        Resamples.
    seed : int
        Of the resampling.
    confidence : float
        In (0, 1).

    Returns
    -------
    dict of str to (float, float)
        NaN where a statistic is not defined.
    """
    sums = resampled_sums(rows, replicates, seed)
    whole = rows.sum(axis=0)
    return {
        name: _accelerated(
            statistic.value(sums), float(statistic.value(whole)), statistic.influence(rows), confidence
        )
        for name, statistic in statistics.items()
    }


def freedom(influence: Floats) -> float:
    """Return the degrees of freedom of a variance that is estimated from float64[N] (Satterthwaite 1946).

    2 V² / Var(V) = 2 N / (κ − 1) with the kurtosis κ: N for normal terms, and few for weights with a heavy tail, whose
    variance hangs on the largest of them and is more often too small than too large.

    Examples
    --------
    >>> round(freedom(np.array([1.0, -1.0, 2.0, -2.0])), 2), round(freedom(np.eye(100)[0] - 0.01), 2)
    (22.22, 2.06)
    """
    square = float((influence**2).sum())
    if not square > 0.0:
        return _MOST_FREEDOM
    kurtosis = len(influence) * float((influence**4).sum()) / square**2
    return min(max(2.0 * len(influence) / max(kurtosis - 1.0, 1e-9), _LEAST_FREEDOM), _MOST_FREEDOM)


def _accelerated(values: Floats, value: float, influence: Floats, confidence: float) -> Interval:
    values = values[np.isfinite(values)]
    if not math.isfinite(value) or not len(values):
        return math.nan, math.nan
    below = np.count_nonzero(values < value) + 0.5 * np.count_nonzero(values == value)
    share = min(max(below / len(values), 0.5 / len(values)), 1.0 - 0.5 / len(values))
    bias = float(ndtri(share))
    square = float((influence**2).sum())
    skew = float((influence**3).sum()) / (6.0 * square**1.5) if square > 0.0 else 0.0
    ends = bias + stdtrit(freedom(influence), np.array([0.5 * (1.0 - confidence), 0.5 * (1.0 + confidence)]))
    # past its pole the correction would fold the end back: there it is the farthest resample
    level = np.where(skew * ends < 1.0, ndtr(bias + ends / np.maximum(1.0 - skew * ends, 1e-12)), ends > 0.0)
    low, high = np.quantile(values, level)
    return float(low), float(high)


def empirical_bernstein(mean: float, variance: float, n: int, width: float, confidence: float) -> Interval:
    """Return an interval that holds for every n if the terms are bounded (Maurer and Pontil 2009, theorem 4).

    mean ± (√(2 V ln(4/δ) / n) + 7 R ln(4/δ) / (3 (n − 1))): each end with probability 1 − δ/2.

    Parameters
    ----------
    mean, variance : float
        Of the terms; the variance with n − 1 below.
    n : int
        Terms.
    width : float
        R, the length of the range that a term can be in.
    confidence : float
        1 − δ.

    Examples
    --------
    >>> low, high = empirical_bernstein(0.5, 0.25, 10_000, 1.0, 0.95)
    >>> round(low, 3), round(high, 3)
    (0.484, 0.516)
    """
    if n < 2:
        return -math.inf, math.inf
    logarithm = math.log(4.0 / (1.0 - confidence))
    reach = math.sqrt(2.0 * variance * logarithm / n) + 7.0 * width * logarithm / (3.0 * (n - 1))
    return mean - reach, mean + reach
