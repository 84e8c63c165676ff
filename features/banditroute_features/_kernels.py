"""The compiled half of the encoder: squashing counts, hashing names, reducing embeddings, one row per request.

Results are the same on every machine and for every split into batches: counts are integers, and only
``+ - * /`` and ``sqrt`` follow, which IEEE 754 rounds correctly; even the logarithm is made of them, because
the ones of C libraries differ.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _kernels_layout as layout
from ._kernels_layout import Bytes, Floats, Ints, Memory
from ._kernels_objects import float_of, int_of, list_item, list_size, string_of, tuple_item, tuple_size
from ._kernels_text import ONE, fill, inlined, kernel, mix, read_texts
from ._kernels_vector import BLOCK
from .compile import njit_cached

__all__ = ["encode_all"]


@inlined
def _cut(work: Bytes) -> Memory:
    state = work[layout.STATE_AT : layout.RAW_AT]
    return Memory(
        work[: layout.TEXT],
        work[layout.FOLDED_AT : layout.FOLDED_AT + layout.TEXT],
        work[layout.FOLDED_AT + layout.TEXT : layout.INDICES_AT].view(np.uint16),
        work[layout.INDICES_AT : layout.INDICES_AT + layout.INDICES],
        work[layout.TOTALS_AT : layout.KEYS_AT].view(np.int32),
        work[layout.KEYS_AT : layout.KEYS_AT + 12].view(np.uint16),
        state[:16].view(np.int64),
        state[16 : 16 + 8 * layout.CARRIES].view(np.uint64),
        state[16 + 8 * layout.CARRIES : 16 + 8 * (layout.CARRIES + layout.COUNTS)].view(np.int64),
        state[16 + 8 * (layout.CARRIES + layout.COUNTS) :].view(np.uint64),
        work[layout.RAW_AT : layout.SUMS_AT].view(np.float64),
        work[layout.SUMS_AT : layout.SUMS_AT + 8 * BLOCK].view(np.int64),
        work[layout.SUMS_AT + 8 * BLOCK :].view(np.float64),
    )


@inlined
def _log2p(x: float) -> float:
    """About log2(1 + x) for x >= 0, to 0.01: the exponent, and a parabola through the mantissa."""
    bits = np.float64(1.0 + x).view(np.int64)
    f = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64) - 1.0
    return float(((bits >> 52) - 1023) + f + 0.34375 * (f * (1.0 - f)))


@inlined
def _tokens(c: Ints, weights: Floats) -> float:
    """Estimate the input tokens; the weights are binary fractions, so the sum is exact in any order."""
    estimate = weights[0] + weights[1] * c[layout.WORDS] + weights[2] * (c[layout.LOWER] + c[layout.UPPER])
    estimate += weights[3] * c[layout.DIGITS] + weights[4] * c[layout.SIGNS] + weights[5] * c[layout.LINES]
    alphabet = c[layout.LEADS] - c[layout.LATIN] - c[layout.CJK] - c[layout.SYMBOLS]
    estimate += weights[6] * c[layout.LATIN] + weights[7] * alphabet
    return float(estimate + weights[8] * c[layout.SYMBOLS] + weights[9] * c[layout.CJK])


@inlined
def _statistics(c: Ints, tokens: float, raw: Floats) -> None:
    """Fill the raw statistics but for repetition, in the order of `RAW`."""
    per_byte = float(max(c[layout.BYTES], 1))
    raw[0] = _log2p(c[layout.BYTES])
    raw[1] = _log2p(c[layout.WORDS])
    raw[2] = _log2p(tokens)
    raw[3] = _log2p(c[layout.WORD_BYTES] / max(c[layout.WORDS], 1))
    raw[4] = _log2p(c[layout.LINES])
    raw[5] = math.sqrt(c[layout.DIGITS] / per_byte)
    raw[6] = math.sqrt(c[layout.UPPER] / per_byte)
    raw[7] = math.sqrt((c[layout.SIGNS] - c[layout.CODE] - c[layout.OPERATORS] - c[layout.LATEX]) / per_byte)
    raw[8] = _log2p(c[layout.QUESTIONS])
    raw[9] = math.sqrt(c[layout.CODE] / per_byte)
    raw[10] = _log2p(c[layout.KEYWORDS])
    raw[11] = _log2p(c[layout.INDENTED])
    raw[12] = _log2p(c[layout.FENCES])
    raw[13] = math.sqrt((c[layout.OPERATORS] + c[layout.LATEX]) / per_byte)
    raw[14] = _log2p(c[layout.COMMANDS])
    raw[15] = _log2p(c[layout.ARITHMETIC])
    raw[16] = _log2p(c[layout.ITEMS])
    raw[17] = _log2p(c[layout.ROWS])
    raw[18] = _log2p(c[layout.PAIRS])
    raw[19] = _log2p(c[layout.URLS])
    raw[20] = _log2p(c[layout.OPTIONS])
    raw[21] = math.sqrt(c[layout.QUOTED] / per_byte)


@inlined
def _scripts(c: Ints, raw: Floats) -> None:
    """Fill the shares of the scripts among all letters, and of symbols among all characters.

    Latin is what the other scripts leave, so that a text without letters is as Latin as plain English.
    """
    ascii_letters = c[layout.LOWER] + c[layout.UPPER]
    others = c[layout.LEADS] - c[layout.SYMBOLS] - c[layout.LATIN]
    named = c[layout.CYRILLIC] + c[layout.CJK] + c[layout.ARABIC] + c[layout.DEVANAGARI]
    letters = max(ascii_letters + c[layout.LATIN] + others, 1)
    raw[23] = (letters - others) / letters
    raw[24] = c[layout.CYRILLIC] / letters
    raw[25] = c[layout.CJK] / letters
    raw[26] = c[layout.ARABIC] / letters
    raw[27] = c[layout.DEVANAGARI] / letters
    raw[28] = (others - named) / letters
    raw[29] = math.sqrt(c[layout.SYMBOLS] / max(c[layout.BYTES] - c[layout.CONTINUED], 1))


@kernel
def _chat(c: Ints, raw: Floats) -> None:
    """Fill the shape of the chat."""
    raw[30] = _log2p(max(c[layout.TURNS], 1) - 1)
    raw[31] = _log2p(c[layout.REPLIES])
    raw[32] = _log2p(c[layout.OTHERS])
    raw[33] = _log2p(c[layout.LAST_USER])
    raw[34] = _log2p(c[layout.SYSTEM])


@kernel
def _standardise(raw: Floats, order: Ints, numbers: Floats, factor: float, block: Any) -> None:
    """Centre, scale and clip raw numbers into their columns."""
    clip = numbers[layout.CLIPS_AT + 1]
    for j in range(block.shape[0]):
        i = order[j]
        value = (raw[i] - numbers[layout.SCALES_AT + 2 * i]) * numbers[layout.SCALES_AT + 2 * i + 1]
        block[j] = min(max(value, -clip), clip) * factor


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


@inlined
def _squared(sums: Any, columns: int) -> Any:
    """Sum of squares, exact: the second moment of the grams, in expectation over the hash."""
    squares = np.int64(0)
    for i in range(columns):
        squares += np.int64(sums[i]) * np.int64(sums[i])
    return squares


@inlined
def _normalise(sums: Any, squares: Any, factor: float, block: Any) -> None:
    """Write sums of signs as a vector of norm `factor`; nothing stays nothing."""
    if squares > 0:
        scale = factor / math.sqrt(float(squares))
        for i in range(block.shape[0]):
            block[i] = float(sums[i]) * scale


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
def _encode_fields(
    slots: int, at: int, plan: Ints, numbers: Floats, projection: Floats, m: Memory, x: Any
) -> None:
    """Encode what only long strides hold: session, language, hour, crosses, embedding, context."""
    start = 1 + plan[layout.TAG] + plan[layout.TENANT]
    bases, clip = plan[layout.BASES_AT :], numbers[layout.CLIPS_AT]
    for block, slot in ((layout.SESSION, 5), (layout.LANGUAGE, 6), (layout.HOUR, 7), (layout.CROSS, 8)):
        out = x[start : start + plan[block]]
        start += plan[block]
        item = list_item(slots, at + slot)
        if item == plan[layout.NONE_AT] or out.shape[0] == 0:
            continue
        if block == layout.HOUR:
            hour = int_of(item)
            if out.shape[0] == 2 and 0 <= hour < 24:
                out[0] = numbers[layout.CONTEXT_SCALES_AT + 512 + hour] * numbers[block]
                out[1] = numbers[layout.CONTEXT_SCALES_AT + 512 + (hour + 18) % 24] * numbers[block]
        else:
            number = tuple_size(item) if block == layout.CROSS else -1
            _add_names(item, number, np.uint64(bases[block]), m.text, clip, numbers[block], out)
    for block in range(layout.NUMERIC, layout.EMBEDDING):
        start += plan[block]
    middle = start + plan[layout.EMBEDDING]
    item = list_item(slots, at + 10)
    if plan[layout.EMBEDDING] and item != plan[layout.NONE_AT]:
        basis = np.uint64(bases[layout.EMBEDDING])
        _embed(item, basis, projection, m.embedding, numbers[layout.EMBEDDING], x[start:middle])
    item = list_item(slots, at + 11)
    if plan[layout.CONTEXT] and item != plan[layout.NONE_AT]:
        _take(item, numbers, numbers[layout.CONTEXT], x[middle:])


@inlined
def _encode_one(
    slots: int, at: int, stride: int, plan: Ints, numbers: Floats, projection: Floats, m: Memory, x: Any
) -> float:
    """Encode one request into a row of zeros; return its input tokens."""
    counts, totals, raw, sums = m.counts, m.totals, m.raw, m.sums[: plan[layout.WORD]]
    counts[:] = 0
    totals[:] = 0
    sums[:] = 0
    has_text = read_texts(slots, at, stride, plan, m)
    tokens = _tokens(counts, numbers[layout.TOKENS_AT : layout.SCALES_AT])
    counted = -1
    start = 1
    if stride > 1:
        for block in (layout.TAG, layout.TENANT):
            item, stop = list_item(slots, at + 2 + block), start + plan[block]
            if item != plan[layout.NONE_AT] and stop > start:
                basis = np.uint64(plan[layout.BASES_AT + block])
                number = tuple_size(item) if block == layout.TAG else -1
                _add_names(
                    item, number, basis, m.text, numbers[layout.CLIPS_AT], numbers[block], x[start:stop]
                )
            start = stop
        item = list_item(slots, at + 4)
        if item != plan[layout.NONE_AT]:
            counted = int_of(item)
        if stride > 5:
            _encode_fields(slots, at, plan, numbers, projection, m, x)
    start = 1
    for block in range(layout.NUMERIC):
        start += plan[block]
    if plan[layout.NUMERIC]:
        asked = -1
        if stride > 5 and list_item(slots, at + 9) != plan[layout.NONE_AT]:
            asked = int_of(list_item(slots, at + 9))
        raw[35] = _log2p(float(counted) if counted >= 0 else tokens)
        raw[36] = _log2p(float(max(asked, 0)))
        out = x[start : start + plan[layout.NUMERIC]]
        _standardise(raw, plan[layout.ORDER_AT + layout.NUMERICS :], numbers, numbers[layout.NUMERIC], out)
        if counted < 0 and not has_text:
            out[0] = 0.0
        if asked < 0 and plan[layout.NUMERIC] == 2:
            out[1] = 0.0
    if has_text:
        start += plan[layout.NUMERIC]
        _statistics(counts, tokens, raw)
        squares: Any = np.int64(0)
        if plan[layout.GRAMS_AT]:
            squares = _squared(totals, BLOCK)
            raw[22] = _log2p(squares / max(totals[BLOCK], 1))
        _standardise(
            raw, plan[layout.ORDER_AT :], numbers, numbers[layout.STAT], x[start : start + plan[layout.STAT]]
        )
        start += plan[layout.STAT]
        if plan[layout.SCRIPT]:
            _scripts(counts, raw)
            out = x[start : start + plan[layout.SCRIPT]]
            _standardise(raw, plan[layout.ORDER_AT + layout.SCRIPTS :], numbers, numbers[layout.SCRIPT], out)
        start += plan[layout.SCRIPT]
        if plan[layout.CHAT] and counts[layout.TURNS] + counts[layout.SYSTEM] > 0:
            _chat(counts, raw)
            out = x[start : start + plan[layout.CHAT]]
            _standardise(raw, plan[layout.ORDER_AT + layout.CHATS :], numbers, numbers[layout.CHAT], out)
        start += plan[layout.CHAT]
        width = plan[layout.CHAR]
        if 0 < width < BLOCK:
            for c in range(1, BLOCK):  # a column moves down or stays, so this is done in place
                total, totals[c] = totals[c], 0
                totals[(c * width) >> 6] += total
            squares = _squared(totals, width)
        _normalise(totals, squares, numbers[layout.CHAR], x[start : start + width])
        start += plan[layout.CHAR]
        _normalise(
            sums,
            _squared(sums, plan[layout.WORD]),
            numbers[layout.WORD],
            x[start : start + plan[layout.WORD]],
        )
    return float(counted) if 0 <= counted < 2**53 else tokens


@njit_cached(_nrt=False)
def encode_all(
    slots: int,
    stride: int,
    plan: Ints,
    numbers: Floats,
    projection: Floats,
    work: Bytes,
    out: Any,
    tokens: Any,
) -> None:
    """Encode a batch: one row of `out` and one element of `tokens` per request.

    `slots` is the address of a list with `stride` objects per request (`SLOTS` says which); it and what it
    holds stay alive meanwhile. No other thread can change it while the kernel runs, but one may have before:
    requests that are no longer there are left as zeros.
    """
    m, there = _cut(work), list_size(slots) // stride
    for r in range(out.shape[0]):
        x = out[r]
        x[:] = 0.0
        x[0] = 1.0
        if r >= there:
            tokens[r] = 0.0
            continue
        tokens[r] = _encode_one(slots, r * stride, stride, plan, numbers, projection, m, x)
