"""Kinds of feedback: how much a vote of each kind is worth, and how far it is off.

A thumb is rough and lazy, a judge is steady and lenient, an outcome is what counts. Every kind has a noise variance and
a constant bias of its own. Both are estimated from the votes: the bias as one more coefficient of the regression that
all models share, the noise from what is left (empirical Bayes). The most trusted kind that has votes is the yardstick,
with weight 1 and no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.posterior.sums import Sums

Floats = NDArray[np.float64]

TRUST: Final = ("outcome", "score", "judge", "thumb")  # most trusted first; others come last
PASSES: Final = 3  # of estimating kinds and posterior in turn
BIAS_SD: Final = 0.1  # prior standard deviation of a bias
NOISE_VOTES: Final = 20.0  # the noise common to all kinds counts as much as so many votes of each
LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0


class Kind(NamedTuple):
    """What a kind of vote is worth: a vote counts ``weight`` times, after ``bias`` was taken off."""

    name: str
    weight: float = 1.0
    bias: float = 0.0


def trusted_first(names: Sequence[str]) -> list[str]:
    """Return the names of kinds, the most trusted first.

    Examples
    --------
    >>> trusted_first(["thumb", "score", "outcome"])
    ['outcome', 'score', 'thumb']
    """
    return sorted(names, key=lambda name: (TRUST.index(name) if name in TRUST else len(TRUST), name))


def pooled(kinds: Sequence[Kind], sums: Sequence[Sums]) -> Sums:
    """Return the quality sums of all kinds together, as if all votes were of the yardstick's kind.

    Weights and biases enter A, b and Σwq²; n counts votes as they came, which is what a noise variance is divided by.
    """
    a, b, n, q2 = (np.zeros_like(part) for part in sums[0])
    for kind, part in zip(kinds, sums, strict=True):
        a += kind.weight * part.a
        b += kind.weight * (part.b - kind.bias * part.a[:, :, 0])
        q2 += kind.weight * _squares(kind, part)
        n += part.n
    return Sums(a, b, n, q2)


def estimated(
    kinds: Sequence[Kind], sums: Sequence[Sums], mu: Floats, v: Floats, sigma2: float
) -> list[Kind]:
    """Return better weights and biases, given the posterior that the present ones lead to.

    Parameters
    ----------
    kinds, sums : sequences of Kind and of Sums
        The yardstick first.
    mu : float64[K, d]
        Posterior means.
    v : float64[K, d, d]
        Posterior covariances in units of ``sigma2``.
    sigma2 : float
        Noise variance of a vote of the yardstick's kind.
    """
    biases = _biases(kinds, sums, mu, v, sigma2)
    noise = []
    for kind, part, bias in zip(kinds, sums, biases, strict=True):
        now = Kind(kind.name, 1.0, bias)
        b = part.b - bias * part.a[:, :, 0]
        known = (part.a * mu[:, :, None]).sum(axis=1)
        left = float((_squares(now, part) - 2.0 * (b * mu).sum(axis=1) + (known * mu).sum(axis=1)).sum())
        left += sigma2 * float((part.a * v).sum())
        noise.append((NOISE_VOTES * sigma2 + max(left, 0.0)) / (NOISE_VOTES + float(part.n.sum())))
    return [
        Kind(kind.name, _within(noise[0] / each, LEAST_WEIGHT, MOST_WEIGHT), bias)
        for kind, each, bias in zip(kinds, noise, biases, strict=True)
    ]


def _biases(kinds: Sequence[Kind], sums: Sequence[Sums], mu: Floats, v: Floats, sigma2: float) -> list[float]:
    """Solve for all biases at once, the models' means following: else they would creep towards the solution."""
    contexts = [kind.weight * part.a[:, :, 0] for kind, part in zip(kinds[1:], sums[1:], strict=True)]
    left = np.empty((len(contexts), len(contexts)))
    right = np.empty(len(contexts))
    for i, (kind, part) in enumerate(zip(kinds[1:], sums[1:], strict=True)):
        votes = kind.weight * float(part.n.sum())
        right[i] = kind.weight * float(part.b[:, 0].sum()) - float((contexts[i] * mu).sum())
        for j, other in enumerate(contexts):
            follows = float((contexts[i] * (v * other[:, None, :]).sum(axis=2)).sum())
            left[i, j] = -follows
            right[i] -= follows * kinds[1 + j].bias
        left[i, i] += votes + sigma2 / BIAS_SD**2
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return [kind.bias for kind in kinds]
    return [0.0, *(_within(float(bias), -1.0, 1.0) for bias in np.linalg.solve(left, right))]


def _squares(kind: Kind, part: Sums) -> Floats:
    """Return Σw(q − bias)² of every model."""
    squares: Floats = part.q2 - 2.0 * kind.bias * part.b[:, 0] + kind.bias**2 * part.n
    return np.maximum(squares, 0.0)


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high) if value == value else 1.0 if low > 0.0 else 0.0
