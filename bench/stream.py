"""The whole path on a real broker: engine CPU per decision, beside a bare loop that only copies.

`throughput-1`: one engine on a pre-filled requests topic (400-byte prompts, K = 8, the default features), with
feedback for 30 % of the requests, sent by another process as decisions appear. `value` is decisions per second of
user + system CPU time of exactly the engine's process, once it is warm; the wall rate of the same window is beside it.
`echo` is the limit: a bare aiokafka loop that polls the same topic, `orjson.loads` + `orjson.dumps` each value, and
`send_batch`es it to another topic. `--profile` shows where the microseconds go, in process and without a broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import json
import os
import pstats
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from banditroute.config import from_dict
from banditroute.flow.partitioner import partitions_of
from bench import ROOT
from bench._stream_input import BATCH_BYTES, OURS, PARTITIONS, answered, configuration, feedback, requests
from bench._stream_profile import profile
from bench.harness import Report, Row, interleave, options, progress, progress_done, table

WARM = 0.2  # of the requests: imports, compiled code, first derives and full buffers come before measuring
PATIENCE = 120.0
TRACED_FUNCTIONS = 40
PACKAGES = ("banditroute", "aiokafka", "confluent-kafka", "orjson", "msgspec", "numpy", "numba", "uvloop")


# -- the processes that are measured ------------------------------------------------------------------


def cpu_seconds() -> tuple[float, float]:
    """User and system time of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime


class Window:
    """CPU and wall time from the first look at or above `warm` to the last look."""

    def __init__(self, warm: int) -> None:
        self._warm = warm
        self._start: tuple[float, ...] | None = None
        self.result: dict[str, float] = {}

    def look(self, count: int) -> None:
        """Take note of how many are done."""
        now = (count, *cpu_seconds(), time.perf_counter())
        if self._start is None:
            if count >= self._warm:
                self._start = now
            return
        done, user, system, wall = (b - a for a, b in zip(self._start, now, strict=True))
        self.result = {"count": done, "cpu": user + system, "system": system, "wall": wall}


async def run_engine(document: dict[str, Any], count: int, answers: int) -> dict[str, float]:
    """Run the engine until every request is decided and all feedback is applied."""
    from banditroute.runtime import collector
    from banditroute.runtime.engine import Engine

    engine = Engine(from_dict(document), init=True)
    await engine.start()
    collector.settle()  # as `banditroute run` does
    window = Window(int(WARM * count))
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            await asyncio.sleep(0.02)
            window.look(engine.stats.decisions)
            if engine.failure is not None:
                raise engine.failure
            if engine.stats.decisions >= count and engine.ledger()["applied"] >= answers:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"{engine.report()} after {PATIENCE:.0f} s")
        result = window.result
    finally:
        await engine.stop()
    return result


async def run_echo(document: dict[str, Any], count: int) -> dict[str, float]:
    """Poll, loads, dumps, send_batch: what any stage on this client has to pay."""
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

    config = from_dict(document)
    kafka, topics = config.kafka, config.kafka.topics
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers,
        acks="all",
        linger_ms=0,
        max_batch_size=BATCH_BYTES,
        compression_type=kafka.compression,
    )
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, enable_auto_commit=False, max_partition_fetch_bytes=4 << 20
    )
    await producer.start()
    await consumer.start()
    window = Window(int(WARM * count))
    done = 0
    try:
        sources = [TopicPartition(topics.requests, p) for p in range(PARTITIONS)]
        consumer.assign(sources)
        await consumer.seek_to_beginning(*sources)
        while done < count:
            fetched = await consumer.getmany(timeout_ms=50, max_records=config.engine.max_queue)
            pending = []
            for where, records in fetched.items():
                batch = producer.create_batch()
                for record in records:
                    value = orjson.dumps(orjson.loads(record.value))
                    if batch.append(key=record.key, value=value, timestamp=None) is None:
                        batch.close()
                        pending.append(
                            await producer.send_batch(batch, topics.decisions, partition=where.partition)
                        )
                        batch = producer.create_batch()
                        batch.append(key=record.key, value=value, timestamp=None)
                batch.close()
                pending.append(await producer.send_batch(batch, topics.decisions, partition=where.partition))
                done += len(records)
            await asyncio.gather(*pending)
            window.look(done)
    finally:
        await consumer.stop()
        await producer.stop()
    return window.result


def functions(tracer: cProfile.Profile) -> list[tuple[str, float, int]]:
    """Return (function, seconds inside of it alone, calls), the longest first."""
    found: list[tuple[str, float, int]] = []
    stats: dict[tuple[str, int, str], tuple[Any, ...]] = pstats.Stats(tracer).stats  # type: ignore[attr-defined]
    for (file, line, name), (_, calls, own, _, _) in stats.items():
        path = Path(file)
        where = f"{path.parent.name}/{path.name}:{line} " if line else ""
        found.append((where + name, own, calls))
    return sorted(found, key=lambda row: -row[1])[:TRACED_FUNCTIONS]


def worker(text: str) -> None:
    """Be the measured process: read the job, do it, print one line."""
    from banditroute.runtime import serve

    job = json.loads(text)
    if job["who"] == "echo":
        result = serve.run(run_echo(job["config"], job["count"]))
    elif job["traced"]:
        tracer = cProfile.Profile()
        result = tracer.runcall(serve.run, run_engine(job["config"], job["count"], job["answers"]))
        result |= {"functions": functions(tracer)}
    else:
        result = serve.run(run_engine(job["config"], job["count"], job["answers"]))
    print(json.dumps(result | {"rss_mib": peak_mib()}))


def peak_mib() -> float:
    """Peak resident memory of this process: getrusage would report that of the process which started it, if larger."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# -- the process that drives them -----------------------------------------------------------------------


class Bench:
    """A pre-filled requests topic, and rounds on it."""

    def __init__(self, bootstrap: str, count: int) -> None:
        self.bootstrap = bootstrap
        self.count = count
        self.prefix = f"bench-{os.getpid()}-{int(time.time())}-"
        self.source = f"{self.prefix}requests"
        self._round = 0
        self._topics: list[str] = []

    def prefill(self) -> None:
        """Write the requests, placed as Java's producers place them."""
        from confluent_kafka import Producer

        self.create([self.source])
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 20, "compression.type": "lz4"})
        batch = list(requests(self.count))
        homes = partitions_of([key for key, _ in batch], PARTITIONS)[:, 0]
        for (key, value), home in zip(batch, homes.tolist(), strict=True):
            while True:
                try:
                    producer.produce(self.source, value, key, partition=home)
                    break
                except BufferError:
                    producer.poll(0.05)
        if producer.flush(PATIENCE):
            raise SystemExit(f"bench.stream: the broker at {self.bootstrap} did not take the requests")

    def create(self, topics: Sequence[str]) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic

        self._topics += topics
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for made in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in topics]).values():
            made.result(30)

    def created(self, topics: Iterable[str]) -> None:
        """Take note of topics that somebody else creates."""
        self._topics += topics

    def delete(self) -> None:
        """Remove every topic of this run."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for gone in admin.delete_topics(self._topics).values():
            with contextlib.suppress(KafkaException):
                gone.result(30)

    def measure(self, who: str, *, traced: bool = False) -> dict[str, Any]:
        """Run one round of a contender in a process of its own."""
        self._round += 1
        document = configuration(self.bootstrap, self.source, f"{self.prefix}{self._round}-")
        topics = document["kafka"]["topics"]
        answers = sum(answered(f"req-{number:012d}") for number in range(self.count))
        job = {"who": who, "config": document, "count": self.count, "answers": answers, "traced": traced}
        stop = threading.Event()
        feeder = None
        if who == "echo":
            self.create([topics["decisions"]])
        else:  # the engine makes the others itself, with --init
            self.create([topics["decisions"], topics["feedback"]])
            self.created(name for key, name in topics.items() if key in OURS[3:])
            feeder = threading.Thread(target=self.feed, args=(topics["decisions"], topics["feedback"], stop))
            feeder.start()
        roots = os.pathsep.join(str(ROOT / folder) for folder in (".", "features", "sim", "scripts"))
        path = os.pathsep.join(filter(None, [roots, os.environ.get("PYTHONPATH")]))
        try:
            done = subprocess.run(
                [sys.executable, "-m", "bench.stream", "--worker", json.dumps(job)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
                timeout=2 * PATIENCE,
            )
        finally:
            stop.set()
            if feeder is not None:
                feeder.join()
        if done.returncode:
            raise SystemExit(f"bench.stream: the {who} process ended with status {done.returncode}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def feed(self, decisions: str, target: str, stop: threading.Event) -> None:
        """Answer 30 % of the decisions as they appear (librdkafka, outside of the measured process)."""
        from confluent_kafka import Consumer, Producer, TopicPartition

        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"{self.prefix}feeder",
                "enable.auto.commit": False,
            }
        )
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5, "compression.type": "lz4"})
        consumer.assign([TopicPartition(decisions, p, 0) for p in range(PARTITIONS)])
        number = 0
        try:
            while not stop.is_set():
                for message in consumer.consume(1000, 0.05):
                    key = message.key()
                    if message.error() or key is None or not answered(key.decode()):
                        continue
                    number += 1
                    producer.produce(
                        target, feedback(key.decode(), number), key, partition=message.partition()
                    )
                producer.poll(0)
        finally:
            consumer.close()
            producer.flush(10)


@contextlib.contextmanager
def broker() -> Iterator[tuple[str | None, str]]:
    """Yield host:port of a real Kafka, or None and the reason."""
    given = os.environ.get("BANDITROUTE_KAFKA")
    if given:
        yield given, ""
        return
    from kafka_broker import KafkaBroker
    from kafka_jars import KafkaError, unavailable_reason

    reason = os.environ.get("BANDITROUTE_KAFKA_UNAVAILABLE") or unavailable_reason()
    if reason is None:
        own = KafkaBroker()
        try:
            own.start()
        except KafkaError as error:
            reason = str(error)
        else:
            try:
                yield own.bootstrap, ""
            finally:
                own.stop()
            return
    yield None, f"no Apache Kafka: {reason}"


def throughput(report: Report, bootstrap: str, *, quick: bool, traced: bool) -> str:
    """Fill in `throughput-1`; return the table of functions of one more round under cProfile, if asked for."""
    bench = Bench(bootstrap, 50_000 if quick else 200_000)
    try:
        progress("writing requests")
        bench.prefill()
        contenders = {who: lambda who=who: bench.measure(who) for who in ("banditroute", "echo")}
        results = interleave(contenders, 3 if quick else 5, progress)
        longest = bench.measure("banditroute", traced=True)["functions"] if traced else []
    finally:
        progress_done()
        bench.delete()
    rates: dict[str, list[float]] = {}
    for who, rounds in results.items():
        rates[who] = [round_["count"] / round_["cpu"] for round_ in rounds]
        report.rows.append(
            Row.of(
                "throughput-1",
                who,
                rates[who],
                "decisions/CPU s" if who == "banditroute" else "records/CPU s",
            )
        )
    for who, rounds in results.items():
        wall = [round_["count"] / round_["wall"] for round_ in rounds]
        report.rows.append(Row.of("throughput-1-wall", who, wall, "1/s"))
    ratios = [ours / limit for ours, limit in zip(rates["banditroute"], rates["echo"], strict=True)]
    report.rows.append(Row.of("throughput-1-ratio", "banditroute/echo", ratios, "ratio"))
    rss = [round_["rss_mib"] for round_ in results["banditroute"]]
    report.rows.append(Row.of("throughput-1-rss", "banditroute", rss, "MiB"))
    lines = [[f"{1e6 * own / bench.count:.2f}", str(calls), name] for name, own, calls in longest]
    return table(
        ["µs/decision", "calls", "function of the engine's process, under cProfile, start included"], lines
    )


def show_profile(count: int, report: Report, engine_rate: float | None, *, as_json: bool) -> None:
    """Print the table of stages, or add its rows to the report."""
    rows, total = profile(count)
    staged = sum(row[2] for row in rows)
    lines = [[name, f"{value:.2f}", f"{value / staged:.0%}", meaning] for name, meaning, value, _ in rows]
    lines.append(
        ["sum", f"{staged:.2f}", "100%", f"of the stages; {total:.2f} µs in one piece, without timers"]
    )
    if engine_rate is not None:
        rest = 1e6 / engine_rate - total
        lines.append(
            ["engine", f"{1e6 / engine_rate:.2f}", "", "CPU per decision of the engine on the broker"]
        )
        lines.append(
            ["client", f"{rest:.2f}", "", "of that: sockets, aiokafka, event loop, following, publishing"]
        )
    report.rows += [Row("profile", name, value, "µs/decision") for name, _, value, _ in rows]
    report.rows.append(Row("profile", "total", total, "µs/decision"))
    if not as_json:
        print(table(["stage", "µs/decision", "share", ""], lines))
        print()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument(
        "--profile", action="store_true", help="also show where the time goes, stage by stage"
    )
    parser.add_argument(
        "--no-broker", action="store_true", help="with --profile: nothing that needs a broker"
    )
    parser.add_argument("--worker", help="be a measured process (internal)")
    chosen = parser.parse_args(arguments)
    if chosen.worker is not None:
        worker(chosen.worker)
        return
    report = Report("stream", PACKAGES)
    functions_table = ""
    if not chosen.no_broker:
        with broker() as (bootstrap, reason):
            if bootstrap is None:
                report.skip("throughput-1", reason)
            else:
                functions_table = throughput(report, bootstrap, quick=chosen.quick, traced=chosen.profile)
    if chosen.profile:
        ours: Mapping[str, float] = {row.who: row.value for row in report.rows if row.case == "throughput-1"}
        count = 20_000 if chosen.quick else 60_000
        show_profile(count, report, ours.get("banditroute"), as_json=chosen.json)
        if functions_table and not chosen.json:
            print(functions_table, end="\n\n")
    if report.rows or chosen.json or report.skipped:
        report.show(chosen.json)


if __name__ == "__main__":
    main()
