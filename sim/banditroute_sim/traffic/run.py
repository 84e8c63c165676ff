"""Real traffic from a data set: the services' side of the stream.

Publishes prompts as request events, reads the decisions, and answers each first decision with the recorded
outcome of the model it names, some time later. Runs of several clients do not disturb each other: a run knows
its requests by its run id and ignores all others.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
from aiokafka.errors import KafkaError

from banditroute.config import Config
from banditroute.errors import BrokerError, ConfigError
from banditroute.events import Decision, decode_decision
from banditroute_sim.data.dataset import DataSet
from banditroute_sim.traffic.clients import Clients, connect
from banditroute_sim.traffic.options import TrafficOptions
from banditroute_sim.traffic.outbox import Outbox
from banditroute_sim.traffic.tally import Tally, TrafficSummary
from banditroute_sim.traffic.wire import Record, Wire

Progress = Callable[[Tally], None]

_TICK: Final = 0.005  # seconds between two looks at what is due
_CHUNK: Final = 1024  # requests sent at most before the next look
_PROGRESS: Final = 0.2  # seconds between two reports


async def run_traffic(
    config: Config, source: DataSet, options: TrafficOptions, progress: Progress | None = None
) -> TrafficSummary:
    """Send traffic, answer decisions, and sum up.

    Feedback is one `score` event per decision with the recorded quality, cost, tokens and latency; a number that
    the data set does not know is left out. A decision that names no model, or one the data set does not know,
    gets none, and neither does a shadow decision: its model did not serve the request. Requests and feedback
    are sent again when the broker goes away and comes back.

    Parameters
    ----------
    config : Config
        Where the broker is, the topics, the field maps and `objective.cost_weight`.
    source : DataSet
        Prompts and outcomes.
    options : TrafficOptions
        How much, how fast, and what comes back.
    progress : callable, optional
        Called with the `Tally` a few times a second, and at the end.

    Returns
    -------
    TrafficSummary
        `undecided` > 0 if decisions stayed away for `stall_timeout` seconds.

    Raises
    ------
    ConfigError
        If the data set knows none of the models of the catalog.
    BrokerUnavailable, TopicError
        If the broker or a topic is not there at the start.
    BrokerError
        If the broker refuses records, or has deleted decisions before they could be read.
    """
    if not set(config.catalog.names) & set(source.models):
        raise ConfigError(
            f"the data set '{source.name}' knows none of the models of the catalog: it knows {', '.join(source.models)}"
        )
    async with connect(config, options.fetch_wait_ms) as clients:
        return await _Run(config, source, options, clients).run(progress or (lambda _tally: None))


class _Run:
    """One run: a task that sends, one that reads, one that answers, and a watch over the three."""

    def __init__(self, config: Config, source: DataSet, options: TrafficOptions, clients: Clients) -> None:
        rng = np.random.default_rng(options.seed)
        n, (low, high) = options.requests, options.delay_bounds
        fixed = isinstance(options.feedback_delay, tuple)
        self.tally = Tally(source, n, config.objective.cost_weight)
        self._source, self._options, self._clients = source, options, clients
        self._wire = Wire(source, options.run_id or f"run{time.time_ns():x}", options.source, config)
        self._answered = rng.random(n) < options.feedback_share
        self._delay = rng.uniform(low, high, n) if fixed else rng.exponential(low, n)
        # when, request number, column of the model, decision_id
        self._due: list[tuple[float, int, int, str]] = []
        self._moved = time.monotonic()
        self._sending = True
        topics, counts = config.kafka.topics, clients.partitions
        self._requests = Outbox(
            clients.producer,
            topics.requests,
            counts[topics.requests],
            options.partitioner,
            lambda _count: None,
        )
        self._feedback = Outbox(
            clients.producer,
            topics.feedback,
            counts[topics.feedback],
            options.feedback_partitioner,
            self._sent,
        )

    async def run(self, progress: Progress) -> TrafficSummary:
        send, _, answer = tasks = [
            asyncio.create_task(job()) for job in (self._send, self._read, self._answer)
        ]
        try:
            await self._watch(tasks, lambda: send.done() and self.tally.decided == self.tally.sent, progress)
            send.cancel()
            self._sending, self._moved = False, time.monotonic()
            await self._watch(tasks, answer.done, progress)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        progress(self.tally)
        return self.tally.summary()

    async def _watch(
        self, tasks: list[asyncio.Task[None]], finished: Callable[[], bool], progress: Progress
    ) -> None:
        """Wait until it is finished, nothing has moved for too long, or a task has failed."""
        reported = -math.inf
        while True:
            for task in tasks:
                if task.done() and not task.cancelled() and (error := task.exception()):
                    raise error
            if finished():
                return
            now = time.monotonic()
            if now - reported >= _PROGRESS:
                progress(self.tally)
                reported = now
            if now - self._moved > self._options.stall_timeout and self._expecting(now):
                return
            await asyncio.sleep(4 * _TICK)

    def _expecting(self, now: float) -> bool:
        """Tell whether somebody owes us something; a pause of our own is not a stall."""
        if self._sending:
            return self.tally.sent > self.tally.decided
        return not self._due or self._due[0][0] <= now

    async def _send(self) -> None:
        rate, total, start = self._options.rate, self._options.requests, time.monotonic()
        while self.tally.sent < total:
            elapsed = time.monotonic() - start
            if self._options.seconds is not None and elapsed >= self._options.seconds:
                return
            due = min(total, int(elapsed * rate) + 1) if rate else total
            room = self._options.max_in_flight - (self.tally.sent - self.tally.decided)
            count = min(due - self.tally.sent, room, _CHUNK)
            if count <= 0:
                await asyncio.sleep(_TICK)
                continue
            first = self.tally.sent
            self._requests.add([self._wire.request(number) for number in range(first, first + count)])
            now = time.monotonic()
            if first == self.tally.decided:  # the wait for decisions begins here
                self._moved = now
            self.tally.send(count, now)
            await self._requests.flush()

    async def _read(self) -> None:
        prefix, consumer = self._wire.prefix.encode(), self._clients.consumer
        while True:
            try:
                batches = await consumer.getmany(timeout_ms=100, max_records=2 * _CHUNK)
            except KafkaError as error:
                raise BrokerError(
                    f"decisions cannot be read: {type(error).__name__}; if they were deleted before they were read, "
                    "keep them for longer or send more slowly"
                ) from error
            now = time.monotonic()
            for record in (record for records in batches.values() for record in records):
                if record.key is not None and record.key.startswith(prefix):
                    self._decided(record.value, now)
            await asyncio.sleep(0)

    def _decided(self, value: bytes, now: float) -> None:
        try:
            decision: Decision = decode_decision(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # not a decision, whoever wrote it
        number = self._wire.number(decision.request_id)
        if number is None or number >= self.tally.sent:
            return
        self._moved = now
        first = self.tally.decide(number, decision.model, now)
        column = None if decision.mode == "shadow" else self.tally.column(decision.model)
        if first and column is not None and self._answered[number]:
            due = now + float(self._delay[number])
            heapq.heappush(self._due, (due, number, column, decision.decision_id))

    async def _answer(self) -> None:
        with_id = self._options.send_decision_id
        while self._sending or self._due:
            now = time.monotonic()
            records: list[Record] = []
            while self._due and self._due[0][0] <= now and len(records) < _CHUNK:
                _, number, column, decision_id = heapq.heappop(self._due)
                records.append(self._wire.feedback(number, column, decision_id if with_id else None))
            if records:
                self._feedback.add(records)
                await self._feedback.flush()
            else:
                await asyncio.sleep(_TICK)

    def _sent(self, count: int) -> None:
        self.tally.feedback_sent += count
        if not self._sending:
            self._moved = time.monotonic()
