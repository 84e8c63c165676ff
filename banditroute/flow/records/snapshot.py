"""State records: all that one partition learned and the offsets that this covers, as one atom.

Offset and statistics travel in one record, so no crash can separate them. Layout: docs/EVENTS.md.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType, field
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import Evidence, RowKey
from banditroute.errors import StateError
from banditroute.flow.records.plausibility import absurdity, are_sums
from banditroute.flow.records.position import Fields, LearnerSettings

MAGIC: Final = b"BRS1"
VERSION: Final = 1
MAX_STATE_BYTES: Final = 8 << 20
_HEAD: Final = struct.Struct("<4sHHI")
_CRC: Final = struct.Struct("<I")

Mark = tuple[int, int]  # offset and crc32 of the value of the last record read


class Start(NamedTuple):
    """The offsets at which a partition's logs stood at genesis."""

    requests: int
    decisions: int
    journal: int


class Genesis(Struct, frozen=True, kw_only=True):
    """What is fixed when a partition's state begins; an older build kept no `start`.

    `reign` is 0 for what `topics create` writes; an import that takes another state's place raises it by one.
    """

    log_epoch: int
    hash_key: str
    feedback_start: dict[int, int] = field(default_factory=dict)
    start: Start | UnsetType = UNSET
    reign: int = 0
    topic_ids: dict[str, str] = field(
        default_factory=dict
    )  # by what a topic is for, where the broker gives ids


class State(Struct, kw_only=True):
    """One state record; `at` and `anchor` are the fields as of `j` and as of `replay_from`."""

    partition: int
    spec_id: str
    d: int
    genesis: Genesis
    digest: str
    j: int
    replay_from: int
    at: Fields
    anchor: Fields
    ledger: Counter[str]
    parked: int
    evidence: Evidence
    journal_mark: Mark | None = None
    decisions_mark: Mark | None = None

    @property
    def key(self) -> bytes:
        """The record's Kafka key: compaction keeps the newest per partition and spec."""
        return f"{self.partition}/{self.spec_id}".encode()

    @property
    def genesis_key(self) -> bytes:
        """The key of a genesis record, which stays: that it came first has to be seen as long as there is a state."""
        return f"{self.partition}/{self.spec_id}/{self.genesis.log_epoch}".encode()

    def supersedes(self, there: State | None) -> bool:
        """Tell whether this record takes the place of one that is before it in the log.

        The first genesis record of a partition and spec begins its line: whatever another genesis has begun is ignored,
        so that engines which were started at once agree. Within a line the record that covers more of the journal
        counts, the later one of two that cover as much. A state that was imported in the place of another one begins a
        new line, of a higher reign.
        """
        if there is None:
            return True
        ours, theirs = self.genesis, there.genesis
        if ours.reign != theirs.reign:
            return ours.reign > theirs.reign
        return ours.log_epoch == theirs.log_epoch and self.j >= there.j


class _Meta(Struct, kw_only=True):
    """The JSON part."""

    partition: int
    spec_id: str
    d: int
    log_epoch: int
    hash_key: str
    digest: str
    j: int
    replay_from: int
    at: Fields
    anchor: Fields
    keys: list[tuple[str, int, str, bool]]
    ledger: dict[str, int]
    parked: int
    feedback_start: dict[int, int]
    start: Start | UnsetType = UNSET
    reign: int | UnsetType = UNSET
    topic_ids: dict[str, str] | UnsetType = UNSET
    journal_mark: Mark | None = None
    decisions_mark: Mark | None = None


_decoder = msgspec.json.Decoder(_Meta)
_encoder = msgspec.json.Encoder()


def settings_digest(settings: LearnerSettings) -> str:
    """Digest of the settings that evidence depends on."""
    return blake2b(_encoder.encode(settings), digest_size=8).hexdigest()


def mark_of(offset: int, value: bytes | None) -> Mark:
    """Mark a record so that a later reader can tell that it is still the same."""
    return (offset, zlib.crc32(value or b""))


def encode_state(state: State) -> bytes:
    """Encode a state record.

    Raises
    ------
    StateError
        If it is larger than 8 MiB.
    """
    evidence = state.evidence
    keys = sorted(evidence.rows)
    parts = [_written(evidence, key) for key in keys]
    genesis = state.genesis
    meta = _Meta(
        partition=state.partition,
        spec_id=state.spec_id,
        d=state.d,
        log_epoch=genesis.log_epoch,
        hash_key=genesis.hash_key,
        digest=state.digest,
        j=state.j,
        replay_from=state.replay_from,
        at=state.at,
        anchor=state.anchor,
        keys=[(*key, whole) for key, (whole, _) in zip(keys, parts, strict=True)],
        ledger=dict(sorted(state.ledger.items())),
        parked=state.parked,
        feedback_start=genesis.feedback_start,
        start=genesis.start,
        reign=genesis.reign or UNSET,
        topic_ids=genesis.topic_ids or UNSET,
        journal_mark=state.journal_mark,
        decisions_mark=state.decisions_mark,
    )
    text = _encoder.encode(meta)
    numbers = np.concatenate([evidence.shared, *(numbers for _, numbers in parts)]).astype("<f8", copy=False)
    body = _HEAD.pack(MAGIC, VERSION, 0, len(text)) + text + numbers.tobytes()
    if len(body) + _CRC.size > MAX_STATE_BYTES:
        raise StateError(
            f"the state of partition {state.partition} needs {len(body)} bytes, more than {MAX_STATE_BYTES}: "
            "use fewer models, fewer feature columns or fewer kinds of feedback"
        )
    return body + _CRC.pack(zlib.crc32(body))


def _written(evidence: Evidence, key: RowKey) -> tuple[bool, NDArray[np.float64]]:
    """Return whether a row is written as a whole, and what is written: usage alone has no part in b, Σx and A."""
    row, layout = evidence.rows[key], evidence.layout
    whole = bool(row[layout.b].any() or row[layout.sx].any() or row[layout.a].any())
    return whole, row[layout.written(whole)]


def decode_state(value: bytes | None) -> State:
    """Decode a state record; raises StateError when it is damaged, cut short or of another version."""
    if value is None or len(value) < _HEAD.size + _CRC.size or value[:4] != MAGIC:
        raise StateError(
            "a state record does not begin as one: the state topic holds foreign records or is damaged"
        )
    if zlib.crc32(value[: -_CRC.size]) != _CRC.unpack_from(value, len(value) - _CRC.size)[0]:
        raise StateError("a state record fails its checksum: it was damaged or cut short")
    _, version, _, length = _HEAD.unpack_from(value)
    if version != VERSION:
        raise StateError(
            f"a state record has version {version}; this build reads version {VERSION}: upgrade it"
        )
    try:
        meta = _decoder.decode(value[_HEAD.size : _HEAD.size + length])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateError(f"a state record cannot be read: {error}") from error
    tail = value[_HEAD.size + length : -_CRC.size]
    wrong = absurdity(meta, len(tail))
    if wrong is not None:
        raise StateError(f"a state record is damaged: {wrong}")
    evidence = Evidence(meta.d)
    shared = evidence.layout.shared_size
    sizes = [len(evidence.layout.written(whole)) for *_, whole in meta.keys]
    numbers = np.frombuffer(tail, "<f8").astype(np.float64)
    if numbers.size != shared + sum(sizes):
        raise StateError("a state record is damaged: it holds another number of statistics than it says")
    if not np.isfinite(numbers).all():
        raise StateError("a state record is damaged: a statistic is not a finite number")
    evidence.shared[:] = numbers[:shared]
    start = shared
    for (name, generation, kind, whole), size in zip(meta.keys, sizes, strict=True):
        row = evidence.row(RowKey(name, generation, kind))
        row[evidence.layout.written(whole)] = numbers[start : start + size]
        start += size
    return State(
        partition=meta.partition,
        spec_id=meta.spec_id,
        d=meta.d,
        genesis=Genesis(
            log_epoch=meta.log_epoch,
            hash_key=meta.hash_key,
            feedback_start=meta.feedback_start,
            start=meta.start,
            reign=0 if meta.reign is UNSET else meta.reign,
            topic_ids={} if meta.topic_ids is UNSET else meta.topic_ids,
        ),
        digest=meta.digest,
        j=meta.j,
        replay_from=meta.replay_from,
        at=meta.at,
        anchor=meta.anchor,
        ledger=Counter(meta.ledger),
        parked=meta.parked,
        evidence=evidence,
        journal_mark=meta.journal_mark,
        decisions_mark=meta.decisions_mark,
    )


def believable_state(value: bytes | None) -> State:
    """Decode a state record of somebody else's; raises StateError also where its statistics are not sums of votes."""
    state = decode_state(value)
    if not all(are_sums(row, state.evidence.layout) for row in state.evidence.rows.values()):
        raise StateError("a state record is damaged: its statistics are not sums of votes")
    return state


def genesis_state(
    partition: int,
    d: int,
    spec_id: str,
    settings: LearnerSettings,
    genesis: Genesis,
    *,
    request_offset: int = 0,
    decisions_offset: int = 0,
    journal_offset: int = 0,
) -> State:
    """Return the state that a partition begins with: no evidence, and where its logs stood."""
    start = Fields(D=decisions_offset, X=decisions_offset, rD=request_offset, rX=request_offset)
    offsets = Start(request_offset, decisions_offset, journal_offset)
    start.hi = {source: offset - 1 for source, offset in genesis.feedback_start.items() if offset > 0}
    return State(
        partition=partition,
        spec_id=spec_id,
        d=d,
        genesis=msgspec.structs.replace(genesis, start=offsets),
        digest=settings_digest(settings),
        j=journal_offset,
        replay_from=journal_offset,
        at=start.copy(),
        anchor=start.copy(),
        ledger=Counter(),
        parked=0,
        evidence=Evidence(d),
    )
