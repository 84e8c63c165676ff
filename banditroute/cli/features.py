"""`banditroute features`: what a context is made of, for one request or for a data set."""

from __future__ import annotations

# ruff: noqa: PLC0415 - kernels, numpy and pyarrow are loaded by the verbs that need them
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from banditroute.config import load
from banditroute.errors import ConfigError, DataSetError, MissingExtraError
from banditroute.events import Rejected, Request, decode_request, request_of
from banditroute_features.reading import read_bounded

if TYPE_CHECKING:
    from banditroute_features import FeatureSpec

features_app = typer.Typer(
    help="Contexts: their columns, their values, and fitting them.", no_args_is_help=True
)

ConfigPath = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="Read [features] of this configuration file.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

_BATCH = 1024
_MEANINGS = {
    "intercept": "always 1",
    "tag": "hashed, signed names of the tags",
    "tenant": "hashed, signed tenant",
    "session": "hashed, signed session",
    "language": "hashed, signed language",
    "hour": "hour of the day on a circle",
    "cross": "hashed pairs of fields",
    "numeric": "log2(1 + number)",
    "stat": "prompt statistic",
    "script": "share of the letters",
    "chat": "shape of the chat",
    "char": "hashed character 3- to 5-grams",
    "word": "hashed words and pairs of words",
    "embedding": "reduced embedding",
    "context": "number given by the caller",
}


@features_app.command("show")
def show(config: ConfigPath = None, *, as_json: Json = False) -> None:
    """Print the columns of a context with their block, scale and meaning."""
    from banditroute_features.columns import (
        CHAT_TABLE,
        NUMERIC_TABLE,
        SCRIPT_TABLE,
        STATISTICS_TABLE,
        block_scales,
    )

    spec = _spec(config)
    factors, fitted = block_scales(spec), spec.fitted.scales if spec.fitted else {}
    fixed = {
        f"{block}.{name}": (centre, gain)
        for block, table in (
            ("stat", STATISTICS_TABLE),
            ("script", SCRIPT_TABLE),
            ("chat", CHAT_TABLE),
            ("numeric", NUMERIC_TABLE),
        )
        for name, centre, gain in table
    }
    rows = []
    for block in spec.blocks:
        for i in range(block.start, block.stop):
            name = spec.columns[i]
            row: dict[str, Any] = {
                "column": i,
                "name": name,
                "block": block.name,
                "meaning": _MEANINGS[block.name],
            }
            row["factor"] = factors.get(block.name, 1.0)
            scale = fitted.get(name, fixed.get(name))
            if scale is not None:
                row["centre"], row["gain"] = scale
            rows.append(row)
    if as_json:
        print(json.dumps({"spec_id": spec.spec_id, "d": spec.d, "spec": spec.to_dict(), "columns": rows}))
        return
    print(f"spec_id {spec.spec_id}, {spec.d} columns")
    for row in rows:
        scaled = f"(raw - {row['centre']:g}) * {row['gain']:g}" if "gain" in row else ""
        print(
            f"{row['column']:>4}  {row['name']:<26} {row['factor']:>7.4f}  {row['meaning']:<36} {scaled}".rstrip()
        )


@features_app.command("explain")
def explain(
    config: ConfigPath = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="The prompt; - reads standard input.")
    ] = None,
    request: Annotated[
        Path | None, typer.Option("--request", help="A request event as JSON; - reads standard input.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A tag; may be repeated.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="The tenant.")] = None,
    *,
    as_json: Json = False,
) -> None:
    """Print the columns of one request that are not zero, and the estimate of its tokens."""
    import numpy as np

    from banditroute_features import Encoder

    if (prompt is None) == (request is None):
        raise typer.BadParameter("expected either --prompt or --request")
    if request is not None:
        if tag or tenant is not None:
            raise typer.BadParameter("--tag and --tenant go with --prompt; a request event brings its own")
        event = decode_request(_input(request))
    else:
        text = _text(_input(Path("-")), "standard input") if prompt == "-" else prompt
        event = request_of(Request(request_id="explain", prompt=text, tags=tuple(tag or ()), tenant=tenant))
    if isinstance(event, Rejected):
        raise DataSetError(f"{request or 'the request'}: {event.reason}")
    spec = _spec(config)
    out, tokens = np.empty((1, spec.d), np.float32), np.empty(1)
    Encoder(spec).encode_batch([event], out, tokens)
    values = {name: float(value) for name, value in zip(spec.columns, out[0], strict=True) if value}
    blocks = {}
    for block in spec.blocks[1:]:
        norm = float((out[0, block.start : block.stop].astype(float) ** 2).sum())
        if norm:
            blocks[block.name] = norm
    if as_json:
        print(
            json.dumps(
                {
                    "spec_id": spec.spec_id,
                    "tokens": float(tokens[0]),
                    "columns": values,
                    "squared_norm": blocks,
                }
            )
        )
        return
    print(
        f"spec_id {spec.spec_id}, {len(values)} of {spec.d} columns are not zero, about {tokens[0]:.0f} tokens"
    )
    for name, value in values.items():
        bar = "#" * min(int(abs(value) * 24 + 0.5), 48)
        print(f"  {name:<26} {value:>8.4f}  {bar}".rstrip())
    print("squared norm by block: " + ", ".join(f"{name} {norm:.3f}" for name, norm in blocks.items()))


@features_app.command("fit")
def fit(
    data: Annotated[
        Path, typer.Argument(help="A folder with prompts.parquet, or a file of request events as JSON lines.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the fitted file goes.")],
    config: ConfigPath = None,
    *,
    as_json: Json = False,
) -> None:
    """Fit scales of columns, and the projection of embeddings if that block is on, to a data set.

    Name the file in the configuration: features.fitted = "FILE". It is part of the spec: a fitted spec has another
    spec_id, and contexts of two specs never meet in one posterior. Also says how many tags the data set has and how
    many of them have a column to themselves: where that is few, and they matter, raise features.tags.
    """
    from banditroute_features import Fitted
    from banditroute_features.fitting import Principal, fit_scales, tags_alone

    spec = replace(_spec(config), fitted=None)
    requests = list(_requests(data))
    if not requests:
        raise DataSetError(f"{data}: expected at least one request, found none")
    scales = fit_scales(spec, requests)
    mean: tuple[float, ...] = ()
    components: tuple[tuple[float, ...], ...] = ()
    try:
        if spec.embedding:
            principal = Principal()
            embedded = [list(request.embedding) for request in requests if request.embedding]
            lengths = sorted(set(map(len, embedded)))
            if len(lengths) > 1:
                raise DataSetError(
                    f"{data}: embeddings: expected one length, got {lengths[0]} and {lengths[-1]}"
                )
            for start in range(0, len(embedded), _BATCH):
                principal.add(embedded[start : start + _BATCH])
            mean, components = principal.components(spec.embedding)
        fitted = Fitted(scales=scales, mean=mean, components=components, path=str(output))
    except ValueError as error:
        raise DataSetError(f"{data}: {error}") from error
    try:
        fitted.save(output)
    except OSError as error:
        raise DataSetError(f"cannot write '{output}': {error.strerror}") from error
    tags, alone = tags_alone(spec, (tag for request in requests for tag in request.tags))
    result = {
        "requests": len(requests),
        "tags": tags,
        "tags_alone": alone,
        "scales": len(scales),
        "components": len(components),
        "dimension": len(mean),
        "file": str(output),
        "spec_id": replace(spec, fitted=fitted).spec_id,
    }
    if as_json:
        print(json.dumps(result))
        return
    for key, value in result.items():
        print(f"{key:<12} {value}")


def _spec(config: Path | None) -> FeatureSpec:
    """Return the spec of a configuration file, or the default one."""
    from banditroute_features import FeatureSpec

    try:
        return FeatureSpec.from_dict(load(config).features) if config else FeatureSpec()
    except ValueError as error:
        raise ConfigError(f"{config}: [features]: {error}") from error


def _input(path: Path) -> bytes:
    """Return the bytes of a file, or of standard input for ``-``."""
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return read_bounded(path)
    except OSError as error:
        raise DataSetError(f"cannot read '{path}': {error.strerror}") from error


def _text(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataSetError(
            f"{where}: expected UTF-8 text, got byte {error.start} = {raw[error.start]:#04x}"
        ) from error


def _requests(data: Path) -> Iterator[Any]:
    """Yield the requests of a data set: JSON lines of request events, or a table of prompts."""
    if data.is_dir() or data.suffix == ".parquet":
        yield from _prompts(data / "prompts.parquet" if data.is_dir() else data)
        return
    for number, line in enumerate(_input(data).splitlines(), 1):
        if line.strip():
            event = decode_request(line)
            if isinstance(event, Rejected):
                raise DataSetError(f"{data}: line {number}: {event.reason}")
            yield event


def _prompts(path: Path) -> Iterator[Any]:
    """Yield one request per row of a table of prompts; the task is the first tag."""
    read = _parquet_reader()
    try:
        table = read(path)
        columns = {name: table[name].to_pylist() for name in table.column_names}
    except (OSError, ValueError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0] if path.exists() else "No such file or directory"
        raise DataSetError(f"cannot read '{path}': {reason}") from error
    if "prompt" not in columns:
        raise DataSetError(f"{path}: expected a column 'prompt', found {', '.join(columns) or 'none'}")
    nothing = [None] * table.num_rows
    tasks, embeddings = columns.get("task", nothing), columns.get("embedding", nothing)
    rows = zip(columns["prompt"], tasks, embeddings, strict=True)
    for number, (prompt, task, embedding) in enumerate(rows):
        row = {"request_id": str(number), "prompt": prompt, "tags": (str(task),) if task else ()}
        event = request_of(row if embedding is None else {**row, "embedding": embedding})
        if isinstance(event, Rejected):
            raise DataSetError(f"{path}: row {number}: {event.reason}")
        yield event


def _parquet_reader() -> Callable[[Path], Any]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("Reading a folder of prompts", "sim") from error
    return parquet.read_table  # type: ignore[no-any-return]
