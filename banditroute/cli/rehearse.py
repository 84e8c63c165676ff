"""`banditroute rehearse`: a rollout, tried on the user's own data set or log before any traffic is touched."""

from __future__ import annotations

# ruff: noqa: PLC0415 - kernels, numpy and pyarrow are loaded by the verbs that need them
import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from banditroute.cli.replay import Json, Report, Share, Warmup, WarmupVotes, Workers, print_json, warm_of
from banditroute.cli.shared import AllowDropped
from banditroute.cli.simulate import INTERRUPTED
from banditroute.config import Config, Logging, load
from banditroute.errors import ConfigError, DataSetError

if TYPE_CHECKING:
    from banditroute_features import Encoder
    from banditroute_sim.rehearse.logged import LoggedWorld
    from banditroute_sim.rehearse.world import RecordedWorld


def rehearse(
    config: Annotated[Path, typer.Option("-c", "--config", help="What would run.", show_default=False)],
    log: Annotated[
        str,
        typer.Option(
            help="A folder with a data set or with a log of export-log, or: topic.", show_default=False
        ),
    ],
    present: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="What serves today, of a data set.",
            show_default="objective.reference, else the model of best quality",
        ),
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option(
            min=100, max=1_000_000, help="Length of the rollout.", show_default="as the log, at most 10,000"
        ),
    ] = None,
    runs: Annotated[
        int, typer.Option(min=4, max=10_000, help="Of the steady rollout; a third of it per scenario.")
    ] = 24,
    requests_per_day: Annotated[
        float | None, typer.Option(help="Traffic, for times in days.", show_default="that of the log")
    ] = None,
    feedback_share: Share = 1.0,
    feedback_delay: Annotated[
        int, typer.Option(min=0, help="Decisions until an answer arrives; with the share, of a data set.")
    ] = 0,
    judge: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The quality of a data set.", show_default="quality"),
    ] = None,
    warmup: Warmup = None,
    warmup_votes: WarmupVotes = 100.0,
    max_quality_loss: Annotated[
        float, typer.Option(help="Rule: the interval's lower end loses at most this much quality.")
    ] = 0.02,
    min_saving: Annotated[
        float, typer.Option(help="Rule: the interval's lower end saves at least this share.")
    ] = 0.0,
    max_breach: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Rule: probability that a budget is breached.")
    ] = 0.05,
    max_scenario_loss: Annotated[
        float, typer.Option(help="Rule: quality below the present policy's in a scenario.")
    ] = 0.05,
    max_days: Annotated[
        float | None,
        typer.Option(
            help="Rule: days until the router is sure that quality is kept.", show_default="no rule"
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    workers: Workers = 1,
    allow_dropped: AllowDropped = 0.01,
    seed: Annotated[int, typer.Option(min=0, max=4000, help="Of the runs.")] = 0,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE.csv", help="Write a row per run.", show_default=False),
    ] = None,
    report: Report = None,
    *,
    as_json: Json = False,
) -> None:
    """Say go or no-go to a rollout; exit status 0 is go, 1 is no-go, 2 is bad usage or input, 130 is interrupted."""
    from banditroute.router import make_encoder
    from banditroute_sim.progress import bar
    from banditroute_sim.rehearse.logged import LoggedWorld
    from banditroute_sim.rehearse.rules import Limits
    from banditroute_sim.rehearse.run import RehearsalOptions, number_of_runs
    from banditroute_sim.rehearse.run import rehearse as run
    from banditroute_sim.rehearse.show import print_rehearsal, rehearsal_page, write_rows
    from banditroute_sim.report import check_writable

    limits = Limits(
        max_quality_loss=max_quality_loss,
        min_saving=min_saving,
        max_breach=max_breach,
        max_scenario_loss=max_scenario_loss,
        max_days=max_days,
    )
    _check_numbers(
        {
            "--max-quality-loss": max_quality_loss,
            "--min-saving": min_saving,
            "--max-scenario-loss": max_scenario_loss,
            "--max-days": max_days,
        },
        confidence,
        requests_per_day,
    )
    for path in filter(None, (csv, report)):
        check_writable(path)
    loaded = _quiet(config)
    encoder = make_encoder(loaded)
    world: RecordedWorld | LoggedWorld
    if log != "topic" and is_data_set(Path(log)):
        world = _recorded(Path(log), loaded, encoder, present, judge, feedback_share, feedback_delay)
    else:
        given = {"--present": present, "--judge": judge, "--feedback-delay": feedback_delay}
        _check_told(given | {"--feedback-share": feedback_share < 1.0})
        world = _logged(log, loaded, encoder, allow_dropped)
    warm = warm_of(loaded, encoder, warmup, warmup_votes)
    per_day = requests_per_day
    if per_day is None:
        per_day = world.sample.per_day if isinstance(world, LoggedWorld) else math.nan
    if max_days is not None and not per_day > 0.0:
        raise ConfigError("--max-days needs the traffic: give --requests-per-day")
    options = RehearsalOptions(
        limits=limits,
        requests=requests,
        runs=runs,
        confidence=confidence,
        requests_per_day=per_day,
        seed=seed,
        workers=workers,
    )
    with bar("rehearsed", number_of_runs(world, options)) as note:
        rehearsal = run(world, loaded, options, warm, note)
    if csv is not None:
        write_rows(csv, rehearsal)
    if report is not None:
        rehearsal_page(rehearsal, limits).write(report)
    if as_json:
        print_json(rehearsal.result)
    else:
        print_rehearsal(rehearsal.result, limits)
    if rehearsal.result["interrupted"]:
        raise typer.Exit(INTERRUPTED)
    if not rehearsal.result["go"]:
        raise typer.Exit(1)


def is_data_set(folder: Path) -> bool:
    """Tell whether a folder holds a data set, or a log; raises DataSetError if neither."""
    if not folder.is_dir():
        raise DataSetError(
            f"{folder} is not a folder: expected one that holds a data set (prompts.parquet, outcomes.parquet) or a "
            "log (decisions*, feedback*)"
        )
    names = [path.name for path in folder.iterdir()]
    if "prompts.parquet" in names or "outcomes.parquet" in names:
        return True
    if any(name.startswith("decisions") for name in names):
        return False
    raise DataSetError(
        f"{folder} holds neither a data set (prompts.parquet, outcomes.parquet) nor a log (decisions*, feedback*)"
    )


def _recorded(
    folder: Path,
    config: Config,
    encoder: Encoder,
    present: str | None,
    judge: str | None,
    feedback_share: float,
    feedback_delay: int,
) -> RecordedWorld:
    from banditroute_sim.data.outcomes import load_outcomes
    from banditroute_sim.rehearse.world import RecordedWorld

    outcomes = load_outcomes(folder, encoder, config.catalog.names, judge=judge, catalog=config.catalog)
    if judge is not None:
        outcomes = outcomes.judged()
    today = present or config.objective.reference
    if today is None:
        today = outcomes.models[int(outcomes.means()[0].argmax())]
    if today not in outcomes.models:
        raise ConfigError(
            f"--present names '{today}', which is not in the catalog: {', '.join(config.catalog.names)}"
        )
    return RecordedWorld(outcomes, today, feedback_share, feedback_delay)


def _logged(log: str, config: Config, encoder: Encoder, allow_dropped: float) -> LoggedWorld:
    from banditroute_sim.evaluate.export import topic_log
    from banditroute_sim.rehearse.logged import LoggedWorld
    from banditroute_sim.rehearse.sample import read_log

    spec = encoder.spec
    blocks = [(block.start, block.stop) for block in spec.blocks]
    topic = log == "topic"
    with topic_log(config) if topic else nullcontext(Path(log)) as folder:
        sample = read_log(folder, config, spec.spec_id, spec.d, allow_dropped)
    return LoggedWorld(sample, config, blocks, "the log" if topic else folder.resolve().name)


def _check_numbers(
    flags: Mapping[str, float | None], confidence: float, requests_per_day: float | None
) -> None:
    for flag, value in flags.items():
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{flag} is a finite number, got {value:g}")
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"--confidence is between 0 and 1, got {confidence:g}")
    if requests_per_day is not None and not (math.isfinite(requests_per_day) and requests_per_day > 0.0):
        raise ConfigError(f"--requests-per-day is more than 0, got {requests_per_day:g}")


def _check_told(flags: Mapping[str, object]) -> None:
    wrong = [flag for flag, value in flags.items() if value]
    if wrong:
        raise ConfigError(f"{wrong[0]} is for a data set: a log tells it by itself")


def _quiet(path: Path) -> Config:
    from banditroute.runtime.process.logs import set_up_logging

    config = load(path)
    set_up_logging(Logging(format=config.logging.format, level="warning"))
    return config
