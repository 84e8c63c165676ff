"""What no key can say alone: checks across the tables of a configuration."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import cast

import msgspec
from msgspec import Struct

from banditroute.catalog import Catalog
from banditroute.config.tables import Config, Kafka, Objective
from banditroute.errors import ConfigError
from banditroute.events import Feedback, Request
from banditroute.events.value_map import MINUS_ONE_TO_ONE

_SERVER = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s:,\[\]]+)(?::([0-9]{1,5}))?")
_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


def unknown_key(path: str, key: str, valid: Iterable[str], where: str) -> ConfigError:
    """Return the error of a key that does not exist, with the nearest one that does."""
    names = sorted(valid)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean '{path}{near[0]}'?" if near else f"valid keys are: {', '.join(names)}"
    return ConfigError(f"{where}: unknown key '{path}{key}'; {hint}")


def cross_check(config: Config, where: str) -> None:
    """Refuse what each key alone allows."""
    default = config.requests.default_model
    _check_model(default, "requests.default_model", config.catalog, where)
    if config.requests.max_request_age is not None and default is None:
        raise ConfigError(
            f"{where}: requests.max_request_age needs requests.default_model, the model that stale requests get"
        )
    _check_field_map(config.requests.field_map, Request, "requests.field_map.", where)
    _check_field_map(config.feedback.field_map, Feedback, "feedback.field_map.", where)
    _check_value_map(config.feedback.value_map, "feedback.value_map.", where)
    _check_objective(config.objective, config.catalog, where)
    _check_kafka(config.kafka, where)


def _check_model(name: str | None, key: str, catalog: Catalog, where: str) -> None:
    if name is not None and name not in catalog:
        near = difflib.get_close_matches(name, catalog.names, n=1, cutoff=0.3)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"{where}: {key} names '{name}', which is not in the catalog{hint}")


def _check_objective(objective: Objective, catalog: Catalog, where: str) -> None:
    solved = ("budget_usd_per_request", "budget_usd_per_day", "quality_floor")
    given = [key for key in solved if getattr(objective, key) is not None]
    if len(given) > 1:
        raise ConfigError(
            f"{where}: objective.{given[0]} and objective.{given[1]} exclude each other: keep one"
        )
    if given and objective.cost_weight:
        raise ConfigError(
            f"{where}: objective.cost_weight is solved for when objective.{given[0]} is set: keep one of them"
        )
    for key, needed in (("budget_usd_per_day", "requests_per_day"), ("quality_floor", "reference")):
        if (getattr(objective, key) is None) != (getattr(objective, needed) is None):
            raise ConfigError(
                f"{where}: objective.{key} and objective.{needed} go together: give both or neither"
            )
    _check_model(objective.reference, "objective.reference", catalog, where)


def _check_field_map(paths: Mapping[str, str], event: type[Struct], path: str, where: str) -> None:
    for key, target in paths.items():
        if key not in event.__struct_fields__:
            raise unknown_key(path, key, event.__struct_fields__, where)
        if not all(target.removeprefix("$.").split(".")) or target == "$":
            raise ConfigError(
                f'{where}: {path}{key}: Expected a path such as "$.meta.id", got {target!r:.60}'
            )


def _check_value_map(entries: Mapping[str, object], path: str, where: str) -> None:
    for key, meaning in entries.items():
        if meaning == MINUS_ONE_TO_ONE or (key == MINUS_ONE_TO_ONE and isinstance(meaning, bool)):
            continue
        if isinstance(meaning, list | tuple) and len(meaning) == 2:
            if all(map(_is_number, meaning)) and meaning[0] != meaning[1]:
                continue
        elif _is_number(meaning) and 0.0 <= cast("float", meaning) <= 1.0:
            continue
        raise ConfigError(
            f"{where}: {path}{key}: Expected what the value stands for, a number from 0 to 1, or a scale: worst and "
            f'best, such as [1, 5], or "{MINUS_ONE_TO_ONE}"'
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_kafka(kafka: Kafka, where: str) -> None:
    for server in kafka.bootstrap_servers.split(","):
        match = _SERVER.fullmatch(server.strip())
        if match is None or not 1 <= int(match[1] or 9092) <= 65535:
            raise ConfigError(
                f'{where}: kafka.bootstrap_servers: Expected "host:port" or "host:port,host:port" with ports from '
                f"1 to 65535 and IPv6 addresses in brackets, got {server!r:.80}"
            )
    for key in ("session_timeout", "request_timeout"):
        if getattr(kafka, key) > 86400.0:  # the protocol counts milliseconds in 32 bits
            raise ConfigError(f'{where}: kafka.{key}: Expected at most "1d"')
    if kafka.security_protocol.startswith("SASL"):
        for key in ("sasl_username", "sasl_password"):
            if not getattr(kafka, key):
                raise ConfigError(
                    f"{where}: kafka.{key} is missing: kafka.security_protocol = "
                    f'"{kafka.security_protocol}" needs kafka.sasl_username and kafka.sasl_password'
                )
    if kafka.ssl_keyfile is not None and kafka.ssl_certfile is None:
        raise ConfigError(f"{where}: kafka.ssl_keyfile needs kafka.ssl_certfile, the certificate of that key")
    topics = [name for name in msgspec.structs.astuple(kafka.topics) if name is not None]
    for name in topics:
        if not _TOPIC.fullmatch(name):
            raise ConfigError(
                f"{where}: kafka.topics names '{name:.80}': expected letters, digits, '.', '_' or '-', at most 249"
            )
    if len(set(topics)) != len(topics):
        raise ConfigError(f"{where}: kafka.topics names one topic twice: every topic needs a name of its own")
