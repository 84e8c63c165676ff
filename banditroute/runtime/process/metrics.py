"""Metrics for Prometheus: what was done, what is behind, and whether the ledger adds up.

Served from the engine's own loop, on this machine alone unless configured otherwise: nothing here is secret, but it
tells names of models and topics. What each of them means, and when to worry: docs/OPERATIONS.md.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from banditroute.errors import BrokerError, ConfigError, MissingExtraError
from banditroute.flow.ledger import imbalance
from banditroute.runtime.broker.ports import TopicPartition
from banditroute.runtime.tasks.partition_task import TaskState

if TYPE_CHECKING:
    from banditroute.runtime.tasks.engine import Engine

log = logging.getLogger("banditroute.engine")

LAG_SECONDS: Final = 1.0  # the ends of the logs are asked for at most so often
PATIENCE: Final = 5.0  # for a request to be sent and an answer to be taken
_COUNTERS: Final = {
    "decisions": "Decisions acknowledged.",
    "repeats": "Requests whose id had a decision already: retries, answered again, and others, refused.",
    "poison": "Requests and feedback that were refused; each is on the dead-letter topic.",
    "feedback_copied": "Feedback copied into the journals.",
    "unmeasured": "Numbers in feedback that no answer has, such as a latency of 0: not learned from.",
    "restored": "Partitions restored.",
}


class Metrics:
    """Collects and serves the metrics of one engine.

    Parameters
    ----------
    engine : Engine
        What is told about.
    """

    def __init__(self, engine: Engine) -> None:
        if importlib.util.find_spec("prometheus_client") is None:
            raise MissingExtraError("The metrics endpoint", "web")
        self._engine = engine
        self._server: asyncio.Server | None = None
        self._lags: dict[TopicPartition, int] = {}
        self._ends: dict[int, int] = {}  # of the journals
        self._asked = -LAG_SECONDS
        self.port = 0

    async def start(self) -> None:
        """Listen; raises ConfigError if that is not possible."""
        settings = self._engine.config.metrics
        try:
            self._server = await asyncio.start_server(self._answer, settings.host, settings.port)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"metrics.host, metrics.port: cannot listen on {settings.host}:{settings.port}: {error}"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, *_ = [*head.split(b" ", 2), b"", b""]
                if method != b"GET" or path.partition(b"?")[0] != b"/metrics":
                    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                else:
                    body = await self.render()
                    kind = b"text/plain; version=0.0.4; charset=utf-8"
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nConnection: close\r\n")
                    writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("metrics were not told: %r", error)
        finally:
            writer.close()

    async def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - optional

        await self._ask()
        registry = CollectorRegistry()
        registry.register(self)  # collect() is all that a collector needs
        return bytes(generate_latest(registry))

    async def _ask(self) -> None:
        if time.monotonic() - self._asked < LAG_SECONDS:
            return
        engine = self._engine
        lags, ends = {}, {}
        try:
            for task in engine.tasks():
                if task.commit_to is not None:
                    _, end = await engine.client.bounds(*task.source)
                    # the markers of transactions are at offsets, too, and nothing that would ever be done
                    reached = None if task.busy else await engine.client.position(task.source)
                    lags[task.source] = max(0, end - max(task.commit_to, reached or 0))
            for number in engine.learning.covered():
                _, ends[number] = await engine.client.bounds(engine.names.journal, number)
        except BrokerError as error:
            log.debug("the ends of the logs are not known: %s", error)
            return
        self._lags, self._ends, self._asked = lags, ends, time.monotonic()

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of this moment, for prometheus-client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

        engine = self._engine
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"banditroute_{name}", text, value=getattr(engine.stats, name))
        yield CounterMetricFamily(
            "banditroute_derives", "Posteriors rebuilt from evidence.", value=engine.learning.derives
        )
        alerts = CounterMetricFamily("banditroute_alerts", "Alerts written, by kind.", labels=["kind"])
        for kind, count in engine.alerts.items():
            alerts.add_metric([kind], count)
        yield alerts
        longest = GaugeMetricFamily(
            "banditroute_longest_work_seconds",
            "The longest time for which the event loop was held since the start, by kind of work.",
            labels=["kind"],
        )
        over = CounterMetricFamily(
            "banditroute_long_work",
            "Stretches of work that held the event loop for more than 5 ms.",
            labels=["kind"],
        )
        for kind, seconds in sorted(engine.learning.meter.longest.items()):
            longest.add_metric([kind], seconds)
            over.add_metric([kind], engine.learning.meter.over[kind])
        yield from (longest, over)
        yield from self._partitions(GaugeMetricFamily)
        lag = GaugeMetricFamily(
            "banditroute_lag_records",
            "Records of an owned input partition that are not done.",
            labels=["topic", "partition"],
        )
        for where, count in self._lags.items():
            lag.add_metric([where.topic, str(where.partition)], count)
        yield lag
        behind = GaugeMetricFamily(
            "banditroute_staleness_records",
            "Journal records that the posterior does not know yet.",
            labels=["partition"],
        )
        age = GaugeMetricFamily(
            "banditroute_staleness_seconds",
            "Since when, for partitions of other engines that are behind; else 0.",
            labels=["partition"],
        )
        now = time.monotonic()
        for number, (covers, heard) in engine.learning.covered().items():
            missing = max(0, self._ends.get(number, covers) - covers)
            behind.add_metric([str(number)], missing)
            age.add_metric([str(number)], now - heard if missing and heard is not None else 0.0)
        yield behind
        yield age

    def _partitions(self, gauge: Any) -> Iterator[Any]:
        engine = self._engine
        states = gauge("banditroute_partitions", "Owned partitions by state.", labels=["state"])
        for state in TaskState:
            count = sum(task.state is state for task in engine.partitions.values())
            states.add_metric([state.value], count)
        ledger = gauge(
            "banditroute_ledger",
            "What became of journal records and decisions since genesis, of owned partitions.",
            labels=["partition", "outcome"],
        )
        odds = gauge(
            "banditroute_ledger_imbalance",
            "What is missing in the ledger: anything but 0 is a defect.",
            labels=["partition", "identity"],
        )
        waiting = gauge(
            "banditroute_dead_letters_waiting",
            "Partitions that wait for the dead-letter topic.",
            value=sum(task.dead_in_flight > 0 for task in engine.partitions.values()),
        )
        for number, task in sorted(engine.partitions.items()):
            if task.partition is None or task.state is not TaskState.RUNNING:
                continue
            learner = task.partition.learner
            counts = {**learner.ledger, "parked": len(learner.parked), "open": len(learner.pending)}
            for outcome, count in sorted(counts.items()):
                ledger.add_metric([str(number), outcome], count)
            journal, decisions = imbalance(task.partition)
            if journal is not None:
                odds.add_metric([str(number), "journal"], journal)
            odds.add_metric([str(number), "decisions"], decisions)
        yield from (states, ledger, odds, waiting)
