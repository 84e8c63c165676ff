"""The tables of `banditroute.toml` as frozen structs, with every default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from banditroute.catalog import Catalog, Model
from banditroute.config.values import Duration, Secret


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
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed"
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
    value_map: dict[str, Any] = field(default_factory=dict)  # bounded in checks
    join_window: Duration = Duration(3 * 86400.0)
    max_open: Annotated[int, Meta(ge=1, le=100_000_000)] = 1_000_000
    max_parked: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000


class Engine(_Table, frozen=True, kw_only=True):
    """How the engine runs."""

    mode: Literal["active", "shadow", "frozen"] = "active"
    max_batch: Annotated[int, Meta(ge=1, le=10_000)] = 1024
    linger: Duration | None = None
    max_queue: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    publish_interval: Duration = Duration(1.0)
    derive_interval: Duration = Duration(0.01)
    expire_interval: Duration = Duration(10.0)
    drain_timeout: Duration = Duration(7.0)
    dead_letter_payload: bool = False


class Objective(_Table, frozen=True, kw_only=True):
    """What is maximised: quality - cost_weight * USD - latency_weight * seconds.

    With a budget or a quality floor the cost weight is solved for, not given.
    """

    cost_weight: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0
    latency_weight: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0
    budget_usd_per_request: Annotated[float, Meta(gt=0.0, le=1e6)] | None = None
    budget_usd_per_day: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None
    requests_per_day: Annotated[float, Meta(gt=0.0, le=1e12)] | None = None
    quality_floor: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    reference: str | None = None


class Learning(_Table, frozen=True, kw_only=True):
    """How evidence is gathered and forgotten."""

    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    exploration_floor: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    half_life: Duration | None = None
    prior: Annotated[str, Meta(min_length=1)] | None = None
    price_prior: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.06
    drift_alerts: bool = True
    thumb_weight: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    score_weight: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    judge_weight: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0
    outcome_weight: Annotated[float, Meta(gt=0.0, le=100.0)] = 1.0


class Metrics(_Table, frozen=True, kw_only=True):
    """Where Prometheus finds the metrics; without a port there are none."""

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] | None = None


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
    metrics: Metrics = Metrics()
    logging: Logging = Logging()

    @property
    def catalog(self) -> Catalog:
        """The models as a catalog."""
        return Catalog(self.models)
