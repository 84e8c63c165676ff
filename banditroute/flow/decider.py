"""Turns a batch of request records into decision records: bytes in, bytes out, columns in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.chance import request_key
from banditroute.bandit.exploration import Exploration
from banditroute.bandit.pacing import Pacer
from banditroute.bandit.thompson import LIMITS, Choices, DecideBatch, Policy
from banditroute.catalog import Catalog
from banditroute.config import Config
from banditroute.events import (
    WIRE_VERSION,
    Decision,
    Expected,
    FieldMap,
    Rejected,
    Request,
    Weights,
    decode_request,
    encode,
)
from banditroute.flow.fields import Fields
from banditroute.flow.header import HEADER_NAME, HeaderWriter
from banditroute.flow.pending import KnownDecision
from banditroute_features import Encoder, RequestLike

INF = float("inf")
MAX_PASSED_HEADERS = 8192  # bytes of pass-through headers per decision
_INPUT, _ESTIMATED = LIMITS.index("input_tokens"), LIMITS.index("input_estimated")
_FILTERS = {1: "request", 2: "max_cost_usd", 3: "max_latency_ms"}


class InputRecord(NamedTuple):
    """A record read from a topic; `timestamp` in milliseconds."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class OutputRecord(NamedTuple):
    """A record to be written."""

    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class Poison(NamedTuple):
    """A record that was refused."""

    record: InputRecord
    reason: str


class DecidedBatch(NamedTuple):
    """What a batch of requests became.

    `known[i]` describes `records[i]`, with its log offset still to be told by the acknowledgement;
    `through` is the offset after the last request looked at.
    """

    records: list[OutputRecord]
    known: list[KnownDecision]
    decisions: list[Decision]
    poison: list[Poison]
    repeats: int
    below: int
    keys: list[bytes]
    through: int


def no_decisions(through: int) -> DecidedBatch:
    """Return an empty batch to be filled."""
    return DecidedBatch([], [], [], [], 0, 0, [], through)


class Gate(Protocol):
    """What a decider must know of its partition."""

    @property
    def r(self) -> int:
        """Requests below this offset have been decided."""

    def has_request(self, request_id: str) -> bool:
        """Whether a request id already has a decision inside the join window."""


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
        self._objective = config.objective
        self._mode = config.engine.mode
        age = config.requests.max_request_age
        self._max_age_ms = None if age is None else 1000.0 * age
        self._default = (
            None
            if config.requests.default_model is None
            else catalog.names.index(config.requests.default_model)
        )
        self._field_map = FieldMap(config.requests.field_map) if config.requests.field_map else None
        self._passed = frozenset(config.requests.header_pass_through)
        self._spec_id = encoder.spec.spec_id
        self._writer = HeaderWriter([model.key for model in policy.models], self._spec_id, encoder.spec.d)
        self._list_prices = np.array(
            [[m.input_usd_per_mtok, m.output_usd_per_mtok] for m in catalog], np.float64
        )

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
            Requests below `gate.r` and repeated request ids emit nothing.
        fields : Fields
            Prices and pauses that differ from the catalog's are read.
        version : str
            The posterior version to log.
        now_ms : float
            For the age limit.
        """
        fresh: list[tuple[InputRecord, Request]] = []
        poison: list[Poison] = []
        keys: list[bytes] = []
        ids: set[str] = set()
        repeats = below = 0
        r = gate.r
        for record in records:
            request = decode_request(record.value, self._field_map)
            if isinstance(request, Rejected):
                poison.append(Poison(record, request.reason))
                continue
            request_id = request.request_id
            keys.append(request_id.encode())
            if record.offset < r:
                below += 1
            elif request_id in ids or gate.has_request(request_id):
                repeats += 1
            else:
                ids.add(request_id)
                fresh.append((record, request))
        through = records[-1].offset + 1
        decided = DecidedBatch([], [], [], poison, repeats, below, keys, through)
        if fresh:
            self.decide_requests(partition, fresh, fields, version, now_ms, decided)
        return decided

    def decide_requests(
        self,
        partition: int,
        fresh: Sequence[tuple[InputRecord, Request]],
        fields: Fields,
        version: str,
        now_ms: float,
        decided: DecidedBatch,
    ) -> None:
        """Decide valid requests, at least one, and add what follows to `decided`."""
        requests = [request for _, request in fresh]
        batch, paced = self._columns(requests, fields)
        self._pacer.pace(self._policy, batch, paced, now_ms)
        choices = self._policy.decide(batch)
        self._pacer.decided(choices, now_ms)
        self.exploration.decided(self._policy, batch, choices)
        offsets = [record.offset for record, _ in fresh]
        shadow = self._mode == "shadow"
        tokens, counted = batch.limits[:, _INPUT], batch.limits[:, _ESTIMATED] == 0.0
        headers = self._writer.write(offsets, batch.x, choices.candidates, tokens, counted, shadow)
        rows = zip(fresh, headers, strict=True)
        for i, ((record, request), header) in enumerate(rows):
            stale = self._stale(record, request, now_ms)
            decision = self._decision(partition, record.offset, request, choices, i, batch, version, stale)
            passed = self._pass_through(record)
            key = request.request_id.encode()
            decided.records.append(OutputRecord(key, encode(decision), [(HEADER_NAME, header), *passed]))
            decided.decisions.append(decision)
            decided.known.append(
                KnownDecision(
                    -1,
                    record.timestamp,
                    record.offset,
                    request.request_id,
                    decision.model,
                    request.tenant,
                    shadow,
                    header,
                    decision.segment,
                )
            )

    def _columns(self, requests: Sequence[Request], fields: Fields) -> tuple[DecideBatch, NDArray[np.bool_]]:
        """Return the columns, and which requests leave the cost weight to the pacer."""
        n, k = len(requests), len(self._catalog)
        x = np.empty((n, self._encoder.spec.d), np.float32)
        tokens = np.empty(n, np.float64)
        self._encoder.encode_batch(cast("Sequence[RequestLike]", requests), x, tokens)
        eligible = np.ones((n, k), np.bool_)
        in_force = self._list_prices
        if fields.prices:
            in_force = in_force.copy()
            for index, name in enumerate(self._catalog.names):
                in_force[index] = fields.prices.get(name, in_force[index])
        paused = np.array([fields.paused.get(model.name, model.paused) for model in self._catalog])
        cost_weight = np.zeros(n)
        paced = np.ones(n, np.bool_)
        estimated = np.zeros(n)
        max_output, max_cost, max_latency = np.full(n, INF), np.full(n, INF), np.full(n, INF)
        anyone = self._catalog.unrestricted
        for i, request in enumerate(requests):
            if not anyone or request.needs or request.allow or request.deny:
                eligible[i] = self._catalog.eligible(request, float(tokens[i]))
            if request.input_tokens is None:
                estimated[i] = 1.0
            if request.cost_weight is not None:
                cost_weight[i], paced[i] = request.cost_weight, False
            if request.max_output_tokens is not None:
                max_output[i] = request.max_output_tokens
            if request.max_cost_usd is not None:
                max_cost[i] = request.max_cost_usd
            if request.max_latency_ms is not None:
                max_latency[i] = request.max_latency_ms
        eligible[:, paused] = False
        batch = DecideBatch.of(
            x,
            np.fromiter((request_key(request.request_id) for request in requests), np.uint64, n),
            in_force,
            eligible=eligible,
            input_tokens=tokens,
            max_output_tokens=max_output,
            cost_weight=cost_weight,
            latency_weight=self._objective.latency_weight,
            max_cost_usd=max_cost,
            max_latency_ms=max_latency,
            input_estimated=estimated,
        )
        return batch, paced

    def _stale(self, record: InputRecord, request: Request, now_ms: float) -> bool:
        if self._default is None:
            return False
        too_old = self._max_age_ms is not None and now_ms - record.timestamp > self._max_age_ms
        return too_old or (request.deadline is not None and now_ms > 1000.0 * request.deadline)

    def _decision(
        self,
        partition: int,
        offset: int,
        request: Request,
        choices: Choices,
        i: int,
        batch: DecideBatch,
        version: str,
        stale: bool,
    ) -> Decision:
        names = self._catalog.names
        chosen = int(choices.chosen[i])
        sampled = chosen >= 0 and not stale
        ranked = choices.rank[i]
        reason = "utility"
        expected: Expected | None = None
        fallbacks: tuple[str, ...] = ()
        if stale and self._default is not None:
            reason = "stale"
            chosen = self._default
            fallbacks = tuple(names[a] for a in ranked if a >= 0 and a != chosen)
        elif chosen < 0:
            reason = f"none-eligible: {_FILTERS[int(choices.blocked[i])]}"
        else:
            fallbacks = tuple(names[a] for a in ranked[1:] if a >= 0)
            reason = "greedy" if self._mode == "frozen" else "utility" if fallbacks else "only-eligible"
            log_latency = float(choices.log_latency[i, chosen])
            expected = Expected(
                quality=float(choices.quality[i, chosen]),
                cost_usd=float(choices.cost[i, chosen]),
                latency_ms=None if log_latency != log_latency else float(np.exp(log_latency)),
            )
        return Decision(
            v=WIRE_VERSION,
            decision_id=f"{partition}-{offset}",
            request_id=request.request_id,
            tenant=request.tenant,
            model=names[chosen] if chosen >= 0 else None,
            fallbacks=fallbacks,
            propensity=float(choices.propensity[i]) if sampled else None,
            explored=bool(choices.explored[i]) if sampled else False,
            expected=expected,
            segment=request.tags[0] if request.tags else None,
            weights=Weights(float(choices.cost_weight[i]), float(batch.limits[i, 3])),
            reason=reason,
            posterior_version=version,
            spec_id=self._spec_id,
            mode=self._mode,
        )

    def _pass_through(self, record: InputRecord) -> list[tuple[str, bytes]]:
        if not record.headers:
            return []
        # Kafka allows a header without a value
        passed = [(name, value or b"") for name, value in record.headers if name in self._passed]
        size = sum(len(name) + len(value) for name, value in passed)
        return passed if size <= MAX_PASSED_HEADERS else []
