"""What users send: requests and feedback, validated here and nowhere else.

Unknown fields are tolerated, wrong types are rejected with the path of the field, every size is bounded. A bad record
is a `Rejected` value, never an exception. See docs/EVENTS.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from banditroute.events.bounds import (
    MAX_BYTES_WITH_DATA,
    MAX_CONTEXT,
    MAX_EMBEDDING,
    MAX_FEEDBACK_BYTES,
    MAX_ID_BYTES,
    MAX_MESSAGES,
    MAX_REQUEST_BYTES,
    MAX_TAGS,
    Id,
    Name,
    Names,
    NonNegative,
    Positive,
    Tokens,
)
from banditroute.events.field_map import FieldMap
from banditroute.events.second_reading import TOO_DEEP, Unreadable, explanation, parsed, read_again
from banditroute.events.value_map import Unmapped, ValueMap

T = TypeVar("T")

FeedbackKind = Literal["thumb", "score", "judge", "outcome", "usage", "withdraw"]
QUALITY_KINDS: Final = frozenset({"thumb", "score", "judge", "outcome"})
_LIMITS: Final = ("cost_weight", "max_cost_usd", "max_latency_ms", "deadline")
_ID_IN_FRONT: Final = re.compile(  # behind short fields alone, so that nothing of a prompt can pass for an id
    rb'\s*\{(?:\s*"\w{1,64}"\s*:\s*(?:[\w.+-]{1,32}|"[^"\\]{0,256}")\s*,){0,16}\s*'
    rb'"request_id"\s*:\s*"([^"\\]{1,256})"'
)
_NO_LIMITS: Final = (None, None, None, None)
_WITHOUT_TEXT: Final = frozenset(
    ("image", "image_url", "input_image", "input_audio", "audio", "file", "input_file", "document", "video")
)
_PICTURES: Final = frozenset(("image", "image_url", "input_image"))
_CALLS: Final = frozenset(("tool_use", "function_call", "tool_call"))
_LABELS: Final = frozenset(("type", "id", "tool_use_id", "call_id", "signature", "cache_control"))
_DEEPEST: Final = 16  # of arguments and results
# Pictures and files inside of a request: taken out before its size is looked at. What is left is JSON as before.
_BASE64: Final = re.compile(rb'(;base64,|"(?:data|file_data)"\s*:\s*")(?:[A-Za-z0-9+/=_-]|\\/){1024,}')
_BACKSLASH: Final = ord("\\")


class Rejected(Struct, frozen=True):
    """Why a record was refused: a value on the stream, so that poison never breaks the loop."""

    reason: str


class ContentPart(Struct, frozen=True, gc=False):
    """One part of a multi-part chat message: text, thinking, a call of a tool or what it brought.

    Pictures, sound and files count no text.
    """

    type: str = "text"
    text: str = ""
    thinking: Any = None
    name: Any = None
    input: Any = None
    arguments: Any = None
    content: Any = None
    output: Any = None

    @property
    def pictured(self) -> bool:
        """Whether it is a picture, or the result of a tool that holds one."""
        inner = self.content if isinstance(self.content, list | tuple) else ()
        return self.type in _PICTURES or any(
            isinstance(each, Mapping) and each.get("type") in _PICTURES for each in inner
        )

    @property
    def told(self) -> str:
        """All text of the part."""
        if self.type in _WITHOUT_TEXT:
            return self.text
        told = [self.text] if self.text else []
        if self.type in _CALLS and isinstance(self.name, str):
            told.append(self.name)
        for inner in (self.thinking, self.input, self.arguments, self.content, self.output):
            if inner is not None:
                told.extend(_texts_of(inner))
        return "\n".join(told)


class Message(Struct, frozen=True, gc=False, omit_defaults=True):
    """One chat message; multi-part content and calls of tools are joined into text."""

    role: Annotated[str, Meta(max_length=64)] = ""
    content: str | tuple[ContentPart, ...] | None = None
    tool_calls: Any = None
    reasoning_content: Any = None
    pictures: bool | None = None  # ours: set where a part is one

    def __post_init__(self) -> None:
        calls, reasoning = self.tool_calls, self.reasoning_content
        if isinstance(self.content, str) and calls is None and reasoning is None:
            return
        content = self.content
        text = content if isinstance(content, str) else "\n".join([part.told for part in content or ()])
        extra = [each for inner in (reasoning, calls) if inner is not None for each in _texts_of(inner)]
        force = msgspec.structs.force_setattr
        force(self, "content", "\n".join([text, *extra] if text else extra) if extra else text)
        force(self, "tool_calls", None)
        force(self, "reasoning_content", None)
        if isinstance(content, tuple) and any(part.pictured for part in content):
            force(self, "pictures", True)


def _texts_of(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield what counts as text in arguments of a tool or in its result, which may hold parts again."""
    if isinstance(value, str):
        if not (value.startswith("data:") and ";base64," in value[:256]):
            yield value
    elif depth >= _DEEPEST:
        return
    elif isinstance(value, Mapping):
        if value.get("type") in _WITHOUT_TEXT:
            return
        for key, inner in value.items():
            if key not in _LABELS:
                yield from _texts_of(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_of(inner, depth + 1)
    elif isinstance(value, int | float):
        yield str(value)


class Request(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
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
    language: Name | None = None
    hour: Annotated[int, Meta(ge=0, le=23)] | None = None
    input_tokens: Tokens | None = None
    max_output_tokens: Tokens | None = None
    needs: Names = ()
    allow: Names = ()
    deny: Names = ()
    cost_weight: NonNegative | None = None
    max_cost_usd: NonNegative | None = None
    max_latency_ms: Positive | None = None
    deadline: float | None = None

    @property
    def pictures(self) -> bool:
        """Whether a message holds a picture."""
        return self.messages is not None and any(message.pictures for message in self.messages)


class Feedback(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What came back for a decision.

    `model` is the one that really served; by default the decided one. `value` is in [0, 1]; a thumb may
    be a boolean. Usage numbers may ride on any kind, and are the whole of kind `usage`. `input_tokens` and
    `output_tokens` are all tokens, or all but those that are given apart: see docs/EVENTS.md. A `withdraw` without
    `request_id` is about every open decision that `voter` has voted on.
    """

    request_id: Id | None = None
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
    cached_input_tokens: Tokens | None = None  # parts of input_tokens and output_tokens
    cache_write_input_tokens: Tokens | None = None
    reasoning_tokens: Tokens | None = None
    cache_read_input_tokens: Tokens | None = None  # beside them, as some providers count
    cache_creation_input_tokens: Tokens | None = None
    thoughts_tokens: Tokens | None = None

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


_request_decoder = msgspec.json.Decoder(Request)
_UNMAPPED: Final = ValueMap()
_feedback_decoder = msgspec.json.Decoder(Feedback)


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
    if value is not None and MAX_REQUEST_BYTES < len(value) <= MAX_BYTES_WITH_DATA:
        value = _BASE64.sub(rb"\1", value)
    if field_map is None and value is not None and len(value) <= MAX_REQUEST_BYTES:  # the way of nearly all
        try:
            request = _request_decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            return _check_request(request, ascii_only=_is_ascii(value)) or request
    again = _read(value, Request, MAX_REQUEST_BYTES, field_map)
    return again if isinstance(again, Rejected) else _check_request(again) or again


def decode_feedback(
    value: bytes | None, field_map: FieldMap | None = None, value_map: ValueMap | None = None
) -> Feedback | Rejected:
    """Decode and validate one feedback event; never raises on bad bytes.

    Parameters
    ----------
    value : bytes or None
        The record's value.
    field_map : FieldMap, optional
        Where to find our fields in a foreign payload.
    value_map : ValueMap, optional
        What votes stand for; without it, what has one meaning only is read, such as a thumb of ``"up"``.
    """
    if field_map is None and value_map is None and value is not None and len(value) <= MAX_FEEDBACK_BYTES:
        try:
            feedback = _feedback_decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        else:
            return _check_feedback(feedback, ascii_only=_is_ascii(value)) or feedback
    again = _read(value, Feedback, MAX_FEEDBACK_BYTES, field_map, value_map or _UNMAPPED)
    return again if isinstance(again, Rejected) else _check_feedback(again) or again


def request_of(event: Request | Mapping[str, Any]) -> Request | Rejected:
    """Validate a request given as an object or a mapping (the library face)."""
    request = _convert(event, Request)
    if isinstance(request, Request) and _check_request(request) is not None:
        request = _again(msgspec.to_builtins(request), Request)  # names that are no Unicode are put right
    return request if isinstance(request, Rejected) else _check_request(request) or request


def feedback_of(
    event: Feedback | Mapping[str, Any], value_map: ValueMap | None = None
) -> Feedback | Rejected:
    """Validate feedback given as an object or a mapping (the library face); a mapping's vote goes through the map."""
    if isinstance(event, Mapping):
        mapped = _mapped(event, value_map or _UNMAPPED)
        if isinstance(mapped, Rejected):
            return mapped
        event = mapped
    feedback = _convert(event, Feedback)
    if isinstance(feedback, Feedback) and _check_feedback(feedback) is not None:
        feedback = _again(msgspec.to_builtins(feedback), Feedback)
    return feedback if isinstance(feedback, Rejected) else _check_feedback(feedback) or feedback


def readable_id(value: bytes | None, field_map: FieldMap | None = None) -> str | None:
    """Return the request id of a record that was refused, where it can be read; cut at 256 characters.

    A record that is no JSON, or is too large to be parsed, may still name it before its first long field.
    """
    if value is None:
        return None
    if len(value) <= MAX_REQUEST_BYTES:
        try:
            payload = parsed(value)
        except Unreadable:
            pass
        else:
            picked = payload if isinstance(payload, dict) else {}
            found = (picked if field_map is None else field_map.pick(picked)).get("request_id")
            if isinstance(found, int) and not isinstance(found, bool):
                found = str(found)[:MAX_ID_BYTES]
            if not isinstance(found, str) or not found:
                return None
            return found[:MAX_ID_BYTES].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    match = None if field_map is not None else _ID_IN_FRONT.match(value[:MAX_FEEDBACK_BYTES])
    return None if match is None else match[1].decode("utf-8", "replace")


def requests_of(events: Sequence[Request | Mapping[str, Any]]) -> list[Request] | None:
    """Validate many requests as `request_of` does; None when one of them is refused."""
    requests = _convert_each(events, Request, list[Request])
    for request in requests or ():
        if not _surely_fine(request) and _check_request(request) is not None:
            return None
    return requests


def feedback_each(events: Sequence[Feedback | Mapping[str, Any]]) -> list[Feedback] | None:
    """Validate many feedback events as `feedback_of` does; None when one of them is refused."""
    feedback = _convert_each(events, Feedback, list[Feedback])
    for event in feedback or ():
        if not _surely_a_vote(event) and _check_feedback(event) is not None:
            return None
    return feedback


def rejected(payload: Any, kind: Any) -> Rejected:
    """Say in words of ours why a payload is not of a type; the payload itself is not quoted."""
    return Rejected(explanation(payload, kind))


def _read(
    value: bytes | None,
    kind: type[T],
    limit: int,
    field_map: FieldMap | None,
    value_map: ValueMap | None = None,
) -> T | Rejected:
    """Read what is too large, comes through a field map, or was refused by the compiled decoder."""
    if value is None:
        return Rejected("the value is null; expected a JSON object")
    if len(value) > limit:
        return Rejected(f"the record has {len(value)} bytes; at most {limit} are taken")
    payload: Any
    strict = True
    try:
        payload = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        strict = False
        try:
            payload = parsed(value)
        except Unreadable as error:
            return Rejected(error.args[0])
    if not isinstance(payload, dict):
        return Rejected("the value is not a JSON object")
    picked = payload if field_map is None else field_map.pick(payload)
    if value_map is not None:
        mapped = _mapped(picked, value_map)
        if isinstance(mapped, Rejected):
            return mapped
        picked = mapped
    return _convert(picked, kind) if strict else _again(picked, kind)


def _mapped(payload: Mapping[str, Any], value_map: ValueMap) -> dict[str, Any] | Rejected:
    try:
        return value_map.read(payload)
    except Unmapped as error:
        return Rejected(error.args[0])


def _convert(event: Any, kind: type[T]) -> T | Rejected:
    payload = event
    try:
        # An object is taken apart first: its fields were never checked.
        payload = msgspec.to_builtins(event) if isinstance(event, kind) else event
        return msgspec.convert(payload, kind)
    except RecursionError:
        return Rejected(TOO_DEEP)
    except (msgspec.ValidationError, TypeError, ValueError):
        return _again(payload, kind)


def _again(payload: Any, kind: type[T]) -> T | Rejected:
    again = read_again(payload, kind)
    return Rejected(again) if isinstance(again, str) else again


def _convert_each(events: Sequence[Any], kind: type[T], many: type[list[T]]) -> list[T] | None:
    if any(issubclass(each, kind) for each in set(map(type, events))):
        events = [msgspec.to_builtins(event) if isinstance(event, kind) else event for event in events]
    try:
        return msgspec.convert(events, many)
    except (msgspec.ValidationError, TypeError, ValueError, RecursionError):
        return None


def _is_ascii(value: bytes) -> bool:
    """Tell whether all strings of a JSON text are surely ASCII."""
    return value.isascii() and value.find(_BACKSLASH) < 0  # an escape may stand for anything


def _fit(values: Iterable[str | None]) -> bool:
    """Tell whether all names are short enough: the quick answer, for nearly all events."""
    for value in values:  # noqa: SIM110 - several times as fast as all() over a generator
        if value is not None and not (value.isascii() and len(value) <= MAX_ID_BYTES):
            return False
    return True


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
    # a sum is finite only if all numbers are, and the quicker test
    if values is not None and not math.isfinite(sum(values)) and not all(map(math.isfinite, values)):
        return Rejected(f"Expected finite numbers - at `$.{path}`")
    return None


def _first_not_finite(numbers: Iterable[tuple[str, float | None]]) -> Rejected | None:
    for path, number in numbers:
        if number is not None and not math.isfinite(number):
            return _not_finite([number], path)
    return None


def _surely_fine(request: Request) -> bool:
    """Tell whether a request is one of the usual kind that `_check_request` lets pass: the quick answer."""
    request_id, context = request.request_id, request.context
    return (
        len(request_id) <= MAX_ID_BYTES
        and request_id.isascii()
        and (math.isfinite(sum(context)) if context is not None else request.prompt is not None)
        and request.embedding is None
        and not request.tags
        and request.tenant is request.session_id is request.language is None
        and request.cost_weight is request.max_cost_usd is request.max_latency_ms is request.deadline is None
    )


def _surely_a_vote(feedback: Feedback) -> bool:
    """Tell whether feedback is of the usual kind that `_check_feedback` lets pass: the quick answer."""
    request_id, value = feedback.request_id, feedback.value
    return (
        request_id is not None
        and type(value) is float
        and value == value  # no NaN
        and feedback.kind in ("score", "judge")
        and len(request_id) <= MAX_ID_BYTES
        and request_id.isascii()
        and feedback.decision_id is feedback.feedback_id is feedback.model is None
        and feedback.source is feedback.voter is feedback.tenant is None
        and feedback.cost_usd is feedback.latency_ms is None
    )


def _check_request(request: Request, *, ascii_only: bool = False) -> Rejected | None:
    """Check what the types do not say; the decoder has counted characters, which are bytes where all are ASCII."""
    if (
        request.prompt is None
        and request.messages is None
        and request.context is None
        and request.embedding is None
    ):
        return Rejected("Expected one of `prompt`, `messages`, `context` or `embedding`, and there is none")
    if not ascii_only:
        names = (request.request_id, request.tenant, request.session_id, request.language, *request.tags)
        if not _fit(names):
            paths = ("request_id", "tenant", "session_id", "language", *("tags[...]" for _ in request.tags))
            wrong = _too_long(list(zip(paths, names, strict=True)))
            if wrong is not None:
                return wrong
    limits = (request.cost_weight, request.max_cost_usd, request.max_latency_ms, request.deadline)
    if limits == _NO_LIMITS and request.context is None and request.embedding is None:
        return None
    return (
        _not_finite(request.context, "context[...]")
        or _not_finite(request.embedding, "embedding[...]")
        or _first_not_finite(zip(_LIMITS, limits, strict=True))
    )


def _check_feedback(feedback: Feedback, *, ascii_only: bool = False) -> Rejected | None:
    if feedback.decision_id is not None and feedback.decision_id.endswith(
        "\n"
    ):  # which a pattern's $ lets pass
        return Rejected("Expected `partition-offset` - at `$.decision_id`")
    if feedback.request_id is None and (
        feedback.kind != "withdraw" or feedback.voter is None or feedback.decision_id is not None
    ):
        return Rejected(
            "Expected an object with `request_id`: only a withdraw that names its `voter` does without"
        )
    numbers = (feedback.cost_usd, feedback.latency_ms, feedback.output_tokens, feedback.input_tokens)
    if feedback.kind == "usage" and all(number is None for number in numbers):
        return Rejected("usage carries none of `cost_usd`, `input_tokens`, `output_tokens`, `latency_ms`")
    quality = feedback.quality
    if quality is None and feedback.kind in QUALITY_KINDS:
        return Rejected(f"{feedback.kind} needs a `value` between 0 and 1 - at `$.value`")
    if feedback.kind == "thumb" and quality not in (0.0, 1.0):
        return Rejected("a thumb's value is true, false, 1 or 0 - at `$.value`")
    named = zip(
        ("cost_usd", "latency_ms", "output_tokens", "input_tokens", "value"), (*numbers, quality), strict=True
    )
    if ascii_only:
        return _first_not_finite(named)
    names = (
        feedback.request_id,
        feedback.feedback_id,
        feedback.model,
        feedback.source,
        feedback.voter,
        feedback.tenant,
    )
    if _fit(names):
        return _first_not_finite(named)
    return _too_long(
        [
            ("request_id", feedback.request_id),
            ("feedback_id", feedback.feedback_id),
            ("model", feedback.model),
            ("source", feedback.source),
            ("voter", feedback.voter),
            ("tenant", feedback.tenant),
        ]
    ) or _first_not_finite(named)
