"""The two kinds of task: owner of a request partition, owner of a feedback partition.

Both may be alive twice (the older one is a zombie that does not know), be killed at any moment, and have appends in
flight that land late, twice or never. What a task does next is up to the dice of its :class:`World`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tests.protocol.core import MODELS, Control, Copied, Decided, Decision, Edit, Expire, restore

if TYPE_CHECKING:
    from tests.protocol.model import World


class Task(Protocol):
    """What the world knows of a task."""

    zombie: bool
    life: int

    def act(self, draining: bool = False) -> None:
        """Do one thing, at random."""

    def acknowledge(self, append: Append, base: int) -> None:
        """Hear that an append landed at ``base``."""


Event = Copied | Decided | Expire | Control


@dataclass
class Append:
    """Records on their way to the decisions or the journal of a partition.

    Appends with the same content are equal: the acknowledgement of a first try also answers a second one.
    """

    log: str
    partition: int
    records: Sequence[Decision] | Sequence[Event]
    owner: Task | None = None
    position: int = 0
    """Where the owner will have read to when this is acknowledged."""


class RequestTask:
    """Owner (or zombie) of ``requests``, ``decisions``, ``journal`` and ``state`` of a partition."""

    def __init__(self, world: World, partition: int) -> None:
        self.world, self.partition, self.rules = world, partition, world.rules
        self.zombie = False
        self.life = 0
        self.in_flight: list[Append] = []
        log = world.decisions[partition]
        # Without the gap check memory is what the owner believes it has written.
        self.memory = log if self.rules.gap_check else list(log)
        states = world.states[partition]
        self.core = restore(
            states[-1] if states else None, self.memory, world.journals[partition], self.rules
        )
        self.position = world.committed_requests[partition]
        self.to_commit = 0
        self.end = self.own_end = self.r = 0
        self.read_decisions()
        self.own_end = 0
        self.late_fetch = self.rules.late_fetch

    @property
    def known_end(self) -> int:
        """End of the decisions in memory."""
        return self.end if self.rules.gap_check else len(self.memory)

    def read_decisions(self) -> None:
        """Read the decisions to their end and derive r from them."""
        log = self.world.decisions[self.partition]
        if not self.rules.gap_check:
            self.memory.extend(log[len(self.memory) :])
        self.end = len(log)
        self.r = max([self.core.rX] + [x.request_offset + 1 for x in log[self.core.X :]])
        if not self.rules.first_rule:
            self.r = 0

    def decide(self) -> None:
        """Decide the next requests, unless a batch is unacknowledged."""
        world, requests = self.world, self.world.requests[self.partition]
        room = 1 if self.rules.one_batch_in_flight else 2
        if len(self.in_flight) >= room or self.position >= len(requests):
            return
        end = min(len(requests), self.position + world.dice.randrange(1, 4))
        open_ids = {x.request_id for x in self.memory[self.core.X : self.end]}
        batch = []
        for offset in range(self.position, end):
            if offset >= self.r and requests[offset] not in open_ids:
                batch.append(Decision(offset, requests[offset], world.dice.randrange(MODELS)))
                open_ids.add(requests[offset])
        if batch:
            self.in_flight.append(world.send(Append("decisions", self.partition, batch, self, end)))
        elif self.in_flight:
            return
        if not batch or not self.rules.one_batch_in_flight:
            self.position = end

    def acknowledge(self, append: Append, base: int) -> None:
        """The batch landed: at the expected offset memory is the log, otherwise the gap is read first."""
        if append not in self.in_flight:
            return
        self.in_flight.remove(append)
        batch = [x for x in append.records if isinstance(x, Decision)]
        if not self.rules.gap_check:
            self.memory.extend(batch)
            self.r = max(self.r, batch[-1].request_offset + 1)
            self.end = len(self.memory)
        elif base == self.end:
            self.end += len(batch)
            self.r = max(self.r, batch[-1].request_offset + 1)
        else:
            self.read_decisions()
        if not self.rules.first_rule:
            self.r = 0
        self.own_end = self.end
        self.position = max(self.position, append.position)
        if self.may_commit and not self.in_flight:
            self.to_commit = self.position

    @property
    def may_commit(self) -> bool:
        """A zombie is fenced by the group."""
        return not self.zombie or self.rules.zombies_commit

    def time_out(self) -> None:
        """No acknowledgement came: begin again at the committed offset, with what is in the log."""
        if self.in_flight:
            self.in_flight = []
            self.read_decisions()
            self.position = self.world.committed_requests[self.partition]

    def apply(self) -> None:
        """Apply the next journal records."""
        journal = self.world.journals[self.partition]
        for _ in range(self.world.dice.randrange(1, 5)):
            if self.core.j < len(journal):
                self.core.step(journal, self.known_end)

    def commit(self) -> None:
        """Commit the request offset; the same one again does no harm."""
        committed = self.world.committed_requests
        later = self.to_commit > committed[self.partition]
        if later or (self.world.dice.random() < 0.1 and self.to_commit):
            committed[self.partition] = self.to_commit

    @property
    def announced_end(self) -> int:
        """End of the decisions that the owner has to announce."""
        return self.end if self.rules.decided_after_restore else self.own_end

    def announce(self) -> None:
        """Append Decided until the journal has shown it."""
        if self.announced_end > self.core.D:
            upto = min(self.announced_end, len(self.world.decisions[self.partition]))
            self.world.send(Append("journal", self.partition, [Decided(upto)]))

    def expire(self) -> None:
        """Append Expire for some of the oldest open decisions."""
        upto = self.end - self.world.dice.randrange(1, 7)
        if upto > self.core.X:
            if not self.rules.expire_records:
                self.core.close(upto)
            self.world.send(Append("journal", self.partition, [Expire(upto)]))

    def copy_control(self) -> None:
        """Copy the next control records into the journal."""
        control, begin = self.world.control, self.core.cursor + 1
        if begin < len(control):
            end = min(len(control), begin + self.world.dice.randrange(1, 3))
            events: list[Event] = [Control(number, control[number]) for number in range(begin, end)]
            self.world.send(Append("journal", self.partition, events))

    def tail(self) -> None:
        """Read what others have written to the own decisions partition."""
        if not self.in_flight and self.rules.gap_check and self.rules.tailing:
            self.read_decisions()

    def detect_change(self) -> None:
        """Write a verdict (or a price) to control, as the owner or a zombie of partition 0."""
        control, dice = self.world.control, self.world.dice
        model = dice.randrange(MODELS)
        if dice.random() < 0.7:
            control.append(Edit("changed", model, self.core.epochs[model] + 1))
        else:
            control.append(Edit("price", model, len(control) + 1))

    def act(self, draining: bool = False) -> None:
        """Do one thing, at random; while draining nothing fails and nothing new comes up."""
        dice = self.world.dice
        chance = dice.random()
        if self.late_fetch and dice.random() < 0.2:
            self.position = self.world.committed_requests[self.partition]
            self.late_fetch = False
        if chance < 0.22 and not self.late_fetch:
            self.decide()
        elif chance < 0.27 and not draining and self.in_flight:
            if dice.random() < 0.5:
                self.time_out()
        elif chance < 0.60:
            self.apply()
        elif chance < 0.68 and self.may_commit:
            self.commit()
        elif chance < 0.78:
            self.announce()
        elif chance < 0.84 and not draining:
            self.expire()
        elif chance < 0.90:
            self.copy_control()
        elif chance < 0.92 and not draining:
            self.tail()
        elif chance < 0.95:
            self.world.publish(self.partition, self.core.record())
        elif self.partition == 0 and not draining:
            self.detect_change()

    def settle_down(self) -> None:
        """While draining: no append is in flight any more, so look at the log."""
        if self.in_flight:
            self.time_out()
        elif self.rules.decided_after_restore:
            self.tail()

    @property
    def done(self) -> bool:
        """Whether everything that is there has been read, decided, announced and applied."""
        return (
            self.core.j == len(self.world.journals[self.partition])
            and self.position >= len(self.world.requests[self.partition])
            and self.announced_end <= self.core.D
            and self.core.cursor == len(self.world.control) - 1
        )


class FeedbackTask:
    """Owner (or zombie) of a feedback partition: copies its records into the journals."""

    def __init__(self, world: World, source: int) -> None:
        self.world, self.source, self.rules = world, source, world.rules
        self.zombie = False
        self.life = 0
        self.waiting: list[Append] | None = None
        self.read_to = self.position = self.to_commit = world.committed_feedback[source]

    def copy(self) -> None:
        """Copy the next records to all their targets."""
        log = self.world.feedback[self.source]
        self.read_to = min(len(log), self.position + self.world.dice.randrange(1, 4))
        batches: dict[int, list[Event]] = {}
        for offset in range(self.position, self.read_to):
            for target in self.world.targets(log[offset]):
                batches.setdefault(target, []).append(Copied(self.source, offset, log[offset].feedback))
        self.waiting = [
            self.world.send(Append("journal", target, events, self)) for target, events in batches.items()
        ]

    def fail(self) -> None:
        """A copy failed: stop, and begin again at the last acknowledged offset."""
        self.waiting = None
        self.position = self.to_commit if self.rules.stop_on_copy_failure else self.read_to

    def act(self, draining: bool = False) -> None:
        """Do one thing, at random."""
        chance = self.world.dice.random()
        if chance < 0.6 and self.waiting is None and self.position < len(self.world.feedback[self.source]):
            self.copy()
        elif chance < 0.7 and self.waiting is not None and not draining:
            self.fail()
        elif chance > 0.8:
            committed = self.world.committed_feedback
            if self.rules.zombies_commit:
                committed[self.source] = self.to_commit
            elif not self.zombie:
                committed[self.source] = max(committed[self.source], self.to_commit)

    def acknowledge(self, append: Append, base: int) -> None:
        """A copy landed; when all targets have theirs, the offset may be committed."""
        if self.waiting is None or append not in self.waiting:
            return
        self.waiting.remove(append)
        if not self.waiting:
            self.waiting = None
            self.position = self.to_commit = self.read_to

    def settle_down(self) -> None:
        """While draining: what was not acknowledged is copied again."""
        self.waiting = None
        self.position = self.to_commit

    @property
    def done(self) -> bool:
        """Whether everything has been copied."""
        return self.position == len(self.world.feedback[self.source])
