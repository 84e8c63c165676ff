"""What all partitions of one engine share: the board, the policy and the moment to derive."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from banditroute.bandit.choice.policy import Policy
from banditroute.catalog import Catalog
from banditroute.config import Config
from banditroute.events import Changed
from banditroute.flow.board import Board
from banditroute.flow.deciding.decider import DecidedBatch, Decider, InputRecord
from banditroute.flow.judge import Judge, follow
from banditroute.flow.partition import Partition
from banditroute.flow.records.snapshot import State
from banditroute.flow.settling.effects import Learned, LearnedRun
from banditroute.flow.settling.learner import Learner
from banditroute.router import (
    learner_settings,
    make_encoder,
    make_pacer,
    make_policy,
    make_warm_start,
    origin,
    settled_costs,
)
from banditroute.runtime.state.topics import Spec
from banditroute.runtime.tasks.drift import DriftWatch, Shift
from banditroute.runtime.tasks.meter import Meter


class Learning:
    """One policy over the sum of all partitions' evidence.

    Parameters
    ----------
    config : Config
        The whole configuration.
    live : callable
        Returns the learners of the partitions that run here.
    """

    def __init__(self, config: Config, live: Callable[[], Mapping[int, Learner]]) -> None:
        encoder = make_encoder(config)
        self.catalog: Catalog = config.catalog
        self.spec = Spec(encoder.spec.d, encoder.spec.spec_id, learner_settings(config))
        self.warm = make_warm_start(config, encoder.spec)
        self.policy: Policy = make_policy(config, encoder.spec, self.warm)
        self._origin = origin(self.warm)
        self.meter = Meter()
        self.derives = 0
        self.looks = 0  # for models that have changed
        self.drift: DriftWatch | None = None
        self._config = config
        self._live = live
        self._pacer = make_pacer(config)
        self._decider = Decider(config, self.catalog, encoder, self.policy, self._pacer)
        self.exploration = self._decider.exploration
        self._board = Board(self.spec.d, self.spec.spec_id, self.spec.settings)
        self._heard: dict[int, float] = {}  # when the record of a slot came
        self._frozen = config.engine.mode == "frozen"
        self._judge = Judge()
        self._judging = False
        self._changed = True  # something was learned since the last derive
        self._at_once = False
        self._derived_at = 0.0
        self._covered = 0
        self._updates = 0
        self._timer: asyncio.TimerHandle | None = None

    def state_of(self, partition: int) -> State:
        """Return the newest state record of a partition."""
        return self._board.slots[partition]

    def put(self, state: State, *, ours: bool = False) -> None:
        """Take a state record; one of another engine is evidence that calls for a derive."""
        taken = self._board.put(state)
        if taken:
            self._heard[state.partition] = time.monotonic()
        if taken and not ours:
            self._changed = self._at_once = True

    @property
    def feedback_start(self) -> Mapping[int, int]:
        """Offsets of the feedback partitions at genesis."""
        return next(iter(self._board.slots.values())).genesis.feedback_start

    def decide(self, partition: Partition, records: Sequence[InputRecord], now_ms: float) -> DecidedBatch:
        """Decide a batch with the posterior of this moment."""
        version = f"{self._covered}+{self._updates}{self._origin}"
        learner = partition.learner
        begun = time.perf_counter()
        batch = self._decider.decide_records(
            partition.number, records, learner, learner.fields, version, now_ms
        )
        self.meter.decided(len(records), time.perf_counter() - begun)
        return batch

    def observe(
        self, learned: Sequence[Learned | LearnedRun], timestamp: int, *, control: bool = False
    ) -> list[Shift]:
        """Let the working posterior follow what was learned; a control record asks for a derive at once.

        Returns
        -------
        list of Shift
            What the votes say about drift; `timestamp` is that of the last, in milliseconds.
        """
        shifts = self._shifts(learned, timestamp) if self.drift is not None else []
        if self._frozen:  # evidence is kept, decisions do not follow it
            return shifts
        self._updates += follow(self.policy, learned)
        self._pacer.paid(*settled_costs(learned))
        self._changed = True
        self._at_once = self._at_once or control
        return shifts

    def _shifts(self, learned: Sequence[Learned | LearnedRun], timestamp: int) -> list[Shift]:
        assert self.drift is not None
        shifts = []
        posterior = self.policy.posterior
        biases = {kind.name: kind.bias for kind in posterior.kinds}
        votes = (vote for some in learned for vote in (some if isinstance(some, LearnedRun) else (some,)))
        for key, _, vote, weight, kind, segment in votes:
            if weight > 0.0 and vote.quality == vote.quality:  # not NaN
                bias = biases.get(kind)
                if bias is None:
                    bias = biases[kind] = posterior.kind(kind).bias
                shift = self.drift.observe(key.name, segment, vote.quality - bias, timestamp)
                if shift is not None:
                    shifts.append(shift)
        return shifts

    def ownership_changed(self) -> None:
        """Ask for a derive, and judge what comes from here on: other learners are live now."""
        live = self._live()
        if self._judging != (0 in live):
            self._judging = 0 in live
            self._judge = Judge()
            if self._judging:
                self._judge.look(self._board.sight(live), self.policy.derived, {})
        self._changed = self._at_once = True
        self.derive_if_due()

    def derive_if_due(self) -> None:
        """Derive when a tenth more feedback has come, at most every `engine.derive_interval`."""
        if self._frozen or not self._changed or not (self.policy.due or self._at_once):
            return
        wait = self._derived_at + self._config.engine.derive_interval - time.monotonic()
        if wait <= 0:
            self.derive()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait, self.derive)

    def derive(self) -> None:
        """Derive the posterior from the sum of all partitions."""
        self.cancel()
        with self.meter.work("derive"):
            evidence, self._covered = self._board.merged(self._live())
            self.policy.derive(evidence)
            self.exploration.rest(self.policy)
        self._updates = 0
        self._changed = self._at_once = False
        self._derived_at = time.monotonic()
        self.derives += 1

    def verdicts(self) -> list[Changed]:
        """Look for models that have changed, on the evidence of all partitions; for the owner of partition 0."""
        live = self._live()
        learner = live.get(0)
        if learner is None or self._frozen:
            return []
        self.looks += 1
        with self.meter.work("judge"):
            return self._judge.look(self._board.sight(live), self.policy.derived, learner.fields.epochs)

    @property
    def resting(self) -> list[str]:
        """Return the names of the models that are not explored, because they cannot win."""
        flags = self.exploration.resting
        return [name for name, rests in zip(self.catalog.names, flags, strict=False) if rests]

    def covered(self) -> dict[int, tuple[int, float | None]]:
        """Return per partition the next journal offset the posterior can know, and when that was heard of."""
        live = self._live()
        slots = {number: (state.j, self._heard.get(number)) for number, state in self._board.slots.items()}
        return {**slots, **{number: (learner.j, None) for number, learner in live.items()}}

    def cancel(self) -> None:
        """Forget a derive that waits for its moment."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
