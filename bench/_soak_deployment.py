"""The deployment of `bench.soak`: a broker, engines and users, and everything that is done to them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from banditroute.config import Config, from_dict
from banditroute.runtime.tasks.warm_up import warm_up
from bench._soak_engines import Engines
from bench._soak_load import VOTERS, Load
from bench._soak_proof import Topics
from bench._stream_driver import Bench
from bench._stream_input import OURS, PARTITIONS, configuration
from bench.harness import progress

SESSION = 4.0  # seconds of silence after which the group goes on without a member
PATIENCE = 120.0
#: a record of version 2: value {"?":1}, one header of the key ff fe and the value x
UNPARSABLE = bytes.fromhex("24000000010e7b223f223a317d0204fffe0278")
STAYS, OTHERS = "stays", ("second", "third")


class Deployment:
    """A broker, topics, engines, and what is done to them."""

    def __init__(self, folder: Path, rate: float, seed: int, join_window: float) -> None:
        from kafka_broker import KafkaBroker

        self.chance = random.Random(seed)
        self._join_window = join_window
        self.broker = KafkaBroker().start()
        bench = Bench(self.broker.bootstrap, 0)
        document = configuration(self.broker.bootstrap, bench.source, f"{bench.prefix}soak-")
        document["kafka"]["session_timeout"] = f"{SESSION:g}s"
        document["requests"] = {"partitioner": "murmur2"}
        document["feedback"] = {"join_window": f"{join_window:g}s"}
        document["learning"] = {"half_life": "10m"}
        document["engine"] = {"expire_interval": "1s"}
        self.config: Config = from_dict(document)
        topics = document["kafka"]["topics"]
        bench.create([topics["requests"], topics["feedback"]])
        path = folder / "banditroute.toml"
        path.write_text(toml(document), encoding="utf-8")
        self.topics = Topics(self.broker.bootstrap)
        self.load = Load(
            self.broker.bootstrap, {name: topics[name] for name in OURS}, rate, seed, join_window
        )
        self.engines = Engines(path)

    # -- the faults; each returns when it is over, though engines may still be starting

    def kill(self) -> None:
        """SIGKILL of one engine, started again at once"""
        name = self.chance.choice(OTHERS)
        self.engines.kill(name)
        self.engines.start(name)

    def kill_all_but_one(self) -> None:
        """SIGKILL of two of three engines at the same moment, started again at once"""
        self.engines.kill(*OTHERS)
        for name in OTHERS:
            self.engines.start(name)

    def freeze(self) -> None:
        """SIGSTOP of one engine for twice the session, SIGCONT"""
        self.engines.freeze(self.chance.choice(self.engines.grown()), 2.0 * SESSION)

    def leave(self) -> None:
        """SIGTERM to one engine, started again after 2 s"""
        name = self.chance.choice(OTHERS)
        self.engines.stop(name)
        time.sleep(2.0)
        self.engines.start(name)

    def join(self) -> None:
        """A fourth engine joins, and leaves after 6 to 10 s, by SIGTERM or SIGKILL"""
        self.engines.start("fourth")
        time.sleep(self.chance.uniform(6.0, 10.0))
        (self.engines.stop if self.chance.random() < 0.5 else self.engines.kill)("fourth")

    def outage(self) -> None:
        """SIGKILL of the broker, started again after 0 to 4 s"""
        self.broker.kill()
        time.sleep(self.chance.uniform(0.0, 4.0))
        self.broker.restart()

    def poison(self) -> None:
        """1,000 records at once that nobody can read"""
        self.load.burst()

    def unparsable(self) -> None:
        """A request and a vote with a header key that is not UTF-8, written as bytes"""
        asyncio.run(self._unparsable())

    async def _unparsable(self) -> None:
        from aiokafka import AIOKafkaProducer

        from banditroute.runtime.broker.record_batch import EncodedBatch

        names = self.config.kafka.topics
        producer = AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap)
        await producer.start()
        try:
            for topic in (names.requests, names.feedback):
                batch = EncodedBatch(UNPARSABLE, 1, int(time.time() * 1000), "none")
                await (await producer.send_batch(batch, topic, partition=0))
        finally:
            await producer.stop()

    def orphans(self) -> None:
        """12,000 votes at once on requests that never come"""
        number = self.chance.randrange(1 << 40)
        self.load.tell(
            [
                (f"none-{number}-{n}", {"kind": "score", "value": 1.0, "voter": f"lost-{n % 50}"})
                for n in range(12_000)
            ]
        )

    def withdrawals(self) -> None:
        """100 withdrawals at once of all that a voter said"""
        voters = [f"voter-{self.chance.randrange(VOTERS)}" for _ in range(100)]
        self.load.tell([(None, {"kind": "withdraw", "voter": voter}) for voter in voters])

    def damage(self) -> None:
        """Newest state record of every partition with one bit flipped; two of three engines SIGKILLed before"""
        from confluent_kafka import Producer

        self.engines.kill(*OTHERS)
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "log_level": 0})
        topic = self.config.kafka.topics.state
        for partition in range(PARTITIONS):
            key, value = self.topics.newest(topic, partition)
            damaged = bytearray(value)
            damaged[self.chance.randrange(len(value))] ^= 1 << self.chance.randrange(8)
            producer.produce(topic, bytes(damaged), key, partition=partition)
        if producer.flush(PATIENCE):
            raise SystemExit("bench.soak: the broker did not take the damaged state")
        for name in OTHERS:
            self.engines.start(name)

    # -- the run

    def prepare(self) -> None:
        """Compile what is not in the cache, and start three engines at once that make what is missing."""
        warm_up(self.config)
        for name in (STAYS, *OTHERS):
            self.engines.start(name, "--init")
        until(self.made, self.engines)

    def made(self) -> bool:
        """Whether the first engine has made the topics."""
        return self.config.kafka.topics.alerts in self.topics.names()

    def ready(self) -> bool:
        """Whether every partition has decided something."""
        return all(self.topics.end(self.config.kafka.topics.decisions, p) > 0 for p in range(PARTITIONS))

    def caught_up(self) -> bool:
        """Whether the newest states cover the journals, nothing waits and nothing has been left unread."""
        names = self.config.kafka.topics
        for partition in range(PARTITIONS):
            state = self.topics.newest_state(names.state, partition)
            if state is None or state.meta["j"] < self.topics.end(names.journal, partition):
                return False
            if state.meta["parked"]:
                return False
        return self.committed()

    def committed(self) -> bool:
        """Whether the group has read all that users wrote."""
        from confluent_kafka import Consumer, TopicPartition

        names = self.config.kafka.topics
        where = [TopicPartition(t, p) for t in (names.requests, names.feedback) for p in range(PARTITIONS)]
        group = Consumer(
            {
                "bootstrap.servers": self.broker.bootstrap,
                "group.id": self.config.kafka.group,
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        try:
            committed = group.committed(where, PATIENCE)
        finally:
            group.close()
        return all(one.offset >= self.topics.end(one.topic, one.partition) for one in committed)

    def finish(self) -> None:
        """Let the engines read what is left, and stop them in order."""
        progress("the rest")
        self.load.finish()
        until(self.committed, self.engines)
        time.sleep(self._join_window + 2.0)  # what waits for its decision in vain is given up
        for _ in range(5):
            for name in list(self.engines.running):
                self.engines.stop(name)
            if self.caught_up():
                return
            self.engines.start(STAYS)
            until(self.caught_up, self.engines)  # stopped now, it may expire once more; or never again
        raise SystemExit("bench.soak: the engines never came to rest")

    def end(self) -> None:
        """Leave nothing behind."""
        self.engines.end()
        self.topics.close()
        self.broker.stop()


FAULTS: Mapping[str, Callable[[Deployment], None]] = {
    "kill": Deployment.kill,
    "kill-two": Deployment.kill_all_but_one,
    "freeze": Deployment.freeze,
    "leave": Deployment.leave,
    "join": Deployment.join,
    "broker": Deployment.outage,
    "poison": Deployment.poison,
    "state": Deployment.damage,
    "unparsable": Deployment.unparsable,
    "orphans": Deployment.orphans,
    "withdrawals": Deployment.withdrawals,
}


def until(condition: Callable[[], bool], engines: Engines, patience: float = PATIENCE) -> None:
    """Wait for something to become true while the engines run."""
    deadline = time.monotonic() + patience
    while not condition():
        engines.check()
        if time.monotonic() > deadline:
            logs = "\n".join(f"{name}: {engines.tail(name)}" for name in engines.running)
            raise SystemExit(
                f"bench.soak: {condition.__name__} is still not true after {patience:.0f} s\n{logs}"
            )
        time.sleep(0.2)


def toml(document: Mapping[str, Any], path: str = "") -> str:
    """Write a configuration: plain values, tables, and tables that repeat."""
    plain, tables = [], []
    for key, value in document.items():
        if isinstance(value, dict):
            tables += [f"[{path}{key}]", toml(value, f"{path}{key}.")]
        elif isinstance(value, list):
            for item in value:
                tables += [f"[[{path}{key}]]", toml(item, f"{path}{key}.")]
        else:
            plain.append(f"{key} = {json.dumps(value)}")
    return "\n".join([*plain, *tables])
