"""Wire structs and their bytes: the only place where bytes become objects.

Input (requests, feedback) tolerates unknown fields, rejects wrong types with the path of the field,
and bounds every size. A bad record is a `Rejected` value, never an exception. See docs/EVENTS.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

T = TypeVar("T")

WIRE_VERSION: Final = 1

MAX_REQUEST_BYTES: Final = 1 << 20
MAX_FEEDBACK_BYTES: Final = 1 << 16
MAX_ID_BYTES: Final = 256
MAX_TAGS: Final = 64
MAX_MESSAGES: Final = 1024
MAX_NAMES: Final = 256
MAX_CONTEXT: Final = 256
MAX_EMBEDDING: Final = 8192
MAX_TOKENS: Final = 100_000_000

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]
Names = Annotated[tuple[Name, ...], Meta(max_length=MAX_NAMES)]
Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
NonNegative = Annotated[float, Meta(ge=0.0, le=1e12)]
Positive = Annotated[float, Meta(gt=0.0, le=1e12)]

FeedbackKind = Literal["thumb", "score", "outcome", "usage", "withdraw"]
QUALITY_KINDS: Final = frozenset({"thumb", "score", "outcome"})


class Rejected(Struct, frozen=True):
    """Why a record was refused: a value on the stream, so that poison never breaks the loop."""

    reason: str


class ContentPart(Struct, frozen=True):
    """One part of a multi-part chat message; only text parts are read."""

    type: str = "text"
    text: str = ""


class Message(Struct, frozen=True):
    """One chat message; multi-part content is joined into text."""

    role: Annotated[str, Meta(max_length=64)]
    content: str | tuple[ContentPart, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.content, str):
            text = "\n".join(part.text for part in self.content or ())
            msgspec.structs.force_setattr(self, "content", text)


class Request(Struct, frozen=True, kw_only=True):
    """A request to be routed.

    At least one of `prompt`, `messages`, `context` and `embedding` is there. `allow` and `deny` hold
    model names or model tags; `needs` holds capabilities.
    """

    request_id: Id
    v: Literal[1] = 1
    prompt: str | None = None
    messages: Annotated[tuple[Message, ...], Meta(max_length=MAX_MESSAGES)] | None = None
    context: Annotated[tuple[float, ...], Meta(max_length=MAX_CONTEXT)] | None = None
    embedding: Annotated[tuple[float, ...], Meta(max_length=MAX_EMBEDDING)] | None = None
    tenant: Name | None = None
    tags: Annotated[tuple[Name, ...], Meta(max_length=MAX_TAGS)] = ()
    session_id: Id | None = None
    input_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    needs: Names = ()
    allow: Names = ()
    deny: Names = ()
    cost_weight: NonNegative | None = None
    max_cost_usd: NonNegative | None = None
    max_latency_ms: Positive | None = None
    deadline: float | None = None


class Feedback(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came back for a decision.

    `model` is the one that really served; by default the decided one. `value` is in [0, 1]; a thumb may
    be a boolean. Usage numbers may ride on any kind, and are the whole of kind `usage`.
    """

    request_id: Id
    kind: FeedbackKind
    v: Literal[1] = 1
    decision_id: Annotated[str, Meta(pattern=r"^[0-9]{1,10}-[0-9]{1,19}$")] | None = None
    feedback_id: Id | None = None
    model: Name | None = None
    value: bool | Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    source: Name | None = None
    voter: Name | None = None
    tenant: Name | None = None
    cost_usd: NonNegative | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    latency_ms: NonNegative | None = None
    ok: bool | None = None
    error: Annotated[str, Meta(max_length=1024)] | None = None

    @property
    def quality(self) -> float | None:
        """The vote as a number in [0, 1], or None when this feedback says nothing about quality.

        Examples
        --------
        >>> Feedback(request_id="r", kind="thumb", value=True).quality
        1.0
        >>> Feedback(request_id="r", kind="outcome", ok=False).quality
        0.0
        """
        if self.kind not in QUALITY_KINDS:
            return None
        if self.value is not None:
            return float(self.value)
        return None if self.ok is None else float(self.ok)


class Expected(Struct, frozen=True, omit_defaults=True):
    """What the chosen model was expected to give; a field is absent until something is known of it."""

    quality: float
    cost_usd: float
    latency_ms: float | None = None


class Weights(Struct, frozen=True):
    """The utility weights in force: utility = quality - cost * cost_usd - latency * seconds."""

    cost: float
    latency: float


class Decision(Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    tenant: str | None = None
    mode: Literal["active", "shadow", "frozen"] = "active"


class DecisionKey(Struct, frozen=True):
    """The part of a logged decision that settling feedback needs."""

    request_id: str
    model: str | None
    tenant: str | None = None
    mode: str = "active"


class Copied(Struct, frozen=True, tag="feedback", tag_field="type", omit_defaults=True):
    """Feedback copied into the journal; `src` is its (feedback partition, offset)."""

    src: tuple[int, int]
    feedback: Feedback
    everywhere: bool = False  # copied to every partition because its home could not be told


class Decided(Struct, frozen=True, tag="decided", tag_field="type"):
    """Decisions of this partition below `upto` exist."""

    upto: int


class Expire(Struct, frozen=True, tag="expire", tag_field="type"):
    """Decisions below `upto` are closed; records parked before `before` (milliseconds) are given up."""

    upto: int
    before: int


class PriceEdit(Struct, frozen=True, tag="price", tag_field="edit"):
    """From here on `model` costs this much, in USD per million tokens."""

    model: Name
    input_usd_per_mtok: NonNegative
    output_usd_per_mtok: NonNegative


class Changed(Struct, frozen=True, tag="changed", tag_field="edit"):
    """The change detector's verdict: scale each model's evidence by its factor in (0, 1]."""

    model: Name
    epoch: int
    factors: dict[str, Annotated[float, Meta(gt=0.0, le=1.0)]]


Edit = PriceEdit | Changed


class Control(Struct, frozen=True, tag="control", tag_field="type"):
    """Control record `number` copied into the journal."""

    number: int
    edit: Edit


JournalRecord = Copied | Decided | Expire | Control


class DeadLetter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Coordinates and reason of a record that was refused."""

    v: int
    topic: str
    partition: int
    offset: int
    reason: str
    length: int
    sha256: str
    payload: bytes | None = None  # base64 in JSON; feedback only, unless configured


class Alert(Struct, frozen=True, kw_only=True):
    """Something a person should look at."""

    v: int
    kind: str
    message: str
    partition: int | None = None


_request_decoder = msgspec.json.Decoder(Request)
_feedback_decoder = msgspec.json.Decoder(Feedback)
_decision_decoder = msgspec.json.Decoder(Decision)
_decision_key_decoder = msgspec.json.Decoder(DecisionKey)
_journal_decoder: msgspec.json.Decoder[JournalRecord] = msgspec.json.Decoder(JournalRecord)
_edit_decoder: msgspec.json.Decoder[Edit] = msgspec.json.Decoder(Edit)
_encoder = msgspec.json.Encoder()


def encode(event: Struct) -> bytes:
    """Encode any event of this module as JSON bytes."""
    return _encoder.encode(event)


def decode_request(value: bytes | None, field_map: FieldMap | None = None) -> Request | Rejected:
    """Decode and validate one request.

    Parameters
    ----------
    value : bytes or None
        The record's value.
    field_map : FieldMap, optional
        Where to find our fields in a foreign payload.

    Returns
    -------
    Request or Rejected
        Never raises on bad bytes.
    """
    request = _decode(value, _request_decoder, Request, MAX_REQUEST_BYTES, field_map)
    if isinstance(request, Rejected):
        return request
    return _check_request(request) or request


def decode_feedback(value: bytes | None, field_map: FieldMap | None = None) -> Feedback | Rejected:
    """Decode and validate one feedback event; never raises on bad bytes."""
    feedback = _decode(value, _feedback_decoder, Feedback, MAX_FEEDBACK_BYTES, field_map)
    if isinstance(feedback, Rejected):
        return feedback
    return _check_feedback(feedback) or feedback


def decode_decision(value: bytes) -> Decision:
    """Decode one decision record's value; raises `msgspec.DecodeError` on bytes that are not ours."""
    return _decision_decoder.decode(value)


def decode_decision_key(value: bytes) -> DecisionKey:
    """Decode only what settling needs of a decision record's value."""
    return _decision_key_decoder.decode(value)


def decode_journal(value: bytes) -> JournalRecord:
    """Decode one journal record; raises `msgspec.DecodeError` on bytes that are not ours."""
    return _journal_decoder.decode(value)


def decode_edit(value: bytes | None) -> Edit | Rejected:
    """Decode one control record; never raises on bad bytes."""
    if value is None:
        return Rejected("the value is null")
    try:
        return _edit_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Rejected(_sentence(error))


def request_of(event: Request | Mapping[str, Any]) -> Request | Rejected:
    """Validate a request given as an object or a mapping (the library face)."""
    request = event if isinstance(event, Request) else _convert(event, Request)
    return request if isinstance(request, Rejected) else _check_request(request) or request


def feedback_of(event: Feedback | Mapping[str, Any]) -> Feedback | Rejected:
    """Validate feedback given as an object or a mapping (the library face)."""
    feedback = event if isinstance(event, Feedback) else _convert(event, Feedback)
    return feedback if isinstance(feedback, Rejected) else _check_feedback(feedback) or feedback


class FieldMap:
    """Picks our fields out of a foreign JSON payload.

    Parameters
    ----------
    paths : mapping of str to str
        Our field name to a path such as ``"$.meta.requestId"``; fields not named are taken under their own
        name from the top level.

    Examples
    --------
    >>> FieldMap({"request_id": "$.meta.id"}).pick({"meta": {"id": "a"}, "prompt": "hi"})
    {'meta': {'id': 'a'}, 'prompt': 'hi', 'request_id': 'a'}
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = {field: tuple(path.removeprefix("$.").split(".")) for field, path in paths.items()}

    def pick(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the payload with our fields laid over it."""
        picked = dict(payload)
        for field, path in self._paths.items():
            node: Any = payload
            for step in path:
                node = node.get(step) if isinstance(node, Mapping) else None
            if node is None:
                picked.pop(field, None)
            else:
                picked[field] = node
        return picked


def _decode(
    value: bytes | None,
    decoder: msgspec.json.Decoder[T],
    kind: type[T],
    limit: int,
    field_map: FieldMap | None,
) -> T | Rejected:
    if value is None:
        return Rejected("the value is null; expected a JSON object")
    if len(value) > limit:
        return Rejected(f"the record has {len(value)} bytes; at most {limit} are taken")
    try:
        if field_map is None:
            return decoder.decode(value)
        payload = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Rejected(_sentence(error))
    if not isinstance(payload, dict):
        return Rejected("the value is not a JSON object")
    return _convert(field_map.pick(payload), kind)


def _convert(payload: Mapping[str, Any], kind: type[T]) -> T | Rejected:
    try:
        return msgspec.convert(payload, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        return Rejected(_sentence(error))


def _sentence(error: Exception) -> str:
    # A decode error never quotes the payload, so no prompt text can leak through the reason.
    return "invalid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _too_long(values: Sequence[tuple[str, str | None]]) -> Rejected | None:
    for path, value in values:
        if value is None or (value.isascii() and len(value) <= MAX_ID_BYTES):
            continue
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            return Rejected(f"Expected valid Unicode - at `$.{path}`")
        if size > MAX_ID_BYTES:
            return Rejected(f"Expected at most {MAX_ID_BYTES} bytes - at `$.{path}`")
    return None


def _not_finite(values: Sequence[float] | None, path: str) -> Rejected | None:
    if values is not None and not all(map(math.isfinite, values)):
        return Rejected(f"Expected finite numbers - at `$.{path}`")
    return None


def _check_request(request: Request) -> Rejected | None:
    if (
        request.prompt is None
        and request.messages is None
        and request.context is None
        and request.embedding is None
    ):
        return Rejected("Object misses one of `prompt`, `messages`, `context` or `embedding`")
    names = [
        ("request_id", request.request_id),
        ("tenant", request.tenant),
        ("session_id", request.session_id),
    ]
    names += [("tags[...]", tag) for tag in request.tags]
    return (
        _too_long(names)
        or _not_finite(request.context, "context[...]")
        or _not_finite(request.embedding, "embedding[...]")
        or _not_finite(
            [
                n
                for n in (request.cost_weight, request.max_cost_usd, request.max_latency_ms, request.deadline)
                if n is not None
            ],
            "cost_weight|max_cost_usd|max_latency_ms|deadline",
        )
    )


def _check_feedback(feedback: Feedback) -> Rejected | None:
    numbers = (feedback.cost_usd, feedback.latency_ms, feedback.output_tokens, feedback.input_tokens)
    if feedback.kind == "usage" and all(number is None for number in numbers):
        return Rejected("usage carries none of `cost_usd`, `input_tokens`, `output_tokens`, `latency_ms`")
    if feedback.kind in QUALITY_KINDS and feedback.quality is None:
        return Rejected(f"{feedback.kind} needs a `value` between 0 and 1 - at `$.value`")
    if feedback.kind == "thumb" and feedback.quality not in (0.0, 1.0):
        return Rejected("a thumb's value is true, false, 1 or 0 - at `$.value`")
    quality = feedback.quality
    finite = [number for number in (*numbers, quality) if number is not None]
    return _too_long(
        [
            ("request_id", feedback.request_id),
            ("feedback_id", feedback.feedback_id),
            ("model", feedback.model),
            ("source", feedback.source),
            ("voter", feedback.voter),
            ("tenant", feedback.tenant),
        ]
    ) or _not_finite(finite, "value|cost_usd|latency_ms")
