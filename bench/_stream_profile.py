"""Where the microseconds of `bench.stream` go: the hot loop in process, stage by stage, without a broker."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

from banditroute.config import Config, from_dict
from banditroute.flow.copying.partitioner import partitions_of
from banditroute.runtime.process import collector
from bench._stream_input import BATCH_BYTES, PARTITIONS, answered, configuration, feedback, requests


class Stages:
    """Exclusive time per stage: a stage inside another one is not counted twice, nor is the timing itself."""

    def __init__(self) -> None:
        self.nanoseconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._stack: list[list[Any]] = []  # [stage, nanoseconds of inner stages]
        self._undo: list[Callable[[], None]] = []
        self._inside, self._outside = 0.0, 0.0
        empty = self.timed("empty", lambda: None)
        for _ in range(20_000):
            empty()
        self._inside = self.nanoseconds["empty"] / 20_000
        begin = time.perf_counter_ns()
        for _ in range(20_000):
            empty()
        self._outside = max(0.0, (time.perf_counter_ns() - begin) / 20_000 - self._inside)
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self.nanoseconds.clear()
        self.calls.clear()

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that counts its time under a stage."""
        clock, stack, spent, calls = time.perf_counter_ns, self._stack, self.nanoseconds, self.calls

        def run(*arguments: Any, **named: Any) -> Any:
            frame = [stage, 0.0]
            stack.append(frame)
            begin = clock()
            try:
                return function(*arguments, **named)
            finally:
                took = clock() - begin
                stack.pop()
                spent[stage] = spent.get(stage, 0.0) + took - frame[1] - self._inside
                calls[stage] = calls.get(stage, 0) + 1
                if stack:
                    stack[-1][1] += took + self._outside

        return run

    def wrap(self, owner: Any, name: str, stage: str) -> None:
        """Time an attribute under a stage until `restore`."""
        original = getattr(owner, name)
        own = name in vars(owner)
        setattr(owner, name, self.timed(stage, original))
        self._undo.append(lambda: setattr(owner, name, original) if own else delattr(owner, name))

    def watch_collector(self) -> None:
        """Count garbage collections as a stage, whatever stage they interrupt."""
        begin = 0

        def collecting(phase: str, _info: dict[str, int]) -> None:
            nonlocal begin
            if phase == "start":
                begin = time.perf_counter_ns()
                return
            took = time.perf_counter_ns() - begin
            self.nanoseconds["collector"] = self.nanoseconds.get("collector", 0.0) + took
            self.calls["collector"] = self.calls.get("collector", 0) + 1
            if self._stack:
                self._stack[-1][1] += took

        gc.callbacks.append(collecting)
        self._undo.append(lambda: gc.callbacks.remove(collecting))

    def restore(self) -> None:
        """Take all timers out."""
        while self._undo:
            self._undo.pop()()


STAGES = (
    ("decode", "request JSON to struct, validated"),
    ("features", "prompt, tags and tenant to float32[d]"),
    ("columns", "limits, eligibility, prices, random keys"),
    ("decide", "scores, ranking, propensity of the batch"),
    ("write", "columns to records: JSON and binary header"),
    ("objects", "the rest of the decider: gate, pending columns, what exploration costs"),
    ("partitioner", "checking keys against the partitioner"),
    ("batch", "Kafka batch: compress and checksum"),
    ("bookkeeping", "acknowledged, Decided, opening"),
    ("copy", "feedback JSON to journal records (0.3 per decision)"),
    ("copy batch", "journal batch: append and compress (0.3 per decision)"),
    ("settle", "journal records to evidence (0.3 per decision)"),
    ("observe", "working posterior (0.3 per decision)"),
    ("derive", "posterior from evidence"),
    ("collector", "Python's garbage collector, wherever it struck"),
)


class Replica:
    """One partition without a broker: what the engine does with its polls, in the same order."""

    def __init__(self, stages: Stages) -> None:
        from aiokafka.producer.message_accumulator import BatchBuilder
        from aiokafka.record.default_records import DefaultRecordBatch

        import banditroute.flow.deciding.decider as decider_module
        from banditroute.flow.copying.copier import Copier
        from banditroute.flow.copying.partitioner import PartitionerWatch
        from banditroute.flow.deciding.decider import Decider
        from banditroute.flow.judge import follow
        from banditroute.flow.partition import Partition, genesis_state
        from banditroute.flow.records.snapshot import Genesis
        from banditroute.router import learner_settings, make_encoder, make_pacer, make_policy

        self.config: Config = from_dict(configuration("none:1", "requests", ""))
        encoder = make_encoder(self.config)
        self.policy = make_policy(self.config, encoder.spec)
        self.decider = Decider(
            self.config, self.config.catalog, encoder, self.policy, make_pacer(self.config)
        )
        settings = learner_settings(self.config)
        spec = encoder.spec
        genesis = genesis_state(0, spec.d, spec.spec_id, settings, Genesis(log_epoch=1, hash_key="00"))
        self.partition = Partition(genesis, spec.d, spec.spec_id, settings)
        self.partition.begin()
        self.partition.finish()
        self.watch = PartitionerWatch("auto", PARTITIONS)
        self.copier = Copier(self.config.catalog, self.watch, {}, lambda _id, _tenant: 0)
        self.now = 1_700_000_000_000
        self._source = 0
        self._stages = stages
        codec = DefaultRecordBatch.CODEC_ZSTD
        self._builder = lambda: BatchBuilder(BATCH_BYTES, codec)
        self._batch = stages.timed("batch", self._encode)
        self._copy_batch = stages.timed("copy batch", self._build)
        self._owed = stages.timed("bookkeeping", self.partition.owed)
        self._acknowledged = stages.timed("bookkeeping", self.partition.acknowledged)
        self._decide = stages.timed("objects", self.decider.decide_records)
        self._check = stages.timed("partitioner", self.watch.check)
        self._copy = stages.timed("copy", self.copier.copy)
        self._observe = stages.timed("observe", follow)
        self._derive = stages.timed("derive", self.policy.derive)
        for module, name, stage in (
            (decider_module, "decode_request", "decode"),
            (decider_module, "request_keys", "columns"),
        ):
            stages.wrap(module, name, stage)
        for owner, name, stage in (
            (encoder, "encode_batch", "features"),
            (self.policy, "decide", "decide"),
            (self.decider._writer, "write", "write"),
            (self.decider, "_columns", "columns"),
        ):
            if owner is not None and hasattr(owner, name) and hasattr(owner, "__dict__"):
                stages.wrap(owner, name, stage)

    def _build(self, records: Sequence[Any]) -> None:
        batch = self._builder()
        for record in records:
            if (
                batch.append(key=record.key, value=record.value, timestamp=None, headers=list(record.headers))
                is None
            ):
                batch.close()
                batch._build()
                batch = self._builder()
        batch.close()
        batch._build()

    def _encode(self, records: Any) -> None:
        from banditroute.runtime.broker.record_batch import encode_batch

        for start, stop, body in records.parts:
            encode_batch(body, stop - start, self.now, "zstd")

    def take(self, fetched: Sequence[Any]) -> list[str]:
        """Decide the requests of a poll and return the ids decided."""
        partition = self.partition
        decided = self._decide(0, fetched, partition.learner, partition.learner.fields, "0+0", self.now)
        self._batch(decided.records)
        self._acknowledged(decided.known, partition.learner.end, self.now, decided.records[-1].value)
        self._check(decided.keys, 0)
        self._append("bookkeeping", self._owed(self.now))
        return [key.decode() for key in decided.keys]

    def answer(self, ids: Sequence[str]) -> None:
        """Copy and settle feedback."""
        from banditroute.flow.deciding.decider import InputRecord

        fetched = []
        for request_id in ids:
            fetched.append(InputRecord(self._source, self.now, None, feedback(request_id, self._source), ()))
            self._source += 1
        copied = self._copy(0, fetched)
        records = [record for batch in copied.targets.values() for record in batch]
        self._copy_batch(records)
        self._append("settle", records)
        if self.policy.due:
            self._derive(self.partition.learner.evidence)

    def _append(self, stage: str, records: Sequence[Any]) -> None:
        apply = self._stages.timed(stage, self._apply)
        self._observe(self.policy, apply(records).learned)
        self.now += 1

    def _apply(self, records: Sequence[Any]) -> Any:
        from banditroute.flow.deciding.decider import InputRecord
        from banditroute.flow.settling.chunk import Chunk

        first = self.partition.learner.j
        chunk = Chunk.of(
            [InputRecord(first + i, self.now, None, record.value) for i, record in enumerate(records)]
        )
        self.partition.apply_many(chunk)
        return chunk


def profile(count: int) -> tuple[list[tuple[str, str, float, int]], float]:
    """Return (stage, meaning, microseconds per decision, calls) and the microseconds of all of it without timers."""
    from aiokafka.structs import ConsumerRecord

    def polls(batch: int) -> list[list[Any]]:
        events = list(requests(PARTITIONS * count))
        homes = partitions_of([key for key, _ in events], PARTITIONS)[:, 0].tolist()
        here = [event for event, home in zip(events, homes, strict=True) if home == 0]
        records = [
            ConsumerRecord("requests", 0, offset, 0, 0, key, value, None, len(key), len(value), ())
            for offset, (key, value) in enumerate(here)
        ]
        return [records[at : at + batch] for at in range(0, len(records), batch)]

    def drive(replica: Replica, before: Callable[[], None]) -> float:
        batches = polls(replica.config.engine.max_batch)
        warm = len(batches) // 5
        begin, decided = 0.0, 0
        for index, fetched in enumerate(batches):
            if index == warm:
                collector.settle()  # as the engine's process does
                before()
                begin, decided = time.perf_counter(), 0
            ids = replica.take(fetched)
            replica.answer([request_id for request_id in ids if answered(request_id)])
            decided += len(ids)
        replica.decided = decided  # type: ignore[attr-defined]
        return 1e6 * (time.perf_counter() - begin) / decided

    stages = Stages()
    replica = Replica(stages)
    stages.watch_collector()
    drive(replica, stages.reset)
    per = 1000.0 * replica.decided  # type: ignore[attr-defined]
    found = dict(stages.nanoseconds)
    calls = dict(stages.calls)
    stages.restore()
    bare = Stages()
    bare.timed = lambda _stage, function: function  # type: ignore[method-assign]
    bare.wrap = lambda *_: None  # type: ignore[method-assign]
    total = drive(Replica(bare), lambda: None)
    rows = [(name, meaning, found.get(name, 0.0) / per, calls.get(name, 0)) for name, meaning in STAGES]
    return rows, total
