"""What applying a journal record brings about: values for the shell to act on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from banditroute.bandit.evidence.evidence import ModelKey, Vote
from banditroute.events import QUALITY_KINDS, Copied, Feedback
from banditroute.flow.pending.slots import KINDS


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


_COSTS: Final = [Vote._fields.index("cost_usd"), Vote._fields.index("cost_pred")]


class LearnedRun(Struct, frozen=True):
    """Many votes that were added one after the other, as columns: the same as so many `Learned`.

    `models` are places in `keys`, `kinds` places in `KINDS`; `votes` are float64[n, 10], the fields of `Vote`.
    """

    keys: Sequence[ModelKey]
    models: npt.NDArray[np.int64]
    x: npt.NDArray[np.float32]
    votes: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.uint8]
    segments: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[Learned]:
        rows = zip(
            self.models.tolist(), self.x, self.votes.tolist(), self.weights.tolist(), self.kinds.tolist(),
            self.segments, strict=True,
        )  # fmt: skip
        for model, x, vote, weight, kind, segment in rows:
            yield Learned(self.keys[model], x, Vote(*vote), weight, KINDS[kind], segment)

    @property
    def qualities(self) -> npt.NDArray[np.float64]:
        """Quality of each vote, NaN where there is none."""
        return self.votes[:, 0]

    def costs(self) -> npt.NDArray[np.float64]:
        """Return cost and expected cost of the votes that have both, float64[m, 2] in USD."""
        costs = self.votes[:, _COSTS]
        return costs[~np.isnan(costs).any(axis=1)]

    def places(self, index: Mapping[ModelKey, int]) -> npt.NDArray[np.int64]:
        """Return the place of the model of each vote in a catalog, -1 where it is not there."""
        return np.array([index.get(key, -1) for key in self.keys])[self.models]

    def upto(self, stop: int) -> LearnedRun:
        """Return the first votes."""
        return LearnedRun(
            self.keys, self.models[:stop], self.x[:stop], self.votes[:stop], self.weights[:stop], self.kinds[:stop],
            self.segments[:stop],
        )  # fmt: skip


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
    run: LearnedRun | None = None  # instead of `learned`, of many records


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
