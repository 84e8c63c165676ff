"""Engines on a real broker, hurt again and again under load on a seeded schedule: is anything lost or doubled?

Three programs (`banditroute run`) share four partitions of a broker of their own. Users send requests, votes,
revisions, withdrawals (also of all that a voter said), and what is late, foreign, an orphan, sent twice, or poison.
One engine is never killed: its resident memory is watched over the whole run (`rss`, as `soak-rss` of `bench.memory`).
At the end everything is computed again from the topics by the oracle of `tests/naive.py`.

One row per fault, `value` = how often it was injected: `lost` and `doubled` count requests and feedback of the time
until the next fault, `later` the decisions that a zombie made once more; `pause` is the longest time (median of the
runs, in seconds) for which a partition decided nothing. `equal`: evidence, ledger and fields of every partition are
`==` the oracle's at the end of the run. A promise that does not hold is told, and the status is 1.
"""

from __future__ import annotations

import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._soak_deployment import FAULTS, STAYS, Deployment, until
from bench._soak_engines import Memory
from bench._soak_proof import Proof, prove
from bench.harness import Report, Row, figure, options, progress, progress_done, table

PACKAGES = ("banditroute", "aiokafka", "msgspec", "numpy", "numba")
JOIN_WINDOW, QUICK_JOIN_WINDOW = (
    20.0,
    4.0,
)  # seconds: decisions are closed, and feedback comes late, during the soak
RATE = 300.0  # requests per second
FIRST_FAULT = 5.0  # seconds of peace at the beginning
GAP = (4.0, 9.0)  # seconds between two faults
COLUMNS = ("lost", "doubled", "later", "pause", "equal")


@dataclass(frozen=True)
class Injected:
    """One fault that happened; times in milliseconds."""

    fault: str
    begin: float
    end: float


def run(deployment: Deployment, seconds: float) -> list[Injected]:
    """Let the faults come, each kind once before any comes again, in an order of the seed."""
    injected: list[Injected] = []
    bag: list[str] = []
    deadline = time.monotonic() + seconds
    wait = FIRST_FAULT
    while time.monotonic() + wait < deadline:
        time.sleep(wait)
        deployment.engines.check()
        if not bag:
            bag = sorted(FAULTS)
            deployment.chance.shuffle(bag)
        fault = bag.pop()
        progress(f"{fault}, {deadline - time.monotonic():.0f} s to go")
        begin = 1000.0 * time.time()
        FAULTS[fault](deployment)
        injected.append(Injected(fault, begin, 1000.0 * time.time()))
        wait = deployment.chance.uniform(*GAP)
    time.sleep(max(0.0, deadline - time.monotonic()))
    return injected


def rows(proof: Proof, injected: Sequence[Injected]) -> list[Row]:
    """One row per fault: what came between it and the next one is its own."""
    ends = [later.begin for later in injected[1:]] + [float("inf")]
    found = []
    for fault, inject in FAULTS.items():
        mine = [(one.begin, end) for one, end in zip(injected, ends, strict=True) if one.fault == fault]
        if not mine:
            continue

        def inside(times: Sequence[int], mine: Sequence[tuple[float, float]] = mine) -> int:
            return sum(begin <= time < end for time in times for begin, end in mine)

        more: dict[str, Any] = {
            "lost": inside(proof.lost),
            "doubled": inside(proof.doubled),
            "later": inside(proof.later),
            "pause": statistics.median(proof.pause(begin, end) for begin, end in mine),
            "equal": proof.differs == 0,
            "how": inject.__doc__,
        }
        found.append(Row(fault, "banditroute", len(mine), "runs", None, more))
    return found


def columns(row: Row) -> list[str]:
    """Return the cells of a row of the fault table."""
    return [
        figure(row.more[name]) if name != "equal" else ("yes" if row.more[name] else "no") for name in COLUMNS
    ]


def everything(proof: Proof, deployment: Deployment) -> dict[str, Any]:
    """Return what the whole run came to."""
    return {
        "requests": proof.requests, "feedback": proof.feedback, "poison": proof.poison, "lost": len(proof.lost),
        "doubled": len(proof.doubled), "later": len(proof.later), "equal": proof.differs == 0,
        "slowest_end": max(deployment.engines.endings), "ledger": dict(proof.ledger), "wrong": proof.wrong,
        "ended": deployment.engines.ended,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--seconds", type=float, help="of the load (600; 12 with --quick)")
    parser.add_argument("--rate", type=float, default=RATE, help="requests per second (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of users and faults (%(default)s)")
    chosen = parser.parse_args(arguments)
    report = Report("soak", PACKAGES)
    from kafka_jars import unavailable_reason

    reason = unavailable_reason()
    if reason is not None:
        report.skip("soak", f"no Apache Kafka: {reason}")
        report.show(chosen.json)
        return
    seconds = chosen.seconds or (12.0 if chosen.quick else 600.0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # engines and broker do not outlive us
    with tempfile.TemporaryDirectory(prefix="banditroute-soak-") as folder:
        deployment = Deployment(
            Path(folder), chosen.rate, chosen.seed, QUICK_JOIN_WINDOW if chosen.quick else JOIN_WINDOW
        )
        memory = Memory(deployment.engines)
        try:
            deployment.prepare()
            memory.start()
            deployment.load.start()
            until(deployment.ready, deployment.engines)
            injected = run(deployment, seconds)
            memory.finish()
            deployment.finish()
            progress("the proof")
            proof = prove(deployment.topics, deployment.config, deployment.load.sent)
        finally:
            deployment.end()
    faults = rows(proof, injected)
    rise, more = memory.rise(STAYS)
    report.rows += [
        *faults,
        Row("all", "banditroute", len(injected), "runs", None, everything(proof, deployment)),
        Row("rss", "banditroute", rise, "MB", None, {**more, "seconds": seconds}),
    ]
    progress_done()
    if not chosen.json:
        cells = [[row.case, row.more["how"], f"{row.value}", *columns(row)] for row in faults]
        print(table(["fault", "how it is injected", "runs", *COLUMNS], cells), end="\n\n")
    report.show(chosen.json)
    for text in proof.wrong:
        print(f"bench.soak: {text}", file=sys.stderr)
    if proof.wrong or proof.lost or proof.doubled:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
