"""Numbers of usage before the journal: whole counts of tokens, and what is no measurement counts as absent."""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from banditroute.events.bounds import MAX_TOKENS
from banditroute.events.inputs import Feedback, Rejected

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


def whole(feedback: Feedback) -> Feedback | Rejected:
    """Return feedback whose counts of tokens are of all tokens.

    What a provider counts beside `input_tokens` (`cache_read_input_tokens`, `cache_creation_input_tokens`) and beside
    `output_tokens` (`thoughts_tokens`) is added to them, and becomes the part of them that it is:
    `cached_input_tokens`, `cache_write_input_tokens` and `reasoning_tokens`. Where the count beside them is not given,
    nothing is known.

    Examples
    --------
    >>> told = whole(Feedback(request_id="r", kind="usage", input_tokens=50, cache_read_input_tokens=4000))
    >>> told.input_tokens, told.cached_input_tokens
    (4050, 4000)
    """
    read, written, thoughts = (
        feedback.cache_read_input_tokens,
        feedback.cache_creation_input_tokens,
        feedback.thoughts_tokens,
    )
    if read is not None or written is not None or thoughts is not None:
        given, answer = feedback.input_tokens, feedback.output_tokens
        feedback = replace(
            feedback,
            input_tokens=None if given is None else given + (read or 0) + (written or 0),
            cached_input_tokens=_sum(feedback.cached_input_tokens, read),
            cache_write_input_tokens=_sum(feedback.cache_write_input_tokens, written),
            output_tokens=None if answer is None else answer + (thoughts or 0),
            reasoning_tokens=_sum(feedback.reasoning_tokens, thoughts),
            cache_read_input_tokens=None,
            cache_creation_input_tokens=None,
            thoughts_tokens=None,
        )
    cached, kept, reasoning = (
        feedback.cached_input_tokens,
        feedback.cache_write_input_tokens,
        feedback.reasoning_tokens,
    )
    if cached is None and kept is None and reasoning is None:
        return feedback
    if feedback.input_tokens is not None and (cached or 0) + (kept or 0) > feedback.input_tokens:
        return Rejected(
            "cached_input_tokens and cache_write_input_tokens are more than input_tokens, of which they are parts: "
            "send what is counted beside input_tokens as cache_read_input_tokens and cache_creation_input_tokens - at "
            "`$.cached_input_tokens`"
        )
    if feedback.output_tokens is not None and (reasoning or 0) > feedback.output_tokens:
        return Rejected(
            "reasoning_tokens are more than output_tokens, of which they are a part: send what is counted beside "
            "output_tokens as thoughts_tokens - at `$.reasoning_tokens`"
        )
    return feedback


def _sum(one: int | None, other: int | None) -> int | None:
    return one if other is None else min((one or 0) + other, MAX_TOKENS)
