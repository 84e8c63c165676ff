"""What the engine writes: decisions, the journal, control edits, dead letters and alerts, and their bytes.

The journal and the decisions are all that learning depends on. See docs/EVENTS.md.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from banditroute.events.bounds import Name, NonNegative
from banditroute.events.inputs import Feedback, Rejected, rejected
from banditroute.events.second_reading import Unreadable, parsed

T = TypeVar("T")


class Expected(Struct, frozen=True, omit_defaults=True, gc=False):
    """What the chosen model was expected to give; a field is absent until something is known of it."""

    quality: float
    cost_usd: float
    latency_ms: float | None = None


class Weights(Struct, frozen=True, gc=False):
    """The utility weights in force: utility = quality - cost * cost_usd - latency * seconds."""

    cost: float
    latency: float


class Decision(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Which model should serve a request, and why."""

    v: int
    decision_id: str
    request_id: str
    model: str | None
    reason: str
    weights: Weights
    posterior_version: str
    spec_id: str
    fallbacks: tuple[str, ...] = ()
    propensity: float | None = None
    explored: bool = False
    expected: Expected | None = None
    segment: str | None = None
    tenant: str | None = None
    mode: Literal["active", "shadow", "frozen"] = "active"


class DecisionKey(Struct, frozen=True, gc=False):
    """The part of a logged decision that settling feedback needs."""

    request_id: str
    model: str | None
    tenant: str | None = None
    mode: str = "active"
    segment: str | None = None


class Copied(Struct, frozen=True, tag="feedback", tag_field="type", omit_defaults=True, gc=False):
    """Feedback copied into the journal; `src` is its (feedback partition, offset)."""

    src: tuple[int, int]
    feedback: Feedback
    everywhere: bool = False  # copied to every partition because its home could not be told


class Decided(Struct, frozen=True, tag="decided", tag_field="type", gc=False):
    """Decisions of this partition below `upto` exist."""

    upto: int


class Expire(Struct, frozen=True, tag="expire", tag_field="type", gc=False):
    """Decisions below `upto` are closed; records parked before `before` (milliseconds) are given up."""

    upto: int
    before: int


class PriceEdit(Struct, frozen=True, tag="price", tag_field="edit", gc=False):
    """From here on `model` costs this much, in USD per million tokens."""

    model: Name
    input_usd_per_mtok: NonNegative
    output_usd_per_mtok: NonNegative


class PauseEdit(Struct, frozen=True, tag="pause", tag_field="edit", gc=False):
    """From here on `model` gets no requests, or gets them again, whatever the configuration says."""

    model: Name
    paused: bool


class Changed(Struct, frozen=True, tag="changed", tag_field="edit", gc=False):
    """The change detector's verdict: scale each model's evidence by its factor in (0, 1]."""

    model: Name
    epoch: int
    factors: dict[str, Annotated[float, Meta(gt=0.0, le=1.0)]]


Edit = PriceEdit | PauseEdit | Changed


class Control(Struct, frozen=True, tag="control", tag_field="type", gc=False):
    """Control record `number` copied into the journal."""

    number: int
    edit: Edit


JournalRecord = Copied | Decided | Expire | Control


class DeadLetter(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Coordinates and reason of a record that was refused."""

    v: int
    topic: str
    partition: int
    offset: int
    reason: str
    length: int
    sha256: str
    payload: bytes | None = None  # base64 in JSON; feedback only, unless configured
    request_id: str | None = None  # these three where they can be read, cut at 256 characters each
    key: str | None = None
    headers: dict[str, str] | None = None  # those of requests.header_pass_through


class Refusal(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The reply to a request that was refused: a decision without a model, as far as a reader is concerned."""

    v: int
    decision_id: str
    model: None
    reason: str
    request_id: str | None = None


class Alert(Struct, frozen=True, kw_only=True, gc=False):
    """Something a person should look at."""

    v: int
    kind: str
    message: str
    partition: int | None = None


_decision_decoder = msgspec.json.Decoder(Decision)
_decision_key_decoder = msgspec.json.Decoder(DecisionKey)
_journal_decoder: msgspec.json.Decoder[JournalRecord] = msgspec.json.Decoder(JournalRecord)
_edit_decoder: msgspec.json.Decoder[Edit] = msgspec.json.Decoder(Edit)
_encoder = msgspec.json.Encoder()


def encode(event: Struct) -> bytes:
    """Encode any event as JSON bytes."""
    return _encoder.encode(event)


def decode_decision(value: bytes) -> Decision:
    """Decode one decision record's value; raises `msgspec.DecodeError` on bytes that are not ours."""
    return _decode(_decision_decoder, value)


def decode_decision_key(value: bytes) -> DecisionKey:
    """Decode only what settling needs of a decision; raises `msgspec.DecodeError` on bytes that are not ours."""
    return _decode(_decision_key_decoder, value)


def decode_journal(value: bytes) -> JournalRecord:
    """Decode one journal record; raises `msgspec.DecodeError` on bytes that are not ours."""
    return _decode(_journal_decoder, value)


def decode_edit(value: bytes | None) -> Edit | Rejected:
    """Decode one control record; never raises on bad bytes."""
    if value is None:
        return Rejected("the value is null")
    try:
        return _edit_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        payload = parsed(value)
    except Unreadable as error:
        return Rejected(error.args[0])
    return rejected(payload, Edit)


def edit_of(edit: Edit) -> Edit | Rejected:
    """Validate a control edit given as an object (the library face)."""
    payload: Any = edit
    try:
        payload = msgspec.to_builtins(edit)
        checked: Edit = msgspec.convert(payload, Edit)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError, RecursionError):
        return rejected(payload, Edit)
    numbers: tuple[float, ...] = ()
    if isinstance(checked, PriceEdit):
        numbers = (checked.input_usd_per_mtok, checked.output_usd_per_mtok)
    elif isinstance(checked, Changed):
        numbers = tuple(checked.factors.values())
    return checked if all(map(math.isfinite, numbers)) else Rejected("Expected finite numbers")


def _decode(decoder: msgspec.json.Decoder[T], value: bytes) -> T:
    try:
        return decoder.decode(value)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError("the value is nested too deeply or not UTF-8") from error
