"""Latency, learning lag and recovery of `bench.stream`, on a real broker."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import Any

import numpy as np
import orjson

from banditroute.flow.copying.partitioner import partitions_of
from bench._stream_driver import PATIENCE, Bench, start
from bench._stream_input import EPOCH, OURS, PARTITIONS, configuration, requests
from bench._stream_workers import QUANTILES

WARM = 0.3  # of the requests of a latency round are not counted


class Round:
    """Fresh topics, one measured process that runs until it is told to stop, and a reader of decisions."""

    def __init__(self, bench: Bench, name: str, partitions: int = PARTITIONS, **engine: Any) -> None:
        from confluent_kafka import Producer

        self.bench, self.partitions = bench, partitions
        prefix = f"{bench.prefix}{name}-"
        self.document = configuration(bench.bootstrap, f"{prefix}requests", prefix)
        self.document["kafka"]["partitions"] = partitions
        self.document |= engine
        self.topics: dict[str, str] = self.document["kafka"]["topics"]
        bench.create([self.topics[topic] for topic in OURS[:3]], partitions)
        self.producer = Producer(
            {"bootstrap.servers": bench.bootstrap, "linger.ms": 0, "queue.buffering.max.messages": 2_000_000}
        )
        self.seen: dict[bytes, float] = {}  # when each decision became readable
        self.process: subprocess.Popen[str] | None = None
        self._stop = threading.Event()
        self._reader: threading.Thread | None = None

    def run(self, who: str, *, init: bool = True, cold: bool = False) -> float:
        """Start the process and return how many seconds its engine took to start, without Python's own."""
        if who == "serve" and init:
            self.bench.created(self.topics[topic] for topic in OURS[3:])
        self.process = start({"who": who, "config": self.document, "init": init, "cold": cold})
        assert self.process.stdout is not None
        told = self.process.stdout.readline()
        if not told:
            raise SystemExit(f"bench.stream: the {who} process did not start")
        return float(json.loads(told)["ready"])

    def watch(self) -> None:
        """Read decisions from now on, one by one, as they become readable."""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer(
            {"bootstrap.servers": self.bench.bootstrap, "group.id": "reader", "enable.auto.commit": False}
        )
        consumer.assign([TopicPartition(self.topics["decisions"], p, 0) for p in range(self.partitions)])
        while not self._stop.is_set():
            message = consumer.poll(0.05)  # `consume` would wait for more
            if message is not None and not message.error():
                self.seen[message.key()] = time.perf_counter()
        consumer.close()

    def wait(self, count: int) -> None:
        """Wait until so many decisions were seen."""
        deadline = time.monotonic() + PATIENCE
        while len(self.seen) < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"bench.stream: {len(self.seen)} of {count} decisions came")
            time.sleep(0.02)

    def end(self) -> dict[str, Any]:
        """Tell the process to stop and return what it says."""
        self._stop.set()
        if self._reader is not None:
            self._reader.join()
        assert self.process is not None
        output, _ = self.process.communicate(timeout=PATIENCE)
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        return result


def latency(bench: Bench, who: str, name: str, rate: int, seconds: float) -> dict[str, float]:
    """Return quantiles, in ms, of the time from producing a request until its decision is readable."""
    round_ = Round(bench, name)
    round_.run("serve" if who == "banditroute" else "forward")
    round_.watch()
    events = list(requests(int(rate * seconds)))
    homes = partitions_of([key for key, _ in events], PARTITIONS)[:, 0].tolist()
    sent = {}
    begin = time.perf_counter() + 0.5
    for number, ((key, value), home) in enumerate(zip(events, homes, strict=True)):
        ahead = begin + number / rate - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)
        sent[key] = time.perf_counter()
        round_.producer.produce(round_.topics["requests"], value, key, partition=home)
        if number % 64 == 0:
            round_.producer.poll(0)
    round_.producer.flush(30)
    round_.wait(len(events))
    round_.end()
    counted = list(sent)[int(WARM * len(sent)) :]
    took = np.array([1000.0 * (round_.seen[key] - sent[key]) for key in counted])
    return {name: float(np.quantile(took, at)) for name, at in QUANTILES.items()}


def learning_lag(bench: Bench, name: str, rate: int, seconds: float) -> dict[str, float]:
    """Return quantiles, in ms, of the time from producing feedback until the posterior has taken it in."""
    round_ = Round(bench, name)
    round_.run("serve")
    round_.watch()
    keys = []
    for key, value in requests(int(rate * seconds)):
        keys.append(key)
        round_.producer.produce(round_.topics["requests"], value, key)
    round_.producer.flush(30)
    round_.wait(len(keys))
    begin = time.perf_counter()
    for number, key in enumerate(keys):
        ahead = begin + number / rate - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)
        sent = 1000.0 * (time.time() - EPOCH)
        event = {"request_id": key.decode(), "kind": "score", "value": number % 11 / 10, "latency_ms": sent}
        round_.producer.produce(round_.topics["feedback"], orjson.dumps(event), key)
        if number % 64 == 0:
            round_.producer.poll(0)
    round_.producer.flush(30)
    time.sleep(1.0)
    found = round_.end()
    return {**found["lag"], "votes": found["votes"]}


def shared(bench: Bench, name: str, engines: int, count: int) -> dict[str, float]:
    """Return what engines of one group decide together, on requests that come as quickly as they can be sent."""
    round_ = Round(bench, name)
    processes = []
    for number in range(engines):
        round_.run("serve", init=number == 0)
        processes.append(round_.process)
    stop = threading.Event()
    feed = (round_.topics["decisions"], round_.topics["feedback"], stop)
    feeder = threading.Thread(target=bench.feed, args=feed)
    feeder.start()
    begin = time.perf_counter()
    events = list(requests(count))
    homes = partitions_of([key for key, _ in events], PARTITIONS)[:, 0].tolist()
    for (key, value), home in zip(events, homes, strict=True):
        round_.producer.produce(round_.topics["requests"], value, key, partition=home)
        round_.producer.poll(0)
    round_.producer.flush(60)
    _await_decisions(round_, count)
    wall = time.perf_counter() - begin
    stop.set()
    feeder.join()
    found = []
    for round_.process in processes:
        found.append(round_.end()["window"])
    decided, cpu = (sum(window[part] for window in found) for part in ("count", "cpu"))
    return {"rate": decided / cpu, "wall": count / wall}


def recovery(bench: Bench, decisions: int, partitions: int) -> dict[str, float]:
    """Kill an engine that has so many open decisions, start it again, and read the same topic with a bare consumer."""
    round_ = Round(bench, "recovery", partitions)
    events = list(requests(decisions))
    for key, value in events:
        round_.producer.produce(round_.topics["requests"], value, key)
        round_.producer.poll(0)
    round_.producer.flush(60)
    round_.run("serve")
    _await_decisions(round_, decisions)
    assert round_.process is not None
    time.sleep(3.0)  # what was learned is published every second
    round_.process.kill()
    round_.process.communicate()
    bare = read(round_)
    key = b"probe"
    begin = time.perf_counter()
    round_.watch()
    round_.producer.produce(
        round_.topics["requests"], orjson.dumps({"request_id": "probe", "prompt": "?"}), key
    )
    round_.producer.flush(30)
    ready = round_.run("serve", init=False, cold=True)
    while key not in round_.seen:
        time.sleep(0.001)
        if time.perf_counter() > begin + PATIENCE:
            raise SystemExit("bench.stream: no decision after the restart")
    first = round_.seen[key] - begin
    round_.end()
    return {"first": first, "ready": ready, **bare}


def read(round_: Round) -> dict[str, float]:
    """Return what a bare consumer needs to read all decisions: records, bytes, wall and CPU seconds."""
    job = {"who": "read", "config": round_.document, "topic": round_.topics["decisions"]}
    process = start(job | {"partitions": round_.partitions})
    output, _ = process.communicate(timeout=4 * PATIENCE)
    result: dict[str, float] = json.loads(output)
    return result


def _await_decisions(round_: Round, count: int) -> None:
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": round_.bench.bootstrap, "group.id": "counter"})
    deadline = time.monotonic() + 4 * PATIENCE
    topic, found = round_.topics["decisions"], 0
    while found < count:
        time.sleep(1.0)
        found = sum(
            consumer.get_watermark_offsets(TopicPartition(topic, p))[1] for p in range(round_.partitions)
        )
        if time.monotonic() > deadline:
            raise SystemExit(f"bench.stream: {found} of {count} decisions came")
    consumer.close()
