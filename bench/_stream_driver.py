"""The process that drives `bench.stream`: topics, requests, feedback, and one process per measurement."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from banditroute.flow.copying.partitioner import partitions_of
from bench import ROOT
from bench._stream_input import OURS, PARTITIONS, answered, configuration, feedback, requests

PATIENCE = 120.0


def start(job: dict[str, Any]) -> subprocess.Popen[str]:
    """Start a measured process; see `bench._stream_workers`."""
    roots = os.pathsep.join(str(ROOT / folder) for folder in (".", "features", "sim", "scripts"))
    path = os.pathsep.join(filter(None, [roots, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "bench.stream", "--worker", json.dumps(job)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


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

    def create(self, topics: Sequence[str], partitions: int = PARTITIONS) -> None:
        """Create topics."""
        from confluent_kafka.admin import AdminClient, NewTopic

        self._topics += topics
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for made in admin.create_topics([NewTopic(name, partitions, 1) for name in topics]).values():
            made.result(30)

    def fresh(self) -> str:
        """Return a name for the next round."""
        self._round += 1
        return f"round{self._round}"

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

    def measure(self, who: str, *, traced: bool = False, count: int | None = None) -> dict[str, Any]:
        """Run one round of a contender in a process of its own, on all requests or on the first so many."""
        count = count or self.count
        self._round += 1
        document = configuration(self.bootstrap, self.source, f"{self.prefix}{self._round}-")
        topics = document["kafka"]["topics"]
        answers = sum(answered(f"req-{number:012d}") for number in range(count))
        job = {"who": who, "config": document, "count": count, "answers": answers, "traced": traced}
        stop = threading.Event()
        feeder = None
        if who == "echo":
            self.create([topics["decisions"]])
        else:  # the engine makes the others itself, with --init
            self.create([topics["decisions"], topics["feedback"]])
            self.created(name for key, name in topics.items() if key in OURS[3:])
            feeder = threading.Thread(target=self.feed, args=(topics["decisions"], topics["feedback"], stop))
            feeder.start()
        try:
            process = start(job)
            output, _ = process.communicate(timeout=2 * PATIENCE)
        finally:
            stop.set()
            if feeder is not None:
                feeder.join()
        if process.returncode:
            raise SystemExit(f"bench.stream: the {who} process ended with status {process.returncode}")
        result: dict[str, Any] = json.loads(output)
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
