"""Calibrate the estimate of input tokens with what the models report back.

Every model cuts text in its own way, and a provider may wrap a prompt in a template; one ratio per model takes up
both. Evidence is two sums, so it merges, decays and can be taken back like all other evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["TokenRatio"]

_PRIOR_TOKENS: Final = 900.0  # a few prompts: until they are outweighed, the estimate is believed


@dataclass(frozen=True, slots=True)
class TokenRatio:
    """Reported against estimated input tokens of one model.

    Parameters
    ----------
    actual : float
        Sum of the input tokens that the model reported.
    estimated : float
        Sum of the estimates for the same requests, as `Encoder.encode_batch` gave them.

    Examples
    --------
    >>> ratio = TokenRatio().with_report(actual=130, estimated=100)
    >>> ratio.ratio
    1.03
    >>> (ratio + ratio).estimated
    200.0
    """

    actual: float = 0.0
    estimated: float = 0.0

    def with_report(self, actual: float, estimated: float, weight: float = 1.0) -> TokenRatio:
        """Return the evidence with one report more; a negative weight takes one back.

        What is no positive, finite number says nothing and changes nothing.
        """
        if not (0 < actual < math.inf and 0 < estimated < math.inf):
            return self
        return TokenRatio(self.actual + weight * actual, self.estimated + weight * estimated)

    def __add__(self, other: TokenRatio) -> TokenRatio:
        return TokenRatio(self.actual + other.actual, self.estimated + other.estimated)

    @property
    def ratio(self) -> float:
        """Factor for an estimate: (actual + 900) / (estimated + 900), the prior being worth 900 tokens at 1."""
        return (self.actual + _PRIOR_TOKENS) / (self.estimated + _PRIOR_TOKENS)
