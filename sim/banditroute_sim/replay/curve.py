"""The cost curve of two models: what quality costs in calls to the strong one (Ong et al. 2024, RouteLLM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

THRESHOLDS: Final = (0.5, 0.8, 0.95)
POINTS: Final = 101


@dataclass(frozen=True, slots=True)
class CostCurve:
    """The gap between two models that is recovered at each share of calls to the strong one.

    Attributes
    ----------
    strong : int
        The column of the strong model.
    recovered : float64[101]
        At shares 0, 0.01, …, 1: 0 is the weak model, 1 the strong one.
    cpt : tuple of (float or None)
        The smallest share of calls at which 50, 80 and 95 % of the gap are recovered.
    """

    strong: int
    recovered: Floats
    cpt: tuple[float | None, ...]

    @property
    def apgr(self) -> float:
        """Average performance gap recovered: the mean over the shares; 0.5 is a random mix."""
        return float(self.recovered.mean())


def cost_curve(quality: Floats, margin: Floats) -> CostCurve | None:
    """Return the curve of calling the strong model where it was expected to gain the most; None without a gap.

    Parameters
    ----------
    quality : float64[n, 2]
        Of both models on every prompt.
    margin : float64[n]
        What the second was expected to be better, before the outcome was known.
    """
    strong = int(quality.mean(axis=0).argmax())
    gain = quality[:, strong] - quality[:, 1 - strong]
    order = np.argsort(-margin if strong else margin, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(gain[order])])
    if not len(gain) or not sums[-1] > 0.0:
        return None
    share = np.linspace(0.0, 1.0, len(sums))
    reached = [np.flatnonzero(sums >= part * sums[-1]) for part in THRESHOLDS]
    return CostCurve(
        strong,
        np.interp(np.linspace(0.0, 1.0, POINTS), share, sums / sums[-1]),
        tuple(float(share[found[0]]) if len(found) else None for found in reached),
    )
