"""The binary header of a decision record: the context and every model's prediction, as logged.

Learning reads contexts and predictions from here alone, so that evidence depends on the log and on
nothing that happened to be in memory. Layout: docs/EVENTS.md.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.errors import StateError
from banditroute.flow.pending.kept import HeaderTable

HEADER_NAME: Final = "banditroute"
MAGIC: Final = b"BRD1"
VERSION: Final = 1
COLUMNS: Final = 5  # quality, sd, log_tokens, cost, log_latency
_FIXED: Final = struct.Struct("<4sHHHHf8sq")
_NAME: Final = struct.Struct("<IH")
_FLAGS_AT: Final = 10
_TOKENS_AT: Final = 12
_SHADOW: Final = 1
_COUNTED: Final = 2

Bytes = npt.NDArray[np.uint8]


class Predicted(NamedTuple):
    """What a decision logged of one model, and the context it saw."""

    key: ModelKey
    x: npt.NDArray[np.float32]
    quality: float
    sd: float
    log_tokens: float
    cost: float
    log_latency: float


class Header(NamedTuple):
    """A parsed header; `keys` are all models of the catalog at that time.

    `input_tokens` is what the decision reckoned with before calibration, `counted` whether the caller said so.
    """

    request_offset: int
    spec_id: str
    shadow: bool
    counted: bool
    input_tokens: float
    keys: tuple[ModelKey, ...]
    x: npt.NDArray[np.float32]
    predictions: npt.NDArray[np.float64]

    def predicted(self, name: str) -> Predicted | None:
        """Return the prediction of a model by name, or None if the catalog did not have it."""
        for index, key in enumerate(self.keys):
            if key.name == name:
                return Predicted(key, self.x, *map(float, self.predictions[index]))
        return None


class HeaderWriter:
    """Writes the headers of one batch for a fixed catalog and spec.

    Parameters
    ----------
    keys : sequence of ModelKey
        The catalog, in the order of the prediction rows.
    spec_id : str
        16 hexadecimal digits.
    d : int
        Columns of the context.
    """

    def __init__(self, keys: Sequence[ModelKey], spec_id: str, d: int) -> None:
        self.d = d
        self.k = len(keys)
        self._spec = bytes.fromhex(spec_id)
        encoded = [(key.generation, key.name.encode()) for key in keys]
        self._names = b"".join(_NAME.pack(generation, len(name)) + name for generation, name in encoded)
        self.size = _FIXED.size + 4 * self.d + 8 * COLUMNS * self.k + len(self._names)

    def write(
        self,
        offsets: npt.NDArray[np.int64] | Sequence[int],
        x: npt.NDArray[np.float32],
        predictions: npt.NDArray[np.float64],
        input_tokens: npt.NDArray[np.float32],
        counted: npt.NDArray[np.bool_],
        shadow: bool,
    ) -> HeaderTable:
        """Return one header per row of x[n, d], predictions[n, K, 5], input_tokens[n] and counted[n]."""
        n = len(offsets)
        body = _FIXED.size + 4 * self.d
        names = self.size - len(self._names)
        rows = np.empty((n, self.size), np.uint8)
        fixed = _FIXED.pack(MAGIC, VERSION, self.d, self.k, 0, 0.0, self._spec, 0)
        rows[:, : _FIXED.size] = np.frombuffer(fixed, np.uint8)
        flags = np.where(counted, _COUNTED, 0) + (_SHADOW if shadow else 0)
        for start, stop, column, kind in (
            (_FLAGS_AT, _TOKENS_AT, flags, "<u2"),
            (_TOKENS_AT, _TOKENS_AT + 4, input_tokens, "<f4"),
            (_FIXED.size - 8, _FIXED.size, offsets, "<i8"),
            (_FIXED.size, body, x, "<f4"),
            (body, names, predictions, "<f8"),
        ):
            rows[:, start:stop] = np.ascontiguousarray(column, kind).reshape(n, -1).view(np.uint8)
        rows[:, names:] = np.frombuffer(self._names, np.uint8)
        return HeaderTable(rows)


def request_offset_of(header: bytes) -> int:
    """Read only the request offset; raises StateError for bytes that are not a header."""
    if len(header) < _FIXED.size or header[:4] != MAGIC:
        raise StateError(
            "a decision record carries no banditroute header: the decisions topic holds foreign records"
        )
    return int(_FIXED.unpack_from(header)[7])


def parse_header(header: bytes) -> Header:
    """Parse a header; raises StateError when it is damaged or of another version."""
    request_offset_of(header)
    _, version, d, k, flags, tokens, spec, offset = _FIXED.unpack_from(header)
    if version != VERSION:
        raise StateError(
            f"a decision header has version {version}; this build reads version {VERSION}: upgrade it"
        )
    body = _FIXED.size + 4 * d
    names = body + 8 * COLUMNS * k
    if len(header) < names:
        raise StateError("a decision header is cut short: the decisions topic is damaged")
    x = np.frombuffer(header, "<f4", d, _FIXED.size).astype(
        np.float32
    )  # a writable, aligned copy for the kernels
    predictions = np.frombuffer(header, "<f8", COLUMNS * k, body).reshape(k, COLUMNS)
    shadow, counted = bool(flags & _SHADOW), bool(flags & _COUNTED)
    return Header(offset, spec.hex(), shadow, counted, tokens, _names(header[names:], k), x, predictions)


class HeaderColumns(NamedTuple):
    """Headers of one catalog and spec in columns; `rows` are their bytes, uint8[n, size]."""

    rows: Bytes
    spec_id: str
    keys: tuple[ModelKey, ...]
    request_offsets: npt.NDArray[np.int64]
    shadow: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    input_tokens: npt.NDArray[np.float32]
    x: npt.NDArray[np.float32]
    predictions: npt.NDArray[np.float64]


def parse_headers(headers: Sequence[bytes]) -> HeaderColumns | None:
    """Parse headers, at least one, that differ in nothing but their numbers; None if they do, or one is damaged."""
    size = len(headers[0])
    if size < _FIXED.size or any(len(header) != size for header in headers):
        return None
    magic, version, d, k, _, _, spec, _ = _FIXED.unpack_from(headers[0])
    body = _FIXED.size + 4 * d
    names = body + 8 * COLUMNS * k
    if magic != MAGIC or version != VERSION or size < names:
        return None
    rows = np.frombuffer(b"".join(headers), np.uint8).reshape(len(headers), size)
    for part in (slice(0, _FLAGS_AT), slice(_TOKENS_AT + 4, _FIXED.size - 8), slice(names, size)):
        if (rows[:, part] != rows[0, part]).any():
            return None

    def column(start: int, stop: int, kind: str) -> npt.NDArray[Any]:
        return np.ascontiguousarray(rows[:, start:stop]).view(kind)

    flags = column(_FLAGS_AT, _TOKENS_AT, "<u2")[:, 0]
    return HeaderColumns(
        rows, spec.hex(), _names(headers[0][names:], k), column(_FIXED.size - 8, _FIXED.size, "<i8")[:, 0],
        flags & _SHADOW != 0, flags & _COUNTED != 0, column(_TOKENS_AT, _TOKENS_AT + 4, "<f4")[:, 0],
        column(_FIXED.size, body, "<f4").astype(np.float32, copy=False),
        column(body, names, "<f8").reshape(len(headers), k, COLUMNS),
    )  # fmt: skip


def replace_context(header: bytes, spec_id: str, x: npt.NDArray[np.float32]) -> bytes:
    """Return a header with the context float32[d] of another spec; predictions stay as logged."""
    d = len(parse_header(header).x)
    magic, version, _, k, flags, tokens, _, offset = _FIXED.unpack_from(header)
    fixed = _FIXED.pack(magic, version, len(x), k, flags, tokens, bytes.fromhex(spec_id), offset)
    return fixed + x.astype("<f4").tobytes() + header[_FIXED.size + 4 * d :]


@lru_cache(maxsize=256)
def _names(blob: bytes, k: int) -> tuple[ModelKey, ...]:
    keys = []
    at = 0
    for _ in range(k):
        generation, length = _NAME.unpack_from(blob, at)
        at += _NAME.size
        keys.append(ModelKey(blob[at : at + length].decode(), generation))
        at += length
    return tuple(keys)
