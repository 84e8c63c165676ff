"""Off-policy estimators as ratios of sums, so that logs of any length are added up and resampled alike.

For n decisions with weights w = π(a|x) / p (target probability over logged propensity), outcomes r, an outcome model
q̂ that has not seen them, and v = Σ_a π(a|x) q̂(x, a):

* IPS (Horvitz and Thompson 1952): Σ w r / n
* SNIPS (Swaminathan and Joachims 2015): Σ w r / Σ w
* DM, the direct method: Σ v / n
* DR, doubly robust (Dudík, Langford and Li 2011): Σ (v + w (r − q̂)) / n
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KNOWN, WEIGHT, WEIGHTED, MODELLED, ROBUST, PLAIN = range(6)
WIDTH: Final = 6  # columns of an outcome
# numerator and denominator of every estimator; "logged" is the mean of what was logged
RATIOS: Final = {
    "ips": (WEIGHTED, KNOWN),
    "snips": (WEIGHTED, WEIGHT),
    "dm": (MODELLED, KNOWN),
    "dr": (ROBUST, KNOWN),
    "logged": (PLAIN, KNOWN),
}
ESTIMATORS: Final = ("ips", "snips", "dm", "dr")


def terms(weight: Floats, outcome: Floats, predicted: Floats, expected: Floats) -> Floats:
    """Return what every decision adds to the sums of the estimators.

    Parameters
    ----------
    weight : float64[n]
        π(a|x) / p of the logged choice.
    outcome : float64[n]
        What came back; NaN is unknown, and such a decision adds nothing.
    predicted : float64[n]
        q̂ of the logged choice.
    expected : float64[n]
        Σ_a π(a|x) q̂(x, a).

    Returns
    -------
    float64[n, 6]
        Known (1 or 0), weight, weighted outcome, model, doubly robust, plain outcome.

    Examples
    --------
    >>> one = terms(np.array([2.0]), np.array([1.0]), np.array([0.5]), np.array([0.25]))
    >>> one.tolist()
    [[1.0, 2.0, 2.0, 0.25, 1.25, 1.0]]
    """
    known = ~np.isnan(outcome)
    r = np.where(known, outcome, 0.0)
    columns = (np.ones_like(r), weight, weight * r, expected, expected + weight * (r - predicted), r)
    return np.where(known[:, None], np.column_stack(columns), 0.0)


@dataclass(frozen=True, slots=True)
class Statistic:
    """A sum of ratios of column sums: Σ coefficient · S[numerator] / S[denominator].

    Parameters
    ----------
    parts : tuple of (coefficient, numerator, denominator)
        Column numbers; a denominator that sums to 0 gives NaN.
    """

    parts: tuple[tuple[float, int, int], ...]

    @classmethod
    def of(cls, estimator: str, outcome: int) -> Statistic:
        """Return an estimator of the outcome whose columns begin at ``WIDTH * outcome``."""
        top, bottom = RATIOS[estimator]
        return cls(((1.0, WIDTH * outcome + top, WIDTH * outcome + bottom),))

    def plus(self, coefficient: float, other: Statistic) -> Statistic:
        """Return this statistic plus ``coefficient`` times another one."""
        return Statistic(self.parts + tuple((coefficient * c, top, low) for c, top, low in other.parts))

    def value(self, sums: Floats) -> Floats:
        """Return the statistic of float64[..., C] column sums; float64[...]."""
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = [c * sums[..., top] / sums[..., low] for c, top, low in self.parts]
        return np.asarray(sum(parts), np.float64)

    def influence(self, rows: Floats) -> Floats:
        """Return the empirical influence of every row of float64[N, C], by which a mean of N moves; float64[N]."""
        sums = rows.sum(axis=0)
        total = np.zeros(len(rows))
        for c, top, low in self.parts:
            if not sums[low]:
                return np.full(len(rows), np.nan)
            total += c * len(rows) * (rows[:, top] - sums[top] / sums[low] * rows[:, low]) / sums[low]
        return total
