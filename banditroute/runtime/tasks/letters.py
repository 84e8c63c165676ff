"""Dead letters: coordinates and reason of what was refused; payloads only where they may be kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Final

from banditroute.events import WIRE_VERSION, DeadLetter, Refusal, encode
from banditroute.flow.deciding.decider import InputRecord, OutputRecord, Poison
from banditroute.flow.deciding.decision_writer import MAX_PASSED_HEADERS
from banditroute.flow.settling.effects import Refused

log = logging.getLogger("banditroute.engine")

PAYLOAD_LIMIT: Final = 1 << 16
_TEXT_LIMIT: Final = 256  # characters of an id, a key or a header


def poison(
    topic: str, partition: int, records: Sequence[Poison], headers: Sequence[str], *, keep: bool
) -> list[OutputRecord]:
    """Build dead letters for input records that could not be read; log how many, and the first without its content."""
    built = [
        _letter(
            topic,
            partition,
            record.offset,
            record.value or b"",
            reason,
            keep=keep,
            request_id=request_id,
            key=None if record.key is None else _text(record.key),
            headers={name: _text(value) for name, value in passed(record, headers)} or None,
        )
        for record, reason, request_id in records
    ]
    first = records[0]
    log.warning(
        "refused %d of %s-%d, first offset %d: %s",
        len(built),
        topic,
        partition,
        first.record.offset,
        first.reason,
    )
    return built


def refused(topic: str, feedback: Sequence[Refused]) -> list[OutputRecord]:
    """Build dead letters for feedback that settled into nothing; log how many, and the first."""
    built = [
        _letter(
            topic,
            *copied.src,
            encode(copied.feedback),
            reason,
            keep=True,
            request_id=copied.feedback.request_id,
        )
        for copied, reason in feedback
    ]
    if feedback:
        copied, reason = feedback[0]
        log.warning(
            "not applied: %d of %s, first %s-%d offset %d: %s", len(built), topic, topic, *copied.src, reason
        )
    return built


def replies(partition: int, records: Sequence[Poison], headers: Sequence[str]) -> list[OutputRecord]:
    """Build the replies to requests that were refused: whoever waits for a decision learns that there is none."""
    return [
        OutputRecord(
            record.key if request_id is None else request_id.encode("utf-8", "replace"),
            encode(
                Refusal(
                    v=WIRE_VERSION,
                    decision_id=f"{partition}-{record.offset}",
                    model=None,
                    reason=f"refused: {reason}",
                    request_id=request_id,
                )
            ),
            passed(record, headers),
        )
        for record, reason, request_id in records
    ]


def passed(record: InputRecord, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return the headers that an answer carries, as a decision would."""
    found = [(name, value or b"") for name, value in record.headers if name in names]
    return found if sum(len(name) + len(value) for name, value in found) <= MAX_PASSED_HEADERS else []


def _text(value: bytes) -> str:
    return value[: 4 * _TEXT_LIMIT].decode("utf-8", "replace")[:_TEXT_LIMIT]


def _letter(
    topic: str,
    partition: int,
    offset: int,
    value: bytes,
    reason: str,
    *,
    keep: bool,
    request_id: str | None,
    key: str | None = None,
    headers: dict[str, str] | None = None,
) -> OutputRecord:
    letter = DeadLetter(
        v=WIRE_VERSION,
        topic=topic,
        partition=partition,
        offset=offset,
        reason=reason,
        length=len(value),
        sha256=hashlib.sha256(value).hexdigest(),
        payload=value[:PAYLOAD_LIMIT] if keep else None,
        request_id=request_id,
        key=key,
        headers=headers,
    )
    return OutputRecord(f"{topic}-{partition}-{offset}".encode(), encode(letter))
