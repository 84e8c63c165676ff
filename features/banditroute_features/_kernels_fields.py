"""The fields of a request as columns: hashed names, crosses, the hour, embeddings, the caller's numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _kernels_layout as layout
from ._kernels_layout import Bytes, Floats, Memory
from ._kernels_objects import float_of, int_of, list_item, string_of, tuple_item, tuple_size
from ._kernels_text import ONE, fill, inlined, kernel, mix

__all__ = ["encode_fields", "encode_names"]


@kernel
def _add_name(item: int, basis: Any, text: Bytes, block: Any) -> int:
    """Add +1 or -1 to the column of a name: sign from the lowest bit, column from the upper half.

    FNV-1a 64 over the UTF-8 bytes from a seeded basis, mixed. Returns 1, or 0 for what is no string.
    """
    source = string_of(item)
    if source[1] < 0:
        return 0
    h, first = basis, 0
    while first < source[1]:
        first, end = fill(source, first, text, 0, layout.CHUNK)
        for i in range(end):
            h = (h ^ np.uint64(text[i])) * np.uint64(0x100000001B3)
    h = mix(h)
    column = ((h >> np.uint64(32)) * np.uint64(block.shape[0])) >> np.uint64(32)
    block[column] += np.float32(-1.0) if h & ONE else np.float32(1.0)
    return 1


@kernel
def _add_names(
    item: int, number: int, basis: Any, text: Bytes, clip: float, factor: float, block: Any
) -> None:
    """Hash a name or a tuple of names, and turn sums of signs into ``clip(sum / sqrt(names)) * factor``."""
    names = 0
    if number < 0:
        names = _add_name(item, basis, text, block)
    for i in range(number):
        names += _add_name(tuple_item(item, i), basis, text, block)
    root = math.sqrt(max(names, 1))
    for i in range(block.shape[0]):
        block[i] = min(max(float(block[i]) / root, -clip), clip) * factor


@kernel
def _embed(item: int, basis: Any, projection: Floats, y: Floats, factor: float, block: Any) -> None:
    """Reduce an embedding to the columns of its block, with a norm of 2 at most before the factor.

    Seeded: dimension j goes to column ``j % columns`` with a hashed sign. The rows of this projection do not
    overlap, so they are orthogonal, for any dimension, in linear time and without a table. Learned:
    ``W (e / |e|) - W mean`` with row j of `projection` for dimension j and ``W mean`` in the last row.
    """
    number, columns = tuple_size(item), block.shape[0]
    learned = projection.shape[0] > 1
    if number < 1 or (learned and projection.shape[0] != number + 1):
        return
    y[:columns] = 0.0
    squares = 0.0
    for j in range(number):
        value = float_of(tuple_item(item, j))
        squares += value * value
        if learned:
            row = projection[j]
            for c in range(columns):
                y[c] += value * row[c]
        else:
            y[j % columns] += -value if mix(basis ^ np.uint64(j)) & ONE else value
    if not 0.0 < squares < math.inf:  # also for not-a-number
        return
    root, norm = math.sqrt(squares), 0.0
    for c in range(columns):
        y[c] /= root
        if learned:
            y[c] -= projection[number, c]
        norm += y[c] * y[c]
    shrink = 2.0 / math.sqrt(norm) if norm > 4.0 else 1.0
    for c in range(columns):
        block[c] = y[c] * shrink * factor


@kernel
def _take(item: int, numbers: Floats, factor: float, block: Any) -> None:
    """Copy the caller's numbers, centred, scaled and clipped; what is no finite number counts as the centre."""
    clip = numbers[layout.CLIPS_AT + 2]
    for j in range(min(tuple_size(item), block.shape[0])):
        scale = numbers[layout.CONTEXT_SCALES_AT + 2 * j : layout.CONTEXT_SCALES_AT + 2 * j + 2]
        value = (float_of(tuple_item(item, j)) - scale[0]) * scale[1]
        if value == value:
            block[j] = min(max(value, -clip), clip) * factor


@kernel
def _encode_hour(item: int, m: Memory, out: Any) -> None:
    """Put an hour on a circle; the sine is the cosine six hours earlier."""
    hour = int_of(item)
    if 0 <= hour < 24:
        out[0] = m.numbers[layout.HOURS_AT + hour] * m.numbers[layout.HOUR]
        out[1] = m.numbers[layout.HOURS_AT + (hour + 18) % 24] * m.numbers[layout.HOUR]


@inlined
def encode_names(slots: int, at: int, first: int, stop: int, m: Memory, x: Any) -> None:
    """Encode the blocks of names from `first` to `stop`. Tag and tenant are in slot block + 2, others in block + 3."""
    plan, numbers, starts = m.plan, m.numbers, m.plan[layout.STARTS_AT :]
    for block in range(first, stop):
        item = list_item(slots, at + block + (2 if block < layout.SESSION else 3))
        out = x[starts[block] : starts[block + 1]]
        if item == plan[layout.NONE_AT] or out.shape[0] == 0 or block == layout.HOUR:
            continue
        number = tuple_size(item) if block == layout.TAG or block == layout.CROSS else -1
        basis = np.uint64(plan[layout.BASES_AT + block])
        _add_names(item, number, basis, m.text, numbers[layout.CLIPS_AT], numbers[block], out)


@kernel
def encode_fields(slots: int, at: int, projection: Floats, m: Memory, x: Any) -> None:
    """Encode what only long strides hold: session, language, hour, crosses, embedding, context."""
    plan, numbers, starts = m.plan, m.numbers, m.plan[layout.STARTS_AT :]
    encode_names(slots, at, layout.SESSION, layout.NUMERIC, m, x)
    item = list_item(slots, at + 7)
    if plan[layout.HOUR] and item != plan[layout.NONE_AT]:
        _encode_hour(item, m, x[starts[layout.HOUR] : starts[layout.CROSS]])
    item = list_item(slots, at + 10)
    if plan[layout.EMBEDDING] and item != plan[layout.NONE_AT]:
        basis = np.uint64(plan[layout.BASES_AT + layout.EMBEDDING])
        out = x[starts[layout.EMBEDDING] : starts[layout.CONTEXT]]
        _embed(item, basis, projection, m.embedding, numbers[layout.EMBEDDING], out)
    item = list_item(slots, at + 11)
    if plan[layout.CONTEXT] and item != plan[layout.NONE_AT]:
        _take(item, numbers, numbers[layout.CONTEXT], x[starts[layout.CONTEXT] :])
