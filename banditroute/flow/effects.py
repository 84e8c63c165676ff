"""What applying a journal record brings about: values for the shell to act on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from banditroute.bandit.evidence import ModelKey, Vote
from banditroute.events import Copied


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


class NeedDecisions(Exception):
    """The journal speaks of decisions that this owner has not read yet: read up to `upto` and apply again."""

    def __init__(self, upto: int) -> None:
        super().__init__(upto)
        self.upto = upto
