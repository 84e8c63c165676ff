"""Players: a policy that decides an episode piece by piece and hears votes when they arrive."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.policies.base import Chooser
from banditroute_sim.scenarios.episode import NEVER, Episode
from banditroute_sim.simulate._kernels_queue import CURSOR, FREE, WAITING

Floats = NDArray[np.float64]
Chosen = NDArray[np.int64]
PLACES = 1024  # for votes on their way, at first


@dataclass(frozen=True, slots=True)
class Played:
    """What a player did in a piece.

    Attributes
    ----------
    chosen : int64[n]
        The model of every round.
    expected, propensity : float64[n], optional
        The quality that was expected of the choice, and the probability of choosing it; NaN where it was not asked for.
    """

    chosen: Chosen
    expected: Floats | None = None
    propensity: Floats | None = None


class Player(Protocol):
    """Plays an episode from its first piece to its last."""

    def play(self, piece: Episode) -> Played:
        """Decide every round of the next piece, and hear what arrives meanwhile."""


class Stepped:
    """Plays with a policy that decides one round at a time: the plain form of what compiled players do.

    Parameters
    ----------
    policy : Chooser
    horizon : int
        Rounds of the episode: a vote that would arrive later is never heard.
    """

    def __init__(self, policy: Chooser, horizon: int) -> None:
        self.policy = policy
        self._horizon = horizon
        self._waiting: list[tuple[int, int]] = []
        self._open: dict[int, tuple[NDArray[np.float32], int, float]] = {}

    def play(self, piece: Episode) -> Played:
        """See `Player.play`."""
        chosen = np.empty(len(piece), np.int64)
        policy, waiting, held = self.policy, self._waiting, self._open
        for i in range(len(piece)):
            t = piece.start + i
            while waiting and waiting[0][0] <= t:
                asked = heapq.heappop(waiting)[1]
                policy.learn(asked, *held.pop(asked))
            model = policy.choose(t, piece.x[i], piece.cost[i], piece.available[i])
            chosen[i] = model
            wait = int(piece.delay[i, model])
            if wait != NEVER and t + 1 + wait < self._horizon:
                heapq.heappush(waiting, (t + 1 + wait, t))
                held[t] = (piece.x[i], model, float(piece.quality[i, model]))
        return Played(chosen)


class Votes:
    """Votes on their way, as the arrays that kernels work on.

    Parameters
    ----------
    d : int
        Length of a context.
    numbers : int
        Numbers to keep for each vote.
    """

    def __init__(self, d: int, numbers: int) -> None:
        self.cursor = np.zeros(CURSOR, np.int64)
        self.cursor[FREE] = PLACES
        self.heap = np.zeros((PLACES, 2), np.int64)
        self.free = np.arange(PLACES)
        self.x = np.zeros((PLACES, d), np.float32)
        self.model = np.zeros(PLACES, np.int64)
        self.numbers = np.zeros((PLACES, numbers))

    def grow(self) -> None:
        """Make place for twice as many; called when there is none left."""
        size = len(self.model)
        assert self.cursor[WAITING] == size
        self.free = np.arange(size, 3 * size)
        self.free[size:] = 0
        self.cursor[FREE] = size
        self.heap = np.concatenate([self.heap, np.zeros_like(self.heap)])
        self.x = np.concatenate([self.x, np.zeros_like(self.x)])
        self.model = np.concatenate([self.model, np.zeros_like(self.model)])
        self.numbers = np.concatenate([self.numbers, np.zeros_like(self.numbers)])

    @property
    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Heap, free places and cursor."""
        return self.heap, self.free, self.cursor

    @property
    def contents(self) -> tuple[NDArray[np.float32], NDArray[np.int64], Floats]:
        """Context, model and numbers of the vote in each place."""
        return self.x, self.model, self.numbers
