"""`banditroute init`: the annotated configuration, with the models that are there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from banditroute.config import parse
from banditroute.errors import ConfigError, MissingExtraError

_END = "# --- what is maximised"


def init(
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Take models and prices from a folder with outcomes.parquet.",
            show_default=False,
        ),
    ] = None,
    prices: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="A model at its list price; may be repeated.", show_default=False),
    ] = None,
) -> None:
    """Print an annotated banditroute.toml."""
    if dataset is not None and prices:
        raise ConfigError("--dataset and --prices exclude each other: keep one")
    if dataset is not None:
        from banditroute_sim.data.listing import load_prices  # noqa: PLC0415 - the simulator only where it is needed

        tables = [table(name, *pair) for name, pair in load_prices(dataset).items()]
        print(configuration(tables), end="")
    elif prices:
        print(configuration([listed(name) for name in dict.fromkeys(prices)]), end="")
    else:
        print(example(), end="")


def example() -> str:
    """Return the annotated example."""
    return resources.files("banditroute").joinpath("example.toml").read_text(encoding="utf-8")


def configuration(models: Sequence[str], settings: str = "") -> str:
    """Return the annotated example with these `[[models]]` tables; `settings` are TOML tables that replace theirs.

    Raises
    ------
    ConfigError
        If a model cannot be in a catalog, because of its name or its price.
    """
    text = example()
    head, rest = text[: text.index("[[models]]")], text[text.index(_END) :]
    if settings:
        rest = f"# Every other value is the default; `banditroute init` prints all of them.\n\n{settings}"
    text = head + "\n".join(models) + "\n" + rest
    parse(text, "the models")
    return text


def table(name: str, given: float, written: float, window: int | None = None, source: str = "") -> str:
    """Return the `[[models]]` table of a model with its prices in USD per million tokens."""
    lines = [
        "[[models]]" + (f"                      # {source}" if source else ""),
        f"name = {orjson.dumps(name).decode()}",
        f"input_usd_per_mtok = {given:.6g}",
        f"output_usd_per_mtok = {written:.6g}",
    ]
    if window is not None:
        lines.append(f"context_window = {window}")
    return "\n".join(lines) + "\n"


def listed(name: str) -> str:
    """Return the `[[models]]` table of a model at the list price that the package genai-prices keeps.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    ConfigError
        If it does not know the model, or no price per token of it.
    """
    try:
        from genai_prices import __version__ as release  # noqa: PLC0415 - an optional dependency
        from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - as above: nothing is downloaded
    except ImportError as error:
        raise MissingExtraError("A list of prices", "prices") from error
    snapshot = get_snapshot()
    provider, _, short = name.rpartition("/")
    try:
        found, model = snapshot.find_provider_model(short, None, provider or None, None)
    except LookupError as error:
        known = {one.id for maker in snapshot.providers for one in maker.models}
        near = difflib.get_close_matches(short.lower(), sorted(known), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "write its [[models]] table by hand"
        raise ConfigError(f"--prices: there is no list price of '{name}': {hint}") from error
    price = model.get_prices(datetime.now(UTC))
    given, more = _base(price.input_mtok)
    written, most = _base(price.output_mtok)
    if given is None or written is None:
        raise ConfigError(
            f"--prices: '{name}' has no price per token of input and output: write its [[models]] table by hand"
        )
    source = f"{found.id}/{model.id}, genai-prices {release}" + (
        "; more for long prompts" if more or most else ""
    )
    return table(name, given, written, model.context_window, source)


def _base(price: Any) -> tuple[float | None, bool]:
    """Return what the first token costs, and whether a long prompt costs more."""
    if price is None:
        return None, False
    if isinstance(price, Decimal):
        return float(price), False
    return float(price.base), True
