"""Rows that cannot be used: counted with their reasons, shown, and too many of them refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from banditroute.errors import DataSetError

ALLOWED: Final = 0.01  # share of the rows that may be dropped unless told
SHOWN: Final = 3  # reasons


@dataclass
class Dropped:
    """Counts the rows of one kind that were read, and those of them that cannot be used.

    Parameters
    ----------
    what : str
        What a row is, in the plural: ``"feedback events"``.
    """

    what: str
    read: int = 0
    dropped: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def take(self, reason: str | None = None) -> None:
        """Count a row, and why it is dropped if it is."""
        self.read += 1
        if reason is not None:
            self.dropped += 1
            self.reasons[reason] += 1

    def as_dict(self) -> dict[str, Any]:
        """Return the counts, for JSON."""
        return {
            "read": self.read,
            "dropped": self.dropped,
            "reasons": dict(self.reasons.most_common(SHOWN)),
        }

    def sentence(self) -> str:
        """Say how many were dropped and why; empty where none was."""
        if not self.dropped:
            return ""
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in self.reasons.most_common(SHOWN))
        more = len(self.reasons) - SHOWN
        reasons += f"; and {more} other reasons" if more > 0 else ""
        return f"{self.dropped:,} of {self.read:,} {self.what} cannot be used ({reasons})"

    def check(self, where: str, allowed: float = ALLOWED) -> None:
        """Refuse to go on without more than a share of the rows.

        Raises
        ------
        DataSetError
            One sentence with the first reasons and what to do.
        """
        if self.dropped > allowed * self.read:
            raise DataSetError(
                f"{where}: {self.sentence()}, which would bend every estimate: mend them, or leave them out knowingly "
                f"with --allow-dropped {min(1.0, self.dropped / self.read + 0.005):.2f}"
            )
