"""A small writer of decisions, journal records and state records, straight from ``docs/EVENTS.md``.

It shares nothing with the product: bytes are made with :mod:`struct` and :mod:`json`. ``DecisionLog`` and
``Journal`` number their records as a partition does; :func:`tests.naive.recompute` takes their ``.records``.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.naive import HEADER_NAME, Record

NAN = math.nan
SPEC_ID = bytes.fromhex("0123456789abcdef")


class Model(NamedTuple):
    """A model of the catalog and what was predicted of it."""

    name: str
    generation: int = 0
    quality: float = NAN
    sd: float = NAN
    log_tokens: float = NAN
    cost: float = NAN
    log_latency: float = NAN


def header_bytes(
    x: Sequence[float],
    models: Sequence[Model],
    request_offset: int,
    *,
    shadow: bool = False,
    spec_id: bytes = SPEC_ID,
    version: int = 1,
    input_tokens: float = 0.0,
    counted: bool = False,
) -> bytes:
    """The binary header of a decision."""
    parts = [
        b"BRD1",
        struct.pack("<HHHHf", version, len(x), len(models), shadow + 2 * counted, input_tokens),
        spec_id,
        struct.pack("<q", request_offset),
        struct.pack(f"<{len(x)}f", *x),
    ]
    parts += [struct.pack("<5d", m.quality, m.sd, m.log_tokens, m.cost, m.log_latency) for m in models]
    for m in models:
        name = m.name.encode()
        parts.append(struct.pack("<IH", m.generation, len(name)) + name)
    return b"".join(parts)


def decision_value(
    partition: int,
    request_offset: int,
    request_id: str,
    model: str | None,
    *,
    tenant: str | None = None,
    shadow: bool = False,
    spec_id: bytes = SPEC_ID,
) -> bytes:
    """The JSON of a decision."""
    value: dict[str, Any] = {
        "v": 1,
        "decision_id": f"{partition}-{request_offset}",
        "request_id": request_id,
        "model": model,
        "fallbacks": [],
        "explored": False,
        "weights": {"cost": 0.0, "latency": 0.0},
        "reason": "utility" if model is not None else "none-eligible: request",
        "posterior_version": 0,
        "spec_id": spec_id.hex(),
    }
    if model is not None:
        value["propensity"] = 0.5
        value["expected"] = {"quality": 0.5, "cost_usd": 0.0}
    if tenant is not None:
        value["tenant"] = tenant
    if shadow:
        value["mode"] = "shadow"
    return json.dumps(value).encode()


class DecisionLog:
    """The decisions of one partition."""

    def __init__(self, partition: int, models: Sequence[Model], x: Sequence[float], start: int = 0) -> None:
        self.partition = partition
        self.models = list(models)
        self.x = list(x)
        self.next = start
        self.records: list[Record] = []

    def add(
        self,
        request_offset: int,
        request_id: str | None = None,
        model: str | None = "",
        *,
        tenant: str | None = None,
        shadow: bool = False,
        x: Sequence[float] | None = None,
        models: Sequence[Model] | None = None,
        timestamp: int = 0,
        input_tokens: float = 0.0,
        counted: bool = False,
    ) -> Record:
        """Append a decision; by default on request ``r<offset>``, for the first model of the catalog."""
        catalog = self.models if models is None else list(models)
        request_id = f"r{request_offset}" if request_id is None else request_id
        model = catalog[0].name if model == "" else model
        context = self.x if x is None else x
        header = header_bytes(
            context, catalog, request_offset, shadow=shadow, input_tokens=input_tokens, counted=counted
        )
        record = Record(
            self.next,
            timestamp,
            decision_value(self.partition, request_offset, request_id, model, tenant=tenant, shadow=shadow),
            [
                ("traceparent", b"00-0-0-00"),
                (HEADER_NAME, header),
            ],
        )
        self.next += 1
        self.records.append(record)
        return record


class Journal:
    """The journal of one partition; ``now`` is the timestamp of the next record in milliseconds."""

    def __init__(self, now: int = 1_000_000, start: int = 0) -> None:
        self.now = now
        self.next = start
        self.feedback_offsets: dict[int, int] = {}
        self.records: list[Record] = []

    def append(self, event: Mapping[str, Any]) -> Record:
        """Append any journal event."""
        record = Record(self.next, self.now, json.dumps(event).encode())
        self.next += 1
        self.records.append(record)
        return record

    def decided(self, upto: int) -> Record:
        """Decisions below ``upto`` exist."""
        return self.append({"type": "decided", "upto": upto})

    def expire(self, upto: int, before: int = 0) -> Record:
        """Decisions below ``upto`` are closed; what was parked before ``before`` is given up."""
        return self.append({"type": "expire", "upto": upto, "before": before})

    def control(self, number: int, edit: Mapping[str, Any]) -> Record:
        """Control record ``number``."""
        return self.append({"type": "control", "number": number, "edit": dict(edit)})

    def pause(self, number: int, model: str, paused: bool) -> Record:
        """A pause, or its end."""
        return self.control(number, {"edit": "pause", "model": model, "paused": paused})

    def price(self, number: int, model: str, input_price: float, output_price: float) -> Record:
        """A price edit."""
        edit = {"input_usd_per_mtok": input_price, "output_usd_per_mtok": output_price}
        return self.control(number, {"edit": "price", "model": model, **edit})

    def changed(self, number: int, model: str, epoch: int, factors: Mapping[str, float]) -> Record:
        """A verdict of the change detector."""
        edit = {"edit": "changed", "model": model, "epoch": epoch, "factors": dict(factors)}
        return self.control(number, edit)

    def feedback(
        self,
        request_id: str,
        kind: str,
        *,
        src: tuple[int, int] | None = None,
        everywhere: bool = False,
        **fields: Any,
    ) -> Record:
        """A copied feedback record; by default the next of feedback partition 0."""
        f, o = (0, self.feedback_offsets.get(0, -1) + 1) if src is None else src
        self.feedback_offsets[f] = max(o, self.feedback_offsets.get(f, -1))
        event: dict[str, Any] = {
            "type": "feedback",
            "src": [f, o],
            "feedback": {"v": 1, "request_id": request_id, "kind": kind, **fields},
        }
        if everywhere:
            event["everywhere"] = True
        return self.append(event)


def state_bytes(
    meta: Mapping[str, Any], shared: Sequence[float], rows: Mapping[tuple[str, int, str], Sequence[float]]
) -> bytes:
    """A state record; ``keys`` of the JSON are those of ``rows``."""
    d, keys, parts = meta["d"], [], []
    for key, row in rows.items():
        whole = any(row[24 : 24 + 2 * d]) or any(row[24 + 3 * d :])
        keys.append([*key, whole])
        parts.append(row if whole else [*row[:24], *row[24 + 2 * d : 24 + 3 * d]])
    text = json.dumps({**meta, "keys": keys}).encode()
    body = b"BRS1" + struct.pack("<HHI", 1, 0, len(text)) + text
    for floats in (shared, *parts):
        body += struct.pack(f"<{len(floats)}d", *floats)
    return body + struct.pack("<I", zlib.crc32(body))
