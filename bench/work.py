"""How long the event loop is held by each kind of work that an engine does between two awaits.

The rule of the house is 5 ms at a million open decisions in one partition (answered by 1,000 voters), a full park of
10,000 and 50 models at d = 32. A case is one such piece of work, in the size in which the engine does it; `value` is
the median in milliseconds, `most` the longest of the rounds, `limit` the rule and `within` whether the median keeps to
it. What holds the loop for longer is told by `banditroute_longest_work_seconds` of a running engine, too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson

from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.config import from_dict
from banditroute.events import Copied, Feedback, PriceEdit, encode
from banditroute.flow.board import Board
from banditroute.flow.copying.copier import Copier
from banditroute.flow.copying.partitioner import PartitionerWatch
from banditroute.flow.deciding.decider import InputRecord
from banditroute.flow.partition import Partition, genesis_state
from banditroute.flow.pending.open_decision import KnownBatch
from banditroute.flow.records.header import HeaderWriter
from banditroute.flow.records.snapshot import Genesis, decode_state, encode_state
from banditroute.flow.settling.chunk import Chunk
from banditroute.runtime.tasks.learning import Learning
from banditroute.runtime.tasks.partition_task import EXPIRED_AT_ONCE, JOURNAL_CHUNK
from banditroute.runtime.tasks.warm_up import warm_up
from bench._stream_input import configuration, requests
from bench.harness import Report, Row, one_thread, options, progress, progress_done

PACKAGES = ("banditroute", "numpy", "numba")
LIMIT_MS = 5.0
MODELS, PARKED, VOTERS = 50, 10_000, 1_000
OPEN, QUICK_OPEN = 1_000_000, 100_000
ROUNDS, QUICK_ROUNDS = 15, 5
FILL = 4096
NOW = 1_700_000_000_000  # milliseconds


class Bench:
    """One partition in which everything is as large as the rule says, and an engine's learning around it."""

    def __init__(self, count: int) -> None:
        document = configuration("none:1", "requests", "")
        document["models"] = [
            {"name": f"model-{k}", "input_usd_per_mtok": 0.1 + 0.1 * k, "output_usd_per_mtok": 0.4 + 0.3 * k}
            for k in range(MODELS)
        ]
        self.config = from_dict(document)
        warm_up(self.config)
        self.learning = Learning(self.config, lambda: {0: self.partition.learner})
        spec = self.learning.spec
        genesis = Genesis(log_epoch=1, hash_key="bench")
        self.partition = Partition(
            genesis_state(0, spec.d, spec.spec_id, spec.settings, genesis),
            spec.d,
            spec.spec_id,
            spec.settings,
        )
        self.partition.begin()
        self.partition.finish()
        self.learning.put(self.partition.snapshot(), ours=True)
        self._draw = np.random.default_rng(1)
        self._source = 0
        self._names = tuple(ModelKey(model.name) for model in self.config.models)
        self._writer = HeaderWriter(self._names, spec.spec_id, spec.d)
        self.requests = list(requests(FILL))
        self.offset = 0
        self.decided: list[float] = []  # what making decisions known took, in ms
        for _ in range(0, count, FILL):
            self.know(FILL)
            self.apply_decided()
            self.vote(range(self.offset - FILL, self.offset))
        for number in range(PARKED):
            self.apply(Feedback(request_id=f"never-{number}", kind="score", value=1.0))

    def know(self, n: int, at: int = NOW) -> float:
        """Take note of n decisions; return the milliseconds that it took."""
        draw, d = self._draw, self.learning.spec.d
        offsets = np.arange(self.offset, self.offset + n)
        x = draw.standard_normal((n, d), np.float32)
        candidates = draw.random((n, MODELS, 5))
        chosen, counted = draw.integers(0, MODELS, n), np.zeros(n, np.bool_)
        headers = self._writer.write(offsets, x, candidates, np.full(n, 100.0), counted, shadow=False)
        batch = KnownBatch(
            offsets, [b"req-%09d" % offset for offset in offsets.tolist()], x, chosen,
            candidates[np.arange(n), chosen], np.full(n, 100, np.float32), counted, [None] * n, ["code"] * n, headers,
            self._names, False,
        )  # fmt: skip
        self.offset += n
        return timed(lambda: self.partition.acknowledged(batch, int(offsets[0]), at, b""))

    def apply_decided(self) -> float:
        """Apply the Decided record that is owed; return the milliseconds that it took."""
        records = self.partition.owed(0.0)
        self.partition.resend()
        return timed(
            lambda: [self.partition.apply(self.partition.learner.j, NOW, record.value) for record in records]
        )

    def copied(self, feedback: Feedback) -> bytes:
        """Encode the next journal record."""
        self._source += 1
        return encode(Copied((0, self._source), feedback))

    def chunk(self, feedback: Sequence[Feedback]) -> Chunk:
        """Decode journal records."""
        start = self.partition.learner.j
        return Chunk.of(
            [InputRecord(start + i, NOW, None, self.copied(one)) for i, one in enumerate(feedback)]
        )

    def vote(self, offsets: Sequence[int]) -> None:
        """Apply a vote on each of some decisions."""
        votes = [
            Feedback(
                request_id=f"req-{o:09d}", kind="score", value=0.5, voter=f"v{o % VOTERS}", output_tokens=9
            )
            for o in offsets
        ]
        self.partition.apply_many(self.chunk(votes))

    def apply(self, feedback: Feedback) -> float:
        """Apply one feedback; return the milliseconds that it took."""
        value = self.copied(feedback)
        return timed(lambda: self.partition.apply(self.partition.learner.j, NOW, value))


def timed(work: Callable[[], Any]) -> float:
    """Return the milliseconds that some work took."""
    begin = time.perf_counter()
    work()
    return 1000.0 * (time.perf_counter() - begin)


def decide(bench: Bench) -> float:
    """A batch of requests, as large as engine.max_batch allows, becomes decisions."""
    n = bench.config.engine.max_batch
    records = [
        InputRecord(bench.offset + i, NOW, None, value.replace(b"req-", b"new-"))
        for i, (_, value) in enumerate(bench.requests[:n])
    ]
    return timed(lambda: bench.learning.decide(bench.partition, records, float(NOW)))


def know(bench: Bench) -> float:
    """Acknowledged decisions of such a batch enter memory."""
    took = bench.know(bench.config.engine.max_batch)
    bench.apply_decided()
    return took


def become_open(bench: Bench) -> float:
    """A Decided record opens such a batch to feedback, beside a full park."""
    bench.know(bench.config.engine.max_batch)
    return bench.apply_decided()


def journal(bench: Bench) -> float:
    """A chunk of votes is settled, and the working posterior follows them."""
    last = bench.offset
    bench.know(JOURNAL_CHUNK)
    bench.apply_decided()
    votes = [
        Feedback(request_id=f"req-{o:09d}", kind="score", value=0.5, output_tokens=9, latency_ms=90.0)
        for o in range(last, last + JOURNAL_CHUNK)
    ]
    chunk = bench.chunk(votes)

    def work() -> None:
        bench.partition.apply_many(chunk)
        bench.learning.observe(chunk.learned, NOW)

    return timed(work)


def withdraw(bench: Bench) -> float:
    """A voter who said nothing takes back everything: all votes are looked at."""
    return bench.apply(Feedback(request_id=None, kind="withdraw", voter="nobody"))  # type: ignore[arg-type]


def expire(bench: Bench) -> float:
    """An Expire record closes as many decisions as one record may."""
    record = bench.partition.expiry(
        float(NOW), 1e9, len(bench.partition.learner.pending) - 10**5, EXPIRED_AT_ONCE
    )
    assert record is not None
    return timed(lambda: bench.partition.apply(bench.partition.learner.j, NOW, record.value))


def expiry(bench: Bench) -> float:
    """Looking for what is to be expired."""
    return timed(lambda: bench.partition.expiry(float(NOW), 1e9, 10**9, EXPIRED_AT_ONCE))


def derive(bench: Bench) -> float:
    """The posterior is derived from evidence of all kinds and models."""
    return timed(bench.learning.derive)


def merge(bench: Bench) -> float:
    """The board sums the evidence of four partitions."""
    spec = bench.learning.spec
    board = Board(spec.d, spec.spec_id, spec.settings)
    state = bench.partition.snapshot()
    for number in range(4):
        state.partition = number
        board.put(decode_state(encode_state(state)))
    return timed(lambda: board.merged({}))


def snapshot(bench: Bench) -> float:
    """A state record is taken."""
    return timed(bench.partition.snapshot)


def write_state(bench: Bench) -> float:
    """A state record is encoded."""
    state = bench.partition.snapshot()
    return timed(lambda: encode_state(state))


def read_state(bench: Bench) -> float:
    """A state record of another engine is decoded."""
    value = encode_state(bench.partition.snapshot())
    return timed(lambda: decode_state(value))


def judge(bench: Bench) -> float:
    """A look for models that have changed."""
    bench.learning.verdicts()
    return timed(bench.learning.verdicts)


def edit(bench: Bench) -> float:
    """A price edit is applied."""
    edits = PriceEdit("model-1", 0.5, 2.0)
    number = bench.partition.learner.fields.cursor + 1
    bench.partition.learn_of_control(number, edits)
    records = bench.partition.owed(0.0)
    bench.partition.resend()
    return timed(lambda: [bench.partition.apply(bench.partition.learner.j, NOW, r.value) for r in records])


def copy(bench: Bench) -> float:
    """A batch of feedback is copied to the journals of 1,000 partitions."""
    copier = Copier(bench.config.catalog, PartitionerWatch("murmur2", 1000), {}, lambda _id, _tenant: 0)
    records = [
        InputRecord(
            i,
            NOW,
            b"req-%09d" % i,
            orjson.dumps({"request_id": f"req-{i:09d}", "kind": "score", "value": 0.5}),
        )
        for i in range(bench.config.engine.max_batch)
    ]
    return timed(lambda: copier.copy(0, records))


CASES: dict[str, Callable[[Bench], float]] = {
    "decide": decide, "know": know, "decided": become_open, "journal": journal, "withdraw-voter": withdraw,
    "expire": expire, "expiry": expiry, "derive": derive, "merge": merge, "snapshot": snapshot,
    "encode-state": write_state, "decode-state": read_state, "judge": judge, "control": edit, "copy": copy,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    chosen = options(__doc__).parse_args(arguments)
    one_thread()
    report = Report("work", PACKAGES)
    count = QUICK_OPEN if chosen.quick else OPEN
    progress(f"{count} open decisions")
    bench = Bench(count)
    for name, case in CASES.items():
        progress(name)
        case(bench)
        times = [case(bench) for _ in range(QUICK_ROUNDS if chosen.quick else ROUNDS)]
        middle = statistics.median(times)
        more = {
            "most": max(times),
            "limit": LIMIT_MS,
            "within": middle <= LIMIT_MS,
            "how": case.__doc__ or "",
        }
        report.rows.append(Row.of(name, "banditroute", times, "ms", **more))
    progress_done()
    report.show(chosen.json)


if __name__ == "__main__":
    main()
