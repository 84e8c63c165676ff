"""The JSON Schemas in schemas/ are those of the structs, and agree with the decoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

import schemas as script
from banditroute import events
from banditroute.events import Rejected

FOLDER = Path(__file__).resolve().parents[2] / "schemas"

REQUEST = {"request_id": "r-1", "prompt": "hello"}
FEEDBACK = {"request_id": "r-1", "kind": "score", "value": 0.5}
DECISION = {
    "v": 1,
    "decision_id": "0-1",
    "request_id": "r-1",
    "model": "small",
    "reason": "utility",
    "weights": {"cost": 0.0, "latency": 0.0},
    "posterior_version": "0+0",
    "spec_id": "0123456789abcdef",
}
PRICE = {"edit": "price", "model": "small", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
CHANGED = {"edit": "changed", "model": "small", "epoch": 1, "factors": {"small": 0.5}}
LETTER = {"v": 1, "topic": "t", "partition": 0, "offset": 1, "reason": "no", "length": 2, "sha256": "00"}

VALID: list[tuple[str, dict[str, Any]]] = [
    ("request", REQUEST),
    ("request", {"v": 1, "unknown": {"deep": [1]}, **REQUEST}),
    ("request", {"request_id": "r", "messages": [{"role": "user", "content": "hi"}]}),
    (
        "request",
        {"request_id": "r", "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
    ),
    ("request", {"request_id": "r", "messages": [{"role": "assistant", "content": None}]}),
    ("request", {"request_id": "r", "context": [1, 2.5], "tags": ["a"], "deny": ["b"], "input_tokens": 3}),
    ("request", {**REQUEST, "tenant": None, "max_cost_usd": 0, "max_latency_ms": 5, "deadline": 1.7e9}),
    ("feedback", FEEDBACK),
    ("feedback", {**FEEDBACK, "unknown": True, "v": 1, "decision_id": "3-12", "voter": "u", "cost_usd": 0.1}),
    ("feedback", {"request_id": "r", "kind": "thumb", "value": True}),
    ("feedback", {"kind": "withdraw", "voter": "u"}),
    ("feedback", {"request_id": "r", "kind": "outcome", "ok": False}),
    ("feedback", {"request_id": "r", "kind": "usage", "output_tokens": 7}),
    ("feedback", {"request_id": "r", "kind": "withdraw"}),
    ("decision", DECISION),
    ("decision", {**DECISION, "model": None, "tenant": "t", "mode": "shadow", "fallbacks": ["b"]}),
    ("decision", {**DECISION, "propensity": 0.5, "expected": {"quality": 0.5, "cost_usd": 0.1}}),
    ("journal", {"type": "feedback", "src": [0, 12], "feedback": FEEDBACK, "everywhere": True}),
    ("journal", {"type": "decided", "upto": 3}),
    ("journal", {"type": "expire", "upto": 3, "before": 1_700_000_000_000}),
    ("journal", {"type": "control", "number": 0, "edit": PRICE}),
    ("control", PRICE),
    ("control", CHANGED),
    ("dead-letter", LETTER),
    ("dead-letter", {**LETTER, "payload": "aGk="}),
    ("alert", {"v": 1, "kind": "lag", "message": "text", "partition": None}),
]

INVALID: list[tuple[str, Any]] = [
    ("request", []),
    ("request", {"prompt": "no id"}),
    ("request", {**REQUEST, "request_id": ""}),
    ("request", {**REQUEST, "request_id": 7}),
    ("request", {**REQUEST, "request_id": "x" * 257}),
    ("request", {**REQUEST, "v": 2}),
    ("request", {**REQUEST, "prompt": 1}),
    ("request", {**REQUEST, "tags": "chat"}),
    ("request", {**REQUEST, "tags": ["t"] * 65}),
    ("request", {**REQUEST, "tags": [""]}),
    ("request", {**REQUEST, "context": [0.0] * 257}),
    ("request", {**REQUEST, "context": ["1"]}),
    ("request", {**REQUEST, "embedding": [0.0] * 8193}),
    ("request", {**REQUEST, "messages": [{"role": "user", "content": 5}]}),
    ("request", {**REQUEST, "input_tokens": -1}),
    ("request", {**REQUEST, "input_tokens": 1.5}),
    ("request", {**REQUEST, "cost_weight": -0.1}),
    ("request", {**REQUEST, "max_latency_ms": 0}),
    ("request", {**REQUEST, "deadline": "tomorrow"}),
    ("feedback", {"kind": "withdraw", "source": "app"}),
    ("feedback", {"kind": "withdraw", "voter": "u", "decision_id": "0-1"}),
    ("feedback", {"kind": "score", "voter": "u", "value": 1.0}),
    ("feedback", {"kind": "score", "value": 0.5}),
    ("feedback", {"request_id": "r", "value": 0.5}),
    ("feedback", {**FEEDBACK, "kind": "applause"}),
    ("feedback", {**FEEDBACK, "value": 1.5}),
    ("feedback", {**FEEDBACK, "value": "good"}),
    ("feedback", {**FEEDBACK, "decision_id": "first"}),
    ("feedback", {**FEEDBACK, "cost_usd": -1}),
    ("feedback", {**FEEDBACK, "output_tokens": 1.5}),
    ("feedback", {**FEEDBACK, "ok": "yes"}),
    ("feedback", {**FEEDBACK, "error": "e" * 1025}),
    ("feedback", {**FEEDBACK, "v": 0}),
    ("decision", {key: value for key, value in DECISION.items() if key != "weights"}),
    ("decision", {**DECISION, "mode": "dreaming"}),
    ("journal", {"type": "decided"}),
    ("journal", {"type": "unheard-of", "upto": 1}),
    ("journal", {"type": "feedback", "src": [0], "feedback": FEEDBACK}),
    ("journal", {"type": "feedback", "src": [0, 1], "feedback": {"request_id": "r"}}),
    ("journal", {"type": "control", "number": 0, "edit": {"edit": "price"}}),
    ("control", {**PRICE, "input_usd_per_mtok": -1}),
    ("control", {**CHANGED, "factors": {"small": 0}}),
    ("control", {**CHANGED, "factors": {"small": 1.5}}),
    ("control", {"edit": "rename", "model": "small"}),
    ("dead-letter", {**LETTER, "offset": "1"}),
    ("alert", {"v": 1, "kind": "lag"}),
]

# What a schema cannot say: the decoder alone refuses it.
BEYOND = [
    ("request", {"request_id": "r"}),
    ("request", {**REQUEST, "request_id": "é" * 129}),
    ("request", {**REQUEST, "tags": ["é" * 129]}),
    ("feedback", {**FEEDBACK, "voter": "é" * 129}),
    ("feedback", {"request_id": "r", "kind": "score"}),
    ("feedback", {"request_id": "r", "kind": "thumb", "value": 0.5}),
    ("feedback", {"request_id": "r", "kind": "usage"}),
]


def decodes(name: str, document: Any) -> bool:
    """Whether the decoder of the product takes a document."""
    value = json.dumps(document).encode()
    tolerant = {
        "request": events.decode_request,
        "feedback": events.decode_feedback,
        "control": events.decode_edit,
    }
    if name in tolerant:
        return not isinstance(tolerant[name](value), Rejected)
    strict = {
        "decision": events.decode_decision,
        "journal": events.decode_journal,
        "dead-letter": msgspec.json.Decoder(events.DeadLetter).decode,
        "refusal": msgspec.json.Decoder(events.Refusal).decode,
        "alert": msgspec.json.Decoder(events.Alert).decode,
    }
    try:
        strict[name](value)
    except msgspec.DecodeError:
        return False
    return True


def conforms(name: str, document: Any) -> bool:
    """Whether the committed schema takes a document."""
    schema = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema).is_valid(document)


def test_the_schemas_in_the_repository_are_current() -> None:
    assert script.stale(FOLDER) == [], "run `make schemas`"


def test_every_schema_is_a_schema() -> None:
    for path in FOLDER.glob("*.json"):
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text(encoding="utf-8")))


def test_the_text_is_the_same_every_time_and_sorted() -> None:
    texts = script.schemas()
    assert texts == script.schemas()
    for text in texts.values():
        assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_check_tells_stale_missing_and_left_over_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--folder", str(tmp_path)]
    assert script.main(["--check", *folder]) == 1
    assert "run `make schemas`" in capsys.readouterr().err
    assert script.main(folder) == 0
    assert script.main(["--check", *folder]) == 0
    (tmp_path / "alert.json").write_text("{}", encoding="utf-8")
    (tmp_path / "former.json").write_text("{}", encoding="utf-8")
    assert script.stale(tmp_path) == ["alert.json", "former.json"]
    assert script.main(folder) == 0
    assert script.stale(tmp_path) == []


@pytest.mark.parametrize(("name", "document"), VALID)
def test_what_is_valid_is_taken_by_schema_and_decoder(name: str, document: Any) -> None:
    assert conforms(name, document)
    assert decodes(name, document)


@pytest.mark.parametrize(("name", "document"), INVALID)
def test_what_is_invalid_is_refused_by_schema_and_decoder(name: str, document: Any) -> None:
    assert not conforms(name, document)
    assert not decodes(name, document)


@pytest.mark.parametrize(("name", "document"), BEYOND)
def test_what_a_schema_cannot_say_is_refused_by_the_decoder(name: str, document: Any) -> None:
    assert conforms(name, document)
    assert not decodes(name, document)


def test_what_the_product_writes_conforms() -> None:
    feedback = events.Feedback(request_id="r", kind="thumb", value=True)
    written: list[tuple[str, msgspec.Struct]] = [
        ("request", events.Request(request_id="r", prompt="p")),
        ("feedback", feedback),
        ("journal", events.Copied((0, 1), feedback)),
        ("journal", events.Control(1, events.Changed("m", 1, {"m": 0.5}))),
        (
            "dead-letter",
            events.DeadLetter(
                v=1, topic="t", partition=0, offset=0, reason="", length=0, sha256="", payload=b"x"
            ),
        ),
        ("refusal", events.Refusal(v=1, decision_id="0-1", model=None, reason="refused: it is empty")),
        ("alert", events.Alert(v=1, kind="k", message="m")),
    ]
    for name, event in written:
        assert conforms(name, json.loads(events.encode(event))), name
