"""Off-policy estimators, one decision after the other, as their papers write them."""

from __future__ import annotations

import math


def ips(chance, propensity, reward):
    """Horvitz and Thompson 1952: the mean of reward times the ratio of probabilities."""
    return sum(c / p * r for c, p, r in zip(chance, propensity, reward, strict=True)) / len(reward)


def snips(chance, propensity, reward):
    """Swaminathan and Joachims 2015: the same, over the sum of the ratios."""
    top = sum(c / p * r for c, p, r in zip(chance, propensity, reward, strict=True))
    return top / sum(c / p for c, p in zip(chance, propensity, strict=True))


def direct(policy, model):
    """Return the mean over decisions of the model's reward under the target's probabilities of every action."""
    return sum(
        sum(c * q for c, q in zip(chances, values, strict=True))
        for chances, values in zip(policy, model, strict=True)
    ) / len(policy)


def doubly_robust(policy, model, action, propensity, reward):
    """Dudík, Langford and Li 2011, equation 2: the direct method and the weighted residual of what was done."""
    total = 0.0
    for chances, values, a, p, r in zip(policy, model, action, propensity, reward, strict=True):
        total += sum(c * q for c, q in zip(chances, values, strict=True))
        total += chances[a] / p * (r - values[a])
    return total / len(reward)


def effective_sample_size(weights):
    """Kish 1965."""
    return sum(weights) ** 2 / sum(w * w for w in weights)


def empirical_bernstein(values, width, delta):
    """Maurer and Pontil 2009, theorem 4, both ways with delta / 2 each."""
    n = len(values)
    mean = sum(values) / n
    pairs = sum((x - y) ** 2 for i, x in enumerate(values) for y in values[:i])
    variance = pairs / (n * (n - 1))
    one = delta / 2.0
    reach = math.sqrt(2.0 * variance * math.log(2.0 / one) / n)
    reach += 7.0 * width * math.log(2.0 / one) / (3.0 * (n - 1))
    return mean - reach, mean + reach
