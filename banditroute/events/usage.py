"""Numbers of usage before the journal: what is no measurement counts as absent."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from banditroute.events.inputs import Feedback

# Beyond these a number is a default, a time stamp or another unit. One such report would move a mean by more than
# a thousand honest ones, a latency of 0 a mean of logarithms without bound.
LEAST_LATENCY_MS: Final = 1.0
MOST_LATENCY_MS: Final = 86_400_000.0  # a day
MOST_ANSWER_TOKENS: Final = 10_000_000
MOST_ANSWER_USD: Final = 10_000.0


def unmeasured(feedback: Feedback) -> tuple[str, ...]:
    """Return the names of the numbers that no answer of a model has: they are not learned from.

    Examples
    --------
    >>> unmeasured(Feedback(request_id="r", kind="usage", latency_ms=0.0, output_tokens=0))
    ('latency_ms',)
    """
    latency, cost = feedback.latency_ms, feedback.cost_usd
    given, written = feedback.input_tokens, feedback.output_tokens
    if (
        (latency is None or LEAST_LATENCY_MS <= latency <= MOST_LATENCY_MS)
        and (cost is None or cost <= MOST_ANSWER_USD)
        and (given is None or given <= MOST_ANSWER_TOKENS)
        and (written is None or written <= MOST_ANSWER_TOKENS)
    ):
        return ()
    wrong = (
        ("latency_ms", latency is not None and not LEAST_LATENCY_MS <= latency <= MOST_LATENCY_MS),
        ("cost_usd", cost is not None and cost > MOST_ANSWER_USD),
        ("input_tokens", given is not None and given > MOST_ANSWER_TOKENS),
        ("output_tokens", written is not None and written > MOST_ANSWER_TOKENS),
    )
    return tuple(name for name, is_wrong in wrong if is_wrong)


def measured(feedback: Feedback) -> Feedback:
    """Return feedback without the numbers that are no measurement; feedback that has none is returned as it is."""
    wrong = unmeasured(feedback)
    return replace(feedback, **dict.fromkeys(wrong)) if wrong else feedback
