"""`banditroute simulate`: policies against worlds we know."""

from __future__ import annotations

# ruff: noqa: PLC0415 - kernels, numpy and the simulator are loaded by the verb that needs them
import sys
from pathlib import Path
from typing import Annotated

import orjson
import typer

INTERRUPTED = 130  # 128 + SIGINT, as a shell has it


def simulate(
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="A world, or: all; may be repeated. --list names them.", show_default="stationary"),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="A policy, or: all; may be repeated.", show_default="those that are compiled"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Worlds per scenario; every policy meets the same.")] = 10,
    first_seed: Annotated[int, typer.Option(help="The first of them.")] = 0,
    horizon: Annotated[
        int | None, typer.Option(help="Rounds.", show_default="10,000; close-models 20,000")
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(help="Mean cost of a request that banditroute has to meet.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    csv: Annotated[
        Path | None, typer.Option(help="Write a row per world, seed and policy.", show_default=False)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a self-contained HTML page.", show_default=False)
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Name worlds and policies, and exit.")] = False,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Run policies through invented worlds: regret, recovery, cost, quality and speed, with intervals over seeds."""
    if list_:
        _list(as_json)
        return
    from banditroute_sim.progress import bar
    from banditroute_sim.report import check_writable, need_matplotlib, write_csv
    from banditroute_sim.simulate.options import SimulateOptions
    from banditroute_sim.simulate.page import report as page_of
    from banditroute_sim.simulate.run import simulate as run
    from banditroute_sim.simulate.summary import CSV_HEAD, csv_rows, document, text

    options = SimulateOptions(
        scenarios=tuple(scenario or ("stationary",)),
        policies=tuple(policy or ()),
        seeds=seeds,
        first_seed=first_seed,
        horizon=horizon,
        workers=workers,
        budget=budget,
    )
    for path in (csv, report):
        if path is not None:
            check_writable(path)
    if report is not None:
        need_matplotlib()
    total = len(options.scenarios) * options.seeds
    with bar("simulated", total) as note:
        found = run(options, note)
    if found.seeds:
        facts = document(found)
        if as_json:
            _print_json(facts)
        else:
            print(text(facts))
        if csv is not None:
            write_csv(csv, CSV_HEAD, csv_rows(found))
        if report is not None:
            page_of(found).write(report)
    if found.interrupted:
        print(f"banditroute: interrupted, {len(found.seeds)} of {total} seeds are finished", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _list(as_json: bool) -> None:
    from banditroute_sim.policies import POLICIES
    from banditroute_sim.scenarios import SCENARIOS, SUITE

    worlds = {name: (each.build.__doc__ or "").splitlines()[0] for name, each in SCENARIOS.items()}
    if as_json:
        _print_json({"scenarios": worlds, "all": list(SUITE), "policies": list(POLICIES)})
        return
    width = max(map(len, worlds))
    print("Worlds; `all` is those with a star:")
    for name, sentence in worlds.items():
        print(f"{'*' if name in SUITE else ' '} {name:<{width}}  {sentence}")
    print(f"\nPolicies: {', '.join(POLICIES)}")


def _print_json(found: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()
