"""From runs to what is to be expected of one rollout, with all that is uncertain about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

Floats = NDArray[np.float64]
Scale = Literal["plain", "log", "share"]

_MOST_LOG: Final = 700.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """A number of one rollout to come: Student's t about ``centre``, of the number or of a logarithm.

    Attributes
    ----------
    value : float
        Its mean.
    centre, sd : float
        On the scale of ``scale``.
    df : int
        Degrees of freedom.
    scale : "plain", "log" or "share"
        The number itself, its logarithm, or that of 1 minus the number: costs are skewed.
    """

    value: float
    centre: float
    sd: float
    df: int
    scale: Scale = "plain"

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the ends that the number lies between with this confidence."""
        return self.quantile(0.5 - 0.5 * confidence), self.quantile(0.5 + 0.5 * confidence)

    def quantile(self, share: float) -> float:
        """Return what the number is below of with this probability."""
        if self.scale == "share":  # falls where the number rises
            share = 1.0 - share
        place = self.centre + self.sd * float(student.ppf(share, self.df))
        if self.scale == "plain":
            return place
        grown = math.exp(min(place, _MOST_LOG))
        return grown if self.scale == "log" else 1.0 - grown

    def above(self, limit: float) -> float:
        """Return the probability that the number is above a limit."""
        if not self.sd > 0.0:
            return float(self.value > limit)
        if self.scale == "plain":
            return float(student.sf((limit - self.centre) / self.sd, self.df))
        rest = limit if self.scale == "log" else 1.0 - limit
        place = (math.log(rest) if rest > 0.0 else -math.inf) - self.centre
        above = float(student.sf(place / self.sd, self.df))
        return above if self.scale == "log" else 1.0 - above


def forecast(order: Floats, resample: Floats, requests: int, size: int, scale: Scale = "plain") -> Forecast:
    """Forecast a number from runs.

    Runs over the rows of a world in random order differ by what the router happens to try. Runs over resamples of the
    rows differ, beyond that, by which requests come; and the world is itself one sample of so many rows. With a
    variance w of the latter, and N requests from n rows, the number of a rollout to come has the variance
    w (1 + N / n). That is a little too much: the luck of the router is counted in both terms, as the few runs do not
    tell it apart well enough to be taken out.

    Parameters
    ----------
    order : float64[R]
        Of runs in random order; empty for a world whose draws differ by all that is uncertain.
    resample : float64[S]
        Of runs over resamples.
    requests, size : int
        N and n.
    scale : "plain", "log" or "share"
        On which variances are taken; "plain" where a logarithm does not exist.
    """
    value = float((order if len(order) else resample).mean())
    rest = np.concatenate([order, resample])
    if scale == "share":
        rest = 1.0 - rest
    if scale != "plain" and not (rest > 0.0).all():
        scale = "plain"
    if scale != "plain":
        rest = np.log(rest)
        order, resample = rest[: len(order)], rest[len(order) :]
    wide = float(resample.var(ddof=1))
    if not len(order):
        return Forecast(value, float(resample.mean()), math.sqrt(wide), len(resample) - 1, scale)
    narrow = float(order.var(ddof=1)) if len(order) > 1 else 0.0
    variance = wide * (1.0 + requests / size) + narrow / len(order)
    return Forecast(value, float(order.mean()), math.sqrt(variance), len(resample) - 1, scale)


def confident_after(looks: Floats, lower: Sequence[Floats], limit: float) -> list[float]:
    """Return after how many decisions each run's lower bound stays at or above a limit, infinity where it does not.

    Examples
    --------
    >>> confident_after(np.array([10.0, 20.0, 40.0]), [np.array([0.0, -0.1, 0.1])], -0.05)
    [40.0]
    """
    found = []
    for bound in lower:
        below = np.flatnonzero(~(bound >= limit))
        first = 0 if not len(below) else int(below[-1]) + 1
        found.append(float(looks[first]) if first < len(looks) else math.inf)
    return found
