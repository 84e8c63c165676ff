"""What open decisions weigh, and whether an engine's memory stays flat.

`open-decisions-1M`: resident memory above an idle engine's of one million open decisions at d = 32 in four partitions,
as they are after decisions were acknowledged; `open-decisions-1M-answered` with votes on 30 % of them. `value` is MB of
10^6 bytes; `bytes-per-decision` is what the store itself counts, without contexts. `soak-rss`: by how many MB the
highest resident memory of the last third of a soak is above that of the middle third, of an engine on a real broker
with requests, feedback and decisions that expire (10 minutes; 20 s with --quick).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from banditroute.config import from_dict
from bench import ROOT
from bench._stream_input import MODELS, OURS, PARTITIONS, configuration, requests
from bench.harness import Report, Row, options, progress, progress_done

PACKAGES = ("banditroute", "aiokafka", "msgspec", "numpy", "numba")
DECISIONS = 1_000_000
BATCH = 512
SOAK_RATE = 2000  # requests per second
JOIN_WINDOW = 4.0  # seconds: so that decisions expire during the soak


def resident() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


# -- open decisions -----------------------------------------------------------------------------------


def fill(count: int, share: float) -> dict[str, float]:
    """Open `count` decisions, answer a share of them, and return what that took."""
    from banditroute.bandit.evidence.evidence import ModelKey
    from banditroute.events import Copied, Feedback, encode
    from banditroute.flow.partition import Partition, genesis_state
    from banditroute.flow.pending.open_decision import KnownBatch
    from banditroute.flow.records.header import HeaderWriter
    from banditroute.flow.records.snapshot import Genesis
    from banditroute.router import Router, learner_settings, make_encoder

    config = from_dict(configuration("none:1", "requests", ""))
    router = Router(config)  # what an idle engine has loaded
    router.decide({"request_id": "warm-up", "prompt": "?"})
    router.learn({"request_id": "warm-up", "kind": "score", "value": 1})
    spec, settings = make_encoder(config).spec, learner_settings(config)
    genesis = Genesis(log_epoch=1, hash_key="bench")
    partitions = []
    for number in range(PARTITIONS):
        state = genesis_state(number, spec.d, spec.spec_id, settings, genesis)
        partition = Partition(state, spec.d, spec.spec_id, settings)
        partition.begin()
        partition.finish()
        partitions.append(partition)
    names = tuple(ModelKey(model.name) for model in config.models)
    writer = HeaderWriter(names, spec.spec_id, spec.d)
    draw = np.random.default_rng(1)
    source = dict.fromkeys(range(PARTITIONS), 0)

    def add(partition: Partition, first: int, n: int) -> None:
        offsets = np.arange(first, first + n)
        x = draw.standard_normal((n, spec.d), np.float32)
        candidates = draw.random((n, MODELS, 5))
        chosen = draw.integers(0, MODELS, n)
        counted = np.zeros(n, np.bool_)
        headers = writer.write(offsets, x, candidates, np.full(n, 100.0), counted, shadow=False)
        batch = KnownBatch(
            offsets, [f"req-{partition.number}-{offset:09d}".encode() for offset in offsets.tolist()], x, chosen,
            candidates[np.arange(n), chosen], np.full(n, 100, np.float32), counted,
            [f"tenant-{offset % 5}" for offset in offsets.tolist()], ["code"] * n, headers, names, False,
        )  # fmt: skip
        partition.acknowledged(batch, first, 1_700_000_000_000, b"")
        for record in partition.owed(0.0):
            partition.apply(partition.learner.j, 1_700_000_000_000, record.value)
        for offset in offsets[: round(share * n)].tolist():
            feedback = Feedback(
                request_id=f"req-{partition.number}-{offset:09d}", kind="score", value=0.5, output_tokens=9
            )
            value = encode(Copied((0, source[partition.number]), feedback))
            source[partition.number] += 1
            partition.apply(partition.learner.j, 1_700_000_000_000, value)

    for (
        partition
    ) in partitions:  # buffers of the filling itself, and compiled code, belong to the idle engine
        add(partition, 0, BATCH)
    before = resident()
    each = count // PARTITIONS
    for first in range(BATCH, each, BATCH):
        for partition in partitions:
            add(partition, first, min(BATCH, each - first))
    stores = [partition.learner.pending for partition in partitions]
    held = sum(len(store) for store in stores)
    own = sum(store.nbytes for store in stores) / held - 4 * spec.d
    return {"mb": resident() - before, "open": held, "bytes": own}


# -- soak ---------------------------------------------------------------------------------------------


async def soak(document: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Run an engine and take note of its resident memory every half second."""
    from banditroute.runtime.process import collector
    from banditroute.runtime.tasks.engine import Engine

    engine = Engine(from_dict(document), init=True)
    await engine.start()
    collector.settle()
    print("ready", flush=True)
    samples = []
    begin = time.monotonic()
    try:
        while time.monotonic() < begin + seconds:
            await asyncio.sleep(0.5)
            samples.append(resident())
            if engine.failure is not None:
                raise engine.failure
    finally:
        report = engine.report()
        await engine.stop()
    return {"samples": samples, "decisions": report["decisions"], "ledger": report["ledger"]}


def run_soak(bootstrap: str, seconds: float) -> dict[str, Any]:
    """Drive a soak from this process: requests at a fixed rate, feedback on what is decided."""
    from confluent_kafka import Producer

    from bench._stream_driver import Bench

    bench = Bench(bootstrap, 0)
    document = configuration(bootstrap, bench.source, f"{bench.prefix}soak-")
    document["feedback"] = {"join_window": f"{JOIN_WINDOW:g}s"}
    document["engine"] = {"expire_interval": "1s"}
    topics = document["kafka"]["topics"]
    bench.create([bench.source, topics["decisions"], topics["feedback"]])
    stop = threading.Event()
    feeder = threading.Thread(target=bench.feed, args=(topics["decisions"], topics["feedback"], stop))
    feeder.start()
    worker = start_worker({"mode": "soak", "config": document, "seconds": seconds})
    try:
        assert worker.stdout is not None
        if worker.stdout.readline().strip() != "ready":
            raise SystemExit("bench.memory: the engine did not start")
        producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "compression.type": "lz4"})
        begin = time.monotonic()
        for number, (key, value) in enumerate(requests(int(SOAK_RATE * seconds))):
            producer.produce(bench.source, value, key)
            producer.poll(0)
            if number % 100 == 0:
                time.sleep(max(0.0, begin + number / SOAK_RATE - time.monotonic()))
        producer.flush(30)
        output = worker.stdout.read()
        if worker.wait(60):
            raise SystemExit("bench.memory: the engine's process failed")
    finally:
        stop.set()
        feeder.join()
        if worker.poll() is None:
            worker.kill()
            worker.wait()
        bench.created(name for key, name in topics.items() if key in OURS[3:])
        bench.delete()
    result: dict[str, Any] = json.loads(output)
    return result


# -- the processes ------------------------------------------------------------------------------------


def start_worker(job: dict[str, Any]) -> subprocess.Popen[str]:
    """Start a process whose memory is measured."""
    roots = os.pathsep.join(str(ROOT / folder) for folder in (".", "features", "sim", "scripts"))
    path = os.pathsep.join(filter(None, [roots, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "bench.memory", "--worker", json.dumps(job)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def worker(text: str) -> None:
    """Be the measured process."""
    job = json.loads(text)
    if job["mode"] == "soak":
        from banditroute.runtime.process import serve

        print(json.dumps(serve.run(soak(job["config"], job["seconds"]))))
    else:
        print(json.dumps(fill(job["count"], job["share"])))


def measured(job: dict[str, Any]) -> dict[str, Any]:
    """Run a worker to its end and return what it says."""
    process = start_worker(job)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"bench.memory: a process ended with status {process.returncode}")
    result: dict[str, Any] = json.loads(output)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--no-broker", action="store_true", help="no soak")
    parser.add_argument("--seconds", type=float, help="of the soak")
    parser.add_argument("--worker", help="be a measured process (internal)")
    chosen = parser.parse_args(arguments)
    if chosen.worker is not None:
        worker(chosen.worker)
        return
    report = Report("memory", PACKAGES)
    for case, share in (("open-decisions-1M", 0.0), ("open-decisions-1M-answered", 0.3)):
        progress(case)
        found = measured({"mode": "fill", "count": DECISIONS, "share": share})
        more = {"open": found["open"], "bytes-per-decision": found["bytes"], "d": 32}
        report.rows.append(Row(case, "banditroute", found["mb"], "MB", None, more))
    if chosen.no_broker:
        report.skip("soak-rss", "--no-broker")
    else:
        from bench._stream_driver import broker

        with broker() as (bootstrap, reason):
            if bootstrap is None:
                report.skip("soak-rss", reason)
            else:
                seconds = chosen.seconds or (20.0 if chosen.quick else 600.0)
                progress("soak")
                found = run_soak(bootstrap, seconds)
                samples = found["samples"]
                third = len(samples) // 3
                rise = max(samples[-third:]) - max(samples[third : 2 * third])
                more = {
                    "seconds": seconds, "highest": max(samples), "decisions": found["decisions"],
                    "expired": found["ledger"].get("expired", 0) + found["ledger"].get("answered", 0),
                }  # fmt: skip
                report.rows.append(Row("soak-rss", "banditroute", rise, "MB", None, more))
    progress_done()
    report.show(chosen.json)


if __name__ == "__main__":
    main()
