"""What a policy is: it chooses a model for a context and learns from the vote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.scenarios.episode import Episode

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Context = NDArray[np.float32]
State = Mapping[str, NDArray[np.generic]]

GENERATOR = "generator"  # the entry of a state that choosing may change
_WORD = 2**64


class Chooser(Protocol):
    """A policy in one episode; `banditroute_sim.policies.contract` checks what is said here.

    Attributes
    ----------
    ORDER : float or None
        The largest relative difference between two states that learned the same votes in another order; None when the
        order matters or the state is not told.
    """

    ORDER: ClassVar[float | None]

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:
        """Return the index of a model that is available; nothing is learned.

        Parameters
        ----------
        t : int
            The round.
        x : float32[d]
            The context, finite.
        cost : float64[K]
            What each model costs, in units of utility.
        available : bool[K]
            Which models may serve; at least one.
        """

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:
        """Learn the vote, a finite number, on the decision of round ``t``, which ``model`` served.

        That is the chosen model, unless something between the decision and the service took another.
        """

    def probabilities(self, t: int, x: Context, cost: Floats, available: Bools) -> Floats | None:
        """Return the probability of every model to be chosen, or None if the policy cannot tell; nothing changes."""

    def state(self) -> State | None:
        """Return all that was learned as arrays of its own, or None if it cannot be told.

        The state of a random generator is the entry ``generator``.
        """

    def restore(self, state: State) -> None:
        """Go on as the policy did that gave this state."""


PolicyFactory = Callable[[Episode, int], Chooser]


class Opaque:
    """Of a policy that does not tell its probabilities and its state."""

    ORDER: ClassVar[float | None] = None

    def probabilities(self, t: int, x: Context, cost: Floats, available: Bools) -> Floats | None:  # noqa: ARG002
        """See `Chooser.probabilities`: it cannot tell."""
        return None

    def state(self) -> State | None:
        """See `Chooser.state`: it cannot be told."""
        return None

    def restore(self, state: State) -> None:  # noqa: ARG002
        """See `Chooser.restore`.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(f"{type(self).__name__} gives no state")


class Memory:
    """Of a policy that keeps all it learned in the arrays named by ``ARRAYS``, and its generator in ``rng``."""

    ARRAYS: ClassVar[tuple[str, ...]] = ()
    ORDER: ClassVar[float | None] = 0.0
    rng: np.random.Generator | None = None

    def state(self) -> State:
        """See `Chooser.state`."""
        state = {name: getattr(self, name).copy() for name in self.ARRAYS}
        return state if self.rng is None else state | {GENERATOR: generator_state(self.rng)}

    def restore(self, state: State) -> None:
        """See `Chooser.restore`."""
        for name in self.ARRAYS:
            getattr(self, name)[...] = state[name]
        if self.rng is not None:
            restore_generator(self.rng, state[GENERATOR])


def generator_state(rng: np.random.Generator) -> NDArray[np.uint64]:
    """Return the state of a PCG64 generator as uint64[6]."""
    inner = rng.bit_generator.state
    state, step = inner["state"]["state"], inner["state"]["inc"]
    words = (
        state % _WORD,
        state // _WORD,
        step % _WORD,
        step // _WORD,
        inner["has_uint32"],
        inner["uinteger"],
    )
    return np.array(words, np.uint64)


def restore_generator(rng: np.random.Generator, words: NDArray[np.generic]) -> None:
    """Put a PCG64 generator into the state that `generator_state` gave."""
    low, high, step_low, step_high, has, half = (int(word) for word in words.tolist())
    inner = {"state": low + _WORD * high, "inc": step_low + _WORD * step_high}
    rng.bit_generator.state = {
        "bit_generator": "PCG64", "state": inner, "has_uint32": has, "uinteger": half,
    }  # fmt: skip


def only(model: int, count: int) -> Floats:
    """Return the probabilities of a choice that is certain; float64[count]."""
    certain = np.zeros(count)
    certain[model] = 1.0
    return certain
