"""Whether the numbers of a state record can be what they say: asked before memory is taken for them.

A checksum tells that a record is what somebody wrote, not that it makes sense. A record of 100,000 columns, of negative
sizes or with a matrix that is none would end every engine that reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from banditroute.bandit.evidence import row_layout as at
from banditroute.bandit.evidence.row_layout import Layout
from banditroute.flow.records.position import Fields

if TYPE_CHECKING:
    from banditroute.flow.records.snapshot import _Meta

MOST_OFFSET: Final = 1 << 62  # no log reaches it
MOST_COLUMNS: Final = 4096
MOST_NAME: Final = 1024  # characters
MOST_REIGN: Final = 1 << 31
MOST_SUM: Final = 1e120  # squares of float32 contexts, summed over more votes than there are
SLACK: Final = 1e-6  # of what sums of votes that were taken back may be off


def absurdity(meta: _Meta, size: int) -> str | None:
    """Say what cannot be in the description of a state.

    Parameters
    ----------
    meta : _Meta
        The decoded JSON part.
    size : int
        Bytes of statistics that follow it.

    Returns
    -------
    str or None
        A clause that names the number; None where all of them can be.
    """
    d = meta.d
    if not 1 <= d <= MOST_COLUMNS or 8 * (1 + d + d * (d + 1) // 2) > size:
        return f"it speaks of {d} columns"
    if len({(name, generation, kind) for name, generation, kind, _ in meta.keys}) != len(meta.keys):
        return "it holds a row twice"
    for name, generation, kind, _ in meta.keys:
        if len(name) > MOST_NAME or len(kind) > MOST_NAME or not 0 <= generation < 1 << 32:
            return "it holds a row of a name or generation that cannot be"
    for what, number in _counts(meta):
        if not 0 <= number <= MOST_OFFSET:
            return f"its {what} is {_short(number)}"
    if meta.replay_from > meta.j:
        return f"it is to be replayed from {meta.replay_from} and covers {meta.j}"
    return _absurd_fields("at", meta.at) or _absurd_fields("anchor", meta.anchor)


def _counts(meta: _Meta) -> Iterator[tuple[str, int]]:
    yield from (("partition", meta.partition), ("j", meta.j), ("replay_from", meta.replay_from))
    yield from (("parked", meta.parked), ("log_epoch", meta.log_epoch >> 20))
    yield from (("reign", 0 if meta.reign is UNSET else meta.reign),)
    yield from ((f"ledger of {name[:MOST_NAME]}", count) for name, count in meta.ledger.items())
    yield from (("feedback_start", number) for pair in meta.feedback_start.items() for number in pair)
    if meta.start is not UNSET:
        yield from (("start", number) for number in meta.start)
    for mark in (meta.journal_mark, meta.decisions_mark):
        yield from (("mark", number) for number in mark or ())


def _absurd_fields(where: str, fields: Fields) -> str | None:
    counts = [
        fields.D,
        fields.rD,
        fields.X,
        fields.rX,
        fields.cursor + 1,
        *fields.hi,
        *fields.epochs.values(),
    ]
    counts += [offset + 1 for offset in fields.hi.values()]
    if fields.clock is not None:
        counts.append(fields.clock)
    if not all(0 <= number <= MOST_OFFSET for number in counts) or fields.X > fields.D:
        return f"an offset of `{where}` cannot be"
    numbers = [fields.decay, *fields.shrink.values()]
    prices = [price for pair in fields.prices.values() for price in pair]
    if not _finite(numbers) or not _finite(prices) or any(price < 0.0 for price in prices):
        return f"a number of `{where}` cannot be"
    return None


def _finite(numbers: Iterable[float]) -> bool:
    return all(map(math.isfinite, numbers))


def _short(number: int) -> str:
    text = str(number) if abs(number) < 1 << 128 else "a number of more than 128 bits"
    return text[:60]


def are_sums(row: NDArray[np.float64], layout: Layout) -> bool:
    """Tell whether a row of evidence can be sums over votes.

    Parameters
    ----------
    row : float64[row_size]
        Finite numbers.
    layout : Layout
        Where each of them is.

    Returns
    -------
    bool
        False where a sum of squares or of weights is negative by more than rounding, or a sum of products is larger
        than those of the squares allow (Cauchy and Schwarz).
    """
    scale = 1.0 + float(np.abs(row).max(initial=0.0))
    if scale > MOST_SUM or any(
        row[i] < -SLACK * scale for i in (at.N, at.N_FREE, at.TOK_N, at.COST_N, at.LAT_N)
    ):
        return False
    d = layout.d
    packed = row[layout.a]
    i, j = np.tril_indices(d)
    diagonal = packed[i == j]
    if (diagonal < -SLACK * scale).any():
        return False
    bound = np.maximum(diagonal, 0.0)
    squares = packed * packed
    return bool((squares <= bound[i] * bound[j] * (1.0 + SLACK) + (SLACK * scale) ** 2).all())
