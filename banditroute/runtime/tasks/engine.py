"""The engine: polls, hands records to tasks, publishes, commits.

Everything runs on one event loop; the core is called between awaits and never awaits itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final

from banditroute.config import Config
from banditroute.errors import BanditrouteError, BrokerError, TopicError
from banditroute.events import WIRE_VERSION, Alert, encode
from banditroute.flow.copying.copier import Copier
from banditroute.flow.copying.partitioner import PartitionerWatch
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.settling.learner import Learner
from banditroute.runtime.broker.kafka import KafkaClient
from banditroute.runtime.broker.ports import AppendFailed, Client, TopicPartition
from banditroute.runtime.process.metrics import Metrics
from banditroute.runtime.tasks.feedback_task import FeedbackTask
from banditroute.runtime.tasks.following import Following
from banditroute.runtime.tasks.judging import judge, watch_drift
from banditroute.runtime.tasks.learning import Learning
from banditroute.runtime.tasks.partition_task import PartitionTask, TaskState
from banditroute.runtime.tasks.preparing import prepare
from banditroute.runtime.tasks.reporting import Stats, report
from banditroute.runtime.tasks.warm_up import warm_up
from banditroute.runtime.tasks.watching import Watching

log = logging.getLogger("banditroute.engine")

POLL_SECONDS: Final = 0.05
COMMIT_SECONDS: Final = 0.2
RETRY_SECONDS: Final = 0.2
MAX_RETRY_SECONDS: Final = 5.0
CANCEL_SECONDS: Final = 0.1
AT_ONCE: Final = 32  # partitions that are brought back; each of them reads by a connection of its own
LEAVE_SECONDS: Final = 1.0  # for the last publication, and again at least for leaving the group


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

    Attributes
    ----------
    failure : BanditrouteError or None
        Why the engine stopped by itself; `stopped` is set then.
    """

    def __init__(
        self, config: Config, *, init: bool = False, client: Client | None = None, admin: bool = True
    ) -> None:
        self.config = config
        self.names = config.kafka.topics
        self.client: Client = client or KafkaClient(config)
        self.stats = Stats()
        self.learning = Learning(config, self.learners)
        self.partitions: dict[int, PartitionTask] = {}
        self.feedback: dict[int, FeedbackTask] = {}
        self.following = Following(self)
        self.watching = Watching(self)
        self.alerts: Counter[str] = Counter()
        self.metrics = None if config.metrics.port is None else Metrics(self)
        self.reply_partitions = 1
        self.failure: BanditrouteError | None = None
        self.stopped = asyncio.Event()
        self._init, self._admin = init, admin
        self._woken = asyncio.Event()
        self._stopping = False
        self._jobs: set[asyncio.Future[None]] = set()
        self.restoring = asyncio.Semaphore(AT_ONCE)
        self.replying = asyncio.Semaphore(
            AT_ONCE
        )  # again, after a restart; apart, because the broker may refuse
        self._epoch = 0
        self._partitions = 0
        self._committed: dict[TopicPartition, int] = {}

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, check topics and state, join the group, and return once the partitions are restored.

        Raises
        ------
        BrokerUnavailable, TopicError, StateError
            One sentence each; nothing runs then.
        """
        try:
            await self.client.start()
            await self._prepare()
            if self.metrics is not None:
                await self.metrics.start()
            warm_up(self.config)  # before the group is joined: a member that compiles sends no heartbeats
            await self.client.join([self.names.requests, self.names.feedback])
            loops = (
                self._poll_loop,
                partial(judge, self),
                partial(watch_drift, self),
                self.following.loop,
                self.watching.loop,
                self._tick_loop,
                self._publish_loop,
                self._commit_loop,
            )
            for loop in loops:
                self.spawn(loop())
            await self._until_restored()
        except BaseException:
            await self._end()
            raise

    async def _prepare(self) -> None:
        layout = await prepare(self, init=self._init, admin=self._admin)
        self._partitions = layout.partitions
        if self.names.reply is not None:
            self.reply_partitions = await self.client.partitions(self.names.reply)
        self._watch = PartitionerWatch(self.config.requests.partitioner, layout.partitions)
        feedback = self.config.feedback
        self.copier = Copier(
            self.learning.catalog, self._watch, feedback.field_map, self._locate, feedback.value_map
        )

    async def _until_restored(self) -> None:
        while self._epoch == 0 or any(task.state is TaskState.RESTORING for task in self.partitions.values()):
            if self.failure is not None:
                raise self.failure
            await asyncio.sleep(0.005)
        if self.failure is not None:
            raise self.failure

    async def stop(self) -> None:
        """Drain what was polled, apply what is in the journal, publish, commit, leave the group."""
        self._stopping = True
        deadline = time.monotonic() + self.config.engine.drain_timeout - LEAVE_SECONDS
        # a broker that is gone would be asked for the end of a log for longer than there is time
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drain(), deadline - time.monotonic())
        if self.failure is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hand_over(), LEAVE_SECONDS)
        # In the midst of a rebalance a member can only leave once all others have rejoined; one that does not leave
        # keeps its partitions from them until its session times out.
        await self._end(max(LEAVE_SECONDS, deadline - time.monotonic()))

    async def _drain(self) -> None:
        while self.failure is None:
            if not self._busy() and await self._caught_up():
                return
            await asyncio.sleep(0.02)

    async def _hand_over(self) -> None:
        await asyncio.gather(*(task.publish() for task in self.partitions.values()))
        await self._commit()

    async def _end(self, patience: float = LEAVE_SECONDS) -> None:
        for task in self.tasks():
            task.suspend()
        self.learning.cancel()
        if self.metrics is not None:
            self.metrics.stop()
        while self._jobs:  # again, should one have swallowed its cancellation
            for job in self._jobs:
                job.cancel()
            await asyncio.wait(set(self._jobs), timeout=CANCEL_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.client.stop(), patience)
        self.stopped.set()

    def _busy(self) -> bool:
        running = [task for task in self.partitions.values() if task.state is TaskState.RUNNING]
        return any(task.busy for task in running) or any(task.busy for task in self.feedback.values())

    async def _caught_up(self) -> bool:
        for number, learner in self.learners().items():
            try:
                _, end = await self.client.bounds(self.names.journal, number)
            except BrokerError:
                return False
            if learner.j < end:
                return False
        return True

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work beside the loops; what it raises ends the engine."""
        job = asyncio.ensure_future(self._guard(work))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        job.add_done_callback(lambda _: work.close())  # cancelled before its first step, it was never begun

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - nothing may end a loop in silence
            self.die(error)

    def die(self, error: Exception) -> None:
        """Stop by itself: going on would be guessing."""
        if isinstance(error, BanditrouteError):
            log.error("%s", error)
            self.failure = self.failure or error
        else:
            log.error("unexpected: %r", error, exc_info=error)
            self.failure = self.failure or BanditrouteError(f"the engine met an unexpected error: {error!r}")
        self.stopped.set()

    def fail(self, task: PartitionTask, error: Exception) -> None:
        """Take a task out that cannot go on: restore it if the broker may recover, else stop."""
        if task.state is TaskState.SUSPENDED:
            return
        task.suspend()
        if not isinstance(error, (BrokerError, AppendFailed)) or isinstance(error, TopicError):
            self.die(error)
            return
        log.warning("partition %d is restored again: %s", task.number, error)
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._begin, task.number, task)

    # -- loops -------------------------------------------------------------------------------------

    async def _poll_loop(self) -> None:
        limit = self.config.engine.max_queue
        while True:
            if self.client.assignment.epoch != self._epoch:
                await self._follow_assignment()
            wanted = [] if self._stopping else [task.source for task in self.tasks() if task.wants]
            if not wanted:
                self._woken.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):  # wait_for may swallow a cancellation
                        await self._woken.wait()
                continue
            for where, records in (await self.client.poll(wanted, limit, POLL_SECONDS)).items():
                tasks: Mapping[int, PartitionTask | FeedbackTask] = (
                    self.partitions if where.topic == self.names.requests else self.feedback
                )
                if where.partition in tasks:
                    tasks[where.partition].receive(records)

    async def _tick_loop(self) -> None:
        next_expiry = time.monotonic()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            expire = time.monotonic() >= next_expiry
            if expire:
                next_expiry = time.monotonic() + self.config.engine.expire_interval
            for task in self.partitions.values():
                task.tick(self.now_ms(), expire=expire)

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
        offsets = {task.source: task.commit_to for task in self.tasks() if task.commit_to is not None}
        due = {where: offset for where, offset in offsets.items() if self._committed.get(where) != offset}
        if due and await self.client.commit(due):
            self._committed.update(due)

    # -- ownership ---------------------------------------------------------------------------------

    def tasks(self) -> list[PartitionTask | FeedbackTask]:
        """Return the tasks of what is owned."""
        return [*self.partitions.values(), *self.feedback.values()]

    def learners(self) -> dict[int, Learner]:
        """Return the learners of the running partitions."""
        return {
            number: task.partition.learner
            for number, task in self.partitions.items()
            if task.state is TaskState.RUNNING and task.partition is not None
        }

    async def _follow_assignment(self) -> None:
        """Let go of what moved on, restore what came; the group's listener only records."""
        epoch, owned = self.client.assignment
        requests = {
            where.partition
            for where in owned
            if where.topic == self.names.requests
            and where.partition < self._partitions  # none that were added
        }
        feedback = {where.partition for where in owned if where.topic == self.names.feedback}
        log.info("assignment %d: requests %s, feedback %s", epoch, sorted(requests), sorted(feedback))
        self._committed.clear()
        for number in self.partitions.keys() - requests:
            self.partitions.pop(number).suspend()
        for number in self.feedback.keys() - feedback:
            self.feedback.pop(number).suspend()
        for task in self.partitions.values():
            task.refresh()
        for number in sorted(requests - self.partitions.keys()):
            self._begin(number, None)
        try:
            fresh = sorted(feedback - self.feedback.keys())
            for at in range(0, len(fresh), AT_ONCE):
                await self._begin_feedback(fresh[at : at + AT_ONCE])
        except TopicError:
            raise
        except BrokerError as error:  # the epoch stays: the loop tries again
            log.warning("feedback cannot be read yet, trying again: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
            return
        self._epoch = epoch
        self.learning.ownership_changed()

    async def _begin_feedback(self, numbers: Sequence[int]) -> None:
        tasks = {number: FeedbackTask(self, number) for number in numbers}
        starts = self.learning.feedback_start
        begun = await asyncio.gather(
            *(task.begin(starts.get(number, 0)) for number, task in tasks.items()), return_exceptions=True
        )
        for (number, task), failure in zip(tasks.items(), begun, strict=True):
            if failure is None:
                self.feedback[number] = task
        for failure in begun:
            if failure is not None:
                raise failure

    def _begin(self, number: int, instead_of: PartitionTask | None) -> None:
        if self._stopping or self.partitions.get(number) is not instead_of:
            return
        self.partitions[number] = PartitionTask(self, number)
        self.partitions[number].begin(self.learning.state_of(number))

    # -- what tasks ask for ------------------------------------------------------------------------

    def now_ms(self) -> float:
        """Milliseconds since the epoch."""
        return time.time() * 1000.0

    def wake(self) -> None:
        """There is room again, or a partition is ready."""
        self._woken.set()

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
        self.alerts[kind] += 1
        alert = Alert(v=WIRE_VERSION, kind=kind, message=message, partition=partition)
        try:
            await self.client.append(self.names.alerts, 0, [OutputRecord(kind.encode(), encode(alert))])
        except AppendFailed as error:
            log.warning("alert not acknowledged: %s", error)

    def check_partitioner(self, keys: Sequence[bytes], partition: int) -> None:
        """Check requests against the partitioner in use; alert when it is not the one."""
        if self._watch.check(keys, partition):
            message = (
                f"requests on partition {partition} are not where the partitioner "
                f"'{self.config.requests.partitioner}' puts them: feedback without decision_id is now copied to "
                "every partition; set requests.partitioner to the one your producers use, or send decision_id"
            )
            self.spawn(self.alert("partitioner", message, partition))

    def _locate(self, request_id: str, tenant: str | None) -> int | None:
        live = self.learners()
        found = [number for number, learner in live.items() if learner.has_request(request_id)]
        if tenant is not None and len(found) > 1:  # ids are per tenant
            found = [n for n in found if live[n].first_of(request_id, tenant)[0] is not None] or found
        return found[0] if found else None

    # -- reports -----------------------------------------------------------------------------------

    def ledger(self) -> Counter[str]:
        """Return the ledger of the running partitions, summed, with what is parked and open now."""
        total: Counter[str] = Counter()
        for learner in self.learners().values():
            total.update(learner.ledger)
            total.update({"parked": len(learner.parked), "open": len(learner.pending)})
        return total

    def report(self) -> dict[str, Any]:
        """Return counters for people and tests: stats, and the ledger of the owned partitions."""
        return report(self.stats, self.learning, self.ledger(), self._watch.mismatches)
