"""The numbers of a feedback, and the vote that they make together with what its decision had predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence

from banditroute.bandit.evidence.evidence import Vote
from banditroute.events import Feedback
from banditroute.flow.pending.open_decision import Open
from banditroute.flow.pending.slots import Numbers, Predictions

NAN = math.nan


def numbers_of(feedback: Feedback, quality: float | None) -> Numbers:
    """Return quality, output_tokens, cost_usd, latency_ms and input_tokens, NaN where absent."""
    output_tokens, input_tokens = feedback.output_tokens, feedback.input_tokens
    cost_usd, latency_ms = feedback.cost_usd, feedback.latency_ms
    return (
        NAN if quality is None else quality,
        NAN if output_tokens is None else float(output_tokens),
        NAN if cost_usd is None else float(cost_usd),
        NAN if latency_ms is None else float(latency_ms),
        NAN if input_tokens is None else float(input_tokens),
    )


def has_usage(numbers: Numbers) -> bool:
    """Whether any of the numbers beside quality is there."""
    _, output_tokens, cost_usd, latency_ms, input_tokens = numbers
    return (
        output_tokens == output_tokens
        or latency_ms == latency_ms
        or cost_usd == cost_usd
        or input_tokens == input_tokens
    )


def say_the_same(some: Sequence[float], others: Sequence[float]) -> bool:
    """Whether two votes have equal numbers; what is absent in both is equal."""
    return all(a == b or (a != a and b != b) for a, b in zip(some, others, strict=True))


def vote_of(decision: Open, numbers: Numbers, predictions: Predictions) -> Vote:
    """Return what is added to evidence."""
    quality, output_tokens, cost_usd, latency_ms, input_tokens = numbers
    quality_pred, sd_pred, log_tokens_pred, cost_pred = predictions
    input_pred = NAN if decision.kind.counted else decision.input_tokens
    return Vote(
        quality,
        quality_pred,
        sd_pred,
        output_tokens,
        log_tokens_pred,
        cost_usd,
        cost_pred,
        latency_ms,
        input_tokens,
        input_pred,
    )
