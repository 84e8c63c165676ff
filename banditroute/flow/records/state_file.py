"""A file of state records: what `banditroute state export` writes and `state import` reads.

Layout: ``BRX1``, u32 number of records, then per record u32 length and a state record as on the topic, last u32
crc32 (zlib) of everything before it. Each record has a checksum of its own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Final

from banditroute.errors import StateError
from banditroute.flow.records.snapshot import MAX_STATE_BYTES, State, believable_state, encode_state

MAGIC: Final = b"BRX1"
MAX_PARTITIONS: Final = 4096
_COUNT: Final = struct.Struct("<4sI")
_WORD: Final = struct.Struct("<I")


def encode_states(states: Iterable[State]) -> bytes:
    """Return the bytes of a file, one record per partition in ascending order."""
    records = [encode_state(state) for state in sorted(states, key=lambda state: state.partition)]
    body = _COUNT.pack(MAGIC, len(records))
    body += b"".join(_WORD.pack(len(record)) + record for record in records)
    return body + _WORD.pack(zlib.crc32(body))


def decode_states(data: bytes, path: str) -> list[State]:
    """Read the bytes of a file.

    Raises
    ------
    StateError
        One sentence: it is not such a file, damaged, cut short or out of bounds.
    """
    if len(data) < _COUNT.size + _WORD.size or data[:4] != MAGIC:
        raise StateError(f"'{path}' was not written by `banditroute state export`")
    if zlib.crc32(data[: -_WORD.size]) != _WORD.unpack_from(data, len(data) - _WORD.size)[0]:
        raise StateError(f"'{path}' fails its checksum: it was damaged or cut short")
    count = _COUNT.unpack_from(data)[1]
    if count > MAX_PARTITIONS:
        raise StateError(f"'{path}' speaks of {count} partitions, more than {MAX_PARTITIONS}")
    states, at, end = [], _COUNT.size, len(data) - _WORD.size
    for _ in range(count):
        length = _WORD.unpack_from(data, at)[0] if at + _WORD.size <= end else end
        at += _WORD.size
        if length > MAX_STATE_BYTES or at + length > end:
            raise StateError(f"'{path}' holds a record of {length} bytes, which is more than there can be")
        states.append(believable_state(data[at : at + length]))
        at += length
    if at != end or len({state.partition for state in states}) != count:
        raise StateError(f"'{path}' does not hold one record for each of its partitions")
    return states
