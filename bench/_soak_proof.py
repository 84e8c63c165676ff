"""The proof of `bench.soak`: everything is computed again from the topics, by the oracle of `tests/naive.py`."""

from __future__ import annotations

import itertools
import json
import struct
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from banditroute.config import Config
from banditroute.router import learner_settings, make_encoder
from bench._stream_input import PARTITIONS
from tests import naive

Source = tuple[int, int]  # partition and offset
PATIENCE = 30.0


class Topics:
    """A reader of whole partitions."""

    def __init__(self, bootstrap: str) -> None:
        from confluent_kafka import Consumer

        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "nobody",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "log_level": 0,
            }
        )

    def read(self, topic: str, partition: int) -> Iterator[naive.Record]:
        """Yield the records of a partition."""
        return (record for _, record in self._messages(topic, partition))

    def _messages(
        self, topic: str, partition: int, last: int | None = None
    ) -> Iterator[tuple[bytes | None, naive.Record]]:
        from confluent_kafka import KafkaError, TopicPartition

        low, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), PATIENCE)
        start = low if last is None else max(low, high - last)
        self._consumer.assign([TopicPartition(topic, partition, start)])
        deadline = time.monotonic() + PATIENCE
        while True:
            messages = self._consumer.consume(1000, 0.05)  # it waits for all of them, or so long
            if messages:
                deadline = time.monotonic() + PATIENCE
            elif time.monotonic() > deadline:
                raise SystemExit(f"bench.soak: {topic}-{partition} cannot be read to its end")
            for message in messages:
                error = message.error()
                if error is None:
                    value, headers = message.value() or b"", list[Any](message.headers() or [])
                    offset, timestamp = message.offset(), message.timestamp()[1]
                    assert offset is not None
                    yield message.key(), naive.Record(offset, timestamp, value, headers)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return
                elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:
                    raise SystemExit(f"bench.soak: {topic}-{partition}: {error}")

    def names(self) -> set[str]:
        """Return the topics that are there."""
        return set(self._consumer.list_topics(timeout=PATIENCE).topics)

    def end(self, topic: str, partition: int) -> int:
        """Return where a partition ends."""
        from confluent_kafka import TopicPartition

        high: int = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), PATIENCE)[1]
        return high

    def newest(self, topic: str, partition: int) -> tuple[bytes | None, bytes]:
        """Return key and value of the last record of a partition."""
        for key, record in self._messages(topic, partition, last=1):
            return key, record.value
        raise SystemExit(f"bench.soak: {topic}-{partition} is empty")

    def newest_state(self, topic: str, partition: int) -> naive.State | None:
        """Return the newest state record, None where it cannot be read."""
        try:
            return naive.parse_state(self.newest(topic, partition)[1])
        except (ValueError, struct.error):
            return None

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()


@dataclass
class Proof:
    """What the topics say.

    Attributes
    ----------
    ledger : Counter
        Outcomes, over all partitions, as the oracle counts them.
    wrong : list of str
        Whatever contradicts a promise; empty when all hold.
    lost, doubled, later : list of int
        Times (milliseconds) of requests and feedback without an outcome, with two, and of later decisions.
    differs : int
        Partitions whose newest state is not the oracle's.
    decided : list of list of int
        Times of first decisions, by partition.
    """

    ledger: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    later: list[int] = field(default_factory=list)
    differs: int = 0
    decided: list[list[int]] = field(default_factory=list)
    requests: int = 0
    feedback: int = 0
    poison: int = 0

    def pause(self, begin: float, end: float) -> float:
        """Return the longest time, in seconds, for which a partition decided nothing between two moments (ms)."""
        longest = 0.0
        for times in self.decided:
            inside = times[bisect_left(times, begin) : bisect_left(times, end)]
            edges = [begin, *inside, min(end, times[-1])]
            longest = max([longest, *(b - a for a, b in itertools.pairwise(edges))])
        return longest / 1000.0


def prove(topics: Topics, config: Config, sent: Sequence[str]) -> Proof:
    """Recompute everything, and compare."""
    proof = Proof()
    names = config.kafka.topics
    letters: dict[str, set[Source]] = {names.requests: set(), names.feedback: set()}
    for record in topics.read(names.dead_letter, 0):
        letter = json.loads(record.value)
        letters[letter["topic"]].add((letter["partition"], letter["offset"]))
    journals = []
    ids: Counter[str] = Counter()
    refused: set[Source] = set()
    for partition in range(PARTITIONS):
        decisions = list(topics.read(names.decisions, partition))
        journal = list(topics.read(names.journal, partition))
        result = _learned(proof, topics, config, partition, decisions, journal)
        refused |= result.refused
        journals.append(_copies(journal))
        ids += _decided(proof, topics, names.requests, partition, decisions, letters[names.requests])
    if ids != Counter(sent):
        proof.wrong.append(f"{len(ids)} ids have first decisions, {len(sent)} were sent")
    _copied(proof, topics, names.feedback, journals, letters[names.feedback])
    if untold := refused - letters[names.feedback]:
        proof.wrong.append(f"{len(untold)} records of feedback were refused without a reason")
    return proof


def _learned(
    proof: Proof,
    topics: Topics,
    config: Config,
    partition: int,
    decisions: Sequence[naive.Record],
    journal: Sequence[naive.Record],
) -> naive.Result:
    settings = learner_settings(config)
    weights = {kind: settings.weight(kind) for kind in naive.QUALITY_KINDS}
    result = naive.recompute(
        partition,
        decisions,
        journal,
        naive.Settings(settings.half_life_ms, weights, settings.max_parked),
        d=make_encoder(config).spec.d,
    )
    proof.ledger.update(result.ledger)
    proof.ledger["parked"] += result.parked
    state = topics.newest_state(config.kafka.topics.state, partition)
    found = ["it cannot be read"] if state is None else naive.differences(result, state)
    if state is not None and state.meta["j"] != len(journal):
        found.append(f"it covers {state.meta['j']} of {len(journal)} journal records")
    if found:
        proof.differs += 1
        proof.wrong += [f"state of partition {partition}: {text}" for text in found]
    try:
        naive.ledger_adds_up(result, len(journal))
    except AssertionError as error:
        proof.wrong.append(f"ledger of partition {partition}: {error}")
    return result


def _decided(
    proof: Proof,
    topics: Topics,
    topic: str,
    partition: int,
    decisions: Sequence[naive.Record],
    letters: set[Source],
) -> Counter[str]:
    """Every request has one first decision or a dead letter; return the ids that have been decided."""
    first = naive.first_decisions(decisions)
    offsets = Counter(naive.request_offset_of(record) for record in first)
    mine = {record.offset for record in first}
    proof.later += [record.timestamp for record in decisions if record.offset not in mine]
    proof.decided.append([record.timestamp for record in first])
    for record in topics.read(topic, partition):
        if (partition, record.offset) in letters:
            proof.poison += 1
        else:
            proof.requests += 1
        times = offsets[record.offset] + ((partition, record.offset) in letters)
        proof.lost += [record.timestamp] * (times == 0)
        proof.doubled += [record.timestamp] * (times > 1)
    return Counter(json.loads(record.value)["request_id"] for record in first)


def _copies(journal: Iterable[naive.Record]) -> Mapping[Source, int]:
    """How often each record of feedback is in a journal, those that are told apart by their source left out."""
    found: set[Source] = set()
    for record in journal:
        event = json.loads(record.value)
        if event["type"] == "feedback":
            found.add(tuple(event["src"]))
    return Counter(found)


def _copied(
    proof: Proof, topics: Topics, topic: str, journals: Sequence[Mapping[Source, int]], letters: set[Source]
) -> None:
    """Every record of feedback is in the journal of its home, in all of them, or could not be read."""
    copies: Counter[Source] = Counter()
    for journal in journals:
        copies.update(journal)
    for partition in range(PARTITIONS):
        for record in topics.read(topic, partition):
            source = partition, record.offset
            found = copies.pop(source, 0)
            if not found:
                proof.poison += 1
                proof.lost += [record.timestamp] * (source not in letters)
                continue
            proof.feedback += 1
            wanted = 1 if json.loads(record.value).get("request_id") is not None else PARTITIONS
            proof.lost += [record.timestamp] * (found < wanted)
            proof.doubled += [record.timestamp] * (found > wanted)
    if copies:
        proof.wrong.append(f"{len(copies)} records in journals were never sent")
