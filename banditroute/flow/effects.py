"""What applying a journal record brings about: values for the shell to act on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from banditroute.bandit.evidence import ModelKey, Vote
from banditroute.events import QUALITY_KINDS, Copied, Feedback


class Parked(NamedTuple):
    """Feedback whose decision is not known yet."""

    journal_offset: int
    timestamp: int
    copied: Copied


class Learned(NamedTuple):
    """A vote that was added or taken back (negative weight): for the working posterior."""

    key: ModelKey
    x: npt.NDArray[np.float32]
    vote: Vote
    weight: float
    kind: str
    segment: str | None


class Refused(NamedTuple):
    """Feedback that was not applied, and why: its outcome for the dead-letter topic."""

    copied: Copied
    reason: str


class Ready(NamedTuple):
    """What applying a record brought about."""

    learned: Sequence[Learned] = ()
    refused: Sequence[Refused] = ()
    control: bool = False
    outcome: str | None = None  # of a feedback record: its class in the ledger, or "parked"


REASONS: Final = {  # outcomes that are told on the dead-letter topic
    "late": "late: the decision was already closed when this feedback arrived; raise feedback.join_window",
    "orphan": "orphan: no decision for this request was seen within the join window",
    "foreign": "foreign: the tenant is not the decision's tenant",
    "rejected": "rejected",
}


def withdraws(withdrawal: Feedback, kind: str, source: str | None, voter: str | None) -> bool:
    """Return whether a withdrawal by voter means a vote of that kind, source and voter."""
    return kind in QUALITY_KINDS and voter == withdrawal.voter and withdrawal.source in (None, source)


class NeedDecisions(Exception):
    """The journal speaks of decisions that this owner has not read yet: read up to `upto` and apply again."""

    def __init__(self, upto: int) -> None:
        super().__init__(upto)
        self.upto = upto
