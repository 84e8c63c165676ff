"""Bytes become objects in one place: what is taken, what is refused and how, and what never changes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from banditroute import events
from banditroute.events import Feedback, FieldMap, Rejected, Request
from banditroute.flow.records.header import HeaderWriter, parse_header
from banditroute.flow.records.snapshot import decode_state, encode_state
from tests import naive

SECRET = "plum-coloured elephants"
REQUEST: dict[str, Any] = {
    "v": 1,
    "request_id": "r-1",
    "prompt": SECRET,
    "messages": [{"role": "user", "content": [{"type": "text", "text": SECRET}]}],
    "context": [0.5, -1.5],
    "embedding": [0.25],
    "tenant": "acme",
    "tags": ["chat", "de"],
    "session_id": "s",
    "input_tokens": 10,
    "max_output_tokens": 20,
    "needs": ["json"],
    "allow": ["cheap"],
    "deny": ["large"],
    "cost_weight": 1.5,
    "max_cost_usd": 0.1,
    "max_latency_ms": 100.0,
    "deadline": 1.7e9,
}
FEEDBACK: dict[str, Any] = {
    "v": 1,
    "request_id": "r-1",
    "kind": "score",
    "decision_id": "3-42",
    "feedback_id": "f",
    "model": "small",
    "value": 0.5,
    "source": "judge",
    "voter": "u",
    "tenant": "acme",
    "cost_usd": 0.1,
    "input_tokens": 3,
    "output_tokens": 4,
    "latency_ms": 5.5,
    "ok": True,
    "error": "none",
}
LONG = "x" * 257
MULTIBYTE = "é" * 129  # 129 characters, 258 bytes


def with_field(event: dict[str, Any], field: str, text: str) -> bytes:
    """The JSON of an event in which one field has a value that `json` would not write."""
    return json.dumps({**event, field: "@@"}).replace('"@@"', text).encode()


# -- what is taken ------------------------------------------------------------------------------------


def test_a_request_with_every_field_is_taken() -> None:
    request = events.decode_request(json.dumps(REQUEST).encode())
    assert isinstance(request, Request)
    assert request.messages is not None
    assert request.messages[0].content == SECRET
    assert json.loads(events.encode(request)) == {
        **{name: value for name, value in REQUEST.items() if name != "v"},  # the default
        "messages": [{"role": "user", "content": SECRET}],
    }
    assert events.decode_request(events.encode(request)) == request


def test_feedback_with_every_field_is_taken() -> None:
    feedback = events.decode_feedback(json.dumps(FEEDBACK).encode())
    assert isinstance(feedback, Feedback)
    assert {name: getattr(feedback, name) for name in FEEDBACK} == FEEDBACK
    assert events.decode_feedback(events.encode(feedback)) == feedback


def test_a_missing_version_means_one() -> None:
    request = events.decode_request(b'{"request_id":"r","prompt":""}')
    assert isinstance(request, Request)
    assert request.v == 1


@pytest.mark.parametrize("extra", ["1", '"x"', "null", "[]", '{"deep":{"er":[1,null,"x"]}}'])
def test_unknown_fields_are_ignored_at_every_level(extra: str) -> None:
    assert isinstance(events.decode_request(with_field(REQUEST, "colour", extra)), Request)
    assert isinstance(events.decode_feedback(with_field(FEEDBACK, "colour", extra)), Feedback)
    message = json.dumps({"request_id": "r", "messages": [{"role": "user", "content": "hi", "name": "@@"}]})
    assert isinstance(events.decode_request(message.replace('"@@"', extra).encode()), Request)
    edit = '{"edit":"price","model":"m","input_usd_per_mtok":1,"output_usd_per_mtok":2,"colour":@@}'
    assert isinstance(events.decode_edit(edit.replace("@@", extra).encode()), events.PriceEdit)
    assert events.decode_journal(
        f'{{"type":"decided","upto":3,"colour":{extra}}}'.encode()
    ) == events.Decided(3)
    key = events.decode_decision_key(f'{{"request_id":"r","model":null,"colour":{extra}}}'.encode())
    assert key == events.DecisionKey("r", None)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hi", "hi"),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"text": "b"}], "a\n\nb"),
    ],
)
def test_the_text_of_a_message_is_joined_from_its_parts(content: Any, text: str) -> None:
    value = json.dumps({"request_id": "r", "messages": [{"role": "user", "content": content}]}).encode()
    request = events.decode_request(value)
    assert isinstance(request, Request)
    assert request.messages is not None
    assert request.messages[0].content == text


@pytest.mark.parametrize("size", [1, 256])
def test_ids_of_up_to_256_bytes_are_taken(size: int) -> None:
    assert isinstance(
        events.decode_request(json.dumps({"request_id": "i" * size, "prompt": ""}).encode()), Request
    )


def test_64_tags_are_taken() -> None:
    assert isinstance(events.decode_request(json.dumps({**REQUEST, "tags": ["t"] * 64}).encode()), Request)


@pytest.mark.parametrize(
    ("event", "quality"),
    [
        ({"kind": "thumb", "value": True}, 1.0),
        ({"kind": "thumb", "value": 0}, 0.0),
        ({"kind": "score", "value": 0.25}, 0.25),
        ({"kind": "outcome", "ok": True}, 1.0),
        ({"kind": "outcome", "ok": True, "value": 0.5}, 0.5),
        ({"kind": "usage", "output_tokens": 5}, None),
        ({"kind": "withdraw"}, None),
    ],
)
def test_the_quality_of_feedback_is_its_value_or_else_its_outcome(
    event: dict[str, Any], quality: float | None
) -> None:
    feedback = events.decode_feedback(json.dumps({"request_id": "r", **event}).encode())
    assert isinstance(feedback, Feedback)
    assert feedback.quality == quality


# -- poison: a value with a reason ----------------------------------------------------------------------

POISON_REQUESTS: list[tuple[str, bytes | None, str]] = [
    ("null value", None, "null"),
    ("empty value", b"", "empty"),
    ("JSON null", b"null", "not a JSON object"),
    ("array", b"[]", "not a JSON object"),
    ("cut short", b'{"request_id":"r","prompt":"' + SECRET.encode(), "not JSON, at character"),
    ("two values", b'{"request_id":"r","prompt":"x"}{}', "not JSON, at character"),
    ("byte order mark", b'\xef\xbb\xbf{"request_id":"r","prompt":"x"}', "not JSON, at character 0"),
    ("UTF-16", '{"request_id":"r","prompt":"x"}'.encode("utf-16"), "invalid UTF-8 at byte 0"),
    ("invalid UTF-8", b'{"request_id":"r","prompt":"\xff"}', "invalid UTF-8"),
    ("encoded surrogate", b'{"request_id":"r","prompt":"\xed\xa0\x80"}', "invalid UTF-8"),
    ("no id", b'{"prompt":"x"}', "with `request_id`"),
    ("no content", b'{"request_id":"r"}', "`prompt`, `messages`, `context` or `embedding`"),
    ("NaN in a list", with_field(REQUEST, "context", "[NaN]"), "`$.context[...]`"),
    ("Infinity", with_field(REQUEST, "cost_weight", "Infinity"), "`$.cost_weight`"),
    ("-Infinity", with_field(REQUEST, "context", "[-Infinity]"), "`$.context[...]`"),
    ("1e999", with_field(REQUEST, "cost_weight", "1e999"), "`$.cost_weight`"),
    ("-1e999 inside", with_field(REQUEST, "context", "[0,-1e999]"), "`$.context[...]`"),
    ("1e999 deadline", with_field(REQUEST, "deadline", "1e999"), "`$.deadline`"),
    ("version 2", with_field(REQUEST, "v", "2"), "`$.v`"),
    ("version 0", with_field(REQUEST, "v", "0"), "`$.v`"),
    ("version text", with_field(REQUEST, "v", '"1"'), "`$.v`"),
    ("id of a number", with_field(REQUEST, "request_id", "7"), "`$.request_id`"),
    ("empty id", with_field(REQUEST, "request_id", '""'), "`$.request_id`"),
    ("long id", with_field(REQUEST, "request_id", f'"{LONG}"'), "`$.request_id`"),
    ("long id in bytes", with_field(REQUEST, "request_id", f'"{MULTIBYTE}"'), "256 bytes - at `$.request_id`"),
    ("long tenant", with_field(REQUEST, "tenant", f'"{MULTIBYTE}"'), "256 bytes - at `$.tenant`"),
    ("long session", with_field(REQUEST, "session_id", f'"{MULTIBYTE}"'), "256 bytes - at `$.session_id`"),
    ("long tag", with_field(REQUEST, "tags", f'["a","{MULTIBYTE}"]'), "256 bytes - at `$.tags[...]`"),
    ("65 tags", with_field(REQUEST, "tags", json.dumps(["t"] * 65)), "`$.tags`"),
    ("a tag of a number", with_field(REQUEST, "tags", '["a",1]'), "`$.tags[1]`"),
    ("tags of text", with_field(REQUEST, "tags", '"a"'), "`$.tags`"),
    ("prompt of a number", with_field(REQUEST, "prompt", "5"), "`$.prompt`"),
    ("prompt of objects", with_field(REQUEST, "prompt", '{"text":"x"}'), "`$.prompt`"),
    ("message of text", with_field(REQUEST, "messages", '["hi"]'), "`$.messages[0]`"),
    ("message of a number", with_field(REQUEST, "messages", '[{"role":"u","content":1}]'), "`$.messages[0].content`"),
    ("1025 messages", with_field(REQUEST, "messages", json.dumps([{"role": "u"}] * 1025)), "`$.messages`"),
    ("text in context", with_field(REQUEST, "context", '[1,"2"]'), "`$.context[1]`"),
    ("257 numbers", with_field(REQUEST, "context", json.dumps([0] * 257)), "`$.context`"),
    ("8193 numbers", with_field(REQUEST, "embedding", json.dumps([0] * 8193)), "`$.embedding`"),
    ("negative tokens", with_field(REQUEST, "input_tokens", "-1"), "`$.input_tokens`"),
    ("half a token", with_field(REQUEST, "max_output_tokens", "0.5"), "`$.max_output_tokens`"),
    ("too many tokens", with_field(REQUEST, "input_tokens", "9" * 40), "`$.input_tokens`"),
    ("negative weight", with_field(REQUEST, "cost_weight", "-1"), "`$.cost_weight`"),
    ("no latency at all", with_field(REQUEST, "max_latency_ms", "0"), "`$.max_latency_ms`"),
    ("deep nesting", with_field(REQUEST, "colour", "[" * 100_000 + "]" * 100_000), "nested too deeply"),
    ("deep objects", with_field(REQUEST, "colour", '{"a":' * 50_000 + "1" + "}" * 50_000), "nested too deeply"),
    ("deep nesting that never ends", b"[" * 1_000_000, ""),
    ("oversized", b'{"request_id":"r","prompt":"' + b"x" * (1 << 20) + b'"}', "at most 1048576"),
]  # fmt: skip

POISON_FEEDBACK: list[tuple[str, bytes | None, str]] = [
    ("null value", None, "null"),
    ("array", b"[1]", "not a JSON object"),
    ("cut short", b'{"request_id":"r"', "not JSON, at character"),
    ("no id", b'{"kind":"withdraw"}', "with `request_id`"),
    ("no kind", b'{"request_id":"r"}', "with `kind`"),
    ("unknown kind", with_field(FEEDBACK, "kind", '"applause"'), "`$.kind`"),
    ("version 2", with_field(FEEDBACK, "v", "2"), "`$.v`"),
    ("no value", b'{"request_id":"r","kind":"score"}', "`$.value`"),
    ("outcome of nothing", b'{"request_id":"r","kind":"outcome"}', "`$.value`"),
    ("half a thumb", b'{"request_id":"r","kind":"thumb","value":0.5}', "`$.value`"),
    ("value above one", with_field(FEEDBACK, "value", "1.01"), "`$.value`"),
    ("value below zero", with_field(FEEDBACK, "value", "-0.01"), "`$.value`"),
    ("value of text", with_field(FEEDBACK, "value", '"good"'), "`$.value`"),
    ("value NaN", json.dumps({**FEEDBACK, "value": math.nan, "ok": None}).encode(), "`$.value`"),
    ("value 1e999", with_field(FEEDBACK, "value", "1e999"), "`$.value`"),
    ("usage of nothing", b'{"request_id":"r","kind":"usage","value":1}', "usage carries none of"),
    ("cost 1e999", with_field(FEEDBACK, "cost_usd", "1e999"), "`$.cost_usd`"),
    ("negative cost", with_field(FEEDBACK, "cost_usd", "-0.1"), "`$.cost_usd`"),
    ("negative latency", with_field(FEEDBACK, "latency_ms", "-1"), "`$.latency_ms`"),
    ("half a token", with_field(FEEDBACK, "output_tokens", "1.5"), "`$.output_tokens`"),
    ("ok of a number", with_field(FEEDBACK, "ok", "1"), "`$.ok`"),
    ("decision id of words", with_field(FEEDBACK, "decision_id", '"first"'), "`$.decision_id`"),
    ("decision id below zero", with_field(FEEDBACK, "decision_id", '"-1-2"'), "`$.decision_id`"),
    ("decision id of other digits", with_field(FEEDBACK, "decision_id", '"١-٢"'), "`$.decision_id`"),
    ("decision id with a line end", with_field(FEEDBACK, "decision_id", r'"1-2\n"'), "`$.decision_id`"),
    ("long error", with_field(FEEDBACK, "error", f'"{"e" * 1025}"'), "`$.error`"),
    ("deep nesting", with_field(FEEDBACK, "colour", "[" * 20_000 + "]" * 20_000), "nested too deeply"),
    ("oversized", b'{"request_id":"r","kind":"withdraw","x":"' + b"x" * (1 << 16) + b'"}', "at most 65536"),
    *(
        (f"long {name}", with_field(FEEDBACK, name, f'"{MULTIBYTE}"'), f"256 bytes - at `$.{name}`")
        for name in ("request_id", "feedback_id", "model", "source", "voter", "tenant")
    ),
]


@pytest.mark.parametrize(("value", "reason"), [pytest.param(*row[1:], id=row[0]) for row in POISON_REQUESTS])
def test_a_poison_request_is_a_value_that_names_the_place(value: bytes | None, reason: str) -> None:
    rejected = events.decode_request(value)
    assert isinstance(rejected, Rejected)
    assert reason in rejected.reason
    assert SECRET not in rejected.reason


@pytest.mark.parametrize(("value", "reason"), [pytest.param(*row[1:], id=row[0]) for row in POISON_FEEDBACK])
def test_poison_feedback_is_a_value_that_names_the_place(value: bytes | None, reason: str) -> None:
    rejected = events.decode_feedback(value)
    assert isinstance(rejected, Rejected)
    assert reason in rejected.reason


def read(fields: dict[str, Any] | str) -> Any:
    value = fields if isinstance(fields, str) else json.dumps(fields)
    return events.decode_request(value.encode())


@pytest.mark.parametrize(
    ("field", "text", "kept"),
    [
        ("prompt", r'"cut \ud83d"', "cut \ufffd"),
        ("prompt", r'"\udc00 and on"', "\ufffd and on"),
        ("tags", r'["\ud83d", "b"]', ("\ufffd", "b")),
        ("request_id", r'"a\ud800b"', "a\ufffdb"),
        ("colour", r'"\ud83d"', None),
        ("\\ud83d", r'"x"', None),
        ("prompt", r'"whole \ud83d\ude00"', "whole \U0001f600"),
    ],
)
def test_text_that_was_cut_inside_a_character_is_read_with_a_replacement(
    field: str, text: str, kept: Any
) -> None:
    request = read(with_field(REQUEST, field, text).decode())
    assert isinstance(request, Request)
    assert kept is None or getattr(request, field) == kept


@pytest.mark.parametrize(
    "field", [name for name in Request.__struct_fields__ if name not in ("request_id", "prompt")]
)
def test_an_optional_field_of_a_request_that_is_null_is_as_if_absent(field: str) -> None:
    absent = {name: value for name, value in REQUEST.items() if name != field}
    assert read({**REQUEST, field: None}) == read(absent)
    assert events.request_of({**REQUEST, field: None}) == events.request_of(absent)


@pytest.mark.parametrize(
    "message",
    [
        {"role": None, "content": "hi"},
        {"content": "hi"},
        {"role": "user", "content": [{"type": None, "text": "hi"}]},
        {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "text": None}]},
    ],
)
def test_nulls_inside_messages_are_as_if_absent(message: dict[str, Any]) -> None:
    request = read({"request_id": "r", "messages": [message]})
    assert isinstance(request, Request)
    assert request.messages[0].content.strip() == "hi"


OPTIONAL_OF_FEEDBACK = [
    name for name in Feedback.__struct_fields__ if name not in ("request_id", "kind", "value")
]


@pytest.mark.parametrize("field", OPTIONAL_OF_FEEDBACK)
def test_an_optional_field_of_feedback_that_is_null_is_as_if_absent(field: str) -> None:
    absent = {name: value for name, value in FEEDBACK.items() if name != field}
    value = json.dumps({**FEEDBACK, field: None}).encode()
    assert events.decode_feedback(value) == events.decode_feedback(json.dumps(absent).encode())
    assert events.feedback_of({**FEEDBACK, field: None}) == events.feedback_of(absent)


@pytest.mark.parametrize("field", ["hour", "input_tokens", "max_output_tokens"])
@pytest.mark.parametrize("number", [12.0, 0.0, np.float64(12), np.int32(12), np.float32(3)])
def test_a_whole_float_of_a_request_is_an_integer(field: str, number: Any) -> None:
    assert getattr(read({**REQUEST, field: float(number)}), field) == int(number)
    taken = events.request_of({**REQUEST, field: number})
    assert isinstance(taken, Request)
    assert (getattr(taken, field), type(getattr(taken, field))) == (int(number), int)


@pytest.mark.parametrize("field", ["input_tokens", "output_tokens"])
def test_a_whole_float_of_feedback_is_an_integer(field: str) -> None:
    for feedback in (
        events.decode_feedback(json.dumps({**FEEDBACK, field: 310.0}).encode()),
        events.feedback_of({**FEEDBACK, field: np.float64(310)}),
    ):
        assert isinstance(feedback, Feedback)
        assert getattr(feedback, field) == 310


@pytest.mark.parametrize("field", ["cost_usd", "latency_ms", "input_tokens", "output_tokens"])
@pytest.mark.parametrize("unknown", [math.nan, np.float64("nan")])
def test_a_number_of_feedback_that_is_nan_is_not_known(field: str, unknown: float) -> None:
    for feedback in (
        events.decode_feedback(json.dumps({**FEEDBACK, field: float(unknown)}).encode()),
        events.feedback_of({**FEEDBACK, field: unknown}),
    ):
        assert isinstance(feedback, Feedback)
        assert getattr(feedback, field) is None


@pytest.mark.parametrize(
    "field",
    [
        "hour",
        "input_tokens",
        "max_output_tokens",
        "cost_weight",
        "max_cost_usd",
        "max_latency_ms",
        "deadline",
    ],
)
def test_a_number_of_a_request_that_is_nan_is_not_known(field: str) -> None:
    assert getattr(read({**REQUEST, field: math.nan}), field) is None
    assert getattr(events.request_of({**REQUEST, field: math.nan}), field) is None


def test_many_events_are_read_as_each_alone() -> None:
    one = {**FEEDBACK, "output_tokens": 310.0, "latency_ms": math.nan, "tenant": None}
    alone = events.feedback_of(one)
    assert isinstance(alone, Feedback)
    router = [events.feedback_of(each) for each in (one, one)]
    assert router == [alone, alone]


PRICE = {"edit": "price", "model": "m", "input_usd_per_mtok": 1, "output_usd_per_mtok": 2}
CHANGED = {"edit": "changed", "model": "m", "epoch": 1, "factors": {"m": 0.5}}


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="null"),
        pytest.param(b"", id="empty"),
        pytest.param(b"{}", id="no edit"),
        pytest.param(b'{"edit":"rename"}', id="unknown edit"),
        pytest.param(with_field(PRICE, "input_usd_per_mtok", "NaN"), id="NaN"),
        pytest.param(with_field(PRICE, "input_usd_per_mtok", "-1"), id="negative price"),
        pytest.param(with_field(PRICE, "input_usd_per_mtok", "1e999"), id="infinite price"),
        pytest.param(with_field(PRICE, "model", r'"\ud800"'), id="surrogate"),
        pytest.param(with_field(PRICE, "model", '"\xff"').decode().encode("latin-1"), id="invalid UTF-8"),
        pytest.param(with_field(CHANGED, "factors", '{"m":0}'), id="factor zero"),
        pytest.param(with_field(CHANGED, "factors", '{"m":1.5}'), id="factor above one"),
        pytest.param(with_field(PRICE, "colour", "[" * 100_000 + "]" * 100_000), id="deep nesting"),
    ],
)
def test_a_poison_control_record_is_a_value(value: bytes | None) -> None:
    assert isinstance(events.decode_edit(value), Rejected)


def test_a_reason_is_short_however_long_the_payload_is() -> None:
    rejected = events.decode_feedback(with_field(FEEDBACK, "kind", f'"{"k" * 60_000}"'))
    assert isinstance(rejected, Rejected)
    assert len(rejected.reason) < 1000


# -- poison: never an exception --------------------------------------------------------------------------

VALID_REQUEST = json.dumps(REQUEST).encode()
VALID_FEEDBACK = json.dumps(FEEDBACK).encode()
MAPPED = FieldMap({"request_id": "$.meta.id", "prompt": "$.body.text"})
edits = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def mutated(value: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Bytes with some of them replaced by others."""
    for place, length, instead in changes:
        at = place % (len(value) + 1)
        value = value[:at] + instead + value[at + length :]
    return value


def never_raises(value: bytes) -> None:
    """No decoder of input raises, whatever the bytes, and no reason quotes the prompt."""
    for field_map in (None, MAPPED):
        request = events.decode_request(value, field_map)
        assert isinstance(request, Request | Rejected)
        assert not isinstance(request, Rejected) or SECRET not in request.reason
        assert isinstance(events.decode_feedback(value, field_map), Feedback | Rejected)
    assert isinstance(
        events.decode_edit(value), events.PriceEdit | events.PauseEdit | events.Changed | Rejected
    )


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise(value: bytes) -> None:
    never_raises(value)


@given(edits)
def test_damaged_requests_never_raise(changes: list[tuple[int, int, bytes]]) -> None:
    never_raises(mutated(VALID_REQUEST, changes))


@given(edits)
def test_damaged_feedback_never_raises(changes: list[tuple[int, int, bytes]]) -> None:
    never_raises(mutated(VALID_FEEDBACK, changes))


@given(st.sampled_from(sorted({**REQUEST, **FEEDBACK, "meta": 0, "body": 0})), json_values)
def test_fields_of_any_type_never_raise(field: str, instead: Any) -> None:
    for event in (REQUEST, FEEDBACK):
        never_raises(json.dumps({**event, field: instead}).encode())


@given(st.sampled_from(sorted({**REQUEST, **FEEDBACK})), json_values)
def test_the_library_face_validates_mappings_in_the_same_way(field: str, instead: Any) -> None:
    assert isinstance(events.request_of({**REQUEST, field: instead}), Request | Rejected)
    assert isinstance(events.feedback_of({**FEEDBACK, field: instead}), Feedback | Rejected)


@given(edits)
def test_what_is_taken_is_taken_again_after_encoding(changes: list[tuple[int, int, bytes]]) -> None:
    request = events.decode_request(mutated(VALID_REQUEST, changes))
    if isinstance(request, Request):
        assert events.decode_request(events.encode(request)) == request
    feedback = events.decode_feedback(mutated(VALID_FEEDBACK, changes))
    if isinstance(feedback, Feedback):
        assert events.decode_feedback(events.encode(feedback)) == feedback
        copied = events.Copied((0, 1), feedback)
        assert events.decode_journal(events.encode(copied)) == copied


# -- the library face -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"request_id": "r", "prompt": "x", "cost_weight": math.inf}, "`$.cost_weight`"),
        ({"request_id": "r", "prompt": "x", "deadline": math.inf}, "finite"),
        ({"request_id": "r", "context": [math.inf]}, "`$.context[...]`"),
        ({"request_id": "r", "embedding": [math.nan]}, "`$.embedding[...]`"),
        ({"prompt": "x"}, "with `request_id`"),
        ("r", "Expected an object"),
        (None, "Expected an object"),
    ],
)
def test_a_mapping_may_hold_what_json_cannot_and_is_refused(mapping: Any, reason: str) -> None:
    rejected = events.request_of(mapping)
    assert isinstance(rejected, Rejected)
    assert reason in rejected.reason


@pytest.mark.parametrize(
    "request_",
    [
        Request(request_id=5, prompt="x"),  # type: ignore[arg-type]
        Request(request_id="r", prompt=5),  # type: ignore[arg-type]
        Request(request_id="r", prompt="x", cost_weight=-1.0),
        Request(request_id="r", prompt="x", tags=("t",) * 65),
        Request(request_id="", prompt="x"),
    ],
)
def test_a_request_object_is_validated_like_a_mapping(request_: Request) -> None:
    assert isinstance(events.request_of(request_), Rejected)


@pytest.mark.parametrize(
    "feedback",
    [
        Feedback(request_id="r", kind="applause"),  # type: ignore[arg-type]
        Feedback(request_id="r", kind="score", value=7.0),
        Feedback(request_id="r", kind="usage", cost_usd=-1.0),
        Feedback(request_id="r", kind="withdraw", decision_id="first"),
    ],
)
def test_a_feedback_object_is_validated_like_a_mapping(feedback: Feedback) -> None:
    assert isinstance(events.feedback_of(feedback), Rejected)


# -- foreign payloads ---------------------------------------------------------------------------------------


def test_a_field_map_takes_fields_from_where_they_are() -> None:
    value = b'{"meta":{"id":"a"},"body":{"text":"hi"},"tags":["t"],"request_id":"not this"}'
    request = events.decode_request(value, MAPPED)
    assert isinstance(request, Request)
    assert (request.request_id, request.prompt, request.tags) == ("a", "hi", ("t",))


def test_a_mapped_field_that_is_not_there_is_absent() -> None:
    rejected = events.decode_request(b'{"request_id":"not this","body":{"text":"hi"}}', MAPPED)
    assert rejected == Rejected("Expected an object with `request_id`")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"[1]", "not a JSON object"),
        (b'{"meta":{"id":7},"body":{"text":"x"}}', "`$.request_id`"),
        (b'{"meta":[],"body":{"text":"x"}}', "with `request_id`"),
        (b'{"meta":{"id":"a"},"body":{"text":"x"},"cost_weight":1e999}', "`$.cost_weight`"),
        (
            b'{"meta":{"id":"a"},"body":{"text":"x"},"u":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
            "nested too deeply",
        ),
    ],
)
def test_poison_in_a_foreign_payload_is_a_value(value: bytes, reason: str) -> None:
    rejected = events.decode_request(value, MAPPED)
    assert isinstance(rejected, Rejected)
    assert reason in rejected.reason


# -- bytes that never change --------------------------------------------------------------------------------

GOLDEN = [
    record
    for path in sorted((Path(__file__).resolve().parents[1] / "golden").glob("events_v1*.json"))
    for record in json.loads(path.read_text(encoding="utf-8"))["records"]
]


def golden(*types: str) -> Any:
    """Parameters: the golden records of some types."""
    records = [record for record in GOLDEN if record["type"] in types]
    return pytest.mark.parametrize("record", [pytest.param(record, id=record["name"]) for record in records])


@golden("request", "feedback", "decision", "journal", "control", "dead-letter", "alert")
def test_golden_json_is_read_and_written_as_ever(record: dict[str, Any]) -> None:
    decode: dict[str, Any] = {
        "request": events.decode_request,
        "feedback": events.decode_feedback,
        "decision": events.decode_decision,
        "journal": events.decode_journal,
        "control": events.decode_edit,
        "dead-letter": msgspec.json.Decoder(events.DeadLetter).decode,
        "alert": msgspec.json.Decoder(events.Alert).decode,
    }
    value = record["text"].encode()
    event = decode[record["type"]](value)
    assert json.loads(events.encode(event)) == record["expected"]
    assert events.encode(event) == value


@golden("decision")
def test_golden_decisions_give_what_settling_needs(record: dict[str, Any]) -> None:
    key = events.decode_decision_key(record["text"].encode())
    expected = record["expected"]
    assert (key.request_id, key.model) == (expected["request_id"], expected["model"])
    assert (key.tenant, key.mode) == (expected.get("tenant"), expected.get("mode", "active"))


@golden("header")
def test_golden_headers_are_read_and_written_as_ever(record: dict[str, Any]) -> None:
    value, expected = bytes.fromhex(record["hex"]), record["expected"]
    header = parse_header(value)
    assert (header.request_offset, header.spec_id, header.shadow) == (
        expected["request_offset"],
        expected["spec_id"],
        expected["shadow"],
    )
    assert [list(key) for key in header.keys] == expected["keys"]
    assert header.x.tolist() == expected["x"]
    predictions = np.array(expected["predictions"], np.float64)  # null is NaN
    assert np.array_equal(header.predictions, predictions, equal_nan=True)
    assert (header.input_tokens, header.counted) == (expected.get("input_tokens", 0), "counted" in expected)
    writer = HeaderWriter(header.keys, header.spec_id, len(header.x))
    tokens, counted = np.array([header.input_tokens]), np.array([header.counted])
    offsets, x, predictions = [header.request_offset], header.x[None], header.predictions[None]
    written = writer.write(offsets, x, predictions, tokens, counted, header.shadow)
    assert list(written) == [value]


@golden("state")
def test_golden_states_are_read_and_written_as_ever(record: dict[str, Any]) -> None:
    value, expected = bytes.fromhex(record["hex"]), dict(record["expected"])
    state = decode_state(value)
    shared, rows = expected.pop("shared"), expected.pop("rows")
    assert state.evidence.shared.tolist() == shared
    assert [state.evidence.rows[key].tolist() for key in sorted(state.evidence.rows)] == rows
    assert [list(key) for key in sorted(state.evidence.rows)] == expected.pop("keys")
    genesis = json.loads(msgspec.json.encode(state.genesis))
    assert (genesis.pop("reign"), genesis.pop("topic_ids")) == (0, {}), "what a later build added"
    assert genesis == {name: expected.pop(name) for name in ("log_epoch", "hash_key", "feedback_start")}
    read = {name: json.loads(msgspec.json.encode(getattr(state, name))) for name in expected}
    assert read == expected
    assert encode_state(state) == value
    assert naive.parse_state(value).meta["j"] == state.j


# -- who sent what was refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, None),
        (b"", None),
        (b"[1]", None),
        (b'{"prompt":"x"}', None),
        (b'{"request_id":"r","v":2}', "r"),
        (b'{"request_id":7,"prompt":"x"}', "7"),
        (b'{"request_id":"a\\ud83d","v":2}', "a\ufffd"),
        (b'{"request_id":"' + b"i" * 300 + b'"}', "i" * 256),
        (b'{"v":1,"request_id":"r","prompt":"cut of', "r"),
        (b'{"request_id":"r","prompt":"' + b"x" * (1 << 20) + b'"}', "r"),
        (b'{"prompt":"\\"request_id\\":\\"no\\"', None),
        (b'{"messages":[{"request_id":"no"', None),
        (b'{"prompt":"' + b"x" * 300 + b'","request_id":"behind', None),
    ],
)
def test_the_id_of_a_refused_record_is_read_where_it_can_be(value: bytes | None, found: str | None) -> None:
    assert events.readable_id(value) == found


def test_the_id_of_a_refused_record_is_found_through_the_field_map() -> None:
    assert events.readable_id(b'{"meta":{"id":"a"},"request_id":"no"}', MAPPED) == "a"


def test_a_version_that_is_a_whole_float_is_the_version() -> None:
    assert isinstance(events.decode_request(b'{"v":1.0,"request_id":"r","prompt":"x"}'), Request)
    assert isinstance(events.decode_request(b'{"v":1.5,"request_id":"r","prompt":"x"}'), Rejected)


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"arguments": SECRET}}]},
        {"content": [{"type": "tool_use", "id": "t", "name": "find", "input": {"query": [SECRET]}}]},
        {"content": [{"type": "tool_result", "content": [{"type": "text", "text": SECRET}]}]},
        {"content": [{"type": "tool_result", "content": SECRET}]},
        {"content": [{"type": "thinking", "thinking": SECRET, "signature": "s"}]},
        {"content": "hi", "reasoning_content": SECRET},
        {"content": [{"type": "input_text", "text": SECRET}]},
        {"content": [{"type": "function_call_output", "output": SECRET}]},
    ],
)
def test_calls_of_tools_their_results_and_thinking_count_as_text(message: dict[str, Any]) -> None:
    value = json.dumps({"request_id": "r", "messages": [{"role": "assistant", **message}]}).encode()
    request = events.decode_request(value)
    assert isinstance(request, Request)
    assert request.messages is not None
    assert SECRET in str(request.messages[0].content)
    assert events.request_of(json.loads(value)) == request
    assert events.decode_request(events.encode(request)) == request


def test_pictures_and_files_count_no_text() -> None:
    picture = "data:image/png;base64," + "A" * 5000
    parts = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "image", "source": {"type": "base64", "data": "A" * 5000}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"data": "A" * 5000}}]},
        {"type": "input_audio", "input_audio": {"data": "A" * 5000}},
    ]
    value = json.dumps({"request_id": "r", "messages": [{"role": "user", "content": parts}]}).encode()
    request = events.decode_request(value)
    assert isinstance(request, Request)
    assert request.messages is not None
    assert not str(request.messages[0].content).strip()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A/" * 700_000}},
        {"type": "image", "source": {"type": "base64", "data": "A" * 1_400_000}},
    ],
)
def test_a_large_picture_does_not_make_a_request_too_large(part: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, part]}]
    value = json.dumps({"request_id": "r", "messages": messages}).encode()
    for each in (value, value.replace(b"A/", b"A\\/")):
        request = events.decode_request(each)
        assert isinstance(request, Request)
        assert request.messages is not None
        assert str(request.messages[0].content).strip() == "what is this?"
    assert isinstance(events.decode_request(value + b" " * (16 << 20)), Rejected)
