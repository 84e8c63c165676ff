"""From votes to verdicts: the change detector, and the control edits that follow.

The router shows every vote before it is learned; the engine that owns partition 0 shows the evidence of all partitions
from time to time. Both come to the same: how far the votes are from what the evidence before them said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice.change import ChangeDetector, verdict
from banditroute.bandit.choice.policy import Policy
from banditroute.bandit.evidence.evidence import Evidence, ModelKey
from banditroute.bandit.evidence.row_layout import N
from banditroute.bandit.posterior.posterior import Posterior
from banditroute.events import Changed
from banditroute.flow.pending.slots import KINDS
from banditroute.flow.settling.effects import Learned, LearnedRun


def follow(policy: Policy, learned: Iterable[Learned | LearnedRun]) -> int:
    """Let a policy's working copy follow what was learned; return how many votes that are."""
    votes = 0
    for some in learned:
        if isinstance(some, LearnedRun):
            places = some.places(policy.index)
            policy.observe_many(places, some.x, some.qualities, some.weights, some.kinds, KINDS)
            votes += len(some)
        else:
            policy.observe(some.key, some.x, some.vote.quality, some.weight, some.kind)
            votes += 1
    return votes


class Sight(NamedTuple):
    """The evidence of all partitions at one moment.

    `marks` change whenever evidence was scaled by a verdict; `log_decay` is what forgetting has done so far.
    """

    evidence: Evidence
    marks: object
    log_decay: float


class Judge:
    """Says which model has changed.

    One judge at a time speaks. It remembers nothing that matters: its verdicts are control records, and one that is
    repeated is ignored by its epoch.
    """

    def __init__(self) -> None:
        self._detector = ChangeDetector()
        self._before: tuple[Sight, Posterior] | None = None

    def vote(
        self,
        policy: Policy,
        key: ModelKey,
        x: NDArray[np.float32],
        quality: float,
        kind: str,
        evidence: Evidence,
        epochs: Mapping[str, int],
    ) -> Changed | None:
        """Look at one vote, before ``policy`` has observed it."""
        surprise = policy.surprise(key, x, quality, kind)
        if surprise is None or not self._detector.observe(key, *surprise):
            return None
        return self.changed(key, evidence, epochs)

    def run(self, policy: Policy, run: LearnedRun) -> tuple[int, ModelKey | None]:
        """Look at votes while ``policy`` observes them; return how many, and the model that has changed with the last.

        The same as `vote` and ``policy.observe`` for one after the other. The rest is left once a model has changed.
        """
        at = policy.observe_until_changed(
            run.places(policy.index), run.x, run.qualities, run.weights, run.kinds, KINDS, self._detector
        )
        return (len(run), None) if at is None else (at + 1, run.keys[run.models[at]])

    def look(
        self, sight: Sight, derive: Callable[[Evidence], Posterior], epochs: Mapping[str, int]
    ) -> list[Changed]:
        """Look at what was learned since the last look; the first one only takes the start.

        Parameters
        ----------
        sight : Sight
            The evidence now, not to be changed later.
        derive : callable
            Evidence to posterior.
        epochs : mapping of str to int
            The last epoch applied per model name.
        """
        before = self._before
        if before is not None and before[0].evidence == sight.evidence:
            return []
        self._before = (sight, derive(sight.evidence))
        if before is None or before[0].marks != sight.marks:
            return []  # scaled in between: the difference says nothing
        edits = []
        kept = math.exp(sight.log_decay - before[0].log_decay)
        for key in sight.evidence.models():
            if self._differs(key, sight.evidence, before[0].evidence, before[1], kept):
                edit = self.changed(key, sight.evidence, epochs)
                edits += [edit] if edit is not None else []
        return edits

    def _differs(
        self, key: ModelKey, now: Evidence, then: Evidence, posterior: Posterior, kept: float
    ) -> bool:
        layout = now.layout
        k = next((i for i, model in enumerate(posterior.models) if model.key == key), None)
        if k is None:
            return False
        votes = total = 0.0
        contexts = np.zeros(layout.d)
        for at in sorted(at for at in now.rows if at.model == key):
            fresh = now.rows[at] - then.rows[at] * kept if at in then.rows else now.rows[at]
            _, weight, bias = posterior.kind(at.kind)
            votes += weight * float(fresh[N])
            total += weight * float(fresh[layout.b][0] - bias * fresh[N])  # column 0 of a context is 1
            contexts += weight * fresh[layout.sx]
        if votes < 1e-3:  # nothing new, or withdrawals
            return False
        residual = (total - float(contexts @ posterior.mu[k])) / math.sqrt(posterior.sigma2)
        variance = votes + max(float(contexts @ posterior.V[k] @ contexts), 0.0)
        return self._detector.observe(key, votes, residual, variance)

    def changed(self, key: ModelKey, evidence: Evidence, epochs: Mapping[str, int]) -> Changed | None:
        """Return the edit that follows when a model has changed; None when it has nothing to forget."""
        factors = verdict(key, evidence.votes())
        return None if factors is None else Changed(key.name, epochs.get(key.name, 0) + 1, factors)
