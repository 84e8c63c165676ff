"""The engine: polls, hands records to tasks, shares one policy, publishes and commits.

Everything runs on one event loop; the core is called between awaits and never awaits itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from banditroute.bandit.posterior import ModelPrior
from banditroute.bandit.thompson import Policy
from banditroute.config import Config
from banditroute.errors import BanditrouteError, StateError, TopicError
from banditroute.events import WIRE_VERSION, Alert, Rejected, decode_edit, encode
from banditroute.flow.board import Board
from banditroute.flow.copier import Copier
from banditroute.flow.decider import DecidedBatch, Decider, InputRecord, OutputRecord, Poison
from banditroute.flow.header import HEADER_NAME, request_offset_of
from banditroute.flow.learner import Ready, Refused
from banditroute.flow.partition import Partition
from banditroute.flow.partitioner import PartitionerWatch
from banditroute.flow.snapshot import decode_state
from banditroute.router import learner_settings, make_encoder, make_policy
from banditroute.runtime.kafka import KafkaClient
from banditroute.runtime.ports import AppendFailed, Assignment, Client, TopicPartition
from banditroute.runtime.tasks import FeedbackTask, PartitionTask, TaskState, dead_letter
from banditroute.runtime.topics import Spec, check_topics, create_topics, read_state

log = logging.getLogger("banditroute.engine")

POLL_SECONDS: Final = 0.05
COMMIT_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 0.2
MAX_RETRY_SECONDS: Final = 5.0


@dataclass(slots=True)
class Stats:
    """What one engine has done since it started."""

    decisions: int = 0
    repeats: int = 0
    poison: int = 0
    feedback_copied: int = 0
    derives: int = 0
    restored: int = 0


class Engine:
    """Reads requests and feedback, writes decisions, learns.

    Parameters
    ----------
    config : Config
        The whole configuration.
    init : bool
        Create missing topics and genesis records first.
    client : Client, optional
        A broker connection; default: Kafka as configured.
    admin : bool
        Whether the broker can create topics.
    """

    def __init__(
        self, config: Config, *, init: bool = False, client: Client | None = None, admin: bool = True
    ) -> None:
        self.config = config
        self.names = config.kafka.topics
        self.client: Client = client or KafkaClient(config)
        self.stats = Stats()
        self.catalog = config.catalog
        encoder = make_encoder(config)
        self.spec = Spec(encoder.spec.d, encoder.spec.spec_id, learner_settings(config))
        self.policy: Policy = make_policy(config, encoder.spec)
        self._decider = Decider(config, self.catalog, encoder, self.policy)
        self._board = Board(self.spec.d, self.spec.spec_id, self.spec.settings)
        self._init, self._admin = init, admin
        self.partitions: dict[int, PartitionTask] = {}
        self.feedback: dict[int, FeedbackTask] = {}
        self.reply_partitions = 1
        self.failure: BanditrouteError | None = None
        self.stopped = asyncio.Event()
        self._woken = asyncio.Event()
        self._stopping = False
        self._draining = False
        self._loops: list[asyncio.Task[None]] = []
        self._epoch = -1
        self._dirty = True
        self._derived_at = 0.0
        self._covered = 0
        self._updates = 0
        self._derive_handle: asyncio.TimerHandle | None = None

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, check topics and state, join the group and begin to work.

        Raises
        ------
        BrokerUnavailable, TopicError, StateError
            One sentence each; nothing runs then.
        """
        try:
            await self.client.start()
            if self._init:
                done = await create_topics(
                    self.client, self.config, self.spec, int(self.now_ms()), admin=self._admin
                )
                for line in done:
                    log.info(line)
            layout = await check_topics(self.client, self.config)
            if self.names.reply is not None:
                self.reply_partitions = await self.client.partitions(self.names.reply)
            self._watch = PartitionerWatch(self.config.requests.partitioner, layout.partitions)
            self.copier = Copier(
                self.catalog, self._watch, self.config.feedback.field_map, self._locate
            )
            followed = {}
            for number in range(layout.partitions):
                state, end, damaged = await read_state(self.client, self.config, number, self.spec)
                for sentence in damaged:
                    await self.alert("state", sentence, number)
                if state is None:
                    raise TopicError(
                        f"partition {number} of '{self.names.state}' holds no genesis record: run "
                        "`banditroute topics create -c FILE` (or `banditroute run --init`) once"
                    )
                self._board.put(state)
                followed[TopicPartition(self.names.state, number)] = end
            begin, _ = await self.client.bounds(self.names.control, 0)
            followed[TopicPartition(self.names.control, 0)] = begin
            self.client.follow(followed)
            self._edits: dict[int, Any] = {}
            self._derive()
            await self.client.join([self.names.requests, self.names.feedback])
        except BaseException:
            await self.client.stop()
            raise
        loops = (self._poll_loop, self._follow_loop, self._tick_loop, self._publish_loop, self._commit_loop)
        self._loops = [asyncio.ensure_future(self._guard(loop())) for loop in loops]

    async def stop(self) -> None:
        """Drain what was polled, apply what is in the journal, publish, commit, leave the group."""
        self._stopping = True
        deadline = time.monotonic() + self.config.engine.drain_timeout
        while time.monotonic() < deadline and self.failure is None:
            if not self._busy() and await self._caught_up():
                break
            await asyncio.sleep(0.02)
        self._draining = True
        await asyncio.gather(*(task.publish() for task in self.partitions.values()))
        await self._commit()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for task in (*self.partitions.values(), *self.feedback.values()):
            task.suspend()
        if self._derive_handle is not None:
            self._derive_handle.cancel()
        await self.client.stop()
        self.stopped.set()

    def _busy(self) -> bool:
        running = [task for task in self.partitions.values() if task.state is TaskState.RUNNING]
        return any(task.busy for task in (*running, *self.feedback.values()))

    async def _caught_up(self) -> bool:
        for task in self.partitions.values():
            if task.state is TaskState.RUNNING and task.partition is not None:
                _, end = await self.client.bounds(*task.journal)
                if task.partition.learner.j < end:
                    return False
        return True

    async def _guard(self, loop: Any) -> None:
        try:
            await loop
        except BanditrouteError as error:
            self._die(error)

    def _die(self, error: BanditrouteError) -> None:
        log.error("%s", error)
        if self.failure is None:
            self.failure = error
        self.stopped.set()

    def fail(self, task: PartitionTask, error: Exception) -> None:
        """A task cannot go on: what cannot be trusted stops the engine, what may pass is restored again."""
        if task.state is TaskState.SUSPENDED:
            return
        task.suspend()
        if isinstance(error, (StateError, TopicError)):
            self._die(error)
            return
        log.warning("partition %d is restored again: %s", task.number, error)
        asyncio.get_running_loop().call_later(MAX_RETRY_SECONDS / 5, self._begin, task.number, task)

    # -- loops -------------------------------------------------------------------------------------

    async def _poll_loop(self) -> None:
        limit = self.config.engine.max_queue
        while True:
            await self._follow_assignment()
            wanted = [] if self._stopping else [task.source for task in self._tasks() if task.wants]
            if not wanted:
                self._woken.clear()
                try:
                    await asyncio.wait_for(self._woken.wait(), POLL_SECONDS)
                except TimeoutError:
                    pass
                continue
            for where, records in (await self.client.poll(wanted, limit, POLL_SECONDS)).items():
                task = self._task(where)
                if task is not None:
                    task.receive(records)

    async def _follow_loop(self) -> None:
        while True:
            for where, records in (await self.client.poll_followed(POLL_SECONDS)).items():
                if where.topic == self.names.journal:
                    task = self.partitions.get(where.partition)
                    if task is not None:
                        task.follow(records)
                elif where.topic == self.names.state:
                    await self._see_states(where.partition, records)
                else:
                    self._see_control(records)

    async def _tick_loop(self) -> None:
        next_expiry = time.monotonic()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for task in self.partitions.values():
                task.tick()
            if time.monotonic() >= next_expiry:
                next_expiry = time.monotonic() + self.config.engine.expire_interval
                for task in self.partitions.values():
                    task.expire(self.now_ms())

    async def _publish_loop(self) -> None:
        jitter = random.Random()  # noqa: S311 - spreads engines out; nothing depends on it
        while True:
            await asyncio.sleep(self.config.engine.publish_interval * jitter.uniform(0.8, 1.2))
            for task in list(self.partitions.values()):
                await task.publish()

    async def _commit_loop(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            await self._commit()

    async def _commit(self) -> None:
        offsets = {task.source: task.commit_to for task in self._tasks() if task.commit_to is not None}
        due = {where: offset for where, offset in offsets.items() if self._committed.get(where) != offset}
        if due and await self.client.commit(due):
            self._committed.update(due)

    # -- ownership ---------------------------------------------------------------------------------

    def _tasks(self) -> list[PartitionTask | FeedbackTask]:
        return [*self.partitions.values(), *self.feedback.values()]

    def _task(self, where: TopicPartition) -> PartitionTask | FeedbackTask | None:
        tasks: dict[int, Any] = self.partitions if where.topic == self.names.requests else self.feedback
        return tasks.get(where.partition)

    async def _follow_assignment(self) -> None:
        assignment: Assignment = self.client.assignment
        if assignment.epoch == self._epoch:
            return
        self._epoch = assignment.epoch
        self._committed: dict[TopicPartition, int] = {}
        owned = {w.partition for w in assignment.owned if w.topic == self.names.requests}
        copied = {w.partition for w in assignment.owned if w.topic == self.names.feedback}
        log.info("assignment %d: requests %s, feedback %s", assignment.epoch, sorted(owned), sorted(copied))
        for number in [number for number in self.partitions if number not in owned]:
            task = self.partitions.pop(number)
            if task.state is not TaskState.SUSPENDED:
                task.suspend()
        for number in [number for number in self.feedback if number not in copied]:
            self.feedback.pop(number).suspend()
        for task in self.partitions.values():
            task.refresh()
        for number in sorted(owned - self.partitions.keys()):
            self._begin(number, None)
        starts = next(iter(self._board.slots.values())).genesis.feedback_start
        for number in sorted(copied - self.feedback.keys()):
            self.feedback[number] = FeedbackTask(self, number)
            await self.feedback[number].begin(starts.get(number, 0))
        self._dirty = True

    def _begin(self, number: int, instead_of: PartitionTask | None) -> None:
        if self._stopping or (instead_of is not None and self.partitions.get(number) is not instead_of):
            return
        task = self.partitions[number] = PartitionTask(self, number)
        task.begin(self._board.slots[number])

    def wake(self) -> None:
        """There is room again, or a partition is ready."""
        self._woken.set()

    # -- what tasks ask for ------------------------------------------------------------------------

    def now_ms(self) -> float:
        """Milliseconds since the epoch."""
        return time.time() * 1000.0

    def decide(self, partition: Partition, records: Sequence[InputRecord], now: float) -> DecidedBatch:
        """Decide a batch with the posterior of this moment."""
        version = f"{self._covered}+{self._updates}"
        learner = partition.learner
        return self._decider.decide_records(
            partition.number, records, learner, learner.fields.prices, version, now
        )

    def observe(self, ready: Ready) -> None:
        """Let the working posterior follow what was learned; a control record asks for a derive at once."""
        for key, x, vote, weight in ready.learned:
            self.policy.observe(key, x, vote.quality, weight)
        self._updates += len(ready.learned)
        self._dirty = True
        if ready.control:
            self._due_now = True

    _due_now = False

    def note_evidence(self) -> None:
        """Derive if it is time to."""
        if self.config.engine.mode == "frozen" or not self._dirty or not (self.policy.due or self._due_now):
            return
        wait = self._derived_at + self.config.engine.derive_interval - time.monotonic()
        if wait <= 0:
            self._derive()
        elif self._derive_handle is None:
            self._derive_handle = asyncio.get_running_loop().call_later(wait, self._derive)

    def _derive(self) -> None:
        if self._derive_handle is not None:
            self._derive_handle.cancel()
            self._derive_handle = None
        live = {
            number: task.partition.learner
            for number, task in self.partitions.items()
            if task.state is TaskState.RUNNING and task.partition is not None
        }
        evidence, self._covered = self._board.merged(live)
        self.policy.derive(evidence)
        self._updates = 0
        self._dirty = self._due_now = False
        self._derived_at = time.monotonic()
        self.stats.derives += 1

    def check_partitioner(self, keys: Sequence[bytes], partition: int) -> None:
        """Check requests against the partitioner in use; alert when it is not the one."""
        if self._watch.check(keys, partition):
            message = (
                f"requests on partition {partition} are not where the partitioner "
                f"'{self.config.requests.partitioner}' puts them: feedback without decision_id is now copied to every "
                "partition; set requests.partitioner to the one your producers use, or send decision_id"
            )
            asyncio.ensure_future(self.alert("partitioner", message, partition))

    def _locate(self, request_id: str) -> int | None:
        for number, task in self.partitions.items():
            if task.partition is not None and task.partition.learner.has_request(request_id):
                return number
        return None

    async def insist(self, topic: str, partition: int, records: Sequence[OutputRecord]) -> None:
        """Append until acknowledged, with back-off: what waits behind it waits."""
        wait = RETRY_SECONDS
        while True:
            try:
                await self.client.append(topic, partition, records)
            except AppendFailed as error:
                log.warning("%s-%d not acknowledged, trying again: %s", topic, partition, error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, MAX_RETRY_SECONDS)
            else:
                return

    async def alert(self, kind: str, message: str, partition: int | None = None) -> None:
        """Log an alert and write it to the alerts topic, once, if the broker takes it."""
        log.warning("alert %s: %s", kind, message)
        alert = Alert(v=WIRE_VERSION, kind=kind, message=message, partition=partition)
        try:
            await self.client.append(self.names.alerts, 0, [OutputRecord(kind.encode(), encode(alert))])
        except AppendFailed as error:
            log.warning("alert not acknowledged: %s", error)

    def dead_letters(
        self, topic: str, number: int, poison: Iterable[Poison], *, keep: bool
    ) -> list[OutputRecord]:
        """Build dead letters for refused input records."""
        letters = []
        for record, reason in poison:
            log.warning("refused %s-%d offset %d: %s", topic, number, record.offset, reason)
            letters.append(dead_letter(topic, number, record.offset, record.value or b"", reason, keep))
        return letters

    def dead_requests(self, number: int, poison: Iterable[Poison]) -> list[OutputRecord]:
        """Build dead letters for refused requests: their payload is prompt text and stays out unless configured."""
        return self.dead_letters(
            self.names.requests, number, poison, keep=self.config.engine.dead_letter_payload
        )

    def dead_feedback(self, refused: Iterable[Refused]) -> list[OutputRecord]:
        """Build dead letters for feedback that settled into nothing."""
        return [
            dead_letter(self.names.feedback, *copied.src, encode(copied.feedback), reason, True)
            for copied, reason in refused
        ]

    def decisions_at_or_above(self, records: Iterable[InputRecord], start: int) -> list[OutputRecord]:
        """Return logged decisions of requests at or above an offset, as they were written."""
        found = []
        for record in records:
            header = next((content for name, content in record.headers if name == HEADER_NAME), b"")
            if request_offset_of(header) >= start:
                found.append(OutputRecord(record.key, record.value or b"", record.headers))
        return found

    # -- other engines -----------------------------------------------------------------------------

    async def _see_states(self, number: int, records: Iterable[InputRecord]) -> None:
        for record in records:
            try:
                state = decode_state(record.value)
            except StateError as error:
                await self.alert(
                    "state", f"{self.names.state}-{number} offset {record.offset}: {error}", number
                )
                continue
            task = self.partitions.get(number)
            if task is not None and task.state is TaskState.RUNNING:
                task.saw_state(state)
            if self._board.put(state) and task is None:
                self._dirty = self._due_now = True
        self.note_evidence()

    def _see_control(self, records: Iterable[InputRecord]) -> None:
        for record in records:
            edit = decode_edit(record.value)
            if isinstance(edit, Rejected):
                log.error("refused control record %d: %s", record.offset, edit.reason)
                continue
            self._edits[record.offset] = edit
        for task in self.partitions.values():
            self.tell_control(task)

    def tell_control(self, task: PartitionTask) -> None:
        """Tell a partition every control record known; it copies those its cursor has not passed."""
        if task.partition is not None:
            for number, edit in self._edits.items():
                task.partition.learn_of_control(number, edit)

    def ledger(self) -> Counter[str]:
        """Return the ledger of the running partitions, summed."""
        total: Counter[str] = Counter()
        for task in self.partitions.values():
            if task.partition is not None:
                total += task.partition.learner.ledger
                total["parked"] += len(task.partition.learner.parked)
                total["open"] += len(task.partition.learner.pending)
        return total

    def report(self) -> dict[str, Any]:
        """Return counters for people and tests: stats, and the ledger of the owned partitions."""
        ledger = self.ledger()
        return {
            **asdict(self.stats),
            "feedback_applied": ledger["applied"] + ledger["revised"],
            "duplicates": ledger["later"],
            "partitioner_mismatches": self._watch.mismatches,
            "ledger": dict(ledger),
        }
