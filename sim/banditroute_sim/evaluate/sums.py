"""What is kept of a log that has been read: blocks of sums, moments and a histogram of weights, in bounded memory."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCKS: Final = 1 << 15
_TAIL = 4096  # largest weights that are kept
_PER_OCTAVE, _OCTAVES, _LEAST = 64, 96, -48  # of the histogram: 2**-48 to 2**48


class Blocks:
    """Sums of blocks of consecutive rows: single rows at first, twice as long whenever there are too many of them.

    Parameters
    ----------
    columns : int
        Of a row.
    limit : int
        At most twice so many blocks are kept.

    Examples
    --------
    >>> blocks = Blocks(1, limit=2)
    >>> blocks.add(np.arange(5.0)[:, None])
    >>> blocks.size, blocks.rows.ravel().tolist()
    (2, [1.0, 5.0, 4.0])
    """

    def __init__(self, columns: int, limit: int = BLOCKS) -> None:
        self.size = 1
        self._limit = limit
        self._columns = columns
        self._full: Floats = np.empty((0, columns))
        self._open = np.zeros(columns)
        self._filled = 0

    @property
    def rows(self) -> Floats:
        """The sums; float64[N, C]; the last block may be shorter."""
        return np.concatenate([self._full, self._open[None]]) if self._filled else self._full

    def add(self, rows: Floats) -> None:
        """Add rows float64[n, C]."""
        for start in range(0, len(rows), self._limit):
            self._add(rows[start : start + self._limit])

    def _add(self, rows: Floats) -> None:
        at = 0
        if self._filled:
            at = min(self.size - self._filled, len(rows))
            self._open += rows[:at].sum(axis=0)
            self._filled += at
            if self._filled == self.size:
                self._full = np.concatenate([self._full, self._open[None]])
                self._open, self._filled = np.zeros(self._columns), 0
        whole = (len(rows) - at) // self.size
        end = at + whole * self.size
        if whole:
            new = rows[at:end].reshape(whole, self.size, -1).sum(axis=1)
            self._full = np.concatenate([self._full, new])
        if end < len(rows):
            self._open += rows[end:].sum(axis=0)
            self._filled += len(rows) - end
        while len(self._full) > 2 * self._limit - 1:
            self._double()

    def _double(self) -> None:
        pairs = len(self._full) // 2
        if len(self._full) % 2:  # the odd one is older than the open block: it opens the next
            self._open = self._open + self._full[-1]
            self._filled += self.size
        self._full = self._full[: 2 * pairs].reshape(pairs, 2, -1).sum(axis=1)
        self.size *= 2


class Weights:
    """Diagnostics of importance weights.

    Attributes
    ----------
    n, zeros : int
        Weights, and those that are 0.
    total, squares, largest : float
        Their sum, the sum of their squares, the largest.
    """

    def __init__(self) -> None:
        self.n = self.zeros = 0
        self.total = self.squares = self.largest = 0.0
        self._count = np.zeros(_PER_OCTAVE * _OCTAVES, np.int64)
        self._mass = np.zeros(_PER_OCTAVE * _OCTAVES)
        self._tail: Floats = np.empty(0)

    def add(self, weight: Floats) -> None:
        """Add weights float64[n]."""
        positive = weight[weight > 0.0]
        self.n += len(weight)
        self.zeros += len(weight) - len(positive)
        if not len(positive):
            return
        self.total += float(positive.sum())
        self.squares += float((positive**2).sum())
        self.largest = max(self.largest, float(positive.max()))
        tail = np.concatenate([self._tail, positive])
        self._tail = tail if len(tail) <= _TAIL else np.partition(tail, -_TAIL)[-_TAIL:]
        cell = np.floor(_PER_OCTAVE * (np.log2(positive) - _LEAST)).astype(np.int64)
        np.clip(cell, 0, len(self._count) - 1, out=cell)
        self._count += np.bincount(cell, minlength=len(self._count))
        self._mass += np.bincount(cell, positive, minlength=len(self._count))

    @property
    def mean(self) -> float:
        """Mean weight, 1 in expectation where the log supports the target."""
        return self.total / self.n if self.n else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean weight."""
        return float(np.sqrt(max(self.squares / self.n - self.mean**2, 0.0) / self.n)) if self.n else 0.0

    @property
    def ess(self) -> float:
        """Effective sample size (Kish 1965): (Σ w)² / Σ w²."""
        return self.total**2 / self.squares if self.squares else 0.0

    @property
    def top_share(self) -> float:
        """Share of the sum that the largest 1 % of the weights hold, within 1 %."""
        wanted = max(1.0, 0.01 * self.n)
        count, mass = self._count[::-1], self._mass[::-1]
        before = np.concatenate([[0], np.cumsum(count)[:-1]])
        part = np.clip((wanted - before) / np.maximum(count, 1), 0.0, 1.0)
        return float((part * mass).sum()) / self.total if self.total else 0.0

    @property
    def tail_shape(self) -> float:
        """Shape k of a generalised Pareto distribution fitted to the largest weights.

        Above 1/2 the variance of the weights is infinite, and above 0.7 averages of them are not to be trusted
        (Vehtari, Simpson, Gelman, Yao and Gabry 2024). Of n weights the largest min(n/5, 3√n) are the tail.
        """
        size = int(min(0.2 * self.n, 3.0 * np.sqrt(self.n), _TAIL - 1))
        if size < 5 or len(self._tail) <= size:
            return 0.0
        tail = np.sort(self._tail)[-size - 1 :]
        return pareto_shape(tail[1:] - tail[0])


def pareto_shape(excess: Floats) -> float:
    """Return the shape of a generalised Pareto distribution (Zhang and Stephens 2009), shrunk towards 1/2.

    Parameters
    ----------
    excess : float64[m]
        Excesses over a threshold, sorted; those that are 0 are left out.
    """
    x = excess[excess > 0.0]
    n = len(x)
    if n < 5 or x[0] == x[-1]:
        return -1.0  # the largest weights are all the same: there is no tail
    count = 30 + int(np.sqrt(n))
    quarter = x[int(n / 4 + 0.5) - 1]
    theta = 1.0 / x[-1] + (1.0 - np.sqrt(count / (np.arange(1, count + 1) - 0.5))) / (3.0 * quarter)
    shape = np.log1p(-theta[:, None] * x).mean(axis=1)
    likelihood = n * (np.log(-theta / shape) - shape - 1.0)
    share = np.exp(likelihood - likelihood.max())
    best = float((theta * share).sum() / share.sum())
    k = float(np.log1p(-best * x).mean())
    return (n * k + 5.0) / (n + 10.0)


class Moments:
    """Count, mean, variance and largest magnitude of the columns of float64[n, C], NaN left out."""

    def __init__(self, columns: int) -> None:
        self.n = np.zeros(columns, np.int64)
        self._sum = np.zeros(columns)
        self._squares = np.zeros(columns)
        self._shift = np.full(columns, np.nan)

    def add(self, rows: Floats) -> None:
        """Add rows; sums of squares are taken about the first number, so that they do not cancel."""
        for c in range(rows.shape[1]):
            known = rows[:, c][~np.isnan(rows[:, c])]
            if not len(known):
                continue
            if np.isnan(self._shift[c]):
                self._shift[c] = known[0]
            off = known - self._shift[c]
            self.n[c] += len(known)
            self._sum[c] += off.sum()
            self._squares[c] += (off**2).sum()

    def mean(self, column: int) -> float:
        """Return the mean of a column."""
        return float(self._shift[column] + self._sum[column] / self.n[column])

    def variance(self, column: int) -> float:
        """Return the variance of a column, with n − 1 below."""
        n = int(self.n[column])
        square = float(self._squares[column]) - float(self._sum[column]) ** 2 / max(n, 1)
        return max(square, 0.0) / max(n - 1, 1)
