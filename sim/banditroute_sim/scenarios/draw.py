"""Drawing an episode piece by piece, so that a million rounds need no more memory than a few thousand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draw:
    """One piece of an episode that is being drawn: rounds ``start`` to ``stop`` of ``horizon``.

    Attributes
    ----------
    rng : Generator
        Of this piece alone.
    horizon, start, stop : int
    kept : dict
        What is fixed for the whole episode, shared by its pieces.
    """

    rng: np.random.Generator
    horizon: int
    start: int
    stop: int
    kept: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what ``make`` gave in the first piece: drawn once, at the place where it is first asked for."""
        if name not in self.kept:
            self.kept[name] = make()
        value: T = self.kept[name]
        return value

    @property
    def count(self) -> int:
        """Rounds of this piece."""
        return self.stop - self.start

    @property
    def half(self) -> int:
        """The round at which things change half-way."""
        return self.horizon // 2

    @property
    def rounds(self) -> NDArray[np.int64]:
        """The numbers of its rounds."""
        return np.arange(self.start, self.stop)

    def place(self, at: int) -> int:
        """Return the row of round ``at``: 0 if it is before this piece, `count` if it is after it."""
        return min(max(at - self.start, 0), self.count)
