"""Dead letters: coordinates and reason of what was refused; payloads only where they may be kept."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from typing import Final

from banditroute.events import WIRE_VERSION, DeadLetter, encode
from banditroute.flow.decider import OutputRecord, Poison
from banditroute.flow.effects import Refused

log = logging.getLogger("banditroute.engine")

PAYLOAD_LIMIT: Final = 1 << 16


def poison(topic: str, partition: int, records: Iterable[Poison], *, keep: bool) -> list[OutputRecord]:
    """Build dead letters for input records that could not be read, and log each without its content."""
    built = []
    for record, reason in records:
        log.warning("refused %s-%d offset %d: %s", topic, partition, record.offset, reason)
        built.append(_letter(topic, partition, record.offset, record.value or b"", reason, keep=keep))
    return built


def refused(topic: str, feedback: Iterable[Refused]) -> list[OutputRecord]:
    """Build dead letters for feedback that settled into nothing."""
    return [
        _letter(topic, *copied.src, encode(copied.feedback), reason, keep=True) for copied, reason in feedback
    ]


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
