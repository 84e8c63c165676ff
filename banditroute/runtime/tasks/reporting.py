"""What an engine has done, in numbers for people and tests."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from banditroute.runtime.tasks.learning import Learning


@dataclass(slots=True)
class Stats:
    """What one engine has done since it started."""

    decisions: int = 0
    repeats: int = 0
    poison: int = 0
    feedback_copied: int = 0
    unmeasured: int = 0
    restored: int = 0


def report(stats: Stats, learning: Learning, ledger: Counter[str], mismatches: int) -> dict[str, Any]:
    """Return the counters of an engine: its stats, what exploration costs, and the ledger of what it owns."""
    return {
        **asdict(stats),
        "derives": learning.derives,
        "explored": learning.exploration.explored,
        "exploration_cost": learning.exploration.forgone,
        "resting": learning.resting,
        "feedback_applied": ledger["applied"] + ledger["revised"],
        "duplicates": ledger["later"],
        "partitioner_mismatches": mismatches,
        "ledger": dict(ledger),
    }
