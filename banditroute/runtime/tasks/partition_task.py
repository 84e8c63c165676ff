"""The task of one owned partition of requests, decisions, journal and state.

It takes records, asks the core what follows from them, writes it, and remembers what may be committed. At most
one write per log is unacknowledged, in order; a failed one is repeated before anything behind it moves.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from banditroute.errors import StateError
from banditroute.flow.deciding.decider import DecidedBatch, InputRecord, OutputRecord
from banditroute.flow.partition import Partition
from banditroute.flow.records.kafka_records import Again
from banditroute.flow.records.snapshot import State, encode_state
from banditroute.flow.settling.chunk import Chunk
from banditroute.flow.settling.effects import Refused
from banditroute.runtime.broker.ports import AppendFailed, RecordTooLarge, TopicPartition
from banditroute.runtime.state.restore import apply, logged, of_requests_from, read_gap, restore
from banditroute.runtime.state.topics import committed_or
from banditroute.runtime.tasks import letters

if TYPE_CHECKING:
    from banditroute.runtime.tasks.engine import Engine

log = logging.getLogger("banditroute.engine")

RETRY_SECONDS: Final = 0.2
MAX_RETRY_SECONDS: Final = 5.0
DEBT_SECONDS: Final = 0.01
JOURNAL_CHUNK: Final = 500  # journal records applied before other work gets its turn
EXPIRED_AT_ONCE: Final = 2000  # decisions closed, or parked records given up, by one journal record


class TaskState(Enum):
    """Where a partition task stands; see `banditroute.flow.partition`."""

    RESTORING = "restoring"
    RUNNING = "running"
    SUSPENDED = "suspended"


_NEXT: Final = {
    TaskState.RESTORING: {TaskState.RUNNING, TaskState.SUSPENDED},
    TaskState.RUNNING: {TaskState.SUSPENDED},
    TaskState.SUSPENDED: set(),
}


_TOO_LARGE: Final = (
    "the broker refuses the state record of partition {}, {} bytes, so that a restart reads more and more of the "
    "journal: raise max.message.bytes of the state topic ({})"
)


class PartitionTask:
    """The owner of partition p of requests, decisions, journal and state."""

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine = engine
        self.number = number
        self.source = TopicPartition(engine.names.requests, number)
        self.journal = TopicPartition(engine.names.journal, number)
        self.state = TaskState.RESTORING
        self.partition: Partition | None = None
        self.commit_to: int | None = None
        self.decided = 0  # decisions acknowledged by this task
        self._requests: deque[InputRecord] = deque()
        self._records: deque[InputRecord] = deque()  # of the journal, not yet applied
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._position: int | None = None
        self.dead_in_flight = 0
        self._too_large = False  # the alert was written
        self._decided_at = -math.inf  # when the last batch began, on the loop's clock
        self._lingering: asyncio.TimerHandle | None = None
        self._paying: asyncio.TimerHandle | None = None

    # -- life --------------------------------------------------------------------------------------

    def begin(self, state: State) -> None:
        """Restore in the background, then run."""
        self._start("restore", self._restore(state))

    async def _restore(self, state: State) -> None:
        engine = self._engine
        refused: list[Refused] = []
        async with engine.restoring:
            partition = await restore(engine.client, engine.config, state, engine.learning.spec, refused)
        if refused:  # whoever applied these before may have been killed before it could say why
            await self._bury_feedback(refused)
        start, lost = await committed_or(engine.client, self.source, partition.learner.r)
        if lost:
            await engine.alert(
                "lag", f"retention removed {lost} requests of partition {self.number} before they were read"
            )
        self.partition = partition
        self._position = start
        self.commit_to = start
        engine.client.seek(self.source, start)
        engine.client.follow({self.journal: partition.learner.j})
        self._to(TaskState.RUNNING)
        engine.following.tell_control(self)
        engine.stats.restored += 1
        engine.learning.ownership_changed()
        await self._reply_again(start)
        engine.wake()

    def suspend(self) -> None:
        """Let go: ownership moved on, or this partition cannot go on."""
        if self.state is TaskState.SUSPENDED:
            return
        self._to(TaskState.SUSPENDED)
        self._engine.client.unfollow([self.journal])
        for job in self._jobs.values():
            job.cancel()
        for timer in (self._lingering, self._paying):
            if timer is not None:
                timer.cancel()
        self._requests.clear()
        self._records.clear()

    def refresh(self) -> None:
        """After a rebalance that left us the owner: others may have written meanwhile."""
        if self.state is TaskState.RUNNING and "gap" not in self._jobs:
            self._start("gap", self._refresh())

    async def _refresh(self) -> None:
        # The client begins again at the committed offset; what comes twice is below our position and dropped.
        async with self._engine.restoring:
            await read_gap(self._engine.client, self._engine.config, self._running())

    def _to(self, state: TaskState) -> None:
        if state not in _NEXT[self.state]:
            raise AssertionError(f"{self.state} -> {state}")
        self.state = state

    def _running(self) -> Partition:
        assert self.partition is not None, "only running tasks have work"
        return self.partition

    # -- requests ----------------------------------------------------------------------------------

    @property
    def wants(self) -> bool:
        """Whether there is room for more requests."""
        return (
            self.state is TaskState.RUNNING
            and "gap" not in self._jobs
            and len(self._requests) < self._engine.config.engine.max_queue
        )

    @property
    def busy(self) -> bool:
        """Whether something is under way or waiting."""
        partition = self.partition
        return bool(
            self._jobs
            or self._requests
            or self._records
            or self.dead_in_flight
            or (partition is not None and partition.learner.end > partition.learner.fields.D)
        )

    def receive(self, records: Sequence[InputRecord]) -> None:
        """Take polled requests; a hole or a repeat after a rebalance is put right by the position."""
        if self._position is None:
            return
        fresh = [record for record in records if record.offset >= self._position]
        if fresh:
            self._position = fresh[-1].offset + 1
            self._requests.extend(fresh)
            self.kick()

    def kick(self) -> None:
        """Decide the next batch unless one is unacknowledged, or a fuller one is worth waiting for."""
        if (
            self.state is not TaskState.RUNNING
            or not self._requests
            or "decide" in self._jobs
            or "gap" in self._jobs
        ):
            return
        engine = self._engine.config.engine
        most = min(engine.max_batch, self._engine.learning.meter.batch)
        count = min(len(self._requests), most)
        if engine.linger and count < most:
            # requests that come one by one find the last batch long ago: only a stream of them waits
            wait = self._decided_at + engine.linger - asyncio.get_running_loop().time()
            if wait > 0:
                if self._lingering is None:
                    self._lingering = asyncio.get_running_loop().call_later(wait, self._lingered)
                return
        self._decided_at = asyncio.get_running_loop().time() if engine.linger else 0.0
        records = [self._requests.popleft() for _ in range(count)]
        self._start("decide", self._decide(records))

    def _lingered(self) -> None:
        self._lingering = None
        self.kick()

    async def _decide(self, records: list[InputRecord]) -> None:
        engine, partition = self._engine, self._running()
        wait = RETRY_SECONDS
        first: DecidedBatch | None = (
            None  # where an append fails, requests may have their decision the next time
        )
        passed = engine.config.requests.header_pass_through
        while True:
            now = engine.now_ms()
            batch = engine.learning.decide(partition, records, now)
            if first is None:
                first = batch
                if batch.poison:
                    # Before the decisions: a restart without a committed offset begins behind the last one of them.
                    keep = engine.config.engine.dead_letter_payload
                    await self._bury(
                        letters.poison(engine.names.requests, self.number, batch.poison, passed, keep=keep)
                    )
                    await self._send_replies(letters.replies(self.number, batch.poison, passed))
            try:
                await self._write(partition, batch, now)
            except AppendFailed as error:
                log.warning(
                    "decisions of partition %d not acknowledged, reading the log and trying again: %s",
                    self.number,
                    error,
                )
                await asyncio.sleep(wait)
                wait = min(2 * wait, MAX_RETRY_SECONDS)
                await read_gap(engine.client, engine.config, partition)
                partition.resend()
                await self._reply_again(records[0].offset)
                continue
            break
        if first.again:
            await self._answer_again(first.again)
        self.commit_to = batch.through
        engine.stats.repeats += first.repeats
        engine.stats.poison += len(first.poison)
        engine.check_partitioner(batch.keys, self.number)
        self._settle_debts()

    async def _answer_again(self, again: Sequence[Again]) -> None:
        """Reply to requests that were sent again: with their first decision, and the headers of the repeat."""
        engine, learner = self._engine, self._running().learner
        if engine.names.reply is None or engine.config.engine.mode == "shadow":
            return
        firsts = [learner.first_of(one.request_id, one.tenant)[0] for one in again]
        offsets = {one.offset for one in firsts if one is not None}
        values = await logged(engine.client, engine.names.decisions, self.number, offsets)
        passed = engine.config.requests.header_pass_through
        replies = [
            OutputRecord(one.request_id.encode(), values[first.offset], letters.passed(one.record, passed))
            for one, first in zip(again, firsts, strict=True)
            if first is not None and first.offset in values
        ]
        await self._send_replies(replies)

    async def _write(self, partition: Partition, batch: DecidedBatch, now: float) -> None:
        if batch.known is None:
            return
        engine = self._engine
        acks = await engine.client.append(engine.names.decisions, self.number, batch.records)
        at = 0
        for ack in acks:
            part = slice(at, at + ack.records)
            known = batch.known.part(part.start, part.stop)
            if not partition.acknowledged(known, ack.base, int(now), batch.records[part.stop - 1].value):
                await read_gap(engine.client, engine.config, partition)
            at += ack.records
        self.decided += len(batch.records)
        engine.stats.decisions += len(batch.records)
        await self._reply(batch.records)

    async def _reply(self, records: Sequence[OutputRecord]) -> None:
        await self._send_replies([OutputRecord(r.key, r.value, r.headers[1:]) for r in records])

    async def _send_replies(self, replies: Sequence[OutputRecord]) -> None:
        engine = self._engine
        if engine.names.reply is not None and engine.config.engine.mode != "shadow":
            await engine.insist(engine.names.reply, self.number % engine.reply_partitions, replies)

    async def _reply_again(self, start: int) -> None:
        """Reply to requests that were decided but whose offset was never committed: their reply may be lost."""
        engine = self._engine
        if engine.names.reply is None or start >= self._running().learner.r:
            return
        begin, end = await engine.client.bounds(engine.names.decisions, self.number)
        first = max(begin, self._running().learner.fields.X)
        async with engine.replying:
            async for records in engine.client.read(engine.names.decisions, self.number, first, end):
                owed = of_requests_from(start, records)
                if owed:
                    await self._reply(owed)

    # -- journal -----------------------------------------------------------------------------------

    def follow(self, records: Iterable[InputRecord]) -> None:
        """Take new journal records."""
        if self.state is TaskState.RUNNING:
            self._records.extend(records)
            self._read_journal()

    def _read_journal(self) -> None:
        if self._records and "journal" not in self._jobs:
            self._start("journal", self._apply())

    async def _apply(self) -> None:
        engine, partition = self._engine, self._running()
        while self._records:
            count = min(len(self._records), JOURNAL_CHUNK)
            chunk = Chunk.of([self._records.popleft() for _ in range(count)])
            meter = engine.learning.meter
            await apply(engine.client, engine.config, partition, chunk, self._bury_feedback, meter)
            if chunk.learned or chunk.control:
                with meter.work("observe"):
                    shifts = engine.learning.observe(
                        chunk.learned, chunk.timestamps[-1], control=chunk.control
                    )
                for shift in shifts:
                    engine.spawn(engine.alert("drift", str(shift), self.number))
            engine.learning.derive_if_due()
            if self._records:
                await asyncio.sleep(0)
        self._settle_debts()

    async def _bury_feedback(self, refused: Sequence[Refused]) -> None:
        # Applying goes on, and state that covers it is published, only once the reason is on the dead-letter topic.
        self.dead_in_flight += 1
        try:
            await self._bury(letters.refused(self._engine.names.feedback, refused))
        finally:
            self.dead_in_flight -= 1

    async def _bury(self, letters: Sequence[OutputRecord]) -> None:
        await self._engine.insist(self._engine.names.dead_letter, 0, letters)

    def tick(self, now_ms: float, *, expire: bool) -> None:
        """Append what is due: Decided and Control, and now and then Expire."""
        if self.state is not TaskState.RUNNING:
            return
        if self._running().owes:
            self._settle_debts()
        feedback = self._engine.config.feedback
        partition = self._running()
        expire = expire or partition.expires_more or len(partition.learner.pending) > feedback.max_open
        if expire and "journal-append" not in self._jobs:
            window = 1000.0 * feedback.join_window
            record = partition.expiry(now_ms, window, feedback.max_open, EXPIRED_AT_ONCE)
            if record is not None:
                self._start("journal-append", self._append([record]))

    def _settle_debts(self) -> None:
        """Append what is owed, a moment later: many small batches owe one Decided, many partitions one request."""
        if self._paying is None and self.state is TaskState.RUNNING:
            loop = asyncio.get_running_loop()
            self._paying = loop.call_later(DEBT_SECONDS - loop.time() % DEBT_SECONDS, self._pay)

    def _pay(self) -> None:
        self._paying = None
        if self.state is not TaskState.RUNNING or "journal-append" in self._jobs:
            return
        records = self._running().owed(1000.0 * time.monotonic())  # no clock that can be set back
        if records:
            self._start("journal-append", self._append(records))

    async def _append(self, records: Sequence[OutputRecord]) -> None:
        try:
            await self._engine.client.append(*self.journal, records)
        except AppendFailed as error:
            log.warning(
                "journal record of partition %d not acknowledged, it will be sent again: %s",
                self.number,
                error,
            )
            self._running().resend()

    # -- state -------------------------------------------------------------------------------------

    async def publish(self) -> None:
        """Publish the state record if something was applied since the last one."""
        partition = self.partition
        if (
            self.state is not TaskState.RUNNING
            or partition is None
            or not partition.dirty
            or self.dead_in_flight
        ):
            return
        with self._engine.learning.meter.work("publish"):
            state = partition.snapshot()
            value = encode_state(state)
        try:
            await self._engine.client.append(
                self._engine.names.state, self.number, [OutputRecord(state.key, value)]
            )
        except RecordTooLarge as error:
            if not self._too_large:
                self._too_large = True
                await self._engine.alert(
                    "state", _TOO_LARGE.format(self.number, len(value), error), self.number
                )
        except AppendFailed as error:
            log.warning(
                "state of partition %d not acknowledged, it will be sent again: %s", self.number, error
            )
        else:
            partition.published_j = max(partition.published_j, state.j)

    def saw_state(self, state: State) -> None:
        """Publish again when an older record of our own partition was written over a newer one.

        Raises
        ------
        StateError
            When a state was imported in the place of ours.
        """
        partition = self.partition
        if partition is None or state.spec_id != self._engine.learning.spec.spec_id:
            return
        if state.genesis.reign > partition.genesis.reign:
            raise StateError(
                f"another state of partition {self.number} was imported while this engine runs: start it again"
            )
        same = state.genesis.log_epoch == partition.genesis.log_epoch
        if same and state.j < partition.published_j:
            partition.published_j = state.j

    # -- jobs --------------------------------------------------------------------------------------

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        job = self._jobs[name] = asyncio.ensure_future(self._guard(name, work))
        job.add_done_callback(lambda _: work.close())  # cancelled before its first step, it was never begun

    async def _guard(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - nothing may end a task in silence
            self._engine.fail(self, error)
        finally:
            self._jobs.pop(name, None)
            if self.state is TaskState.RUNNING:
                self.kick()
                self._read_journal()
                self._engine.wake()
