"""What evidence depends on beside the log, and where a partition stands in its logs."""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct, field

TICK_FLOOR_MS: Final = 1000


class LearnerSettings(Struct, frozen=True):
    """The settings evidence depends on; a change of them needs a new state."""

    half_life_ms: float | None = None
    thumb_weight: float = 1.0
    score_weight: float = 1.0
    judge_weight: float = 1.0
    outcome_weight: float = 1.0
    max_parked: int = 10_000

    def weight(self, kind: str) -> float:
        """Weight of one vote of a kind; usage counts once."""
        return float(getattr(self, f"{kind}_weight", 1.0))

    @property
    def tick_ms(self) -> int:
        """Milliseconds between two steps of forgetting."""
        return max(TICK_FLOOR_MS, int((self.half_life_ms or 0.0) // 64))

    def decay(self, ticks: int) -> float:
        """Return the log factor of so many ticks; 0 without a half-life.

        Examples
        --------
        >>> LearnerSettings(half_life_ms=64_000.0).decay(64)
        -0.6931471805599453
        """
        if self.half_life_ms is None:
            return 0.0
        return -math.log(2.0) * (ticks * self.tick_ms) / self.half_life_ms


class Fields(Struct):
    """Where a partition stands in its logs: what a restore begins from and must arrive at again."""

    D: int = 0
    rD: int = 0
    X: int = 0
    rX: int = 0
    hi: dict[int, int] = field(default_factory=dict)
    cursor: int = -1
    epochs: dict[str, int] = field(default_factory=dict)
    prices: dict[str, tuple[float, float]] = field(default_factory=dict)
    paused: dict[str, bool] = field(default_factory=dict)
    shrink: dict[str, float] = field(default_factory=dict)
    decay: float = 0.0
    clock: int | None = None

    def copy(self) -> Fields:
        """Return an independent copy."""
        return Fields(
            self.D,
            self.rD,
            self.X,
            self.rX,
            dict(self.hi),
            self.cursor,
            dict(self.epochs),
            dict(self.prices),
            dict(self.paused),
            dict(self.shrink),
            self.decay,
            self.clock,
        )
