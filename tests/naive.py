"""The slow and obvious reading of ``docs/EVENTS.md``: what a partition learns from its two logs.

Nothing here is shared with the product, not even the decoders: JSON comes from :mod:`json`, binary from
:mod:`struct`, so that two implementations of one text can be compared with ``==``. One pass, no batches,
no restarts.

NumPy is used for elementwise products and sums only (never BLAS), so that every float is the result of the
same IEEE operations, in the same order, as the formulas of the section 'Evidence'.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER_NAME = "banditroute"
SLOTS_PER_DECISION = 16
FEEDBACK_IDS_PER_SLOT = 16
SCALARS = 24
RES_N, RES_Z = 5, 6

QUALITY_KINDS = ("thumb", "score", "judge", "outcome")
KINDS = (*QUALITY_KINDS, "usage", "withdraw")

RowKey = tuple[str, int, str]
Floats = NDArray[np.float64]


# ----------------------------------------------------------------------------------------------- what is read


@dataclass(frozen=True)
class Record:
    """A Kafka record: offset, timestamp in milliseconds, value, headers."""

    offset: int
    timestamp: int
    value: bytes
    headers: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """The settings evidence depends on."""

    half_life_ms: float | None
    weights: Mapping[str, float]
    max_parked: int


@dataclass(frozen=True)
class Prediction:
    """What the header says of one model of the catalog; NaN = unknown."""

    name: str
    generation: int
    quality: float
    sd: float
    log_tokens: float
    cost: float
    log_latency: float


@dataclass(frozen=True)
class Header:
    """The binary header of a decision."""

    version: int
    d: int
    spec_id: str
    request_offset: int
    shadow: bool
    counted: bool
    input_tokens: float
    x: list[float]
    models: list[Prediction]


@dataclass(frozen=True)
class State:
    """A state record."""

    version: int
    meta: dict[str, Any]
    shared: list[float]
    rows: dict[RowKey, list[float]]


def parse_header(data: bytes) -> Header:
    """Decode the binary header of a decision."""
    magic, version, d, count, flags, input_tokens = struct.unpack_from("<4sHHHHf", data, 0)
    if magic != b"BRD1" or version != 1:
        raise ValueError(f"not a decision header of version 1: {data[:6]!r}")
    if flags & ~0b11:
        raise ValueError(f"a decision header with the flags {flags:#b}")
    spec_id = data[16:24].hex()
    (request_offset,) = struct.unpack_from("<q", data, 24)
    at = 32
    x = [float(v) for v in struct.unpack_from(f"<{d}f", data, at)]
    at += 4 * d
    numbers = [struct.unpack_from("<5d", data, at + 40 * k) for k in range(count)]
    at += 40 * count
    models = []
    for five in numbers:
        generation, length = struct.unpack_from("<IH", data, at)
        at += 6
        name = data[at : at + length]
        if len(name) != length:
            raise ValueError("a decision header ends inside a name")
        at += length
        models.append(Prediction(name.decode(), generation, *five))
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes too many in a decision header")
    shadow, counted = bool(flags & 1), bool(flags & 2)
    return Header(version, d, spec_id, request_offset, shadow, counted, input_tokens, x, models)


def row_size(d: int) -> int:
    """Number of floats of an evidence row."""
    return SCALARS + 3 * d + d * (d + 1) // 2


def shared_size(d: int) -> int:
    """Number of floats of the shared row."""
    return 1 + d + d * (d + 1) // 2


def parse_state(data: bytes) -> State:
    """Decode a state record; raises ValueError when magic, sizes or checksum are wrong."""
    magic, version, zero, length = struct.unpack_from("<4sHHI", data, 0)
    if magic != b"BRS1" or version != 1 or zero != 0:
        raise ValueError(f"not a state record of version 1: {data[:8]!r}")
    (crc,) = struct.unpack_from("<I", data, len(data) - 4)
    if crc != zlib.crc32(data[:-4]):
        raise ValueError("the checksum of a state record does not match")
    meta = json.loads(data[12 : 12 + length].decode())
    d = int(meta["d"])
    at = 12 + length
    sizes = [row_size(d) if whole else SCALARS + d for *_, whole in meta["keys"]]
    expected = at + 8 * (shared_size(d) + sum(sizes)) + 4
    if expected != len(data):
        raise ValueError(f"a state record of {len(data)} bytes should have {expected}")
    shared = list(struct.unpack_from(f"<{shared_size(d)}d", data, at))
    at += 8 * shared_size(d)
    rows: dict[RowKey, list[float]] = {}
    for (name, generation, kind, whole), size in zip(meta["keys"], sizes, strict=True):
        row = list(struct.unpack_from(f"<{size}d", data, at))
        if not whole:  # b, sx and A are zeros and left out
            row = row[:SCALARS] + [0.0] * (2 * d) + row[SCALARS:] + [0.0] * (d * (d + 1) // 2)
        rows[(name, int(generation), kind)] = row
        at += 8 * size
    return State(version, meta, shared, rows)


# -------------------------------------------------------------------------------------------------- decisions


@dataclass(frozen=True)
class Decision:
    """One record of the decisions log, as far as learning looks at it."""

    log_offset: int
    request_offset: int
    request_id: str
    tenant: str | None
    model: str | None
    shadow: bool
    d: int
    x: list[float]
    estimated_input: float | None  # None: the caller had counted
    predictions: dict[str, Prediction]


def parse_decision(record: Record) -> Decision:
    """Decode a record of the decisions log."""
    value = json.loads(record.value.decode())
    if value.get("v", 1) != 1:
        raise ValueError(f"a decision of version {value['v']}")
    header = parse_header(next(data for name, data in record.headers if name == HEADER_NAME))
    return Decision(
        log_offset=record.offset,
        request_offset=header.request_offset,
        request_id=value["request_id"],
        tenant=value.get("tenant"),
        model=value.get("model"),
        shadow=header.shadow,
        d=header.d,
        x=header.x,
        estimated_input=None if header.counted else header.input_tokens,
        predictions={p.name: p for p in header.models},
    )


def request_offset_of(record: Record) -> int:
    """The request offset that the header of a decision names."""
    return parse_header(next(data for name, data in record.headers if name == HEADER_NAME)).request_offset


def first_decisions(decisions: Iterable[Record], r0: int = 0) -> list[Record]:
    """The decisions whose request offset is at or above everything before them in the log."""
    r = r0
    first = []
    for record in decisions:
        offset = request_offset_of(record)
        if offset >= r:
            first.append(record)
            r = offset + 1
    return first


def check_exactly_once(
    requests_count: int, decisions: Sequence[Record], r0: int = 0, skipped: Iterable[int] = ()
) -> None:
    """Assert that requests [r0, requests_count) have one first decision each, in order.

    ``skipped`` are the request offsets that may have none: repeats of a request_id that was still open.
    """
    may_miss = set(skipped)
    offsets = [request_offset_of(record) for record in first_decisions(decisions, r0)]
    assert offsets == sorted(set(offsets)), "first decisions are not in the order of the requests"
    unknown = [o for o in offsets if o >= requests_count]
    assert not unknown, f"decisions on requests that do not exist: {unknown[:5]}"
    missing = sorted(set(range(r0, requests_count)) - set(offsets) - may_miss)
    assert not missing, f"{len(missing)} requests without a first decision: {missing[:5]}"


# --------------------------------------------------------------------------------------------------- feedback


@dataclass(frozen=True)
class Numbers:
    """The five numbers of a vote."""

    quality: float | None = None
    output_tokens: float | None = None
    cost_usd: float | None = None
    latency_ms: float | None = None
    input_tokens: float | None = None

    def has_usage(self) -> bool:
        """Whether any of the four usage numbers is there."""
        return any(
            v is not None for v in (self.output_tokens, self.cost_usd, self.latency_ms, self.input_tokens)
        )


def numbers_of(feedback: Mapping[str, Any]) -> Numbers:
    """The numbers of a vote.

    A thumb may say true or false, an outcome may say ``ok`` instead of a value, usage has no quality.
    """
    kind = feedback["kind"]
    quality: float | None = None
    if kind in QUALITY_KINDS:
        value = feedback.get("value")
        if value is None and kind == "outcome":
            value = feedback.get("ok")
        if value is None:
            raise ValueError(f"a {kind} without a value")
        quality = float(value)
        if not 0.0 <= quality <= 1.0:
            raise ValueError(f"a {kind} of {quality}")

    def number(name: str) -> float | None:
        value = feedback.get(name)
        return None if value is None else float(value)

    return Numbers(
        quality, number("output_tokens"), number("cost_usd"), number("latency_ms"), number("input_tokens")
    )


@dataclass
class Slot:
    """What (kind, source, voter) has said about a decision."""

    on: bool
    feedback_ids: list[str]
    weight: float
    model: str
    numbers: Numbers
    g: float
    g_shared: float


SlotKey = tuple[str, str | None, str | None]


@dataclass(frozen=True)
class Parked:
    """A feedback record that waits for its decision."""

    journal_offset: int
    timestamp: int
    feedback: Mapping[str, Any]
    everywhere: bool
    src: tuple[int, int]


# ----------------------------------------------------------------------------------------------------- result


@dataclass
class Result:
    """What one uninterrupted pass over the two logs arrives at."""

    rows: dict[RowKey, list[float]]
    shared: list[float]
    ledger: dict[str, int]
    fields: dict[str, Any]
    parked: int
    open: int
    outcomes: list[tuple[tuple[int, int], str]] = field(default_factory=list)  # of feedback, by its source

    @property
    def refused(self) -> set[tuple[int, int]]:
        """Sources (feedback partition, offset) of the feedback whose reason belongs on the dead-letter topic."""
        return {src for src, outcome in self.outcomes if outcome in REFUSALS}


REFUSALS = ("late", "orphan", "foreign", "rejected")

JOURNAL_CLASSES = (
    "applied",
    "revised",
    "duplicate",
    "late",
    "orphan",
    "elsewhere",
    "foreign",
    "rejected",
    "withdrawn",
    "copied_twice",
    "decided",
    "expired_records",
    "control",
    "control_repeated",
    "unreadable",
)


def ledger_adds_up(result: Result, journal_length: int) -> None:
    """Assert the two identities of the section 'Ledger'."""
    ledger = result.ledger
    records = sum(ledger.get(name, 0) for name in JOURNAL_CLASSES) + result.parked
    assert records == journal_length, f"{records} of {journal_length} journal records counted: {ledger}"
    decisions = ledger.get("answered", 0) + ledger.get("expired", 0) + result.open
    assert decisions == ledger.get("first", 0), f"{decisions} first decisions counted: {ledger}"


def differences(result: Result, state: State) -> list[str]:
    """What a state record says otherwise than ``result``; empty when they agree bit for bit."""
    found = []
    if state.shared != result.shared:
        found.append("the shared row")
    for key in sorted(set(state.rows) | set(result.rows)):
        theirs, ours = state.rows.get(key), result.rows.get(key)
        if theirs is None or ours is None:
            found.append(f"row {key} is in one of them only")
        elif theirs != ours:
            at = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
            found.append(f"row {key}[{at}]: {theirs[at]!r} for {ours[at]!r}")
    ledger = {name: count for name, count in state.meta["ledger"].items() if count}
    if ledger != result.ledger:
        found.append(f"ledger: {ledger} for {result.ledger}")
    if state.meta["parked"] != result.parked:
        found.append(f"parked: {state.meta['parked']} for {result.parked}")
    theirs_at = normal_fields(state.meta["at"])
    ours_at = normal_fields(result.fields)
    found.extend(
        f"{name}: {theirs_at.get(name)!r} for {ours_at.get(name)!r}"
        for name in sorted(set(theirs_at) | set(ours_at))
        if theirs_at.get(name) != ours_at.get(name)
    )
    return found


def normal_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields in one spelling: string keys of ``hi``, lists for tuples, and no entry that says nothing."""
    normal = dict(fields)
    normal["hi"] = {str(f): o for f, o in dict(fields.get("hi") or {}).items() if o != -1}
    normal["epochs"] = {name: n for name, n in dict(fields.get("epochs") or {}).items() if n}
    normal["shrink"] = {name: g for name, g in dict(fields.get("shrink") or {}).items() if g}
    normal["paused"] = dict(fields.get("paused") or {})
    normal["prices"] = {
        name: list(price) if isinstance(price, (list, tuple)) else price
        for name, price in dict(fields.get("prices") or {}).items()
    }
    return normal


# --------------------------------------------------------------------------------------------------- evidence


class Evidence:
    """The rows of the models and the shared row, and the arithmetic on them."""

    def __init__(self, d: int) -> None:
        self.d = d
        self.lower = np.tril_indices(d)  # row-major: (0,0), (1,0), (1,1), (2,0) ...
        self.shared: Floats = np.zeros(shared_size(d))
        self.rows: dict[RowKey, Floats] = {}

    def scale_row(self, row: Floats, factor: float) -> None:
        """Multiply a row, but for the residual count and sum."""
        res_n, res_z = row[RES_N], row[RES_Z]
        row *= factor
        row[RES_N], row[RES_Z] = res_n, res_z

    def decay(self, factor: float) -> None:
        """Multiply everything."""
        for row in self.rows.values():
            self.scale_row(row, factor)
        self.shared *= factor

    def shrink(self, name: str, factor: float) -> None:
        """Multiply every row of one name."""
        for (row_name, *_), row in self.rows.items():
            if row_name == name:
                self.scale_row(row, factor)

    def add(
        self,
        x_list: list[float],
        kind: str,
        prediction: Prediction,
        estimated_input: float | None,
        numbers: Numbers,
        w: float,
        w_shared: float,
        count: float,
    ) -> None:
        """Add a vote of weight ``w`` (or take one back: negative weights, count -1)."""
        d = self.d
        row = self.rows.setdefault((prediction.name, prediction.generation, kind), np.zeros(row_size(d)))
        x = np.array(x_list, dtype=np.float64)
        b = row[SCALARS : SCALARS + d]
        sx = row[SCALARS + d : SCALARS + 2 * d]
        tx = row[SCALARS + 2 * d : SCALARS + 3 * d]
        a = row[SCALARS + 3 * d :]
        tb = self.shared[1 : 1 + d]
        ta = self.shared[1 + d :]

        q = numbers.quality
        if q is not None:
            wq = w * q
            row[0] += w
            row[1] += wq * q
            row[2] += w
            row[3] += wq
            row[4] += wq * q
            wx = w * x
            b += wq * x
            sx += wx
            a += np.multiply.outer(wx, x)[self.lower]
            if not math.isnan(prediction.quality) and not math.isnan(prediction.sd) and prediction.sd > 0.0:
                z = (q - prediction.quality) / prediction.sd
                z = min(max(z, -2.5), 2.5)
                row[RES_N] += count
                row[RES_Z] += count * z

        tokens = numbers.output_tokens
        y: float | None = None
        if tokens is not None:
            y = math.log1p(tokens)
            row[7] += w
            row[8] += w * y
            row[9] += (w * y) * y
            row[10] += w * tokens
            tx += w * x
            self.shared[0] += w_shared
            tb += (w_shared * y) * x
            ta += np.multiply.outer(w_shared * x, x)[self.lower]

        cost = numbers.cost_usd
        if cost is not None:
            row[12] += w
            row[13] += w * cost
            row[14] += w * (cost if math.isnan(prediction.cost) else prediction.cost)

        latency = numbers.latency_ms
        if latency is not None:
            log_latency = math.log(max(latency, 1e-3))
            if y is not None:
                t = y
            elif not math.isnan(prediction.log_tokens):
                t = prediction.log_tokens
            else:
                t = 0.0
            row[15] += w
            row[16] += w * log_latency
            row[17] += (w * log_latency) * log_latency
            row[18] += w * t
            row[19] += (w * t) * t
            row[20] += (w * log_latency) * t

        reported = numbers.input_tokens
        if reported is not None and estimated_input is not None and reported > 0 and estimated_input > 0:
            row[21] += w * reported
            row[22] += w * estimated_input


# ----------------------------------------------------------------------------------------------- the one pass


def readable(event: Any) -> bool:
    """Whether a journal record is one of the four; of what is in them, version and kind are looked at."""
    if not isinstance(event, dict):
        return False
    if event.get("type") == "feedback":
        return event["feedback"].get("v", 1) == 1 and event["feedback"]["kind"] in KINDS
    return event.get("type") in ("decided", "expire", "control")


class Pass:
    """One partition, one journal record after the other."""

    def __init__(
        self,
        partition: int,
        decisions: Sequence[Record],
        settings: Settings,
        genesis: Mapping[str, Any] | None,
        d: int,
    ) -> None:
        self.partition = partition
        self.settings = settings
        self.log = {record.offset: record for record in decisions}
        self.known: dict[int, Decision] = {}
        self.evidence = Evidence(d)
        self.ledger: dict[str, int] = {}
        start = dict(genesis or {})
        self.D: int = start.get("D", 0)
        self.rD: int = start.get("rD", 0)
        self.X: int = start.get("X", 0)
        self.rX: int = start.get("rX", 0)
        if self.X != self.D:
            raise ValueError("a genesis record knows no open decisions: X and D are one offset")
        self.hi: dict[int, int] = {int(f): int(o) for f, o in dict(start.get("hi") or {}).items()}
        self.cursor: int = start.get("cursor", -1)
        self.epochs: dict[str, int] = dict(start.get("epochs") or {})
        self.prices: dict[str, Any] = dict(start.get("prices") or {})
        self.paused: dict[str, bool] = dict(start.get("paused") or {})
        self.shrink: dict[str, float] = dict(start.get("shrink") or {})
        self.log_decay: float = start.get("decay", 0.0)
        self.clock: int | None = start.get("clock")
        self.open: dict[int, Decision] = {}  # by log offset
        self.open_by_request_offset: dict[int, int] = {}
        self.open_by_request_id: dict[str, list[int]] = {}  # log offsets, ascending
        self.slots: dict[int, dict[SlotKey, Slot]] = {}
        self.parked: list[Parked] = []
        self.outcomes: list[tuple[tuple[int, int], str]] = []

    def count(self, name: str) -> None:
        """One more of a class of the ledger."""
        self.ledger[name] = self.ledger.get(name, 0) + 1

    def conclude(self, src: tuple[int, int], outcome: str) -> None:
        """A feedback record has come to its end."""
        self.outcomes.append((src, outcome))
        self.count(outcome)

    def result(self) -> Result:
        """What has been reached."""
        return Result(
            rows={key: row.tolist() for key, row in self.evidence.rows.items()},
            shared=self.evidence.shared.tolist(),
            ledger={name: n for name, n in self.ledger.items() if n},
            fields={
                "D": self.D,
                "rD": self.rD,
                "X": self.X,
                "rX": self.rX,
                "hi": dict(self.hi),
                "cursor": self.cursor,
                "epochs": dict(self.epochs),
                "prices": dict(self.prices),
                "paused": dict(self.paused),
                "shrink": dict(self.shrink),
                "decay": self.log_decay,
                "clock": self.clock,
            },
            parked=len(self.parked),
            open=len(self.open),
            outcomes=list(self.outcomes),
        )

    # -- the four kinds of journal record

    def step(self, record: Record) -> None:
        """Apply one journal record."""
        self.advance_clock(record.timestamp)
        try:
            event = json.loads(record.value.decode())
        except ValueError:
            event = None
        if not readable(event):
            self.count("unreadable")
        elif event["type"] == "decided":
            self.count("decided")
            self.decided(event["upto"])
        elif event["type"] == "expire":
            self.count("expired_records")
            self.expire(event["upto"], event["before"])
        elif event["type"] == "control":
            self.control(event["number"], event["edit"])
        else:
            self.feedback(record, event)

    def advance_clock(self, timestamp: int) -> None:
        """Decay the evidence by the ticks that have gone by."""
        half_life_ms = self.settings.half_life_ms
        if half_life_ms is None:
            return
        tick = int(max(1000, half_life_ms // 64))
        t = timestamp // tick
        if self.clock is None:
            self.clock = t
        if t > self.clock:
            s = -math.log(2.0) * ((t - self.clock) * tick) / half_life_ms
            self.evidence.decay(math.exp(s))
            self.log_decay += s
            self.clock = t

    def decision_at(self, log_offset: int) -> Decision:
        """The decision at a log offset."""
        if log_offset not in self.known:
            if log_offset not in self.log:
                raise ValueError(f"the journal speaks of decision {log_offset}, which is not in the log")
            self.known[log_offset] = parse_decision(self.log[log_offset])
        return self.known[log_offset]

    def decided(self, upto: int) -> None:
        """Decisions below ``upto`` exist."""
        if upto <= self.D:
            return
        for log_offset in range(self.D, upto):
            decision = self.decision_at(log_offset)
            if decision.request_offset >= self.rD:
                self.count("first")
                self.rD = decision.request_offset + 1
                if log_offset >= self.X:
                    self.open[log_offset] = decision
                    self.open_by_request_offset[decision.request_offset] = log_offset
                    self.open_by_request_id.setdefault(decision.request_id, []).append(log_offset)
            else:
                self.count("later")
        self.D = upto
        waiting, self.parked = self.parked, []
        for parked in waiting:
            outcome = self.settle(parked.feedback)
            if outcome is None:
                self.parked.append(parked)
            else:
                self.conclude(parked.src, outcome)

    def expire(self, upto: int, before: int) -> None:
        """Close decisions, give up what waits in vain."""
        u = max(self.X, min(upto, self.D))
        for log_offset in range(self.X, u):
            self.rX = max(self.rX, 1 + self.decision_at(log_offset).request_offset)
            if log_offset in self.open:
                decision = self.open.pop(log_offset)
                del self.open_by_request_offset[decision.request_offset]
                self.open_by_request_id[decision.request_id].remove(log_offset)
                slots = self.slots.pop(log_offset, {})
                answered = any(slot.on and slot.numbers.quality is not None for slot in slots.values())
                self.count("answered" if answered else "expired")
            del self.known[log_offset]
        self.X = u
        keep = []
        for parked in self.parked:
            if parked.timestamp < before:
                self.give_up(parked)
            else:
                keep.append(parked)
        self.parked = keep

    def control(self, number: int, edit: Mapping[str, Any]) -> None:
        """An edit of the catalog or a verdict."""
        if number <= self.cursor:
            self.count("control_repeated")
            return
        self.count("control")
        self.cursor = number
        if edit["edit"] == "price":
            self.prices[edit["model"]] = [edit["input_usd_per_mtok"], edit["output_usd_per_mtok"]]
        elif edit["edit"] == "pause":
            self.paused[edit["model"]] = edit["paused"]
        elif edit["edit"] == "changed":
            model, epoch = edit["model"], edit["epoch"]
            if epoch == self.epochs.get(model, 0) + 1:
                self.epochs[model] = epoch
                for name in sorted(edit["factors"]):
                    factor = float(edit["factors"][name])
                    self.evidence.shrink(name, factor)
                    self.shrink[name] = self.shrink.get(name, 0.0) + math.log(factor)
        else:
            raise ValueError(f"a control edit {edit['edit']!r}")

    def feedback(self, record: Record, event: Mapping[str, Any]) -> None:
        """A copied feedback record: settled now, parked, or seen before."""
        f, o = event["src"]
        if o <= self.hi.get(f, -1):
            self.count("copied_twice")
            return
        self.hi[f] = o
        feedback = event["feedback"]
        if feedback["kind"] == "withdraw" and feedback.get("request_id") is None:
            self.conclude((f, o), self.withdraw_voter(feedback))
            return
        outcome = self.settle(feedback)
        if outcome is not None:
            self.conclude((f, o), outcome)
            return
        self.parked.append(
            Parked(record.offset, record.timestamp, feedback, bool(event.get("everywhere", False)), (f, o))
        )
        if len(self.parked) > self.settings.max_parked:
            self.give_up(self.parked.pop(0))

    def give_up(self, parked: Parked) -> None:
        """A parked record leaves without having found its decision."""
        self.conclude(parked.src, "elsewhere" if parked.everywhere else "orphan")

    # -- settling

    def settle(self, feedback: Mapping[str, Any]) -> str | None:
        """Settle a feedback record: its class, or None when its decision is not here (yet)."""
        log_offset: int | None
        decision_id = feedback.get("decision_id")
        if decision_id is not None:
            if not re.fullmatch(r"[0-9]+-[0-9]+", decision_id):
                return "rejected"
            p, o = (int(part) for part in decision_id.split("-"))
            if p != self.partition:
                return "rejected"
            if o < self.rX:
                return "late"
            log_offset = self.open_by_request_offset.get(o)
        else:
            same_id = self.open_by_request_id.get(feedback["request_id"], [])
            claim = feedback.get("tenant")
            theirs = [n for n in same_id if claim is not None and self.open[n].tenant == claim]
            log_offset = min(theirs or same_id, default=None)
        if log_offset is None:
            return None

        decision = self.open[log_offset]
        if decision.request_id != feedback["request_id"]:
            return "rejected"
        tenant = feedback.get("tenant")
        if tenant is not None and tenant != decision.tenant:
            return "foreign"
        slots = self.slots.setdefault(log_offset, {})
        if feedback["kind"] == "withdraw":
            return self.withdraw(decision, slots, feedback)
        return self.vote(decision, slots, feedback)

    def withdraw(self, decision: Decision, slots: dict[SlotKey, Slot], feedback: Mapping[str, Any]) -> str:
        """Take back the quality votes of a (source, voter)."""
        source, voter = feedback.get("source"), feedback.get("voter")
        feedback_id = feedback.get("feedback_id")
        mine = [
            (kind, slot)
            for (kind, slot_source, slot_voter), slot in slots.items()
            if kind in QUALITY_KINDS and slot_source == source and slot_voter == voter
        ]
        if feedback_id is not None and any(feedback_id in slot.feedback_ids for _, slot in mine):
            return "duplicate"
        if not any(slot.on for _, slot in mine):
            return "rejected"
        for kind, slot in mine:
            if slot.on:
                self.take_back(decision, kind, slot)
                slot.on = False
                if feedback_id is not None:
                    slot.feedback_ids.append(feedback_id)
        return "revised"

    def withdraw_voter(self, feedback: Mapping[str, Any]) -> str:
        """Take back every quality vote of a voter inside the join window, and those that are parked."""
        voter, source, tenant = feedback["voter"], feedback.get("source"), feedback.get("tenant")
        found = False
        stay = []
        for parked in self.parked:
            waits = parked.feedback
            if (
                waits["kind"] in QUALITY_KINDS
                and waits.get("voter") == voter
                and (source is None or waits.get("source") == source)
                and (tenant is None or waits.get("tenant") == tenant)
            ):
                self.conclude(parked.src, "withdrawn")
                found = True
            else:
                stay.append(parked)
        self.parked = stay
        for log_offset in sorted(self.open):
            decision = self.open[log_offset]
            if tenant is not None and tenant != decision.tenant:
                continue
            for (kind, slot_source, slot_voter), slot in self.slots.get(log_offset, {}).items():
                if kind not in QUALITY_KINDS or slot_voter != voter or not slot.on:
                    continue
                if source is not None and source != slot_source:
                    continue
                self.take_back(decision, kind, slot)
                slot.on = False
                if feedback.get("feedback_id") is not None:
                    slot.feedback_ids.append(feedback["feedback_id"])
                found = True
        return "revised" if found else "elsewhere"

    def vote(self, decision: Decision, slots: dict[SlotKey, Slot], feedback: Mapping[str, Any]) -> str:
        """Add a vote, or revise the one that is in the slot."""
        model = feedback.get("model")
        if model is None:
            if decision.shadow or decision.model is None:
                return "rejected"
            model = decision.model
        if model not in decision.predictions:
            return "rejected"

        numbers = numbers_of(feedback)
        feedback_id = feedback.get("feedback_id")
        key = (feedback["kind"], feedback.get("source"), feedback.get("voter"))
        slot = slots.get(key)
        if slot is not None:
            if feedback_id is not None and feedback_id in slot.feedback_ids:
                return "duplicate"
            if feedback_id is None and slot.on and slot.model == model and slot.numbers == numbers:
                return "duplicate"
        if slot is None and len(slots) >= SLOTS_PER_DECISION:
            return "rejected"
        if slot is not None and feedback_id is not None and len(slot.feedback_ids) >= FEEDBACK_IDS_PER_SLOT:
            return "rejected"

        if slot is not None and slot.on:
            self.take_back(decision, key[0], slot)
        weight = 1.0 if feedback["kind"] == "usage" else float(self.settings.weights[feedback["kind"]])
        prediction, estimate = decision.predictions[model], decision.estimated_input
        self.evidence.add(decision.x, key[0], prediction, estimate, numbers, weight, weight, 1.0)
        seen = [] if slot is None else list(slot.feedback_ids)
        if feedback_id is not None:
            seen.append(feedback_id)
        slots[key] = Slot(
            on=True,
            feedback_ids=seen,
            weight=weight,
            model=model,
            numbers=numbers,
            g=self.log_decay + self.shrink.get(model, 0.0),
            g_shared=self.log_decay,
        )
        if slot is not None:
            return "revised"
        if numbers.has_usage():
            self.count("usage_votes")
        if numbers.quality is not None:
            self.count("quality_votes")
        return "applied"

    def take_back(self, decision: Decision, kind: str, slot: Slot) -> None:
        """Take a vote out of the evidence, at what is left of its weight."""
        g_now = self.log_decay + self.shrink.get(slot.model, 0.0)
        w = -(slot.weight * math.exp(g_now - slot.g))
        w_shared = -(slot.weight * math.exp(self.log_decay - slot.g_shared))
        prediction, estimate = decision.predictions[slot.model], decision.estimated_input
        self.evidence.add(decision.x, kind, prediction, estimate, slot.numbers, w, w_shared, -1.0)


def recompute(
    partition: int,
    decisions: Sequence[Record],
    journal: Sequence[Record],
    settings: Settings,
    genesis: Mapping[str, Any] | None = None,
    d: int | None = None,
) -> Result:
    """One uninterrupted pass over the journal of a partition, from its genesis on.

    ``genesis`` holds those of the fields of ``at`` that do not start at zero. ``d`` is taken from the first
    decision unless given (without decisions there are no rows, and the shared row is that of d = 0).
    """
    if d is None:
        d = parse_decision(decisions[0]).d if decisions else 0
    one = Pass(partition, decisions, settings, genesis, d)
    for record in journal:
        one.step(record)
    return one.result()
