"""A random-schedule model of the learning protocol: its world, its quiescence, and what must hold then.

Users send requests and feedback; owners decide, copy, announce, expire, publish; the network delivers late, twice or
never; owners are killed, lose their partitions and live on as zombies, and their successors restore from the last
state record. When all is quiet, the evidence of every owner, of a restore from *every* state record ever written and
of the board must equal (``==``) an uninterrupted pass over the logs. :class:`~tests.protocol.core.Rules` removes
safeguards one by one; each removal must be found by some schedule.

Requests, decisions, journal and state have ``PARTITIONS`` partitions, feedback has ``SOURCES``. Everything random
comes from one seeded generator, so that a seed names a schedule.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from tests.protocol.core import (
    ALL_RULES,
    MODELS,
    Copied,
    Core,
    Decision,
    Edit,
    Entry,
    Feedback,
    Rules,
    StateRecord,
    Truth,
    Violation,
    oracle,
    restore,
)
from tests.protocol.tasks import Append, FeedbackTask, RequestTask, Task

PARTITIONS = 2
SOURCES = 3


class Sent(NamedTuple):
    """A record of a feedback topic, and the partition that its decision is on."""

    feedback: Feedback
    home: int


class World:
    """The logs, the network, the users, and who owns what."""

    def __init__(self, seed: int, rules: Rules = ALL_RULES) -> None:
        self.dice = random.Random(seed)
        self.rules = rules
        self.now = 0
        # Of three worlds one has a request partitioner that the feedback copier does not know.
        self.wrong_partitioner = self.dice.choice((False, False, True))
        self.network: list[Append] = []
        self.requests: list[list[int]] = [[] for _ in range(PARTITIONS)]
        self.decisions: list[list[Decision]] = [[] for _ in range(PARTITIONS)]
        self.journals: list[list[Entry]] = [[] for _ in range(PARTITIONS)]
        self.states: list[list[StateRecord]] = [[] for _ in range(PARTITIONS)]
        self.feedback: list[list[Sent]] = [[] for _ in range(SOURCES)]
        self.control: list[Edit] = []
        self.committed_requests = [0] * PARTITIONS
        self.committed_feedback = [0] * SOURCES
        self.board: list[StateRecord | None] = [None] * PARTITIONS
        self.board_went_back = False
        self.request_tasks = [RequestTask(self, p) for p in range(PARTITIONS)]
        self.feedback_tasks = [FeedbackTask(self, f) for f in range(SOURCES)]
        self.zombies: list[Task] = []

    # -- network and board

    def send(self, append: Append) -> Append:
        """Put an append into the network."""
        self.network.append(append)
        return append

    def land(self, drop: float = 0.1, lose_acknowledgement: float = 0.15) -> None:
        """Deliver an append, mostly the oldest, unless it is dropped."""
        dice = self.dice
        append = self.network.pop(dice.randrange(len(self.network)) if dice.random() < 0.4 else 0)
        if dice.random() < drop:
            return
        if append.log == "decisions":
            decisions = self.decisions[append.partition]
            base = len(decisions)
            decisions.extend(x for x in append.records if isinstance(x, Decision))
        else:
            journal = self.journals[append.partition]
            base = len(journal)
            journal.extend(Entry(self.now, x) for x in append.records if not isinstance(x, Decision))
        owner = append.owner
        if owner is not None and dice.random() >= lose_acknowledgement and self.is_alive(owner):
            owner.acknowledge(append, base)

    def is_alive(self, task: Task) -> bool:
        """Whether a task still runs, as an owner or as a zombie."""
        return task in self.request_tasks or task in self.feedback_tasks or task in self.zombies

    def targets(self, sent: Sent) -> Iterable[int]:
        """The partitions that a feedback record is copied to."""
        if sent.feedback.request_id is None:
            return range(PARTITIONS)
        known = sent.feedback.decision is not None or not self.wrong_partitioner
        return (sent.home,) if known else range(PARTITIONS)

    def publish(self, partition: int, record: StateRecord) -> None:
        """Append a state record and show it to the board."""
        self.states[partition].append(record)
        shown = self.board[partition]
        older = shown is not None and record.j < shown.j
        if not older or not self.rules.board_guard:
            self.board_went_back |= older
            self.board[partition] = record

    # -- what happens to the system

    def user(self) -> None:
        """A user sends a request, now and then twice, or feedback."""
        dice = self.dice
        chance = dice.random()
        count = sum(map(len, self.requests))
        if chance < 0.4 or not count:
            request_id = count if dice.random() < 0.9 or not count else dice.randrange(count)
            partition = dice.randrange(PARTITIONS) if self.wrong_partitioner else request_id % PARTITIONS
            self.requests[partition].append(request_id)
            return
        partition = dice.randrange(PARTITIONS)
        requests = self.requests[partition]
        if not requests:
            return
        offset = max(0, len(requests) - 1 - int(dice.expovariate(0.25)))
        kind = dice.choice(("thumb", "thumb", "usage", "score", "withdraw"))
        names_decision = dice.random() < (0.2 if self.wrong_partitioner else 0.5)
        feedback = Feedback(
            request_id=requests[offset],
            decision=offset if names_decision else None,
            feedback_id=dice.randrange(10**9),
            kind=kind,
            value=dice.randrange(1, 1000),
            voter=dice.choice("uv") if kind != "usage" else "system",
            served=dice.randrange(MODELS) if dice.random() < 0.2 else None,
        )
        if kind == "withdraw" and dice.random() < 0.3:  # all that this voter has said
            feedback = feedback._replace(request_id=None, decision=None)
        source = dice.randrange(SOURCES)
        self.feedback[source].append(Sent(feedback, partition))
        if dice.random() < 0.25:  # the user's producer retries
            again = source if dice.random() < 0.5 else dice.randrange(SOURCES)
            self.feedback[again].append(Sent(feedback, partition))
        if dice.random() < 0.1:  # the user thinks again
            source = dice.randrange(SOURCES)
            revised = feedback._replace(feedback_id=feedback.feedback_id + 1, value=dice.randrange(1, 1000))
            self.feedback[source].append(Sent(revised, partition))

    def replace_request_task(self, partition: int, killed: bool) -> None:
        """A request partition gets a new owner; the old one was killed or becomes a zombie."""
        self.retire(self.request_tasks[partition], killed)
        self.request_tasks[partition] = RequestTask(self, partition)

    def replace_feedback_task(self, source: int, killed: bool) -> None:
        """A feedback partition gets a new owner."""
        self.retire(self.feedback_tasks[source], killed)
        self.feedback_tasks[source] = FeedbackTask(self, source)

    def retire(self, task: Task, killed: bool) -> None:
        """A task that was not killed lives on for a while."""
        if not killed:
            task.zombie = True
            task.life = self.dice.randrange(5, 60)
            self.zombies.append(task)

    def happen(self) -> None:
        """One random thing happens."""
        self.now += 1
        dice = self.dice
        chance = dice.random()
        if chance < 0.16:
            self.user()
        elif chance < 0.50:
            dice.choice(self.request_tasks).act()
        elif chance < 0.64:
            dice.choice(self.feedback_tasks).act()
        elif chance < 0.86 and self.network:
            self.land()
        elif chance < 0.94 and self.zombies:
            zombie = dice.choice(self.zombies)
            zombie.act()
            zombie.life -= 1
            if zombie.life <= 0:
                self.zombies.remove(zombie)
        elif chance < 0.965:
            self.replace_request_task(dice.randrange(PARTITIONS), dice.random() < 0.5)
        elif chance < 0.98:
            self.replace_feedback_task(dice.randrange(SOURCES), dice.random() < 0.5)
        elif chance < 0.985:
            self.zombies = []  # their process is killed; their appends stay in flight

    def drain(self, steps: int = 6000) -> bool:
        """Let the owners catch up; whether everything came to rest."""
        dice = self.dice
        for step in range(steps):
            self.now += step % 8 == 0
            chance = dice.random()
            if self.network and chance < 0.4:
                self.land(0, 0)
            elif chance < 0.7:
                dice.choice(self.request_tasks).act(draining=True)
            elif chance < 0.9:
                dice.choice(self.feedback_tasks).act(draining=True)
            elif self.zombies and chance < 0.92:
                dice.choice(self.zombies).act(draining=True)
            elif chance < 0.93 and not self.network:
                tasks: list[RequestTask | FeedbackTask] = [*self.request_tasks, *self.feedback_tasks]
                for task in tasks:
                    task.settle_down()
                if step > 60 and all(task.done for task in tasks):
                    return True
        return False

    def publish_last(self) -> None:
        """Every owner publishes; whoever is overtaken by an older record of its partition publishes again."""
        for task in self.request_tasks:
            partition, states = task.partition, self.states[task.partition]
            self.publish(partition, task.core.record())
            if self.dice.random() < 0.5 and len(states) > 1:
                self.publish(partition, self.dice.choice(states))
            if states[-1].j < task.core.j and self.rules.republish:
                self.publish(partition, task.core.record())


# ----------------------------------------------------------------------------------------- what must hold at the end


def agrees(core: Core, truth: Truth) -> bool:
    """Whether ledger, fields and park are those of the uninterrupted pass."""
    fields = {name: getattr(core, name) for name in truth.fields}
    return (core.ledger, fields, [x.feedback for x in core.parked]) == (
        truth.ledger,
        truth.fields,
        truth.parked,
    )


def check_learning(world: World, partition: int, truth: Truth) -> str | None:
    """The owner, a restore from every state record, and the board have learned what the logs say."""
    core = world.request_tasks[partition].core
    decisions, journal = world.decisions[partition], world.journals[partition]
    if core.evidence != truth.evidence:
        return "owner: evidence differs"
    if not agrees(core, truth):
        return "owner: ledger or fields differ"
    states = world.states[partition]
    for record in reversed(states):
        restored = restore(record, decisions, journal, world.rules)
        while restored.j < len(journal):
            restored.step(journal, len(decisions))
        if restored.evidence != truth.evidence:
            return "restore: evidence differs"
        if not agrees(restored, truth):
            return "restore: ledger or fields differ"
    shown = world.board[partition]
    if shown is None or shown.evidence != core.evidence or world.board_went_back:
        return "board stale or backwards"
    if states[-1].evidence != core.evidence:  # all that compaction leaves
        return "board of a fresh reader is stale"
    return None


def check_decisions(world: World, partition: int) -> str | None:
    """Every request has one first decision, in order; a repeat inside the window need not have any."""
    requests = world.requests[partition]
    decided = {x.request_offset for x in world.decisions[partition]}
    repeats = {offset for offset, request_id in enumerate(requests) if request_id in requests[:offset]}
    if set(range(len(requests))) - decided - repeats:
        return "request without decision"
    first = set()
    highest = -1
    for decision in world.decisions[partition]:
        if decision.request_offset > highest:
            highest = decision.request_offset
            first.add(highest)
    # A zombie may decide a skipped repeat late: that is below r, and never a first decision.
    if decided - first - repeats:
        return "first decisions out of order"
    return None


def check_feedback(world: World, partition: int, truth: Truth) -> str | None:
    """Every feedback record was copied and counted once, and none waits for a decision that is there."""
    events = [entry.event for entry in world.journals[partition]]
    copies = [(e.source, e.offset) for e in events if isinstance(e, Copied)]
    for source in range(SOURCES):
        for offset, sent in enumerate(world.feedback[source]):
            if partition in world.targets(sent) and (source, offset) not in copies:
                return "feedback lost"
    repeated = len(copies) - len(set(copies))
    accounted = sum(truth.ledger.values()) + len(truth.parked)
    if accounted != len(copies) or truth.ledger.get("copied_twice", 0) != repeated:
        return "ledger does not add up"
    highest = -1
    for log_offset, decision in enumerate(world.decisions[partition]):
        if decision.request_offset <= highest:
            continue
        highest = decision.request_offset
        for feedback in truth.parked:
            if feedback.decision is not None:
                waits_for_it = feedback.decision == decision.request_offset
            else:
                waits_for_it = feedback.request_id == decision.request_id
            if waits_for_it and log_offset >= truth.fields["X"]:
                return "answered decision stays parked"
    return None


def check(world: World) -> str | None:
    """What is wrong at the end, if anything."""
    for p in range(PARTITIONS):
        truth = oracle(world.decisions[p], world.journals[p], world.rules.evict_oldest)
        wrong = (
            check_learning(world, p, truth) or check_decisions(world, p) or check_feedback(world, p, truth)
        )
        if wrong:
            return wrong
    one, other = (task.core for task in world.request_tasks)
    if (one.prices, one.epochs) != (other.prices, other.epochs):
        return "control differs between partitions"
    return None


def run(seed: int, rules: Rules = ALL_RULES) -> str | None:
    """Play one random schedule to its end and check it: what is wrong, or None."""
    try:
        world = World(seed, rules)
        for _ in range(world.dice.randrange(200, 700)):
            world.happen()
        if world.dice.random() < 0.7:
            world.drain()  # with zombies about
        world.zombies = []  # they end; their appends may still land
        if not world.drain():
            return "no quiescence"
        world.publish_last()
        return check(world)
    except (Violation, IndexError, KeyError) as error:
        return f"{type(error).__name__}: {error}"


def sweep(seeds: Iterable[int], rules: Rules = ALL_RULES) -> dict[int, str]:
    """What is wrong with which of the schedules."""
    faults = ((seed, run(seed, rules)) for seed in seeds)
    return {seed: fault for seed, fault in faults if fault is not None}


def first_failure(seeds: Iterable[int], rules: Rules) -> tuple[int, str] | None:
    """The first of the schedules that goes wrong, and how."""
    for seed in seeds:
        fault = run(seed, rules)
        if fault is not None:
            return seed, fault
    return None
