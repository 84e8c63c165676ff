"""`banditroute state`: look at what was learned, keep it in a file, bring it back, recompute it from the topics."""

from __future__ import annotations

# ruff: noqa: PLC0415 - what a verb needs is loaded by it; the age of a state is told to a person
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from banditroute.config import Config, Logging, load
from banditroute.errors import DataSetError, StateError
from banditroute_features.reading import read_bounded

if TYPE_CHECKING:
    from banditroute.runtime.broker.ports import Client
    from banditroute.runtime.state.topics import Spec

state_app = typer.Typer(help="What was learned, as the state topic holds it.", no_args_is_help=True)

ConfigPath = Annotated[
    Path, typer.Option("-c", "--config", help="The configuration file.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
MAX_FILE_BYTES = 8 << 30


@state_app.command("inspect")
def inspect(config: ConfigPath, *, as_json: Json = False) -> None:
    """Show what each partition has learned, up to where, and when it was published."""
    from banditroute.runtime.state import stored

    def work(client: Client, loaded: Config, spec: Spec) -> Awaitable[dict[str, Any]]:
        return stored.inspect(client, loaded, spec, time.time() * 1000.0)

    result = _with_client(config, work)
    if as_json:
        _print_json(result)
        return
    print(f"{result['topic']}, feature spec {result['spec_id']}")
    _table(result["partitions"])
    for name, votes in sorted(result["models"].items()):
        print(f"{name}: {votes:g} votes")
    for spec_id in result["other_specs"]:
        print(f"also there: records of feature spec {spec_id}")
    for sentence in result["damaged"]:
        print(f"damaged: {sentence}")


@state_app.command("export")
def export(
    config: ConfigPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the state goes.")],
    *,
    prior: Annotated[
        bool, typer.Option("--prior", help="One file for learning.prior of another deployment instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the newest state of every partition to a file."""
    from banditroute.flow.records.state_file import encode_states
    from banditroute.runtime.state import stored

    states = _with_client(config, stored.collect)
    data = stored.as_prior(states) if prior else encode_states(states)
    try:
        output.write_bytes(data)
    except OSError as error:
        raise DataSetError(f"cannot write '{output}': {error.strerror}") from error
    _print({"file": str(output), "partitions": len(states), "bytes": len(data)}, as_json=as_json)


@state_app.command("import")
def bring_in(
    config: ConfigPath,
    file: Annotated[Path, typer.Argument(help="What `state export` wrote.")],
    *,
    force: Annotated[bool, typer.Option(help="Also where the topic knows more than the file.")] = False,
    as_json: Json = False,
) -> None:
    """Write the states of a file to the state topic, once they fit the logs; stop the engines first."""
    from banditroute.flow.records.state_file import decode_states
    from banditroute.runtime.state import stored

    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise StateError(f"'{file}' has more than {MAX_FILE_BYTES} bytes: it is no export")
        data = read_bounded(file, MAX_FILE_BYTES)
    except OSError as error:
        raise DataSetError(f"cannot read '{file}': {error.strerror}") from error
    states = decode_states(data, str(file))

    def work(client: Client, loaded: Config, spec: Spec) -> Awaitable[dict[str, Any]]:
        return stored.bring_in(client, loaded, spec, states, force=force)

    result = _with_client(config, work)
    _print({"partitions": result["partitions"], "covers": sum(result["covers"].values())}, as_json=as_json)


@state_app.command("rebuild")
def rebuild(
    config: ConfigPath,
    *,
    spec: Annotated[
        bool, typer.Option("--spec", help="The topics were written under another [features]: encode anew.")
    ] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Write the result to the state topic.")] = False,
    as_json: Json = False,
) -> None:
    """Recompute evidence from decisions and journal; status 1 where the state topic says otherwise."""
    from banditroute.runtime.state import rebuild as run

    def work(client: Client, loaded: Config, known: Spec) -> Awaitable[dict[str, Any]]:
        now = int(time.time() * 1000.0)
        return run.rebuild(client, loaded, known, now, other_spec=spec, write=publish)

    result = _with_client(config, work)
    if as_json:
        _print_json(result)
    else:
        _table(result["partitions"])
        print("published" if publish else "not published: add --publish")
    if result["differs"]:
        raise typer.Exit(1)


def _with_client(path: Path, work: Callable[[Client, Config, Spec], Awaitable[Any]]) -> Any:
    from banditroute.runtime.process import serve
    from banditroute.runtime.process.logs import set_up_logging

    config = load(path)
    set_up_logging(Logging(format=config.logging.format, level="warning"))
    return serve.run(serve.with_client(config, work))


def _table(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print("no state of this feature spec")
        return
    lines = [
        list(rows[0]),
        *(
            [f"{value:g}" if isinstance(value, float) else str(value) for value in row.values()]
            for row in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _print(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _print_json(result)
        return
    for key, value in result.items():
        print(f"{key}  {value}")


def _print_json(result: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(result, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()
