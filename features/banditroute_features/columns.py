"""The fixed numbers of the algorithm version: what the columns are called and how they are scaled.

None of this is ever learned while serving: a replica that adapted its scales could not be replayed. Changing
a number here changes contexts and therefore needs a new `ALGORITHM_VERSION`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

__all__ = [
    "ALGORITHM_VERSION",
    "BLOCK_FIELDS",
    "CHAT_TABLE",
    "CLIP",
    "HOURS",
    "NUMERIC_TABLE",
    "SCALED",
    "SCRIPT_TABLE",
    "STATISTICS_TABLE",
    "TAG_CLIP",
    "TOKEN_WEIGHTS",
    "block_scales",
]

ALGORITHM_VERSION: Final = 2
"""Part of every ``spec_id``; contexts of two versions never meet in one posterior."""

Table = tuple[tuple[str, float, float], ...]

STATISTICS_TABLE: Final[Table] = (
    ("log_tokens", 6.1, 1.0),
    ("indentation", 0.45, 1.0),
    ("questions", 0.8, 2.0),
    ("maths", 0.06, 11.0),
    ("punctuation", 0.19, 18.0),
    ("lines", 1.6, 0.72),
    ("upper", 0.175, 17.0),
    ("digits", 0.1, 10.0),
    ("code", 0.03, 15.0),
    ("log_bytes", 8.0, 0.9),
    ("options", 0.5, 1.0),
    ("lists", 0.2, 1.5),
    ("word_length", 2.4, 4.5),
    ("arithmetic", 0.4, 1.2),
    ("latex", 0.1, 1.5),
    ("quoted", 0.1, 5.0),
    ("log_words", 5.6, 1.0),
    ("keywords", 0.1, 2.5),
    ("repetition", 1.6, 2.2),
    ("fences", 0.0, 1.5),
    ("tables", 0.0, 0.7),
    ("json", 0.0, 0.7),
    ("urls", 0.0, 2.0),
)
"""Name, centre and gain of every statistic, most useful first: ``clip((raw - centre) * gain)``.

Centre and 1/gain are about the mean and the standard deviation over ordinary prompts. What is nearly constant
there gets a gain that fits the case where it is not.
"""

SCRIPT_TABLE: Final[Table] = (
    ("latin", 1.0, 1.5),
    ("cjk", 0.0, 1.5),
    ("cyrillic", 0.0, 1.5),
    ("arabic", 0.0, 1.5),
    ("devanagari", 0.0, 1.5),
    ("other", 0.0, 1.5),
    ("symbols", 0.0, 4.0),
)
"""As above: shares among all letters, so that plain English is zeros, and of symbols among all characters."""

CHAT_TABLE: Final[Table] = (
    ("turns", 0.0, 0.7),
    ("last_user", 7.0, 0.5),
    ("system", 5.0, 0.4),
    ("replies", 0.0, 0.7),
    ("others", 0.0, 0.7),
)
"""As above, for requests with `messages`."""

NUMERIC_TABLE: Final[Table] = (("input_tokens", 7.0, 0.5), ("max_output_tokens", 9.0, 0.5))
"""As above, for the numeric fields, after log2(1 + number)."""

SCALED: Final[Mapping[str, Table]] = MappingProxyType(
    {"stat": STATISTICS_TABLE, "script": SCRIPT_TABLE, "chat": CHAT_TABLE, "numeric": NUMERIC_TABLE}
)
"""The tables by the name of their block."""

CLIP: Final = 3.0
"""Where a scaled column is cut, in standard deviations."""

TAG_CLIP: Final = 2.0
"""Where a column of names is cut; only a repeated name, or more than four that collide, can get there."""

TOKEN_WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "text": 1.0,
        "words": 0.875,
        "letters": 0.03125,
        "digits": 0.1875,
        "signs": 0.875,
        "newlines": 1.0,
        "latin": 0.75,
        "alphabet": 0.5,
        "symbol": 1.5,
        "cjk": 0.875,
    }
)
"""Input tokens per counted thing, in thirty-seconds so that every sum is exact in float64.

``text`` is counted once per request, ``latin`` … ``cjk`` once per non-ASCII character of that kind.
"""


def _hours() -> tuple[float, ...]:
    """Return the cosine of 24 hours, from square roots: the cosines of C libraries differ."""
    six, two = math.sqrt(6.0), math.sqrt(2.0)
    first = [1.0, (six + two) / 4, math.sqrt(3.0) / 2, two / 2, 0.5, (six - two) / 4, 0.0]
    half = first + [-c for c in first[-2::-1]]
    return tuple(half + half[-2:0:-1])


HOURS: Final = _hours()
"""Cosine of every hour of the day; the sine is the cosine six hours earlier."""

BLOCK_FIELDS: Final[Mapping[str, tuple[str, float]]] = MappingProxyType(
    {
        "tag": ("tags", 0.45),
        "tenant": ("tenant", 0.1),
        "session": ("session", 0.1),
        "language": ("language", 0.1),
        "hour": ("hour", 0.1),
        "cross": ("cross", 0.2),
        "numeric": ("numeric", 0.1),
        "stat": ("statistics", 0.45),
        "script": ("scripts", 0.05),
        "chat": ("chat", 0.15),
        "char": ("chars", 0.3),
        "word": ("words", 0.2),
        "embedding": ("embedding", 0.45),
        "context": ("context", 0.45),
    }
)
"""Block to field of the spec and to its share of the norm, in the order of the columns."""

# Squared norm of a block per column before its factor, over ordinary requests; of the others it is 1 in all.
_PER_COLUMN: Final = MappingProxyType(
    {"numeric": 1.0, "stat": 0.7, "script": 0.3, "chat": 0.7, "context": 1.0}
)


class _Sizes(Protocol):
    def width(self, block: str) -> int: ...


def block_scales(sizes: _Sizes) -> dict[str, float]:
    """Return the factor of every block, so that E|z|^2 is about 1 over the blocks together.

    z is the context without its intercept. Before this factor the squared norm of tags, tenant and hashed
    text is 1, that of the statistics 0.7 times their number: on plain English prompts some stand still. A
    block that is switched off leaves its share to the others.

    Parameters
    ----------
    sizes
        A spec, or anything that tells the `width` of a block.

    Returns
    -------
    dict of str to float
        Factor by block name, 0 for a block without columns.

    Examples
    --------
    >>> from banditroute_features import FeatureSpec
    >>> scales = block_scales(FeatureSpec(tags=8, tenant=0, statistics=0, scripts=0))
    >>> scales["tag"], scales["stat"]
    (1.0, 0.0)
    """
    widths = {block: sizes.width(block) for block in BLOCK_FIELDS}
    total = sum(share for block, (_, share) in BLOCK_FIELDS.items() if widths[block])
    scales = {}
    for block, (_, share) in BLOCK_FIELDS.items():
        norm = _PER_COLUMN[block] * widths[block] if block in _PER_COLUMN else 1.0
        scales[block] = math.sqrt(share / (total * norm)) if widths[block] else 0.0
    return scales
