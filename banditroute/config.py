"""`banditroute.toml` -> frozen structs; one loader; every error names the key and the expected form."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, field

from banditroute.catalog import Catalog, Model
from banditroute.errors import ConfigError
from banditroute.events import Feedback, Request

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w)\s*$")
_SHORTEST, _LONGEST = 0.001, 36500 * 86400.0
_SERVER = re.compile(r"(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s:,\[\]]+)(?::([0-9]{1,5}))?")
_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


class Duration(float):
    """Seconds, written in the file as a number with a unit.

    Examples
    --------
    >>> Duration.parse("15m"), Duration.parse("3d")
    (900.0, 259200.0)
    """

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Parse ``"250ms"``, ``"15m"``, ``"3d"``; raises ValueError otherwise, and outside of 1 ms to 100 years."""
        match = _DURATION.match(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f'Expected a duration such as "250ms", "30s", "15m", "6h" or "3d", got {text!r:.60}'
            )
        seconds = float(match[1]) * _UNITS[match[2]]
        if not _SHORTEST <= seconds <= _LONGEST:
            raise ValueError(f'Expected a duration from "1ms" to "36500d", got {text!r:.60}')
        return cls(seconds)


class Secret:
    """A secret taken from the environment: however it is printed, it is not shown; `reveal` gives it away.

    Examples
    --------
    >>> secret = Secret("hunter2")
    >>> print(secret, secret.reveal() == "hunter2")
    Secret(***) True
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself, for the client that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def parse(cls, reference: object) -> Secret:
        """Read ``{ env = "NAME" }``; raises ValueError for a literal secret or an unset variable."""
        if (
            not isinstance(reference, Mapping)
            or set(reference) != {"env"}
            or not isinstance(reference["env"], str)
        ):
            raise ValueError(
                'Expected { env = "NAME" }: secrets come from the environment, never from the file'
            )
        name = reference["env"]
        if not os.environ.get(name):
            raise ValueError(f"Expected the environment variable {name} to be set and not empty")
        return cls(os.environ[name])


class _Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file: unknown keys are errors."""


class Topics(_Table, frozen=True, kw_only=True):
    """Topic names."""

    requests: str = "requests"
    feedback: str = "feedback"
    decisions: str = "banditroute.decisions"
    journal: str = "banditroute.journal"
    state: str = "banditroute.state"
    control: str = "banditroute.control"
    dead_letter: str = "banditroute.dead-letter"
    alerts: str = "banditroute.alerts"
    reply: str | None = None

    @property
    def partitioned(self) -> tuple[str, ...]:
        """The topics that share one partition count."""
        return (self.requests, self.decisions, self.journal, self.state)


class Kafka(_Table, frozen=True, kw_only=True):
    """How to reach Kafka; security settings pass through to the client."""

    bootstrap_servers: Annotated[str, Meta(min_length=1)] = "127.0.0.1:9092"
    group: Annotated[str, Meta(min_length=1, max_length=249)] = "banditroute"
    client_id: str = "banditroute"
    start: Literal["earliest", "latest"] = "earliest"
    startup_timeout: Duration = Duration(30.0)
    session_timeout: Duration = Duration(10.0)
    request_timeout: Duration = Duration(15.0)
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "zstd"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_password: Secret | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str | None = None
    sasl_password: Secret | None = None
    partitions: Annotated[int, Meta(ge=1, le=4096)] = 4
    replication_factor: Annotated[int, Meta(ge=1, le=32)] = 1
    topics: Topics = Topics()


class Requests(_Table, frozen=True, kw_only=True):
    """How request events are read."""

    partitioner: Literal["auto", "murmur2", "crc32", "fnv1a", "any"] = "auto"
    field_map: dict[str, str] = field(default_factory=dict)
    header_pass_through: tuple[str, ...] = ("traceparent", "tracestate", "correlation_id")
    max_request_age: Duration | None = None
    default_model: str | None = None


class FeedbackTable(_Table, frozen=True, kw_only=True):
    """How feedback events are read and for how long they are joined with their decision."""

    field_map: dict[str, str] = field(default_factory=dict)
    join_window: Duration = Duration(3 * 86400.0)
    max_open: Annotated[int, Meta(ge=1, le=100_000_000)] = 1_000_000
    max_parked: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000


class Engine(_Table, frozen=True, kw_only=True):
    """How the engine runs."""

    mode: Literal["active", "shadow", "frozen"] = "active"
    max_batch: Annotated[int, Meta(ge=1, le=10_000)] = 512
    max_queue: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    publish_interval: Duration = Duration(1.0)
    derive_interval: Duration = Duration(0.01)
    expire_interval: Duration = Duration(10.0)
    drain_timeout: Duration = Duration(8.0)
    dead_letter_payload: bool = False


class Objective(_Table, frozen=True, kw_only=True):
    """What is maximised: quality - cost_weight * USD - latency_weight * seconds."""

    cost_weight: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0
    latency_weight: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0


class Learning(_Table, frozen=True, kw_only=True):
    """How evidence is gathered and forgotten."""

    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    half_life: Duration | None = None
    thumb_weight: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    score_weight: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    outcome_weight: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0


class Logging(_Table, frozen=True, kw_only=True):
    """Structured logs on standard error."""

    format: Literal["human", "json"] = "human"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Table, frozen=True, kw_only=True):
    """Everything in `banditroute.toml`."""

    models: tuple[Model, ...]
    kafka: Kafka = Kafka()
    requests: Requests = Requests()
    feedback: FeedbackTable = FeedbackTable()
    engine: Engine = Engine()
    objective: Objective = Objective()
    learning: Learning = Learning()
    features: dict[str, Any] = field(default_factory=dict)
    logging: Logging = Logging()

    @property
    def catalog(self) -> Catalog:
        """The models as a catalog."""
        return Catalog(self.models)


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file.

    Raises
    ------
    ConfigError
        One sentence: the key, what was expected, and for an unknown key the nearest valid one.
    """
    try:
        text = Path(path).read_bytes().decode()
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
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_readable(str(error))}") from error
    _cross_check(config, where)
    return config


def _parse_custom(kind: type, value: Any) -> Any:
    if kind in (Duration, Secret):
        return kind.parse(value)
    raise NotImplementedError(kind)


def _readable(message: str) -> str:
    """Turn msgspec's ``... - at `$.kafka.group` `` into ``kafka.group: ...``."""
    text, found, path = message.rpartition(" - at `$")
    return f"{path.rstrip('`').removeprefix('.')}: {text}" if found else message


def _check_names(document: Mapping[str, Any], table: type[Struct], path: str, where: str) -> None:
    """Refuse unknown keys and unknown choices with what is valid, before types are checked."""
    fields = {item.name: item.type for item in msgspec.structs.fields(table)}
    for key, value in document.items():
        here = f"{path}{key}"
        if key not in fields:
            raise _unknown_key(path, key, fields, where)
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


def _unknown_key(path: str, key: str, valid: Iterable[str], where: str) -> ConfigError:
    names = sorted(valid)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    hint = f"did you mean '{path}{near[0]}'?" if near else f"valid keys are: {', '.join(names)}"
    return ConfigError(f"{where}: unknown key '{path}{key}'; {hint}")


def _cross_check(config: Config, where: str) -> None:
    """Refuse what each key alone allows."""
    catalog = config.catalog
    default = config.requests.default_model
    if default is not None and default not in catalog:
        near = difflib.get_close_matches(default, catalog.names, n=1, cutoff=0.3)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(
            f"{where}: requests.default_model names '{default}', which is not in the catalog{hint}"
        )
    if config.requests.max_request_age is not None and default is None:
        raise ConfigError(
            f"{where}: requests.max_request_age needs requests.default_model, the model that stale requests get"
        )
    _check_field_map(config.requests.field_map, Request, "requests.field_map.", where)
    _check_field_map(config.feedback.field_map, Feedback, "feedback.field_map.", where)
    _check_kafka(config.kafka, where)


def _check_field_map(paths: Mapping[str, str], event: type[Struct], path: str, where: str) -> None:
    for key, target in paths.items():
        if key not in event.__struct_fields__:
            raise _unknown_key(path, key, event.__struct_fields__, where)
        if not all(target.removeprefix("$.").split(".")) or target == "$":
            raise ConfigError(
                f'{where}: {path}{key}: Expected a path such as "$.meta.id", got {target!r:.60}'
            )


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
