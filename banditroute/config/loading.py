"""Reading `banditroute.toml`: one loader, and every error names the key and the expected form."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import msgspec
import msgspec.inspect
from msgspec import Struct

from banditroute.catalog import Model, Tier
from banditroute.config.checks import cross_check, unknown_key
from banditroute.config.tables import Config
from banditroute.config.values import Duration, Secret
from banditroute.errors import ConfigError
from banditroute.events.second_reading import mismatch
from banditroute_features.reading import read_bounded


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file.

    Raises
    ------
    ConfigError
        One sentence: the key, what was expected, and for an unknown key the nearest valid one.
    """
    try:
        text = read_bounded(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {os.fspath(path)}: {reason}") from error
    return parse(text, where=os.fspath(path))


def parse(text: str, where: str = "banditroute.toml") -> Config:
    """Parse the text of a configuration file; see `load`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}") from error
    return from_dict(document, where)


def from_dict(document: Mapping[str, Any], where: str = "the configuration") -> Config:
    """Check a parsed document; see `load`."""
    _check_names(document, Config, "", where)
    if not document.get("models"):
        raise ConfigError(
            f"{where}: the catalog is empty: add at least one [[models]] table with a name and its prices"
        )
    try:
        config = msgspec.convert(document, Config, dec_hook=_parse_custom)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {_reason(document)}") from error
    cross_check(config, where)
    return config


def _parse_custom(kind: type, value: Any) -> Any:
    if kind in (Duration, Secret):
        return kind.parse(value)
    raise NotImplementedError(kind)


def _reason(document: Mapping[str, Any]) -> str:
    wrong = mismatch(document, msgspec.inspect.type_info(Config), "$")
    if wrong is None:
        return "it does not have the form that `banditroute init` shows"
    path = wrong.path.removeprefix("$").removeprefix(".")
    return f"{path}: Expected {wrong.expected}" if path else f"Expected {wrong.expected}"


def _check_names(document: Mapping[str, Any], table: type[Struct], path: str, where: str) -> None:
    """Refuse unknown keys and unknown choices with what is valid, before types are checked."""
    fields = {item.name: item.type for item in msgspec.structs.fields(table)}
    for key, value in document.items():
        here = f"{path}{key}"
        if key not in fields:
            raise unknown_key(path, key, fields, where)
        inner = fields[key]
        if get_origin(inner) is Literal and value not in get_args(inner):
            choices = ", ".join(f'"{choice}"' for choice in get_args(inner))
            raise ConfigError(f"{where}: {here}: Expected one of {choices}, got {value!r:.60}")
        if isinstance(value, Mapping) and isinstance(inner, type) and issubclass(inner, Struct):
            _check_names(value, inner, f"{here}.", where)
    if table is Config and isinstance(document.get("models"), list):
        for index, model in enumerate(document["models"]):
            if isinstance(model, Mapping):
                _check_names(model, Model, f"models[{index}].", where)
                tiers = model.get("tiers")
                for number, tier in enumerate(tiers if isinstance(tiers, list) else ()):
                    if isinstance(tier, Mapping):
                        _check_names(tier, Tier, f"models[{index}].tiers[{number}].", where)
