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
    "STATISTICS_CLIP",
    "STATISTICS_TABLE",
    "TAG_CLIP",
    "TOKEN_WEIGHTS",
    "block_scales",
]

ALGORITHM_VERSION: Final = 1
"""Part of every ``spec_id``; contexts of two versions never meet in one posterior."""

STATISTICS_TABLE: Final[tuple[tuple[str, float, float], ...]] = (
    ("log_bytes", 8.25, 0.75),
    ("word_length", 2.4, 4.5),
    ("lines", 1.6, 0.75),
    ("digits", 0.1, 10.0),
    ("upper", 0.18, 15.0),
    ("punctuation", 0.18, 16.0),
    ("questions", 0.8, 2.0),
    ("code", 0.03, 15.0),
    ("indentation", 0.45, 1.0),
    ("maths", 0.06, 11.0),
    ("arithmetic", 0.3, 1.3),
    ("non_ascii", 0.0, 4.0),
    ("other_script", 0.0, 3.0),
    ("lists", 1.0, 0.9),
    ("repetition", 2.0, 1.8),
    ("turns", 0.0, 0.7),
)
"""Name, centre and gain of every statistic, most general first: ``clip((raw - centre) * gain)``.

Centre and 1/gain are about the mean and the standard deviation over ordinary prompts. Statistics that are
nearly constant there (other scripts, chats) get a gain that brings the plain case just to the clip: a gain
fitted to their tiny spread would cut everything between a single accent and a whole other script.
"""

STATISTICS_CLIP: Final = 3.0
"""Standard deviations at which a statistic is cut."""

TAG_CLIP: Final = 2.0
"""Where a tag column is cut; only a repeated tag, or more than four that collide, can get there."""

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

_SHARES: Final[Mapping[str, float]] = MappingProxyType({"tag": 0.45, "tenant": 0.1, "stat": 0.45})

_STATISTICS_NORM: Final = 0.7  # mean square of a standardised statistic over ordinary prompts


class _Sizes(Protocol):
    @property
    def tags(self) -> int: ...
    @property
    def tenant(self) -> int: ...
    @property
    def statistics(self) -> int: ...


def block_scales(sizes: _Sizes) -> dict[str, float]:
    """Return the factor of every block, so that E|z|^2 is about 1 over the blocks together.

    z is the context without its intercept. Before this factor the squared norm of tags and of the tenant is
    about 1 and that of the statistics 0.7 times their number: on plain English prompts some stand still. A
    block that is switched off leaves its share to the others.

    Parameters
    ----------
    sizes
        Anything with the column counts `tags`, `tenant` and `statistics`.

    Returns
    -------
    dict of str to float
        Factor by block name, 0 for a block without columns.

    Examples
    --------
    >>> from banditroute_features import FeatureSpec
    >>> block_scales(FeatureSpec(tags=8, tenant=0, statistics=0))
    {'tag': 1.0, 'tenant': 0.0, 'stat': 0.0}
    """
    columns = {"tag": sizes.tags, "tenant": sizes.tenant, "stat": sizes.statistics}
    total = sum(_SHARES[name] for name, width in columns.items() if width)
    squared_norm = {"tag": 1.0, "tenant": 1.0, "stat": _STATISTICS_NORM * sizes.statistics}
    return {
        name: math.sqrt(_SHARES[name] / (total * squared_norm[name])) if width else 0.0
        for name, width in columns.items()
    }
