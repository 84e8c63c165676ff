"""Evidence: everything that was learned, as sums.

A vote adds to sums and a withdrawal subtracts from them, so replicas merge by addition, a log decides the result, and
the order of operations below is exact: an independent program that follows it reaches the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.arithmetic._kernels_memory import addresses_of
from banditroute.bandit.evidence._kernels_add import LARGEST, MOST_LOG, add_vote, add_votes
from banditroute.bandit.evidence.row_layout import N_FREE, Q2_FREE, Q_FREE, RES_N, RES_Z, Layout, N

NAN = math.nan
LEAST_LATENCY: Final = 1e-3  # milliseconds


class ModelKey(NamedTuple):
    """A model and its generation: a model that was declared anew under an old name starts without evidence."""

    name: str
    generation: int = 0


class RowKey(NamedTuple):
    """A model and the kind of feedback: kinds have noise and bias of their own, so their sums are kept apart."""

    name: str
    generation: int = 0
    kind: str = "score"

    @property
    def model(self) -> ModelKey:
        """The model."""
        return ModelKey(self.name, self.generation)


class Vote(NamedTuple):
    """What came back for one decision; NaN means absent.

    ``quality_pred`` and ``sd_pred`` (predictive standard deviation of one vote), ``log_tokens_pred`` (natural log of
    1 + output tokens) and ``cost_pred`` (USD) are the predictions that the decision logged for the model that served.
    ``input_pred`` is the estimate of input tokens that it logged, NaN if the caller had counted them.
    """

    quality: float = NAN
    quality_pred: float = NAN
    sd_pred: float = NAN
    output_tokens: float = NAN
    log_tokens_pred: float = NAN
    cost_usd: float = NAN
    cost_pred: float = NAN
    latency_ms: float = NAN
    input_tokens: float = NAN
    input_pred: float = NAN


_TOKENS, _LATENCY = Vote._fields.index("output_tokens"), Vote._fields.index("latency_ms")


class Evidence:
    """Additive sufficient statistics of every model and kind of feedback, and of the output tokens of all together.

    Parameters
    ----------
    d : int
        Length of a context.

    Attributes
    ----------
    layout : Layout
        Where each statistic lives.
    rows : dict[RowKey, float64[row_size]]
        One row per model, and kind of feedback, that anything is known about.
    shared : float64[shared_size]
        The output-token regression over all models.

    Examples
    --------
    >>> import numpy as np
    >>> evidence = Evidence(2)
    >>> x = np.array([1.0, 0.5], dtype=np.float32)
    >>> evidence.add(ModelKey("small"), x, Vote(quality=1.0), weight=1.0)
    >>> evidence.rows[RowKey("small")][evidence.layout.b]
    array([1. , 0.5])
    """

    __slots__ = ("layout", "rows", "shared")

    def __init__(self, d: int) -> None:
        self.layout = Layout(d)
        self.rows: dict[RowKey, NDArray[np.float64]] = {}
        self.shared: NDArray[np.float64] = np.zeros(self.layout.shared_size)

    def row(self, key: RowKey) -> NDArray[np.float64]:
        """Return the row of ``key``, made of zeros if it is the first time; writing to it changes the evidence."""
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = np.zeros(self.layout.row_size)
        return row

    def models(self) -> list[ModelKey]:
        """Return the models that anything is known about, in order."""
        return sorted({key.model for key in self.rows})

    def votes(self) -> dict[ModelKey, float]:
        """Return the sum of weights of every model's quality votes, whatever their kind, in the order of models."""
        votes = dict.fromkeys(self.models(), 0.0)
        for key in sorted(self.rows):
            votes[key.model] += float(self.rows[key][N])
        return votes

    def add(
        self,
        key: ModelKey,
        x: NDArray[np.float32],
        vote: Vote,
        weight: float,
        shared_weight: float | None = None,
        count: float = 1.0,
        kind: str = "score",
    ) -> None:
        """Add one vote to the model that served.

        Parameters
        ----------
        key : ModelKey
            The model that served.
        x : float32[d]
            Context of the decision, as logged.
        vote : Vote
            What came back.
        weight : float
            Weight of the vote; negative takes a vote back.
        shared_weight : float, optional
            Its weight in the token regression of all models (default: ``weight``); the two differ once one model's
            evidence was scaled.
        count : float
            1 for a vote, -1 for one taken back: residuals are counted, not weighted.
        kind : str
            Kind of feedback.

        Raises
        ------
        ValueError
            If ``x`` is not float32[d], a number is infinite, or tokens are negative; nothing is written then.
        """
        if x.dtype != np.float32 or x.shape != (self.layout.d,):
            raise ValueError(f"a context is float32[{self.layout.d}], got {x.dtype}{list(x.shape)}")
        # Integers are numbers, too, and the kernel is compiled for one type.
        numbers = tuple(map(float, vote))
        quality, quality_pred, sd_pred, tokens, log_tokens_pred, cost, cost_pred, latency = numbers[:8]
        if LARGEST < abs(quality) < math.inf:
            quality = math.copysign(LARGEST, quality)
        given, given_pred = numbers[8:]
        y = log_latency = t = NAN
        if tokens == tokens:  # not NaN
            if tokens < 0:
                raise ValueError(f"output_tokens is a count, got {tokens}")
            y = math.log1p(tokens)
        if latency == latency:
            log_latency = math.log(max(latency, LEAST_LATENCY))
            t = y if y == y else log_tokens_pred if log_tokens_pred == log_tokens_pred else 0.0
        if log_tokens_pred > MOST_LOG:
            raise ValueError(f"log_tokens_pred is the logarithm of a finite number, got {log_tokens_pred}")
        if given < 0:
            raise ValueError(f"input_tokens is a count, got {given}")
        weight = float(weight)
        shared_weight = weight if shared_weight is None else float(shared_weight)
        at = RowKey(key[0], key[1], kind)
        new = at not in self.rows
        # fmt: off
        done = add_vote(
            self.row(at), self.shared, x, quality, quality_pred, sd_pred, tokens, y,
            cost, cost_pred, log_latency, t, given, given_pred, weight, shared_weight, count,
        )
        # fmt: on
        if not done:
            if new:
                del self.rows[at]
            raise ValueError(f"a vote, its weight and its context are finite numbers, got {vote}")

    def add_many(
        self,
        keys: Sequence[RowKey],
        which: NDArray[np.int64],
        x: NDArray[np.float32],
        votes: NDArray[np.float64],
        weights: NDArray[np.float64],
    ) -> None:
        """Add many votes: the same, bit for bit, as `add` of each in order.

        Parameters
        ----------
        keys : sequence of RowKey
            Models that served and kinds of feedback; each of them has a vote.
        which : int64[n]
            The key of each vote.
        x : float32[n, d]
            Contexts, contiguous.
        votes : float64[n, 10]
            The fields of `Vote`.
        weights : float64[n]
            Of the votes, none of which takes one back.

        Raises
        ------
        ValueError
            If the columns do not fit each other; nothing is written then. For the first vote that cannot be added, as
            `add` does; those before it are.
        """
        n = len(votes)
        if x.dtype != np.float32 or x.shape != (n, self.layout.d) or not x.flags.c_contiguous:
            raise ValueError(f"contexts are float32[{n}, {self.layout.d}], got {x.dtype}{list(x.shape)}")
        if votes.shape != (n, len(Vote._fields)) or len(which) != n or len(weights) != n:
            raise ValueError(f"{n} votes have {len(Vote._fields)} numbers, a key and a weight each")
        if n and (which.dtype.kind not in "iu" or which.min() < 0 or which.max() >= len(keys)):
            raise ValueError(f"the key of a vote is a place among {len(keys)} keys")
        # The logarithms are those of `add`: an oracle in plain Python takes them from the same library.
        logs = np.full((n, 2), NAN)
        tokens, latency = votes[:, _TOKENS], votes[:, _LATENCY]
        if not np.isnan(tokens).all():
            logs[:, 0] = list(map(math.log1p, np.maximum(tokens, 0.0).tolist()))
        if not np.isnan(latency).all():
            logs[:, 1] = list(map(math.log, np.maximum(latency, LEAST_LATENCY).tolist()))
        rows = [self.row(key) for key in keys]
        done = add_votes(
            addresses_of(rows), which, self.layout.row_size, self.shared, x, votes, logs, weights
        )
        if done < n:
            at = keys[which[done]]
            self.add(at.model, x[done], Vote(*votes[done].tolist()), float(weights[done]), kind=at.kind)

    def add_free(self, key: ModelKey, vote: Vote, weight: float, kind: str = "score") -> None:
        """Add the quality of a vote whose context belongs to another feature specification: no context is touched.

        Raises
        ------
        ValueError
            If quality or weight is infinite.
        """
        quality = vote.quality
        if quality != quality:
            return
        if math.isinf(quality) or not math.isfinite(weight):
            raise ValueError(f"quality and weight are finite numbers, got {quality} and {weight}")
        quality = min(max(quality, -LARGEST), LARGEST)
        row = self.row(RowKey(key[0], key[1], kind))
        wq = weight * quality
        row[N_FREE] += weight
        row[Q_FREE] += wq
        row[Q2_FREE] += wq * quality

    def scale(self, key: RowKey, factor: float) -> None:
        """Multiply one row; its residual sums stay (they are counts, judged elsewhere)."""
        row = self.rows.get(key)
        if row is not None:
            kept = row[RES_N], row[RES_Z]
            row *= factor
            row[RES_N], row[RES_Z] = kept

    def scale_shared(self, factor: float) -> None:
        """Multiply what is known about the output tokens of all models together."""
        self.shared *= factor

    def copy(self) -> Evidence:
        """Return an independent copy."""
        other = Evidence(self.layout.d)
        other.rows = {key: row.copy() for key, row in self.rows.items()}
        other.shared = self.shared.copy()
        return other

    def clear(self) -> None:
        """Forget everything."""
        self.rows.clear()
        self.shared[:] = 0.0

    @classmethod
    def merge(cls, parts: Iterable[Evidence]) -> Evidence:
        """Return the sum of ``parts``, added in the given order, row by row, matched by key.

        Two orders give the same bits only for two parts; with more, replicas must agree on one order.

        Raises
        ------
        ValueError
            If there is no part, or they disagree about ``d``.
        """
        sequence: Sequence[Evidence] = list(parts)
        if not sequence or len({part.layout.d for part in sequence}) != 1:
            raise ValueError("merging takes at least one evidence, all of one context length")
        total = sequence[0].copy()
        for part in sequence[1:]:
            total.shared += part.shared
            for key, row in part.rows.items():
                if key in total.rows:
                    total.rows[key] += row
                else:
                    total.rows[key] = row.copy()
        return total

    def __eq__(self, other: object) -> bool:
        """Return whether both hold the same rows with the same bits."""
        if not isinstance(other, Evidence):
            return NotImplemented
        return (
            self.layout == other.layout
            and self.rows.keys() == other.rows.keys()
            and self.shared.tobytes() == other.shared.tobytes()
            and all(row.tobytes() == other.rows[key].tobytes() for key, row in self.rows.items())
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Evidence(d={self.layout.d}, rows={len(self.rows)})"
