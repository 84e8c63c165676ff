"""Dead letters: coordinates and reason of what was refused; payloads only where they may be kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Final

from banditroute.events import WIRE_VERSION, DeadLetter, encode
from banditroute.flow.deciding.decider import OutputRecord, Poison
from banditroute.flow.settling.effects import Refused

log = logging.getLogger("banditroute.engine")

PAYLOAD_LIMIT: Final = 1 << 16


def poison(topic: str, partition: int, records: Sequence[Poison], *, keep: bool) -> list[OutputRecord]:
    """Build dead letters for input records that could not be read; log how many, and the first without its content."""
    built = [
        _letter(topic, partition, record.offset, record.value or b"", reason, keep=keep)
        for record, reason in records
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
        _letter(topic, *copied.src, encode(copied.feedback), reason, keep=True) for copied, reason in feedback
    ]
    if feedback:
        copied, reason = feedback[0]
        log.warning(
            "not applied: %d of %s, first %s-%d offset %d: %s", len(built), topic, topic, *copied.src, reason
        )
    return built


def _letter(
    topic: str, partition: int, offset: int, value: bytes, reason: str, *, keep: bool
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
    )
    return OutputRecord(f"{topic}-{partition}-{offset}".encode(), encode(letter))
