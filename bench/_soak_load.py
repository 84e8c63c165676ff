"""What users do during `bench.soak`: requests, votes, second thoughts, and all that should not have been sent."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import orjson

from bench._stream_input import PARTITIONS, requests

TICK_SECONDS = 0.01
VOTERS = 200
POISON = (b"{", b"", b"\xff\xfe{}", b"[1,2]", b'{"v":1}', b'{"request_id":7}', b'"text"')

# Shares of the requests that get one of these; of the votes, where it is something that is done to a vote.
SCORED, USAGE, REVISED, WITHDRAWN, REPEATED = 0.4, 0.2, 0.15, 0.10, 0.05
FOREIGN, ORPHAN, LATE, EARLY, POISONED, VOTER_GONE = 0.01, 0.005, 0.005, 0.01, 0.002, 0.001

Due = tuple[float, int, str, bytes | None, bytes]  # when, a number that breaks ties, topic, key, value


class Load(threading.Thread):
    """A thread of users that write at a fixed rate until they are told to stop.

    Parameters
    ----------
    bootstrap : str
        host:port.
    topics : mapping
        Names of the topics.
    rate : float
        Requests per second.
    seed : int
        Of all that the users do; when it lands is up to the machine.
    join_window : float
        Seconds after which feedback comes late.

    Attributes
    ----------
    sent : list of str
        The ids of all requests that are not poison.
    """

    def __init__(
        self, bootstrap: str, topics: dict[str, str], rate: float, seed: int, join_window: float
    ) -> None:
        from confluent_kafka import Producer

        super().__init__(name="load", daemon=True)
        self.sent: list[str] = []
        self.refused = 0
        self._rate = rate
        self._join_window = join_window
        self._topics = topics
        self._chance = random.Random(seed)
        self._due: list[Due] = []
        self._number = 0
        self._told = threading.Event()
        self._burst = threading.Event()
        self._sudden: deque[tuple[str | None, dict[str, Any]]] = deque()
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,  # a user's request is in the topic once, whatever happens to the broker
                "message.timeout.ms": 300_000,
                "partitioner": "murmur2",
                "linger.ms": 5,
                "compression.type": "lz4",
                "log_level": 0,
            }
        )

    def run(self) -> None:
        """Write until told to stop, then at once what is still due."""
        source = requests(1 << 40)
        begin = time.monotonic()
        while not self._told.is_set():
            now = time.monotonic()
            while len(self.sent) < (now - begin) * self._rate:
                self._ask(*next(source))
            if self._burst.is_set():
                self._burst.clear()
                for _ in range(1000):
                    self._spoil()
            while self._sudden:
                request_id, event = self._sudden.popleft()
                self._later(0.0, request_id, **event)
            self._send_due(now)
            self._producer.poll(0)
            time.sleep(TICK_SECONDS)
        self._send_due(float("inf"))
        self.refused += self._producer.flush(120)

    def burst(self) -> None:
        """Let a thousand records come that nobody can read."""
        self._burst.set()

    def tell(self, events: Sequence[tuple[str | None, dict[str, Any]]]) -> None:
        """Let feedback come at once: request id and event of each."""
        self._sudden.extend(events)

    def finish(self) -> None:
        """Stop, and wait until the broker has acknowledged everything."""
        self._told.set()
        self.join()
        if self.refused:
            raise SystemExit(f"bench.soak: the broker never took {self.refused} records of the users")

    def _ask(self, key: bytes, value: bytes) -> None:
        self.sent.append(key.decode())
        chance, request_id = self._chance, key.decode()
        if chance.random() < EARLY:
            self._vote(request_id, 0.0)
            self._send_due(time.monotonic())
        self._produce(self._topics["requests"], key, value)
        if chance.random() < POISONED:
            self._spoil()
        if chance.random() < SCORED:
            self._vote(request_id, chance.expovariate(1.0))
        if chance.random() < USAGE:
            numbers = {"output_tokens": chance.randrange(20, 900), "latency_ms": chance.uniform(50, 3000)}
            self._later(chance.expovariate(1.0), request_id, kind="usage", **numbers)
        if chance.random() < FOREIGN:
            self._later(0.5, request_id, kind="score", value=1.0, tenant="nobody's")
        if chance.random() < ORPHAN:
            self._later(0.0, f"never-{request_id}", kind="score", value=1.0)
        if chance.random() < LATE:
            self._later(1.5 * self._join_window, request_id, kind="score", value=0.0, source="archive")
        if chance.random() < VOTER_GONE:
            self._later(0.0, None, kind="withdraw", voter=f"voter-{chance.randrange(VOTERS)}")

    def _vote(self, request_id: str, delay: float) -> None:
        chance = self._chance
        voter = f"voter-{chance.randrange(VOTERS)}"
        kind = chance.choice(("score", "thumb", "outcome"))
        event: dict[str, Any] = {"kind": kind, "voter": voter, "source": "app"}

        def value() -> Any:
            return chance.random() < 0.7 if kind == "thumb" else round(chance.random(), 3)

        said = {**event, "feedback_id": f"{request_id}-1", "value": value()}
        self._later(delay, request_id, **said)
        if chance.random() < REPEATED:
            self._later(delay + chance.random(), request_id, **said)
        if chance.random() < REVISED:
            again = {**event, "feedback_id": f"{request_id}-2", "value": value()}
            self._later(delay + chance.uniform(0.1, 3.0), request_id, **again)
        if chance.random() < WITHDRAWN:
            gone = {"kind": "withdraw", "voter": voter, "source": "app"}
            self._later(delay + chance.uniform(0.1, 5.0), request_id, **gone)

    def _later(self, delay: float, request_id: str | None, **event: Any) -> None:
        key = None if request_id is None else request_id.encode()
        if request_id is not None:
            event["request_id"] = request_id
        self._number += 1
        due = (time.monotonic() + delay, self._number, self._topics["feedback"], key, orjson.dumps(event))
        heapq.heappush(self._due, due)

    def _spoil(self) -> None:
        chance = self._chance
        topic = self._topics[chance.choice(("requests", "feedback"))]
        self._produce(topic, None, chance.choice(POISON), chance.randrange(PARTITIONS))

    def _send_due(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, _, topic, key, value = heapq.heappop(self._due)
            self._produce(topic, key, value)

    def _produce(self, topic: str, key: bytes | None, value: bytes, partition: int = -1) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition, self._heard)
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _heard(self, error: Any, _message: Any) -> None:
        self.refused += error is not None
