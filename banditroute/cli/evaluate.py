"""`banditroute evaluate` and `banditroute export-log`: what another policy would have got, from what was logged."""

from __future__ import annotations

# ruff: noqa: PLC0415 - kernels, numpy and pyarrow are loaded by the verbs that need them
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import orjson
import typer

from banditroute.catalog import MAX_USD_PER_MTOK
from banditroute.cli.shared import AllowDropped
from banditroute.config import Config, Logging, load
from banditroute.errors import ConfigError

LogConfig = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="The configuration that was in force.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def export_log(
    config: Annotated[
        Path, typer.Option("-c", "--config", help="The configuration file.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write into.")],
    *,
    as_json: Json = False,
) -> None:
    """Write the decisions and the feedback of the broker into a folder, for `evaluate`."""
    from banditroute.runtime.process import serve
    from banditroute_sim.evaluate.export import fetch

    done = serve.run(fetch(_quiet(config), output))
    if as_json:
        _print_json({"folder": str(output), **done})
    else:
        print(f"{done['decisions']} decisions and {done['feedback']} feedback events in {output}")
        if done["rejected"]:
            reasons = "; ".join(f"{count} x {reason}" for reason, count in done["dropped"]["reasons"].items())
            print(f"left out: {done['rejected']} feedback events that are refused ({reasons})")


def evaluate(
    log: Annotated[str, typer.Option("--log", help="A folder with an exported log, or: topic.")],
    config: LogConfig = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="logging, uniform, fixed:MODEL or policy:NAME; default: an objective.", show_default=False
        ),
    ] = None,
    target_config: Annotated[
        Path | None, typer.Option(help="Evaluate another configuration.", show_default=False)
    ] = None,
    cost_weight: Annotated[
        float | None, typer.Option(min=0.0, help="Of the target and its utility.", show_default="as logged")
    ] = None,
    budget_usd_per_request: Annotated[
        float | None, typer.Option(help="Solve for the cost weight.", show_default=False)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model the target may use; may be repeated.", show_default="all"),
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            help="MODEL=INPUT,OUTPUT in USD per million tokens; may be repeated.", show_default=False
        ),
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="The target does not explore.")] = False,
    floor: Annotated[float, typer.Option(min=0.0, max=1.0, help="Exploration floor of the target.")] = 0.0,
    logged_floor: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Exploration floor of the log: bounds the weights.")
    ] = 0.0,
    logged_by: Annotated[
        str | None,
        typer.Option(help="The policy whose rows of an Open Bandit log are used.", show_default=False),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="thumb, score, judge or outcome.", show_default="all votes")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    replicates: Annotated[int, typer.Option(min=100, max=100_000, help="Bootstrap resamples.")] = 2000,
    min_ess: Annotated[float, typer.Option(min=0.0, help="Refuse below this effective sample size.")] = 100.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    allow_dropped: AllowDropped = 0.01,
    mapped: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN",
            help="The log is a table of another tool: where model, propensity, quality and cost_usd are; or dsjson.",
            show_default=False,
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Estimate from logged decisions what another policy would have got; status 1 where the log cannot tell."""
    from banditroute_sim.evaluate.export import topic_log
    from banditroute_sim.evaluate.question import Question, make_target, open_log
    from banditroute_sim.evaluate.run import EvaluationOptions
    from banditroute_sim.evaluate.run import evaluate as run
    from banditroute_sim.evaluate.show import print_evaluation
    from banditroute_sim.evaluate.table_log import read_map

    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"--confidence is between 0 and 1, got {confidence:g}")
    if kind not in {None, "thumb", "score", "judge", "outcome"}:
        raise ConfigError(f"--kind is thumb, score, judge or outcome, got '{kind}'")
    for name, number in (
        ("--cost-weight", cost_weight),
        ("--budget-usd-per-request", budget_usd_per_request),
    ):
        if number is not None and not math.isfinite(number):
            raise ConfigError(f"{name} is a finite number, got {number:g}")
    if budget_usd_per_request is not None and budget_usd_per_request <= 0.0:
        raise ConfigError(f"--budget-usd-per-request is more than 0, got {budget_usd_per_request:g}")
    logged = None if config is None else _quiet(config)
    question = Question(
        policy=policy,
        cost_weight=cost_weight,
        budget=budget_usd_per_request,
        models=tuple(model or ()),
        prices=dict(map(_price, price or ())),
        target=None if target_config is None else load(target_config),
        logged=logged,
        greedy=greedy,
        floor=floor,
    )
    if log == "topic" and logged is None:
        raise ConfigError("--log topic needs the broker: give the configuration with -c")
    with topic_log(logged) if logged is not None and log == "topic" else nullcontext(Path(log)) as folder:
        fields = None if mapped is None else read_map(mapped)
        opened = open_log(folder, kind=kind, logged_by=logged_by, allow_dropped=allow_dropped, fields=fields)
        target, weight = make_target(opened, question)
        if logged is not None and not logged_floor:
            logged_floor = logged.learning.exploration_floor
        options = EvaluationOptions(
            cost_weight=weight,
            confidence=confidence,
            replicates=replicates,
            seed=seed,
            least_ess=min_ess,
            logged_floor=logged_floor,
        )
        result = run(opened, target, options)
    if as_json:
        _print_json(result)
    else:
        print_evaluation(result)
    if result["refused"]:
        raise typer.Exit(1)


def _quiet(path: Path) -> Config:
    from banditroute.runtime.process.logs import set_up_logging

    config = load(path)
    set_up_logging(Logging(format=config.logging.format, level="warning"))
    return config


def _price(text: str) -> tuple[str, tuple[float, float]]:
    name, _, numbers = text.rpartition("=")
    try:
        given, written = map(float, numbers.split(","))
    except ValueError:
        given = written = math.nan
    if not name or not (0.0 <= given <= MAX_USD_PER_MTOK and 0.0 <= written <= MAX_USD_PER_MTOK):
        raise ConfigError(f"--price is MODEL=INPUT,OUTPUT in USD per million tokens, got '{text}'")
    return name, (given, written)


def _print_json(result: dict[str, object]) -> None:
    sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()
