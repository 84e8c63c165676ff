"""What a policy is: it chooses a model for a context and learns from the vote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.scenarios.episode import Episode

Floats = NDArray[np.float64]


class Chooser(Protocol):
    """A policy in one episode."""

    def choose(self, t: int, x: NDArray[np.float32], cost: Floats, available: NDArray[np.bool_]) -> int:
        """Return the index of a model that is available.

        Parameters
        ----------
        t : int
            The round.
        x : float32[d]
            The context.
        cost : float64[K]
            What each model costs, in units of utility.
        available : bool[K]
            Which models may serve; at least one.
        """

    def learn(self, t: int, x: NDArray[np.float32], model: int, quality: float) -> None:
        """Learn the vote on the decision of round ``t``."""


PolicyFactory = Callable[[Episode, int], Chooser]
