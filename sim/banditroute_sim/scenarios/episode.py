"""An episode: one world, drawn to its end before anybody decides, so that every policy meets the same one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NEVER = -1  # a delay: no feedback ever comes


@dataclass(frozen=True, slots=True)
class Messages:
    """What happens to feedback on a wire: the share of messages that come twice, and of those that come late."""

    repeated: float = 0.0
    reordered: float = 0.0


@dataclass(frozen=True, slots=True)
class Episode:
    """T rounds, K models, contexts of d numbers: all of an episode or a piece of it.

    Attributes
    ----------
    name : str
        The scenario it was drawn from.
    x : float32[T, d]
        Contexts; column 0 is 1.
    blocks : tuple of (start, stop)
        Blocks of the context; they tile 0..d and the first is (0, 1).
    mean : float64[T, K]
        Expected quality of every model.
    quality : float64[T, K]
        The vote that each model would get.
    cost : float64[T, K]
        What each model costs, in units of utility (the cost weight is 1).
    available : bool[T, K]
        Which models may serve.
    delay : int64[T, K]
        Rounds until the vote that each model would get arrives (0: before the next decision), or NEVER.
    declared : float64[K]
        Declared quality relative to the mean of the declared; 0 where nothing is declared.
    changes : tuple of int
        Rounds at which something changes, counted from the start of the whole episode.
    names : tuple of str
        Names of the models.
    paid : float64[T, K], optional
        What each model would really cost; default: as expected.
    latency_ms : float64[T, K], optional
        How long each model would take; default: not known.
    messages : Messages
        What happens to feedback on a wire.
    start : int
        The round of the first row.
    """

    name: str
    x: NDArray[np.float32]
    blocks: tuple[tuple[int, int], ...]
    mean: Floats
    quality: Floats
    cost: Floats
    available: NDArray[np.bool_]
    delay: NDArray[np.int64]
    declared: Floats
    changes: tuple[int, ...]
    names: tuple[str, ...]
    paid: Floats | None = None
    latency_ms: Floats | None = None
    messages: Messages = Messages()
    start: int = 0

    @property
    def utility(self) -> Floats:
        """Expected quality minus cost, minus infinity where a model may not serve; float64[T, K]."""
        return np.where(self.available, self.mean - self.cost, -np.inf)

    def shuffled(self, order: NDArray[np.int64]) -> Episode:
        """Return the same episode with its models in another order: no policy may win by where the best one stands.

        Names stay where they are: they do not give away which model was drawn first.
        """
        return replace(
            self,
            mean=self.mean[:, order],
            quality=self.quality[:, order],
            cost=self.cost[:, order],
            available=np.ascontiguousarray(self.available[:, order]),
            delay=self.delay[:, order],
            declared=self.declared[order],
            paid=None if self.paid is None else self.paid[:, order],
            latency_ms=None if self.latency_ms is None else self.latency_ms[:, order],
        )

    def upto(self, rounds: int) -> Episode:
        """Return its first rounds."""
        part = slice(0, rounds)
        return replace(
            self,
            x=self.x[part],
            mean=self.mean[part],
            quality=self.quality[part],
            cost=self.cost[part],
            available=self.available[part],
            delay=self.delay[part],
            paid=None if self.paid is None else self.paid[part],
            latency_ms=None if self.latency_ms is None else self.latency_ms[part],
        )

    def changed(self, *rounds: int) -> Episode:
        """Return the same episode that says at which rounds it changes."""
        return replace(self, changes=rounds)

    def __len__(self) -> int:
        return len(self.x)


def episode(
    name: str,
    x: NDArray[np.float32],
    mean: Floats,
    quality: Floats,
    *,
    blocks: tuple[tuple[int, int], ...] | None = None,
    cost: Floats | None = None,
    available: NDArray[np.bool_] | None = None,
    delay: NDArray[np.int64] | None = None,
    declared: Floats | None = None,
    changes: tuple[int, ...] = (),
) -> Episode:
    """Build an episode; what is left out is free, always available, answered at once and undeclared."""
    rounds, models = mean.shape
    d = x.shape[1]
    return Episode(
        name,
        np.ascontiguousarray(x, np.float32),
        blocks or (((0, 1),) if d == 1 else ((0, 1), (1, d))),
        mean,
        quality,
        np.zeros((rounds, models)) if cost is None else cost,
        np.ones((rounds, models), np.bool_) if available is None else available,
        np.zeros((rounds, models), np.int64) if delay is None else delay,
        np.zeros(models) if declared is None else declared,
        changes,
        tuple(f"model-{k:03d}" for k in range(models)),
    )
