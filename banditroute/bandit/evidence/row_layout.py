"""Where each number of an evidence row lives.

A row of evidence is one C-contiguous float64 array, so that adding a vote is one kernel call, merging two replicas
is one vector addition, and writing it to the log is one copy. The order below is a wire format (version 1): it never
changes; a new statistic takes a reserved slot or a new version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

VERSION: Final = 1

# The scalar head of a row. "free" = without context, "tok" = output tokens, "lat" = latency, "in" = input tokens.
N: Final = 0  # sum of weights of quality votes
SQ2: Final = 1  # sum of weight * quality**2
N_FREE: Final = 2  # as N, also counting votes whose context belongs to another feature specification
Q_FREE: Final = 3  # sum of weight * quality over the same votes
Q2_FREE: Final = 4  # sum of weight * quality**2 over the same votes
RES_N: Final = 5  # number of votes with a logged prediction
RES_Z: Final = 6  # sum of their standardised residuals, each clipped at 2.5
TOK_N: Final = 7  # sum of weights of votes with output tokens
TOK_Y: Final = 8  # sum of weight * log1p(tokens)
TOK_Y2: Final = 9
TOK_SUM: Final = 10  # sum of weight * tokens
COST_N: Final = 12
COST_SUM: Final = 13  # USD
COST_PRED: Final = 14  # USD
LAT_N: Final = 15
LAT_Y: Final = 16  # sum of weight * log(latency in ms)
LAT_Y2: Final = 17
LAT_T: Final = 18  # sum of weight * log1p(tokens) over the votes with a latency
LAT_T2: Final = 19
LAT_TY: Final = 20
IN_SUM: Final = 21  # sum of weight * input tokens, where the decision had estimated them
IN_PRED: Final = 22  # sum of weight * estimated input tokens
HEAD: Final = 24  # 11 and 23 are reserved and zero


@dataclass(frozen=True, slots=True)
class Layout:
    """Slices of one evidence row, and of the row shared by all models, for contexts of ``d`` numbers.

    Parameters
    ----------
    d : int
        Length of a context, intercept included; at least 1.

    Raises
    ------
    ValueError
        If ``d`` is smaller than 1.

    Examples
    --------
    >>> layout = Layout(3)
    >>> layout.b, layout.sx, layout.tx, layout.a
    (slice(24, 27, None), slice(27, 30, None), slice(30, 33, None), slice(33, 39, None))
    >>> layout.row_size, layout.shared_size
    (39, 10)
    """

    d: int

    def __post_init__(self) -> None:
        if self.d < 1:
            raise ValueError(f"a context has at least 1 number, got d={self.d}")

    @property
    def triangle(self) -> int:
        """Numbers in a packed lower triangle: element (i, j), j <= i, is at ``i * (i + 1) // 2 + j``."""
        return self.d * (self.d + 1) // 2

    @property
    def b(self) -> slice:
        """Sum of weight * quality * x."""
        return slice(HEAD, HEAD + self.d)

    @property
    def sx(self) -> slice:
        """Sum of weight * x over the quality votes."""
        return slice(HEAD + self.d, HEAD + 2 * self.d)

    @property
    def tx(self) -> slice:
        """Sum of weight * x over the votes with output tokens."""
        return slice(HEAD + 2 * self.d, HEAD + 3 * self.d)

    @property
    def a(self) -> slice:
        """Packed lower triangle of the sum of weight * x xᵀ."""
        return slice(HEAD + 3 * self.d, self.row_size)

    @property
    def row_size(self) -> int:
        """Numbers in the row of one model."""
        return HEAD + 3 * self.d + self.triangle

    def written(self, whole: bool) -> NDArray[np.intp]:
        """Return the places of a row that go into a state record: all, or what usage alone fills (head and Σ x)."""
        places = np.arange(self.row_size)
        return places if whole else np.concatenate([places[:HEAD], places[self.tx]])

    @property
    def shared_tb(self) -> slice:
        """Shared row: sum of weight * log1p(tokens) * x. Element 0 before it is the sum of weights."""
        return slice(1, 1 + self.d)

    @property
    def shared_ta(self) -> slice:
        """Shared row: packed lower triangle of the sum of weight * x xᵀ over the votes with output tokens."""
        return slice(1 + self.d, self.shared_size)

    @property
    def shared_size(self) -> int:
        """Numbers in the row shared by all models."""
        return 1 + self.d + self.triangle
