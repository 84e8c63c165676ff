"""A world fitted to a data set: prompts with their own outcomes first, with outcomes dealt anew when they return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.bandit.posterior.posterior import ModelPrior, derive
from banditroute.bandit.posterior.prior import Block
from banditroute.errors import DataSetError
from banditroute_sim.data.outcomes import Outcomes
from banditroute_sim.replay.run import known_evidence

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]
How = Literal["order", "resample"]

SAMPLED: Final = 20_000  # rows that a world is fitted to, of a large set
_LEAST_DEALT: Final = 30  # prompts of a task whose residuals are dealt among themselves
_LEAST_ROWS: Final = 50


@dataclass(frozen=True, slots=True)
class Drawn:
    """Outcomes of T requests and K models: what `play` reads, and what they are worth.

    Attributes
    ----------
    row : int64[T]
        The row of the world behind each request.
    x : float32[T, d]
    tokens : float64[T]
    estimated : bool[T]
    quality, cost, input_tokens, output_tokens, latency_s : float64[T, K]
    present : int64[T]
        The model that serves today.
    """

    row: Rows
    x: NDArray[np.float32]
    tokens: Floats
    estimated: Bools
    quality: Floats
    cost: Floats
    input_tokens: Floats
    output_tokens: Floats
    latency_s: Floats
    present: Rows

    @property
    def feedback(self) -> Floats:
        """The quality that is reported."""
        return self.quality

    def __len__(self) -> int:
        return len(self.row)


class World(Protocol):
    """Draws requests and their outcomes.

    Attributes
    ----------
    name : str
    models : tuple of str
        In the order of the catalog.
    blocks : sequence of (start, stop)
        Of a context.
    size : int
        Rows that it was fitted to.
    present : str
        The present policy, in words.
    fresh : bool
        Whether a draw varies by all that is uncertain about the world. If not, "order" keeps to the rows as they are,
        and "resample" draws rows again.
    notes : sequence of str
        What of the data counts as unknown.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class

    @property
    def models(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def blocks(self) -> Sequence[Block]: ...  # noqa: D102

    @property
    def size(self) -> int: ...  # noqa: D102

    @property
    def present(self) -> str: ...  # noqa: D102

    @property
    def fresh(self) -> bool: ...  # noqa: D102

    @property
    def notes(self) -> Sequence[str]: ...  # noqa: D102

    def draw(self, seed: int, requests: int, how: How) -> Drawn:
        """Draw requests; the same arguments give the same ones."""

    def delays(self, seed: int, requests: int) -> Rows:
        """Draw how many requests later each answer comes; NEVER where none does; int64[requests]."""

    def means(self) -> tuple[Floats, Floats]:
        """Return mean quality and cost of every model; float64[K] each."""


class RecordedWorld:
    """The world of a data set: every outcome is known.

    A prompt has its own outcomes the first time it comes. When it comes again, what the fitted quality models leave
    unexplained is dealt out anew, among all the requests of its task that come again, so that nothing can be learned by
    heart. Nothing is added or lost by that: sums over a draw vary as they do in the plain bootstrap.

    Parameters
    ----------
    outcomes : Outcomes
        Of the models of the configuration, in its order.
    present : str
        The model that serves today.
    feedback_share : float
        Share of the decisions that are answered.
    feedback_delay : int
        Decisions until an answer arrives.
    rows : int64[m], optional
        Rows of the data set; default: all, of a large set a sample.

    Raises
    ------
    DataSetError
        If there are too few rows.
    """

    fresh = False

    def __init__(
        self,
        outcomes: Outcomes,
        present: str,
        feedback_share: float = 1.0,
        feedback_delay: int = 0,
        rows: Rows | None = None,
    ) -> None:
        rows = outcomes.rows if rows is None else rows
        if len(rows) > SAMPLED:
            rows = np.sort(np.random.default_rng(0).permutation(rows)[:SAMPLED])
        if len(rows) < _LEAST_ROWS:
            raise DataSetError(
                f"{outcomes.name} has {len(rows)} prompts of use: a rehearsal needs {_LEAST_ROWS} at least"
            )
        self.name, self.models, self.blocks = outcomes.name, outcomes.models, outcomes.blocks
        self.size, self.notes = len(rows), outcomes.notes
        self.present = f"always {present}"
        self._present = outcomes.models.index(present)
        self._share, self._delay = feedback_share, feedback_delay
        self._x, self._tokens, self._estimated = (
            outcomes.x[rows],
            outcomes.tokens[rows],
            outcomes.estimated[rows],
        )
        self._quality, self._cost = outcomes.quality[rows], outcomes.cost[rows]
        self._usage = tuple(
            matrix[rows] for matrix in (outcomes.input_tokens, outcomes.output_tokens, outcomes.latency_s)
        )
        self._pool = _pools(outcomes.task[rows])
        evidence = known_evidence(outcomes, float("inf"), [0] * len(self.models), rows)
        priors = [ModelPrior(ModelKey(name)) for name in self.models]
        fitted = derive(evidence, priors, self.blocks)
        self._mean = self._x.astype(np.float64) @ fitted.mu.T
        self._residual = self._quality - self._mean

    def draw(self, seed: int, requests: int, how: How) -> Drawn:
        """See `World.draw`."""
        rng = np.random.default_rng([seed, 11])
        n = self.size
        if how == "order":
            passes = [rng.permutation(n) for _ in range(-(-requests // n))]
            row = np.concatenate(passes)[:requests]
        else:
            row = rng.integers(n, size=requests)
        again = np.ones(requests, np.bool_)
        again[np.unique(row, return_index=True)[1]] = False
        quality = self._quality[row]
        quality[again] = self._mean[row[again]] + self._residual[self._dealt(rng, row[again])]
        given, written, latency = (matrix[row] for matrix in self._usage)
        return Drawn(
            row, self._x[row], self._tokens[row], self._estimated[row], quality, self._cost[row], given, written,
            latency, np.full(requests, self._present),
        )  # fmt: skip

    def _dealt(self, rng: np.random.Generator, row: Rows) -> Rows:
        """Return the same rows, those of each pool in random order in the places of that pool."""
        pool = self._pool[row]
        dealt = np.empty_like(row)
        dealt[np.argsort(pool, kind="stable")] = row[np.lexsort((rng.random(len(row)), pool))]
        return dealt

    def delays(self, seed: int, requests: int) -> Rows:
        """See `World.delays`."""
        heard = np.random.default_rng([seed, 13]).random(requests) < self._share
        return np.where(heard, self._delay, -1)

    def means(self) -> tuple[Floats, Floats]:
        """See `World.means`."""
        return self._quality.mean(axis=0), self._cost.mean(axis=0)


def _pools(task: NDArray[np.int32]) -> Rows:
    """Return the pool of every row: its task; small tasks share one, with the largest task if they are few."""
    _, group, count = np.unique(task, return_inverse=True, return_counts=True)
    small = count < _LEAST_DEALT
    shared = len(count) if count[small].sum() >= _LEAST_DEALT else int(count.argmax())
    pool: Rows = np.where(small, shared, np.arange(len(count)))[group]
    return pool
