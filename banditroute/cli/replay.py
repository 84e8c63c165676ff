"""`banditroute replay`: a data set through the router, offline."""

from __future__ import annotations

# ruff: noqa: PLC0415 - kernels, numpy and pyarrow are loaded by the verbs that need them
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from banditroute.cli.simulate import INTERRUPTED
from banditroute.config import Config, from_dict, load
from banditroute.errors import ConfigError

if TYPE_CHECKING:
    from banditroute.bandit.evidence.evidence import Evidence
    from banditroute_features import Encoder

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Report = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="Write a page with figures.", show_default=False)
]
Csv = Annotated[
    Path | None,
    typer.Option("--csv", metavar="FILE.csv", help="Write a row per shuffle.", show_default=False),
]
Workers = Annotated[int, typer.Option(min=1, max=256, help="Processes; the numbers do not depend on it.")]
CostWeight = Annotated[float | None, typer.Option(min=0.0, help="Quality per USD.", show_default=False)]
Budget = Annotated[float | None, typer.Option(help="Mean cost of a request.", show_default=False)]
Floor = Annotated[
    float | None,
    typer.Option(help="Share of the quality of --reference, at the least cost.", show_default=False),
]
Reference = Annotated[str | None, typer.Option(help="The model of --quality-floor.", show_default=False)]
Models = Annotated[
    list[str] | None,
    typer.Option(help="A model to choose from, without -c; may be repeated.", show_default="of the data set"),
]
Warmup = Annotated[
    Path | None, typer.Option(help="A data set to start from, as with fit-prior.", show_default=False)
]
WarmupVotes = Annotated[
    float, typer.Option(min=0.01, max=1e6, help="What a model's outcomes there count for at most.")
]
Share = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the decisions that are answered.")]


def replay(
    dataset: Annotated[Path, typer.Option(help="A folder with prompts.parquet and outcomes.parquet.")],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="What would run.", show_default=False)
    ] = None,
    shuffles: Annotated[
        int, typer.Option(min=0, max=100_000, help="Random orders; 0: the order of the data set.")
    ] = 10,
    model: Models = None,
    warmup: Warmup = None,
    warmup_votes: WarmupVotes = 100.0,
    cost_weight: CostWeight = None,
    budget_usd_per_request: Budget = None,
    quality_floor: Floor = None,
    reference: Reference = None,
    feedback_share: Share = 1.0,
    feedback_delay: Annotated[int, typer.Option(min=0, help="Decisions until an answer arrives.")] = 0,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Learn from this column of outcomes.parquet.", show_default=False
        ),
    ] = None,
    workers: Workers = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the orders, and added to learning.seed.")] = 0,
    csv: Csv = None,
    report: Report = None,
    *,
    as_json: Json = False,
) -> None:
    """Send a data set through the router, offline: what it would have got, and what fixed models and mixes get."""
    from banditroute.router import make_encoder
    from banditroute_sim.data.outcomes import load_outcomes
    from banditroute_sim.progress import bar
    from banditroute_sim.replay.run import ReplayOptions, check_replayable, replay_outcomes
    from banditroute_sim.replay.show import print_replay, replay_page, write_rows
    from banditroute_sim.report import check_writable

    for path in (csv, report):
        if path is not None:
            check_writable(path)
    objective = objective_of(cost_weight, budget_usd_per_request, quality_floor, reference)
    chosen = configured(config, dataset, model, objective)
    check_replayable(chosen)
    encoder = make_encoder(chosen)
    priced = None if config is None else chosen.catalog
    outcomes = load_outcomes(dataset, encoder, chosen.catalog.names, judge=judge, catalog=priced)
    warm = warm_of(chosen, encoder, warmup, warmup_votes)
    options = ReplayOptions(
        shuffles=shuffles,
        feedback_share=feedback_share,
        feedback_delay=feedback_delay,
        seed=seed,
        workers=workers,
    )
    with bar("replayed", shuffles) as note:
        replayed = replay_outcomes(outcomes, chosen, options, warm, note)
    if csv is not None:
        write_rows(csv, replayed.result)
    if report is not None:
        replay_page(replayed).write(report)
    if as_json:
        print_json(replayed.result)
    else:
        print_replay(replayed.result)
    if replayed.result["interrupted"]:
        raise typer.Exit(INTERRUPTED)


def objective_of(
    cost_weight: float | None, budget: float | None, floor: float | None, reference: str | None
) -> dict[str, Any]:
    """Return the objective that flags say, as the table of a configuration; raises ConfigError."""
    for flag, number in (
        ("--cost-weight", cost_weight),
        ("--budget-usd-per-request", budget),
        ("--quality-floor", floor),
    ):
        if number is not None and not math.isfinite(number):
            raise ConfigError(f"{flag} is a finite number, got {number:g}")
    if budget is not None and budget <= 0.0:
        raise ConfigError(f"--budget-usd-per-request is more than 0, got {budget:g}")
    if floor is not None and not 0.0 < floor <= 1.0:
        raise ConfigError(f"--quality-floor is a share, more than 0 and at most 1, got {floor:g}")
    if (floor is None) != (reference is None):
        raise ConfigError("--quality-floor and --reference go together: give both or neither")
    given = {
        "cost_weight": cost_weight,
        "budget_usd_per_request": budget,
        "quality_floor": floor,
        "reference": reference,
    }
    told = {key: value for key, value in given.items() if value is not None}
    if len(told) - (reference is not None) > 1:
        raise ConfigError(
            "--cost-weight, --budget-usd-per-request and --quality-floor exclude each other: keep one"
        )
    return told


def configured(
    path: Path | None, dataset: Path, models: list[str] | None, objective: dict[str, Any]
) -> Config:
    """Return the configuration of a file, or of a data set; flags for the objective come first.

    Raises
    ------
    ConfigError
        If they contradict each other.
    DataSetError
        If the data set does not know a model, or its price.
    """
    import msgspec

    from banditroute.config import Objective
    from banditroute_sim.data.listing import load_prices

    if path is None:
        priced = load_prices(dataset, models)
        document = [
            {"name": name, "input_usd_per_mtok": given, "output_usd_per_mtok": written}
            for name, (given, written) in priced.items()
        ]
        return from_dict({"models": document, "objective": objective}, "the objective")
    if models:
        raise ConfigError("--model goes without -c: the models are those of the configuration")
    loaded = load(path)
    if not objective:
        return loaded
    if (name := objective.get("reference")) is not None and name not in loaded.catalog:
        raise ConfigError(
            f"--reference names '{name}', which is not in the catalog of {path}: {', '.join(loaded.catalog.names)}"
        )
    objective = objective | {"latency_weight": loaded.objective.latency_weight}
    return msgspec.structs.replace(loaded, objective=msgspec.convert(objective, Objective))


def warm_of(config: Config, encoder: Encoder, warmup: Path | None, votes: float) -> Evidence | None:
    """Return what is known beforehand: of the configuration's prior, or of a data set."""
    from banditroute.router import make_warm_start
    from banditroute_sim.data.outcomes import load_outcomes
    from banditroute_sim.data.warm_start import models_of
    from banditroute_sim.replay.run import known_evidence

    warm = make_warm_start(config, encoder.spec)
    if warmup is None:
        return None if warm is None else warm.evidence
    if warm is not None:
        raise ConfigError("--warmup and learning.prior are both given: start from one of them")
    recorded = models_of(warmup)
    known = [model for model in config.catalog if model.name in recorded]
    if not known:
        raise ConfigError(
            f"--warmup: {warmup} knows none of the models {', '.join(config.catalog.names)}: "
            f"it has {', '.join(recorded)}"
        )
    catalog = config.catalog
    outcomes = load_outcomes(warmup, encoder, [model.name for model in known], catalog=catalog)
    return known_evidence(outcomes, votes, [model.generation for model in known])


def print_json(result: dict[str, Any]) -> None:
    """Print one JSON object."""
    sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()
