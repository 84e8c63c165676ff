"""One command: `banditroute <verb>`.

Exit status 0 is done, 1 is no, 2 is bad usage or input, 70 is a defect of banditroute, 130 is interrupted.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import orjson
import typer

from banditroute.catalog import MAX_USD_PER_MTOK
from banditroute.cli.evaluate import evaluate, export_log
from banditroute.cli.examples import add_examples
from banditroute.cli.features import features_app
from banditroute.cli.init import configuration, init, table
from banditroute.cli.rehearse import rehearse
from banditroute.cli.replay import replay
from banditroute.cli.simulate import INTERRUPTED, simulate
from banditroute.cli.state import state_app
from banditroute.config import Config, Logging, load, unusual_price, warnings
from banditroute.errors import BanditrouteError, ConfigError, DataSetError
from banditroute.events import PauseEdit, PriceEdit

DEFECT: Final = 70  # EX_SOFTWARE of sysexits.h

app = typer.Typer(
    name="banditroute",
    help="Learns which AI model to send each request to, from Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
topics_app = typer.Typer(help="Topics of the engine.", no_args_is_help=True)
control_app = typer.Typer(help="Numbered edits that every engine applies.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(control_app, name="control")
app.add_typer(features_app, name="features")
app.add_typer(state_app, name="state")
app.command("init")(init)
app.command("evaluate")(evaluate)
app.command("export-log")(export_log)
app.command("replay")(replay)
app.command("rehearse")(rehearse)
app.command("simulate")(simulate)

ConfigPath = Annotated[
    Path, typer.Option("-c", "--config", help="The configuration file.", show_default=False)
]
CatalogModel = Annotated[str, typer.Argument(help="A model of the catalog.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # noqa: PLC0415 - it takes a moment, and is asked for rarely

        print(f"banditroute {metadata.version('banditroute')}")
        raise typer.Exit


@app.callback()
def banditroute(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Learn which AI model to send each request to, from Kafka."""


def main() -> None:
    """Run the command line; every deliberate error becomes one sentence and exit status 2."""
    try:
        status = app(prog_name="banditroute", standalone_mode=False)  # also as `python -m banditroute`
    except BanditrouteError as error:
        print(f"banditroute: {error}", file=sys.stderr)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):
            _unexpected(error.__cause__)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:  # noqa: BLE001 - status 1 means "the answer is no" and never a crash
        usage: Any = error
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            _unexpected(error)
        usage.show()  # the parser's own: an unknown option, a missing argument
        sys.exit(usage.exit_code)
    sys.exit(status if isinstance(status, int) else 0)


def _unexpected(error: BaseException) -> NoReturn:
    """Own up to a defect in one sentence; the traceback is for those who ask for it."""
    if os.environ.get("BANDITROUTE_DEBUG"):
        traceback.print_exception(error)
    print(
        f"banditroute: this should not have happened ({type(error).__name__}): please report it with what "
        "BANDITROUTE_DEBUG=1 shows",
        file=sys.stderr,
    )
    sys.exit(DEFECT)


def _load(path: Path, *, quiet: bool = False) -> Config:
    from banditroute.runtime.process.logs import set_up_logging  # noqa: PLC0415 - verbs without an engine start quickly

    config = load(path)
    set_up_logging(Logging(format=config.logging.format, level="warning") if quiet else config.logging)
    return config


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.flush()
        return
    width = max(map(len, result))
    for key, value in result.items():
        print(f"{key:<{width}}  {', '.join(map(str, value)) if isinstance(value, list) else value}")


@app.command()
def run(
    config: ConfigPath,
    init: Annotated[
        bool, typer.Option("--init", help="Create missing topics and genesis records first.")
    ] = False,
) -> None:
    """Run the engine until it is told to stop."""
    from banditroute.runtime.process import serve  # noqa: PLC0415

    serve.run(serve.serve(_load(config), init=init))


@app.command()
def check(
    config: ConfigPath,
    offline: Annotated[
        bool, typer.Option("--offline", help="The configuration alone; no broker is asked.")
    ] = False,
    sample: Annotated[
        Path | None, typer.Option(help="JSON lines: print what the first records become, or why not.")
    ] = None,
    kind: Annotated[str, typer.Option(help="Of the sample: requests or feedback.")] = "requests",
    as_json: Json = False,
) -> None:
    """Check the configuration, the broker, the topics and the stored state."""
    if sample is not None:
        _check_sample(_load(config, quiet=True), sample, kind, as_json)
        return
    if offline:
        loaded = _load(config, quiet=True)
        _print_checked({"models": list(loaded.catalog.names)}, loaded, as_json)
        return
    from banditroute.runtime.process import serve  # noqa: PLC0415

    loaded = _load(config, quiet=True)
    _print_checked(serve.run(serve.check(loaded)), loaded, as_json)


def _print_checked(result: dict[str, Any], config: Config, as_json: bool) -> None:
    """Print the result of a check with what in the configuration looks like a mistake."""
    told = warnings(config)
    if as_json:
        _print({"ok": True, **result, "warnings": told}, as_json)
        return
    _print({"ok": True, **result}, as_json)
    for text in told:
        print(f"warning: {text}")


def _check_sample(config: Config, path: Path, kind: str, as_json: bool) -> None:
    from banditroute.cli.sample import sample  # noqa: PLC0415

    if kind not in ("requests", "feedback"):
        raise ConfigError(f"--kind is requests or feedback, got {kind}")
    rows = sample(config, path, kind)
    refused = sum("refused" in row for row in rows)
    if as_json:
        _print({"ok": not refused, "refused": refused, "records": rows}, as_json)
    else:
        for row in rows:
            text = f"refused: {row['refused']}" if "refused" in row else orjson.dumps(row["becomes"]).decode()
            print(f"line {row['line']}: {text}")
            if "unmeasured" in row:
                print(f"  not learned from, as no answer has such a number: {', '.join(row['unmeasured'])}")
        print(f"{len(rows) - refused} of {len(rows)} are read")
    if refused:
        raise typer.Exit(1)


@topics_app.command("create")
def topics_create(config: ConfigPath, as_json: Json = False) -> None:
    """Create the topics that are missing, and the records that learning begins with."""
    from banditroute.runtime.process import serve  # noqa: PLC0415

    done = serve.run(serve.create(_load(config, quiet=True), int(time.time() * 1000)))
    if as_json:
        _print({"done": done}, as_json)
    else:
        print("\n".join(done) or "everything is there already")


@control_app.command("price")
def control_price(
    config: ConfigPath,
    model: CatalogModel,
    input_usd_per_mtok: Annotated[
        float, typer.Argument(metavar="INPUT_USD_PER_MTOK", help="US dollars per million tokens of input.")
    ],
    output_usd_per_mtok: Annotated[
        float, typer.Argument(metavar="OUTPUT_USD_PER_MTOK", help="US dollars per million tokens of output.")
    ],
    as_json: Json = False,
) -> None:
    """Change a model's price in every running engine."""
    from banditroute.runtime.process import serve  # noqa: PLC0415

    loaded = _with_model(config, model)
    prices = {"INPUT_USD_PER_MTOK": input_usd_per_mtok, "OUTPUT_USD_PER_MTOK": output_usd_per_mtok}
    for name, price in prices.items():
        if not 0.0 <= price <= MAX_USD_PER_MTOK:
            raise ConfigError(f"{name}: expected a price from 0 to {MAX_USD_PER_MTOK:.0f}, got {price:g}")
    number = serve.run(serve.control(loaded, PriceEdit(model, input_usd_per_mtok, output_usd_per_mtok)))
    unusual = {name: unusual_price(price) for name, price in prices.items()}
    told = [f"{name}: {text}" for name, text in unusual.items() if text]
    _print({"control": number, "model": model} | ({"warnings": told} if told or as_json else {}), as_json)


@control_app.command("pause")
def control_pause(config: ConfigPath, model: CatalogModel, as_json: Json = False) -> None:
    """Send no more requests to a model; what was learned is kept."""
    _pause(config, model, True, as_json)


@control_app.command("resume")
def control_resume(config: ConfigPath, model: CatalogModel, as_json: Json = False) -> None:
    """Send requests to a paused model again."""
    _pause(config, model, False, as_json)


def _pause(config: Path, model: str, paused: bool, as_json: bool) -> None:
    from banditroute.runtime.process import serve  # noqa: PLC0415

    number = serve.run(serve.control(_with_model(config, model), PauseEdit(model, paused)))
    _print({"control": number, "model": model, "paused": paused}, as_json)


def _with_model(config: Path, model: str) -> Config:
    loaded = _load(config, quiet=True)
    if model not in loaded.catalog:
        raise ConfigError(
            f"model '{model}' is not in the catalog of {config}: {', '.join(loaded.catalog.names)}"
        )
    return loaded


@app.command()
def demo(
    requests: Annotated[int | None, typer.Option(min=1, help="Stop after so many requests.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after so many seconds.", show_default="20")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.0, help="Requests per second; 0: as fast as possible.")
    ] = 500.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated models and prompts.")] = 0,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Leave its configuration and its data set in a new folder.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Watch it learn: an embedded broker, an engine, and simulated traffic whose feedback comes late."""
    from banditroute.runtime.process import serve  # noqa: PLC0415
    from banditroute.runtime.process.logs import set_up_logging  # noqa: PLC0415
    from banditroute_sim import DemoOptions, DemoWorld, print_summary, run_demo  # noqa: PLC0415
    from banditroute_sim.demo.keep import check_folder  # noqa: PLC0415
    from banditroute_sim.demo.keep import keep as keep_demo  # noqa: PLC0415
    from banditroute_sim.demo.run import demo_data  # noqa: PLC0415

    set_up_logging(Logging(level="warning"))
    options = DemoOptions(
        requests=requests, seconds=seconds, rate=rate, seed=seed, view=False if as_json else None
    )
    if keep is not None:
        check_folder(keep)
    summary = serve.run(run_demo(options))
    if keep is not None:
        summary |= {"kept": str(keep)}
        world = DemoWorld(seed)
        models = [table(m.name, m.input_usd_per_mtok, m.output_usd_per_mtok) for m in world.models]
        settings = f"[objective]\ncost_weight = {world.cost_weight}\n\n[learning]\nseed = {seed}\n"
        keep_demo(keep, demo_data(options, world), configuration(models, settings))
    if as_json:
        _print(summary, as_json)
    else:
        print_summary(summary)
        if keep is not None:
            file, data = keep / "banditroute.toml", keep / "data"
            print(f"\nkept in {keep}; go on with:")
            print(f"  banditroute check -c {file} --offline")
            print(f"  banditroute replay -c {file} --dataset {data}")


@app.command()
def traffic(
    config: ConfigPath,
    dataset: Annotated[Path, typer.Option(help="A folder with prompts.parquet and outcomes.parquet.")],
    requests: Annotated[
        int, typer.Option(min=1, help="How many; prompts repeat when there are fewer.")
    ] = 1000,
    rate: Annotated[float, typer.Option(min=0.0, help="Requests per second; 0: as fast as possible.")] = 0.0,
    feedback_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the decisions answered.")
    ] = 1.0,
    feedback_delay: Annotated[float, typer.Option(min=0.0, help="Mean seconds until the answer.")] = 0.0,
    partitioner: Annotated[str, typer.Option(help="Of the requests: murmur2, crc32 or fnv1a.")] = "murmur2",
    feedback_partitioner: Annotated[str, typer.Option(help="Of the feedback.")] = "murmur2",
    decision_ids: Annotated[
        bool, typer.Option(help="Name the decision in feedback, or the request alone.")
    ] = True,
    run_id: Annotated[str, typer.Option(help="Begins every request id; default: the time.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of delays and shares.")] = 0,
    as_json: Json = False,
) -> None:
    """Send a data set as live requests, answer each decision with the recorded outcome of its model."""
    from banditroute.runtime.process import serve  # noqa: PLC0415
    from banditroute_sim import DataSet, TrafficOptions, print_summary, run_traffic, traffic_progress  # noqa: PLC0415

    loaded = _load(config, quiet=True)
    if not {partitioner, feedback_partitioner} <= {"murmur2", "crc32", "fnv1a"}:
        raise ConfigError(
            f"--partitioner is murmur2, crc32 or fnv1a, got {partitioner} and {feedback_partitioner}"
        )
    options = TrafficOptions(
        requests=requests,
        rate=rate,
        feedback_share=feedback_share,
        feedback_delay=feedback_delay,
        partitioner=partitioner,  # type: ignore[arg-type]  # checked above
        feedback_partitioner=feedback_partitioner,  # type: ignore[arg-type]  # checked above
        send_decision_id=decision_ids,
        run_id=run_id,
        seed=seed,
    )
    data = DataSet.load(dataset, models=loaded.catalog.names)
    with traffic_progress(requests) as progress:
        summary = serve.run(run_traffic(loaded, data, options, progress)).to_dict()
    if as_json:
        _print(summary, as_json)
    else:
        print_summary(summary)
    if summary["undecided"]:
        raise typer.Exit(1)


@app.command("fit-prior")
def fit_prior(
    data: Annotated[Path, typer.Argument(help="A folder with prompts.parquet and outcomes.parquet.")],
    config: ConfigPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the prior goes.")],
    votes: Annotated[
        float, typer.Option(min=0.01, max=1e6, help="How many votes a model's outcomes count for at most.")
    ] = 100.0,
    as_json: Json = False,
) -> None:
    """Turn a data set into a file to start from; name it in the configuration: learning.prior = "FILE"."""
    from banditroute.flow.records.warm_start import encode_warm_start  # noqa: PLC0415
    from banditroute.router import make_encoder  # noqa: PLC0415
    from banditroute_sim import DataSet  # noqa: PLC0415
    from banditroute_sim.data.encoding import encode  # noqa: PLC0415
    from banditroute_sim.data.warm_start import models_of, warm_evidence  # noqa: PLC0415

    loaded = _load(config, quiet=True)
    encoder = make_encoder(loaded)
    recorded = models_of(data)
    known = [model for model in loaded.catalog if model.name in recorded]
    if not known:
        raise DataSetError(
            f"{data} knows no model of the catalog of {config}: it has outcomes of {', '.join(recorded)}"
        )
    outcomes = DataSet.load(data, models=[model.name for model in known])
    generations = {model.name: model.generation for model in known}
    evidence = warm_evidence(outcomes, encode(outcomes, encoder), votes, generations)
    try:
        output.write_bytes(encode_warm_start(evidence, encoder.spec.spec_id, votes))
    except OSError as error:
        raise DataSetError(f"cannot write '{output}': {error.strerror}") from error
    result = {
        "file": str(output),
        "prompts": len(outcomes),
        "votes": min(votes, len(outcomes)),
        "models": [model.name for model in known],
        "cold": [model.name for model in loaded.catalog if model.name not in recorded],
        "spec_id": encoder.spec.spec_id,
    }
    _print(result, as_json)


add_examples(app)
