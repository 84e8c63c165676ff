"""Every safeguard is needed: with any one of them removed, an oracle test fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from banditroute.errors import StateError
from banditroute.flow.board import Board
from banditroute.flow.deciding.decider import Decider
from banditroute.flow.partition import Partition
from banditroute.flow.pending.blocks import FIRST
from banditroute.flow.pending.open_decision import KnownBatch, KnownDecision
from banditroute.flow.pending.pending import Pending
from banditroute.flow.records.header import Header
from banditroute.flow.records.snapshot import State
from banditroute.flow.settling.learner import Learner
from banditroute.runtime.tasks.partition_task import PartitionTask
from tests.faults import memory, test_crashes, test_damage, test_outages_of_a_topic

pytestmark = [pytest.mark.asyncio, pytest.mark.slow, pytest.mark.usefixtures("hasty")]

Test = Callable[[int], Awaitable[object]]
Patch = Callable[[pytest.MonkeyPatch], None]


async def crashes(seed: int) -> None:
    """`test_a_crash_at_any_effect_changes_nothing`, a few effects of it."""
    for effect in range(6, 40, 3):
        await test_crashes.crash_at(effect, seed=seed + effect)


async def zombies(seed: int) -> None:
    await test_crashes.test_an_owner_that_was_cut_off_and_goes_on_changes_nothing(seed)


async def series(seed: int) -> None:
    await test_crashes.test_a_series_of_crashes_loses_and_doubles_no_vote(seed)


async def offsets(seed: int) -> None:
    await test_crashes.test_committed_offsets_are_a_hint_and_nothing_rests_on_them("set back", seed)


async def behind(_: int) -> None:
    await test_crashes.test_decisions_that_land_behind_those_of_another_owner_are_later_ones()


async def board(_: int) -> None:
    await test_crashes.test_what_a_board_knows_of_others_never_goes_backwards_and_owners_publish_again()


async def reasons(_: int) -> None:
    await test_outages_of_a_topic.test_feedback_whose_reason_cannot_be_written_is_not_covered_by_any_published_state()


async def retention(_: int) -> None:
    await test_damage.test_retention_that_overtakes_a_running_engine_stops_it()


# -- the mutants -----------------------------------------------------------------------------------------


def no_reconstruction_scan(patch: pytest.MonkeyPatch) -> None:
    """A restore goes on from the state record without reading again what acted on open decisions."""
    real = Partition.__init__

    def init(self: Partition, state: State, *rest: Any, **named: Any) -> None:
        real(self, state, *rest, **named)
        self.learner.fields = state.at.copy()
        self.learner.j = self._restored.replay_from = state.j
        state.parked = 0

    patch.setattr(Partition, "__init__", init)


def no_watermark(patch: pytest.MonkeyPatch) -> None:
    """Feedback settles against every decision that this process happens to know."""
    for name in ("know", "know_batch"):
        real = getattr(Learner, name)

        def know(self: Learner, *rest: Any, real: Any = real) -> None:
            real(self, *rest)
            if not self.frozen:
                self.take_in(self.end)

        patch.setattr(Learner, name, know)


def no_parking(patch: pytest.MonkeyPatch) -> None:
    """Feedback without a decision is an orphan at once, and `Decided` brings nothing back."""
    real = Learner._settle

    def settle(self: Learner, *rest: Any) -> str:
        return real(self, *rest) or "orphan"

    patch.setattr(Learner, "_settle", settle)


def no_version_guard(patch: pytest.MonkeyPatch) -> None:
    """The board takes whatever state record comes last."""

    def put(self: Board, state: State) -> bool:
        self.slots[state.partition] = state
        return True

    patch.setattr(Board, "put", put)


def no_republishing(patch: pytest.MonkeyPatch) -> None:
    """An owner does not mind that an older record was written over its own."""
    patch.setattr(PartitionTask, "saw_state", lambda self, state: None)


class Anything:
    """A gate that lets every request offset pass."""

    def __init__(self, gate: Any) -> None:
        self.r = 0
        self.has_each = gate.has_each
        self.first_of = gate.first_of


def no_request_offset_rule(patch: pytest.MonkeyPatch) -> None:
    """Requests below r are decided again."""
    real = Decider.decide_records

    def decide(self: Decider, partition: int, records: Sequence[Any], gate: Any, *rest: Any) -> Any:
        return real(self, partition, records, Anything(gate), *rest)

    patch.setattr(Decider, "decide_records", decide)


def no_first_rule(patch: pytest.MonkeyPatch) -> None:
    """A later decision on the same request is learned from, too."""
    real = Pending.add

    def add(self: Pending, known: KnownDecision, header: Header, r: int) -> None:
        real(self, known, header, r)
        if header.request_offset < r:
            self._blocks[-1].columns["flags"][self._blocks[-1].filled - 1] = FIRST
            low = self.identifier.of(known.request_id)[1]
            self._index.insert(np.array([low], np.uint64), np.array([self._end - 1]))

    patch.setattr(Pending, "add", add)


def no_gap_check(patch: pytest.MonkeyPatch) -> None:
    """Whatever offset is acknowledged, the decisions are taken to be next in the log."""
    real = Partition.acknowledged

    def acknowledged(self: Partition, known: KnownBatch, base: int, *rest: Any) -> bool:
        return real(self, known, self.learner.end, *rest)

    patch.setattr(Partition, "acknowledged", acknowledged)


def no_look_at_what_was_decided_meanwhile(patch: pytest.MonkeyPatch) -> None:
    """Decisions that follow what memory knows are first, whoever decided the same requests while they were written."""
    real = Partition.acknowledged

    def acknowledged(self: Partition, *rest: Any) -> bool:
        r, self.learner.r = self.learner.r, 0
        done = real(self, *rest)
        self.learner.r = max(self.learner.r, r)
        return done

    patch.setattr(Partition, "acknowledged", acknowledged)


def no_source_offsets(patch: pytest.MonkeyPatch) -> None:
    """What was copied twice counts twice."""
    real = Learner._feedback

    def feedback(self: Learner, *rest: Any) -> str:
        before, self.fields.hi = self.fields.hi, {}
        try:
            return real(self, *rest)
        finally:
            new = self.fields.hi
            self.fields.hi = {f: max(before.get(f, -1), new.get(f, -1)) for f in {*before, *new}}

    patch.setattr(Learner, "_feedback", feedback)


def no_waiting_for_reasons(patch: pytest.MonkeyPatch) -> None:
    """State is published although a reason has not been written."""
    patch.setattr(
        PartitionTask, "dead_in_flight", property(lambda self: 0, lambda self, value: None), raising=False
    )


def no_hole_check(patch: pytest.MonkeyPatch) -> None:
    """Records that retention took away are passed over."""
    patch.setattr(Partition, "_require_no_hole", lambda *_: None)


SEEDS = 40  # what a crash meets depends on how fast the machine is
MUTANTS: dict[str, tuple[Patch, Test]] = {
    "reconstruction scan": (no_reconstruction_scan, series),
    "watermark": (no_watermark, zombies),
    "Decided and parking": (no_parking, crashes),
    "version guard on the board": (no_version_guard, board),
    "republishing": (no_republishing, board),
    "request-offset rule": (no_request_offset_rule, offsets),
    "first rule": (no_first_rule, zombies),
    "gap check on acknowledged offsets": (no_gap_check, zombies),
    "look at what was decided meanwhile": (no_look_at_what_was_decided_meanwhile, behind),
    "source-offset dedupe": (no_source_offsets, zombies),
    "waiting for reasons": (no_waiting_for_reasons, reasons),
    "hole check": (no_hole_check, retention),
}


@pytest.mark.parametrize("safeguard", MUTANTS)
async def test_without_this_safeguard_an_oracle_test_fails(
    safeguard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate, test = MUTANTS[safeguard]
    monkeypatch.setattr(memory, "PATIENCE", 3.0)
    await test(0)  # the test itself holds
    mutate(monkeypatch)
    for seed in range(SEEDS):
        try:
            await test(seed)
        except (AssertionError, StateError, ValueError):
            return
    pytest.fail(f"nothing fails without the {safeguard}")
