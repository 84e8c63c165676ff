"""The board: the newest state record of every partition, and their sum.

Own live partitions replace their slot. Slots are decayed to the newest log clock and summed in ascending
partition order, so that floats agree between replicas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from banditroute.bandit.evidence.evidence import Evidence
from banditroute.flow.judge import Sight
from banditroute.flow.records.position import LearnerSettings
from banditroute.flow.records.snapshot import State
from banditroute.flow.settling.learner import Learner


class Board:
    """Collects state records of one spec.

    Parameters
    ----------
    d : int
        Columns of the context.
    spec_id : str
        Records of another spec are ignored.
    settings : LearnerSettings
        For the half-life.
    """

    def __init__(self, d: int, spec_id: str, settings: LearnerSettings) -> None:
        self._d = d
        self._spec_id = spec_id
        self._settings = settings
        self.slots: dict[int, State] = {}

    def put(self, state: State) -> bool:
        """Take a record if it supersedes the one there; return whether it was taken."""
        if state.spec_id != self._spec_id:
            return False
        if not state.supersedes(self.slots.get(state.partition)):
            return False
        self.slots[state.partition] = state
        return True

    def merged(self, own: Mapping[int, Learner]) -> tuple[Evidence, int]:
        """Sum the evidence of all partitions.

        Parameters
        ----------
        own : mapping of int to Learner
            Live partitions of this process; they replace their slot.

        Returns
        -------
        Evidence, int
            The sum, and the number of journal records it covers.
        """
        parts: list[tuple[Evidence, int | None]] = []
        covered = 0
        for partition in sorted({*self.slots, *own}):
            learner = own.get(partition)
            if learner is not None:
                parts.append((learner.evidence, learner.fields.clock))
                covered += learner.j
            else:
                state = self.slots[partition]
                parts.append((state.evidence, state.at.clock))
                covered += state.j
        latest = max((clock for _, clock in parts if clock is not None), default=None)
        decayed = [self._decayed(evidence, clock, latest) for evidence, clock in parts]
        return (Evidence.merge(decayed) if decayed else Evidence(self._d)), covered

    def sight(self, own: Mapping[int, Learner]) -> Sight:
        """Sum the evidence of all partitions, for the judge; `own` as in `merged`."""
        fields = [
            own[partition].fields if partition in own else self.slots[partition].at
            for partition in sorted({*self.slots, *own})
        ]
        clock = max((each.clock for each in fields if each.clock is not None), default=0)
        log_decay = self._settings.decay(clock) if self._settings.half_life_ms is not None else 0.0
        return Sight(self.merged(own)[0], [dict(each.shrink) for each in fields], log_decay)

    def _decayed(self, evidence: Evidence, clock: int | None, latest: int | None) -> Evidence:
        if clock is None or latest is None or clock == latest:
            return evidence
        factor = math.exp(self._settings.decay(latest - clock))
        aged = evidence.copy()
        for key in aged.rows:
            aged.scale(key, factor)
        aged.scale_shared(factor)
        return aged
