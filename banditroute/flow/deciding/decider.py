"""Turns a batch of request records into decision records: bytes in, bytes out, columns in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.arithmetic.chance import request_keys
from banditroute.bandit.choice.policy import LIMITS, UNLIMITED, DecideBatch, Policy
from banditroute.bandit.objectives.exploration import Exploration
from banditroute.bandit.objectives.pacing import Pacer
from banditroute.catalog import Catalog
from banditroute.config import Config
from banditroute.events import Decision, FieldMap, Rejected, Request, decode_request, readable_id
from banditroute.flow.deciding.chosen import Chosen
from banditroute.flow.deciding.decision_structs import DecisionStructs
from banditroute.flow.deciding.decision_writer import DecisionWriter
from banditroute.flow.pending.open_decision import KnownBatch, Open
from banditroute.flow.records.kafka_records import Again, DecidedBatch, InputRecord, OutputRecord, Poison
from banditroute.flow.records.position import Fields
from banditroute_features import Encoder, RequestLike

__all__ = [
    "DecidedBatch",
    "Decider",
    "Gate",
    "InputRecord",
    "OutputRecord",
    "Poison",
]

INF = float("inf")
MAX_NAMESAKES: Final = 16  # tenants that have a decision under one and the same request id
_OTHER: Final = (
    "repeated: its request_id already has a decision on another request inside the join window; give each request "
    "its own id"
)
_CROWDED: Final = (
    f"repeated: {MAX_NAMESAKES} tenants have a decision under its id; give each request its own id"
)
_INPUT, _ESTIMATED, _COST_WEIGHT, _MAX_OUTPUT, _MAX_COST, _MAX_LATENCY = map(
    LIMITS.index,
    ("input_tokens", "input_estimated", "cost_weight", "max_output_tokens", "max_cost_usd", "max_latency_ms"),
)


class Gate(Protocol):
    """What a decider must know of its partition."""

    @property
    def r(self) -> int:
        """Requests below this offset have been decided."""

    def has_each(self, ids: Sequence[bytes]) -> Sequence[int]:
        """Return the places of the request ids that already have a decision inside the join window."""

    def first_of(self, request_id: str, tenant: str | None) -> tuple[Open | None, int]:
        """Return the decision that a tenant's request id already has, and how many tenants have one."""


class Decider:
    """Decides batches of one configuration, for any partition.

    Parameters
    ----------
    config : Config
        Objective, mode, age limit, field map and pass-through headers are read.
    catalog : Catalog
        The models.
    encoder : Encoder
        Request to context.
    policy : Policy
        The bandit; its catalog order is that of `catalog`.
    pacer : Pacer
        Gives the cost weight in force.

    Attributes
    ----------
    exploration : Exploration
        What exploration costs; it says which models rest.
    """

    def __init__(
        self, config: Config, catalog: Catalog, encoder: Encoder, policy: Policy, pacer: Pacer
    ) -> None:
        self._catalog = catalog
        self._encoder = encoder
        self._policy = policy
        self._pacer = pacer
        self.exploration = Exploration()
        self._d = encoder.spec.d
        self._unlimited = list(UNLIMITED)
        self._unlimited[LIMITS.index("latency_weight")] = config.objective.latency_weight
        self._unlimited[_ESTIMATED] = 1.0
        age = config.requests.max_request_age
        self._max_age_ms = None if age is None else 1000.0 * age
        self._default = (
            None
            if config.requests.default_model is None
            else catalog.names.index(config.requests.default_model)
        )
        self._field_map = FieldMap(config.requests.field_map) if config.requests.field_map else None
        keys = [model.key for model in policy.models]
        self._structs = DecisionStructs(keys, encoder.spec.spec_id, config.engine.mode)
        self._writer = DecisionWriter(
            keys, encoder.spec, config.engine.mode, config.requests.header_pass_through, self._structs
        )
        self._list_prices = np.array(catalog.price_table(), np.float64)

    def decide_records(
        self,
        partition: int,
        records: Sequence[InputRecord],
        gate: Gate,
        fields: Fields,
        version: str,
        now_ms: float,
    ) -> DecidedBatch:
        """Decide the requests of a poll that have no decision yet.

        Parameters
        ----------
        partition : int
            Where they were read.
        records : sequence of InputRecord
            In offset order, at least one.
        gate : Gate
            Requests below `gate.r` emit nothing; nor do those whose id already has a decision of their tenant.
        fields : Fields
            Prices and pauses that differ from the catalog's are read.
        version : str
            The posterior version to log.
        now_ms : float
            For the age limit.
        """
        poison: list[Poison] = []
        valid: list[tuple[InputRecord, Request]] = []
        field_map = self._field_map
        for record in records:
            request = decode_request(record.value, field_map)
            if isinstance(request, Rejected):
                reason = getattr(record, "damage", None) or request.reason
                poison.append(Poison(record, reason, readable_id(record.value, field_map)))
            else:
                valid.append((record, request))
        keys = [request.request_id.encode() for _, request in valid]
        decided = DecidedBatch([], None, poison, keys, records[-1].offset + 1)
        fresh, ids = self._fresh(valid, keys, gate, decided)
        if fresh:
            chosen = self._choose(partition, fresh, ids, fields, version, now_ms)
            decided.records, decided.known = self._writer.write(chosen)
        return decided

    def _fresh(
        self,
        valid: list[tuple[InputRecord, Request]],
        keys: list[bytes],
        gate: Gate,
        decided: DecidedBatch,
    ) -> tuple[list[tuple[InputRecord, Request]], list[bytes]]:
        """Return the requests without a decision and their ids, and tell what the others are."""
        r = gate.r
        repeated = gate.has_each(keys) if keys else ()
        if not repeated and len(set(keys)) == len(keys) and (not valid or valid[0][0].offset >= r):
            return valid, keys
        known = set(repeated)
        mine: dict[tuple[bytes, str | None], Request] = {}
        tenants: Counter[bytes] = Counter()
        fresh, ids, again = [], [], []
        for place, ((record, request), key) in enumerate(zip(valid, keys, strict=True)):
            if record.offset < r:
                decided.below += 1
                continue
            id_, tenant = request.request_id, request.tenant
            there, others = gate.first_of(id_, tenant) if place in known else (None, 0)
            first = mine.get((key, tenant))
            if there is None and first is None:
                if others + tenants[key] >= MAX_NAMESAKES:
                    decided.repeats += 1
                    decided.poison.append(Poison(record, _CROWDED, id_))
                    continue
                tenants[key] += 1
                mine[key, tenant] = request
                fresh.append((record, request))
                ids.append(key)
                continue
            decided.repeats += 1
            if request == first or (there is not None and self._looks_like(request, there)):
                again.append(Again(record, id_, tenant))
            else:
                decided.poison.append(Poison(record, _OTHER, id_))
        decided.again = again
        return fresh, ids

    def _looks_like(self, request: Request, decision: Open) -> bool:
        """Tell whether a request has the context and the size of the one that was decided."""
        if not decision.kind.ours:  # its context is of another feature spec, and nothing to compare with
            return True
        x, tokens = np.empty((1, self._d), np.float32), np.empty(1, np.float64)
        self._encoder.encode_batch(cast("Sequence[RequestLike]", [request]), x, tokens)
        same = np.float32(tokens[0]) == np.float32(decision.input_tokens)
        return bool(same) and x[0].tobytes() == decision.x.tobytes()

    def decide_requests(
        self,
        partition: int,
        fresh: Sequence[tuple[InputRecord, Request]],
        fields: Fields,
        version: str,
        now_ms: float,
    ) -> tuple[list[Decision], KnownBatch]:
        """Decide valid requests, at least one; return the decisions, and what becomes pending (the library face)."""
        ids = [request.request_id.encode() for _, request in fresh]
        chosen = self._choose(partition, fresh, ids, fields, version, now_ms)
        return self._structs.of(chosen), self._writer.known(chosen)

    def _choose(
        self,
        partition: int,
        fresh: Sequence[tuple[InputRecord, Request]],
        ids: list[bytes],
        fields: Fields,
        version: str,
        now_ms: float,
    ) -> Chosen:
        """Choose a model for valid requests, at least one."""
        batch, paced = self._columns([request for _, request in fresh], ids, fields)
        self._pacer.pace(self._policy, batch, paced, now_ms)
        choices = self._policy.decide(batch)
        self._pacer.decided(choices, now_ms)
        self.exploration.decided(self._policy, batch, choices)
        stale = self._stale(fresh, now_ms)
        return Chosen.of(partition, fresh, ids, batch, choices, stale, self._default, version)

    def _columns(
        self, requests: Sequence[Request], ids: list[bytes], fields: Fields
    ) -> tuple[DecideBatch, NDArray[np.bool_]]:
        """Return the columns, and which requests leave the cost weight to the pacer."""
        n, k = len(requests), len(self._catalog)
        x = np.empty((n, self._d), np.float32)
        tokens = np.empty(n, np.float64)
        self._encoder.encode_batch(cast("Sequence[RequestLike]", requests), x, tokens)
        limits = np.empty((n, len(LIMITS)))
        limits[:] = self._unlimited
        limits[:, _INPUT] = tokens
        eligible = np.ones((n, k), np.bool_)
        paced = np.ones(n, np.bool_)
        in_force = self._list_prices
        if fields.prices:
            in_force = np.array(self._catalog.price_table(fields.prices), np.float64)
        anyone = self._catalog.unrestricted
        for i, request in enumerate(requests):
            if not anyone or request.needs or request.allow or request.deny or request.pictures:
                eligible[i] = self._catalog.eligible(request, float(tokens[i]))
            if request.input_tokens is not None:
                limits[i, _ESTIMATED] = 0.0
            if request.cost_weight is not None:
                limits[i, _COST_WEIGHT], paced[i] = request.cost_weight, False
            if request.max_output_tokens is not None:
                limits[i, _MAX_OUTPUT] = request.max_output_tokens
            if request.max_cost_usd is not None:
                limits[i, _MAX_COST] = request.max_cost_usd
            if request.max_latency_ms is not None:
                limits[i, _MAX_LATENCY] = request.max_latency_ms
        for index, model in enumerate(self._catalog):
            if fields.paused.get(model.name, model.paused):
                eligible[:, index] = False
        batch = DecideBatch(x, request_keys(ids), limits, eligible, in_force)
        return batch, paced

    def _stale(self, fresh: Sequence[tuple[InputRecord, Request]], now_ms: float) -> list[int]:
        """Return the places of the requests that are too old to be chosen for."""
        if self._default is None:
            return []
        oldest = -INF if self._max_age_ms is None else now_ms - self._max_age_ms
        return [
            i
            for i, (record, request) in enumerate(fresh)
            if record.timestamp < oldest
            or (request.deadline is not None and now_ms > 1000.0 * request.deadline)
        ]
