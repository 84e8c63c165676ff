"""What `bench.stream` compares with: loops around other routers, on confluent-kafka, doing the same work.

Each polls requests and feedback, decides with a probability, keeps open decisions in a dictionary, writes a decision
for every request, and learns from every feedback. Neither survives a crash or knows costs, limits or replicas.
"""

from __future__ import annotations

import importlib.util
import resource
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import orjson

from bench._stream_input import MODELS, PARTITIONS, answered, models

PATIENCE = 240.0
VECTOR = 31  # and a one: the 32 columns of our default context


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


class Chooser(Protocol):
    """Another router."""

    def choose(self, request: dict[str, Any]) -> tuple[Any, int, float]:
        """Return what learning needs, the chosen model and its probability."""

    def learn(self, kept: Any, quality: float) -> None:
        """Learn from one feedback."""


class VowpalWabbit:
    """`--cb_explore_adf --squarecb`: the words of the prompt, crossed with every model, hashed by Vowpal Wabbit."""

    def __init__(self) -> None:
        from vowpalwabbit import Workspace

        self._workspace = Workspace("--cb_explore_adf --squarecb -q pm --quiet")
        self._actions = [
            f"|m {model['name']} price:{model['output_usd_per_mtok'] / 20.0:.4f}" for model in models()
        ]
        self._draw = np.random.default_rng(1)

    def choose(self, request: dict[str, Any]) -> tuple[Any, int, float]:
        """See `Chooser`."""
        words = request["prompt"].replace(":", " ").replace("|", " ")
        shared = f"shared |p {words} {request['tags'][0]} {request['tenant']}"
        chances = self._workspace.predict([shared, *self._actions])
        model = min(int(np.searchsorted(np.cumsum(chances), self._draw.random())), MODELS - 1)
        return (shared, model, chances[model]), model, chances[model]

    def learn(self, kept: Any, quality: float) -> None:
        """See `Chooser`."""
        shared, model, chance = kept
        lines = [shared, *self._actions]
        lines[1 + model] = f"0:{1.0 - quality:.4f}:{chance:.6f} {lines[1 + model]}"
        self._workspace.learn(lines)


class ParetoBandit:
    """`pareto_bandit.BanditRouter` with vectors that were computed beforehand."""

    def __init__(self) -> None:
        from pareto_bandit import BanditRouter, FeatureService

        registry = {
            model["name"]: {
                "input_cost_per_m": model["input_usd_per_mtok"],
                "output_cost_per_m": model["output_usd_per_mtok"],
            }
            for model in models()
        }
        self._router = BanditRouter.create(
            model_registry=registry,
            priors="none",
            feature_service=FeatureService.for_precomputed(dimension=VECTOR),
        )
        self._names = list(registry)
        self._vectors: dict[str, Any] = {}
        self._draw = np.random.default_rng(1)

    def choose(self, request: dict[str, Any]) -> tuple[Any, int, float]:
        """See `Chooser`."""
        vector = self._vectors.get(request["prompt"])
        if vector is None:  # one of a thousand: made once
            vector = self._vectors[request["prompt"]] = self._draw.standard_normal(VECTOR)
        name, entry = self._router.route(vector)
        return entry.request_id, self._names.index(name), 1.0

    def learn(self, kept: Any, quality: float) -> None:
        """See `Chooser`."""
        self._router.process_feedback(kept, reward=quality)


def loop(make: Callable[[], Chooser], document: dict[str, Any], count: int) -> dict[str, float]:
    """Decide `count` requests and learn from all feedback on them."""
    from confluent_kafka import Consumer, Producer, TopicPartition

    kafka, topics = document["kafka"], document["kafka"]["topics"]
    servers = kafka["bootstrap_servers"]
    producer = Producer(
        {"bootstrap.servers": servers, "acks": "all", "linger.ms": 0, "compression.type": "zstd"}
    )
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": kafka["group"], "enable.auto.commit": False}
    )
    consumer.assign(
        [TopicPartition(topics[name], p, 0) for name in ("requests", "feedback") for p in range(PARTITIONS)]
    )
    chooser = make()
    names = [model["name"] for model in models()]
    opened: dict[str, Any] = {}
    window, done, learned, due = Window(count // 5), 0, 0, 0
    deadline = time.monotonic() + PATIENCE
    while (done < count or learned < due) and time.monotonic() < deadline:
        for message in consumer.consume(500, 0.05):
            if message.error():
                continue
            event = orjson.loads(message.value())
            if message.topic() == topics["feedback"]:
                kept = opened.get(event["request_id"])
                if kept is not None:
                    chooser.learn(kept, event["value"])
                    learned += 1
                continue
            if done == count:
                continue
            request_id = event["request_id"]
            due += answered(request_id)
            opened[request_id], model, chance = chooser.choose(event)
            decision = {
                "v": 1,
                "decision_id": f"{message.partition()}-{message.offset()}",
                "request_id": request_id,
                "model": names[model],
                "propensity": chance,
            }
            producer.produce(topics["decisions"], orjson.dumps(decision), message.key(), message.partition())
            done += 1
        producer.poll(0)
        window.look(done)
    producer.flush(30)
    consumer.close()
    return window.result


LOOPS: dict[str, Callable[[dict[str, Any], int], dict[str, float]]] = {
    "vw-loop": lambda document, count: loop(VowpalWabbit, document, count),
    "paretobandit-loop": lambda document, count: loop(ParetoBandit, document, count),
}
PACKAGES = {"vw-loop": "vowpalwabbit", "paretobandit-loop": "pareto_bandit"}


def missing(who: str) -> str | None:
    """Return why a peer cannot take part, or None."""
    package = PACKAGES[who]
    return None if importlib.util.find_spec(package) else f"{package} is not installed"
