"""What evidence depends on beside the log, and where a partition stands in its logs."""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct, field

from banditroute.events import Edit, PauseEdit, PriceEdit

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

    def advance(self, timestamp: int, settings: LearnerSettings) -> float | None:
        """Move the clock to a time in milliseconds; return the log factor of forgetting if it has gone on.

        Examples
        --------
        >>> fields, settings = Fields(), LearnerSettings(half_life_ms=64_000.0)
        >>> fields.advance(0, settings), fields.advance(64_000, settings), fields.advance(1_000, settings)
        (None, -0.6931471805599453, None)
        """
        if settings.half_life_ms is None:
            return None
        now = timestamp // settings.tick_ms
        if self.clock is not None and now <= self.clock:
            return None
        step = None if self.clock is None else settings.decay(now - self.clock)
        self.decay += step or 0.0
        self.clock = now
        return step

    def edit(self, edit: Edit) -> dict[str, float]:
        """Apply a control edit; return by what the evidence of which models is to be multiplied."""
        if isinstance(edit, PriceEdit):
            self.prices[edit.model] = (edit.input_usd_per_mtok, edit.output_usd_per_mtok)
        elif isinstance(edit, PauseEdit):
            self.paused[edit.model] = edit.paused
        elif edit.epoch == self.epochs.get(edit.model, 0) + 1:
            self.epochs[edit.model] = edit.epoch
            for name, factor in edit.factors.items():
                self.shrink[name] = self.shrink.get(name, 0.0) + math.log(factor)
            return dict(sorted(edit.factors.items()))
        return {}

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
