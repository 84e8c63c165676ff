"""The protocol holds in every random schedule, and no safeguard of it can be spared."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.protocol.core import (
    ALL_RULES,
    Control,
    Copied,
    Core,
    Decided,
    Decision,
    Edit,
    Entry,
    Expire,
    Feedback,
    Rules,
    Violation,
    oracle,
    restore,
)
from tests.protocol.model import PARTITIONS, World, first_failure, run, sweep

SCHEDULES = 1000

HOSTILE = {
    "zombies-commit": replace(ALL_RULES, zombies_commit=True),
    "late-fetch": replace(ALL_RULES, zombies_commit=True, late_fetch=True),
    "no-tailing": replace(ALL_RULES, zombies_commit=True, late_fetch=True, tailing=False),
}

# Every safeguard, and a seed from which on its absence is soon noticed: some removals do harm in one schedule of a
# hundred only.
SAFEGUARDS = {
    "anchor_scan": 0,
    "decided_records": 0,
    "decided_after_restore": 41,
    "gap_check": 0,
    "source_offsets": 0,
    "first_rule": 0,
    "expire_records": 0,
    "control_cursor": 0,
    "epoch_check": 0,
    "log_factor": 0,
    "evict_oldest": 42,
    "one_batch_in_flight": 0,
    "stop_on_copy_failure": 0,
    "board_guard": 0,
    "republish": 0,
    "anchor_fields": 0,
    "anchor_hi": 0,
    "anchor_d": 0,
    "anchor_factors": 0,
    "anchor_x": 0,
    "anchor_r": 0,
    "anchor_cursor": 0,
    "anchor_parked": 0,
}
ENVIRONMENT = {"tailing", "zombies_commit", "late_fetch"}


@pytest.mark.slow
def test_no_random_schedule_goes_wrong() -> None:
    assert sweep(range(SCHEDULES)) == {}


@pytest.mark.parametrize("world", HOSTILE)
def test_no_random_schedule_goes_wrong_in_a_hostile_world(world: str) -> None:
    assert sweep(range(100), HOSTILE[world]) == {}


@pytest.mark.parametrize("safeguard", SAFEGUARDS)
def test_every_safeguard_is_needed(safeguard: str) -> None:
    seed = SAFEGUARDS[safeguard]
    failure = first_failure(range(seed, seed + 60), ALL_RULES.without(safeguard))
    assert failure is not None, f"nothing goes wrong without {safeguard}"
    failing_seed, _ = failure
    assert run(failing_seed) is None


def test_every_safeguard_of_the_rules_is_tried() -> None:
    assert {field.name for field in fields(Rules)} - ENVIRONMENT == set(SAFEGUARDS)


def test_seed_names_a_schedule() -> None:
    def play() -> tuple[object, ...]:
        world = World(7)
        for _ in range(300):
            world.happen()
        return world.requests, world.decisions, world.journals, world.states, world.control

    assert play() == play()


def test_schedules_reach_every_outcome_and_every_kind_of_trouble() -> None:
    outcomes: set[str] = set()
    trouble: set[str] = set()
    for seed in range(30):
        world = World(seed)
        for _ in range(500):
            world.happen()
            if world.zombies:
                trouble.add("zombie")
            if any(task.core.parked for task in world.request_tasks):
                trouble.add("parked")
        for p in range(PARTITIONS):
            offsets = [x.request_offset for x in world.decisions[p]]
            if offsets != sorted(set(offsets)):
                trouble.add("decided twice")
            outcomes |= set(oracle(world.decisions[p], world.journals[p]).ledger)
    settled = {"applied", "revised", "duplicate", "late", "orphan", "rejected", "elsewhere", "withdrawn"}
    assert outcomes == {*settled, "copied_twice"}
    assert trouble == {"zombie", "parked", "decided twice"}


# ---------------------------------------------------------------------------------------------- the model's own rules


DECISIONS = [Decision(0, 100, 0), Decision(1, 101, 1), Decision(0, 100, 2)]


def thumb(request_id: int | None, feedback_id: int, kind: str = "thumb") -> Feedback:
    return Feedback(request_id, None, feedback_id, kind, 10, "u", None)


def play(events: list[Copied | Decided | Expire | Control], rules: Rules = ALL_RULES) -> Core:
    """Apply the events, one time step each, and check every state record on the way."""
    journal = [Entry(now, event) for now, event in enumerate(events)]
    core = Core(DECISIONS, rules)
    while core.j < len(journal):
        core.step(journal, core.D)
        again = restore(core.record(), DECISIONS, journal, rules)
        assert again.fields() == core.fields()
        assert (again.pending, again.slots, again.parked) == (core.pending, core.slots, core.parked)
    truth = oracle(DECISIONS, journal)
    assert (core.evidence, core.ledger) == (truth.evidence, truth.ledger)
    return core


def test_feedback_waits_for_the_decided_that_covers_its_decision() -> None:
    events: list[Copied | Decided | Expire | Control] = [Copied(0, 0, thumb(101, 1)), Decided(1)]
    assert (play(events).ledger, len(play(events).parked)) == ({}, 1)
    core = play([*events, Decided(2)])
    assert (core.ledger, core.parked) == ({"applied": 1}, [])
    assert core.evidence[1] == [1, 10]


def test_later_decision_on_a_request_never_learns() -> None:
    core = play([Decided(3), Copied(0, 0, thumb(100, 1))])
    assert [evidence[0] for evidence in core.evidence] == [1, 0, 0]


def test_closed_decision_takes_no_feedback() -> None:
    core = play([Decided(2), Expire(1), Copied(0, 0, thumb(100, 1)._replace(decision=0))])
    assert core.ledger == {"late": 1}


def test_withdrawal_leaves_nothing_behind_after_a_verdict() -> None:
    core = play(
        [
            Decided(2),
            Copied(0, 0, thumb(100, 1)),
            Control(0, Edit("changed", 0, 1)),
            Copied(0, 1, thumb(100, 2, "withdraw")),
            Copied(1, 0, thumb(100, 1)),
        ]
    )
    assert core.evidence[0] == [0, 0]
    assert core.ledger == {"applied": 1, "revised": 1, "duplicate": 1}


def test_all_that_a_voter_said_is_withdrawn_but_usage_and_what_is_closed() -> None:
    core = play(
        [
            Decided(2),
            Copied(0, 0, thumb(100, 1)),
            Copied(0, 1, thumb(101, 2)),
            Copied(0, 2, thumb(101, 3, "score")),
            Copied(0, 3, thumb(101, 4, "usage")),
            Copied(0, 4, thumb(101, 5)._replace(voter="v")),
            Copied(0, 5, thumb(102, 6)),  # waits
            Expire(1),
            Copied(1, 0, thumb(None, 7, "withdraw")),
            Copied(1, 1, thumb(None, 8, "withdraw")),  # nothing is left
            Copied(1, 2, thumb(101, 7, "score")),  # sent again, and known from the withdrawal
        ]
    )
    assert core.evidence[0] == [1, 10], "the vote on a closed decision stays"
    assert core.evidence[1] == [1, 10], "usage stays"
    assert (core.ledger.pop("applied"), core.ledger.pop("rejected")) == (4, 1), "three slots per decision"
    assert core.ledger == {"withdrawn": 1, "revised": 1, "elsewhere": 1, "duplicate": 1}


def test_control_gap_and_decided_beyond_the_log_are_violations() -> None:
    with pytest.raises(Violation, match="control gap"):
        play([Control(1, Edit("price", 0, 1))])
    with pytest.raises(Violation, match="beyond the log"):
        play([Decided(4)])
