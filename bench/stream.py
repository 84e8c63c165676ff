"""The whole path on a real broker, beside bare loops and other routers.

`throughput-1`: one engine on a pre-filled requests topic (400-byte prompts, K = 8, the default features), with
feedback for 30 % of the requests, sent by another process as decisions appear. `value` is decisions per second of
user + system CPU time of exactly the engine's process, once it is warm; the wall rate of the same window is beside it.
`echo` is the limit: a bare aiokafka loop that polls the same topic, `orjson.loads` + `orjson.dumps` each value, and
`send_batch`es it to another topic, with the compression that is our default. `vw-loop` and `paretobandit-loop` are
loops on confluent-kafka around other routers.

`shared-N`: N engines of one group, on requests and feedback that come as quickly as they can be sent; `wall` is of
sending, deciding and reading back. `latency-R`: from producing a request until its decision is readable, at R requests
per second; `added-latency-R` is the median of the rounds' differences to the echo loop. `learning-lag`: from producing
feedback until the posterior has taken it in, at 5,000 per second. `recovery`: from a kill until the first decision,
with open decisions to restore. `state`: what state records weigh. `--profile` shows where the microseconds go, in
process and without a broker. `--only` runs some of the groups: throughput, peers, scale, latency, lag, recovery, state.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench import _stream_latency as timing
from bench import _stream_peers as peers
from bench._stream_driver import Bench, broker
from bench._stream_profile import profile
from bench._stream_state import state_sizes
from bench._stream_workers import worker
from bench.harness import Report, Row, interleave, options, progress, progress_done, table

GROUPS = ("throughput", "peers", "scale", "latency", "lag", "recovery", "state")
PACKAGES = (
    "banditroute",
    "vowpalwabbit",
    "paretobandit",
    "aiokafka",
    "confluent-kafka",
    "orjson",
    "msgspec",
    "numpy",
    "numba",
    "uvloop",
)


def throughput(report: Report, bootstrap: str, *, quick: bool, traced: bool) -> str:
    """Fill in `throughput-1`; return the table of functions of one more round under cProfile, if asked for."""
    bench = Bench(bootstrap, 50_000 if quick else 200_000)
    try:
        progress("writing requests")
        bench.prefill()
        contenders = {who: lambda who=who: bench.measure(who) for who in ("banditroute", "echo")}
        results = interleave(contenders, 3 if quick else 5, progress)
        longest = bench.measure("banditroute", traced=True)["functions"] if traced else []
    finally:
        progress_done()
        bench.delete()
    rates: dict[str, list[float]] = {}
    for who, rounds in results.items():
        rates[who] = [round_["count"] / round_["cpu"] for round_ in rounds]
        report.rows.append(
            Row.of(
                "throughput-1",
                who,
                rates[who],
                "decisions/CPU s" if who == "banditroute" else "records/CPU s",
            )
        )
    for who, rounds in results.items():
        wall = [round_["count"] / round_["wall"] for round_ in rounds]
        report.rows.append(Row.of("throughput-1-wall", who, wall, "1/s"))
    ratios = [ours / limit for ours, limit in zip(rates["banditroute"], rates["echo"], strict=True)]
    report.rows.append(Row.of("throughput-1-ratio", "banditroute/echo", ratios, "ratio"))
    rss = [round_["rss_mib"] for round_ in results["banditroute"]]
    report.rows.append(Row.of("throughput-1-rss", "banditroute", rss, "MiB"))
    lines = [[f"{1e6 * own / bench.count:.2f}", str(calls), name] for name, own, calls in longest]
    return table(
        ["µs/decision", "calls", "function of the engine's process, under cProfile, start included"], lines
    )


def show_profile(count: int, report: Report, engine_rate: float | None, *, as_json: bool) -> None:
    """Print the table of stages, or add its rows to the report."""
    rows, total = profile(count)
    staged = sum(row[2] for row in rows)
    lines = [[name, f"{value:.2f}", f"{value / staged:.0%}", meaning] for name, meaning, value, _ in rows]
    lines.append(
        ["sum", f"{staged:.2f}", "100%", f"of the stages; {total:.2f} µs in one piece, without timers"]
    )
    if engine_rate is not None:
        rest = 1e6 / engine_rate - total
        lines.append(
            ["engine", f"{1e6 / engine_rate:.2f}", "", "CPU per decision of the engine on the broker"]
        )
        lines.append(
            ["client", f"{rest:.2f}", "", "of that: sockets, aiokafka, event loop, following, publishing"]
        )
    report.rows += [Row("profile", name, value, "µs/decision") for name, _, value, _ in rows]
    report.rows.append(Row("profile", "total", total, "µs/decision"))
    if not as_json:
        print(table(["stage", "µs/decision", "share", ""], lines))
        print()


def others(report: Report, bootstrap: str, *, quick: bool) -> None:
    """Fill in the loops around other routers, with rounds of ours between them."""
    there = []
    for who in peers.LOOPS:
        reason = peers.missing(who)
        if reason is None:
            there.append(who)
        else:
            report.skip(who, reason)
    bench = Bench(bootstrap, 10_000 if quick else 60_000)
    try:
        bench.prefill()
        contenders: dict[str, Callable[[], dict[str, Any]]] = {
            "banditroute": lambda: bench.measure("banditroute")
        }
        for who in there:
            contenders[who] = lambda who=who: bench.measure(who, count=bench.count // 4)  # type: ignore[misc]
        results = interleave(contenders, 1 if quick else 3, progress)
    finally:
        progress_done()
        bench.delete()
    rates = {who: [r["count"] / r["cpu"] for r in rounds] for who, rounds in results.items()}
    for who in there:
        report.rows.append(Row.of("throughput-1", who, rates[who], "decisions/CPU s"))
        ratios = [ours / theirs for ours, theirs in zip(rates["banditroute"], rates[who], strict=True)]
        report.rows.append(Row.of("throughput-1-ratio", f"banditroute/{who}", ratios, "ratio"))


def scale(report: Report, bootstrap: str, *, quick: bool) -> None:
    """Fill in `shared-N`: N engines of one group."""
    bench = Bench(bootstrap, 0)
    count = 60_000 if quick else 200_000
    try:
        contenders = {
            f"shared-{engines}": lambda engines=engines: timing.shared(bench, bench.fresh(), engines, count)
            for engines in (1, 2)
        }
        results = interleave(contenders, 1 if quick else 3, progress)
    finally:
        progress_done()
        bench.delete()
    for case, rounds in results.items():
        rates = [round_["rate"] for round_ in rounds]
        wall = statistics.median(round_["wall"] for round_ in rounds)
        report.rows.append(Row.of(case, "banditroute", rates, "decisions/CPU s", wall=round(wall)))


def latencies(report: Report, bootstrap: str, *, quick: bool) -> None:
    """Fill in `latency-R` and `added-latency-R`."""
    bench = Bench(bootstrap, 0)
    try:
        # a broker needs a minute to be quick
        for who in () if quick else ("banditroute", "echo", "banditroute"):
            timing.latency(bench, who, bench.fresh(), 5000, 6.0)
        for rate in (1000,) if quick else (1000, 5000):
            contenders = {
                who: lambda who=who, rate=rate: timing.latency(
                    bench, who, bench.fresh(), rate, 3.0 if quick else 8.0
                )
                for who in ("banditroute", "echo")
            }
            results = interleave(contenders, 1 if quick else 5, progress)
            for quantile in timing.QUANTILES:
                for who, rounds in results.items():
                    report.rows.append(
                        Row.of(f"latency-{rate}", who, [r[quantile] for r in rounds], f"ms {quantile}")
                    )
                added = [
                    ours[quantile] - echo[quantile]
                    for ours, echo in zip(results["banditroute"], results["echo"], strict=True)
                ]
                more = {"least": min(added), "most": max(added), "rounds": len(added)}
                row = Row(
                    f"added-latency-{rate}",
                    "banditroute",
                    statistics.median(added),
                    f"ms {quantile}",
                    None,
                    more,
                )
                report.rows.append(row)
    finally:
        progress_done()
        bench.delete()


def lag(report: Report, bootstrap: str, *, quick: bool) -> None:
    """Fill in `learning-lag`."""
    bench = Bench(bootstrap, 0)
    try:
        rounds = [
            timing.learning_lag(bench, bench.fresh(), 5000, 2.0 if quick else 6.0)
            for _ in range(1 if quick else 7)
        ]
        rounds = rounds[2:] or rounds  # a broker needs a minute to be quick
    finally:
        bench.delete()
    for quantile in timing.QUANTILES:
        report.rows.append(
            Row.of(
                "learning-lag",
                "banditroute",
                [r[quantile] for r in rounds],
                f"ms {quantile}",
                votes=rounds[0]["votes"],
            )
        )


def recover(report: Report, bootstrap: str, *, quick: bool) -> None:
    """Fill in `recovery`."""
    count, partitions = (40_000, 8) if quick else (1_000_000, 64)
    bench = Bench(bootstrap, 0)
    try:
        found = timing.recovery(bench, count, partitions)
    finally:
        bench.delete()
    case = f"recovery-{count}-{partitions}"
    size = found["bytes"] / 1e6
    report.rows += [
        Row(case, "banditroute", found["first"], "s to the first decision", None, {"ready": found["ready"]}),
        Row(case, "banditroute", count / found["ready"], "records/s", None, {"MB/s": size / found["ready"]}),
        Row(
            case,
            "consumer",
            found["records"] / found["wall"],
            "records/s",
            None,
            {"MB/s": size / found["wall"]},
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument(
        "--profile", action="store_true", help="also show where the time goes, stage by stage"
    )
    parser.add_argument(
        "--no-broker", action="store_true", help="with --profile: nothing that needs a broker"
    )
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, help="these groups; --quick runs the first alone"
    )
    parser.add_argument("--worker", help="be a measured process (internal)")
    chosen = parser.parse_args(arguments)
    if chosen.worker is not None:
        worker(chosen.worker)
        return
    report = Report("stream", PACKAGES)
    functions_table = ""
    groups = chosen.only or (GROUPS[:1] if chosen.quick else GROUPS)
    if "state" in groups:
        report.rows += state_sizes()
    if not chosen.no_broker:
        with broker() as (bootstrap, reason):
            if bootstrap is None:
                report.skip("throughput-1", reason)
            else:
                if "throughput" in groups:
                    functions_table = throughput(report, bootstrap, quick=chosen.quick, traced=chosen.profile)
                for group, fill in (
                    ("peers", others),
                    ("scale", scale),
                    ("latency", latencies),
                    ("lag", lag),
                    ("recovery", recover),
                ):
                    if group in groups:
                        fill(report, bootstrap, quick=chosen.quick)
    if chosen.profile:
        ours: Mapping[str, float] = {row.who: row.value for row in report.rows if row.case == "throughput-1"}
        count = 20_000 if chosen.quick else 60_000
        show_profile(count, report, ours.get("banditroute"), as_json=chosen.json)
        if functions_table and not chosen.json:
            print(functions_table, end="\n\n")
    if report.rows or chosen.json or report.skipped:
        report.show(chosen.json)


if __name__ == "__main__":
    main()
