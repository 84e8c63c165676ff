"""The compiled half of the encoder: counts squashed into columns, one row per request.

Results are the same on every machine and for every split into batches: counts are integers, and only
``+ - * /`` and ``sqrt`` follow, which IEEE 754 rounds correctly; even the logarithm is made of them, because
the ones of C libraries differ.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import _kernels_layout as layout
from ._kernels_fields import encode_fields, encode_names
from ._kernels_layout import Bytes, Floats, Ints, Memory
from ._kernels_objects import int_of, list_item, list_size
from ._kernels_text import inlined, kernel, read_texts
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
        work[layout.SUMS_AT + 8 * BLOCK : layout.PLAN_AT].view(np.float64),
        work[layout.PLAN_AT : layout.NUMBERS_AT].view(np.int64),
        work[layout.NUMBERS_AT :].view(np.float64),
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
def _standardise(m: Memory, order: int, block: int, x: Any) -> None:
    """Centre, scale and clip raw numbers into the columns of their block; `order` is where their places are."""
    raw, numbers, starts = m.raw, m.numbers, m.plan[layout.STARTS_AT :]
    out, places = x[starts[block] : starts[block + 1]], m.plan[layout.ORDER_AT + order :]
    factor = numbers[block]
    clip = numbers[layout.CLIPS_AT + 1]
    for j in range(out.shape[0]):
        i = places[j]
        value = (raw[i] - numbers[layout.SCALES_AT + 2 * i]) * numbers[layout.SCALES_AT + 2 * i + 1]
        out[j] = min(max(value, -clip), clip) * factor


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


@inlined
def _encode_numeric(asked: int, counted: int, has_text: bool, tokens: float, m: Memory, x: Any) -> None:
    """Encode input tokens, counted or estimated, and the maximal output tokens; -1 is not told."""
    starts = m.plan[layout.STARTS_AT :]
    out = x[starts[layout.NUMERIC] : starts[layout.STAT]]
    m.raw[35] = _log2p(float(counted) if counted >= 0 else tokens)
    m.raw[36] = _log2p(float(max(asked, 0)))
    _standardise(m, layout.NUMERICS, layout.NUMERIC, x)
    if counted < 0 and not has_text:
        out[0] = 0.0
    if asked < 0 and out.shape[0] == 2:
        out[1] = 0.0


@inlined
def _encode_counts(tokens: float, m: Memory, x: Any) -> None:
    """Encode what was counted: statistics, scripts, shape of the chat."""
    plan, counts, totals, raw = m.plan, m.counts, m.totals, m.raw
    _statistics(counts, tokens, raw)
    if plan[layout.GRAMS_AT]:
        raw[22] = _log2p(_squared(totals, BLOCK) / max(totals[BLOCK], 1))
    _standardise(m, layout.STATS, layout.STAT, x)
    if plan[layout.SCRIPT]:
        _scripts(counts, raw)
        _standardise(m, layout.SCRIPTS, layout.SCRIPT, x)
    if plan[layout.CHAT] and counts[layout.TURNS] + counts[layout.SYSTEM] > 0:
        _chat(counts, raw)
        _standardise(m, layout.CHATS, layout.CHAT, x)


@inlined
def _encode_grams(m: Memory, x: Any) -> None:
    """Encode the hashed n-grams of characters and of words."""
    plan, totals, sums, numbers = m.plan, m.totals, m.sums, m.numbers
    starts = plan[layout.STARTS_AT :]
    width = plan[layout.CHAR]
    if width > 0:
        if width < BLOCK:
            for c in range(1, BLOCK):  # a column moves down or stays, so this is done in place
                total, totals[c] = totals[c], 0
                totals[(c * width) >> 6] += total
        out = x[starts[layout.CHAR] : starts[layout.WORD]]
        _normalise(totals, _squared(totals, width), numbers[layout.CHAR], out)
    if plan[layout.WORD] > 0:
        out = x[starts[layout.WORD] : starts[layout.EMBEDDING]]
        _normalise(sums, _squared(sums, plan[layout.WORD]), numbers[layout.WORD], out)


@inlined
def _number_at(slots: int, at: int, m: Memory) -> int:
    """Value of an integer in a slot, -1 for None and for what is no integer of 64 bits."""
    item = list_item(slots, at)
    return -1 if item == m.plan[layout.NONE_AT] else int_of(item)


@inlined
def _encode_one(slots: int, at: int, stride: int, projection: Floats, m: Memory, x: Any) -> float:
    """Encode one request into a row of zeros; return its input tokens."""
    m.counts[:] = 0
    m.totals[:] = 0
    m.sums[: m.plan[layout.WORD]] = 0
    has_text = read_texts(slots, at, stride, m)
    tokens = _tokens(m.counts, m.numbers[layout.TOKENS_AT : layout.SCALES_AT])
    counted = asked = -1
    if stride > 1:
        encode_names(slots, at, layout.TAG, layout.SESSION, m, x)
        counted = _number_at(slots, at + 4, m)
        if stride > 5:
            encode_fields(slots, at, projection, m, x)
            asked = _number_at(slots, at + 9, m)
    if m.plan[layout.NUMERIC]:
        _encode_numeric(asked, counted, has_text, tokens, m, x)
    if has_text:
        _encode_counts(tokens, m, x)
        _encode_grams(m, x)
    return float(counted) if 0 <= counted < 2**53 else tokens


def _sources() -> int:
    """Return a checksum of the kernels, which all end up in `encode_all`."""
    checksum = 0
    for path in sorted(Path(__file__).parent.glob("_kernels*.py")):
        checksum = zlib.crc32(path.read_bytes(), checksum)
    return checksum


def _compiled(sources: int) -> Callable[..., None]:
    """Return `encode_all`.

    numba's cache looks at the file of a function and at the variables that the function encloses, not at what it
    calls in other files; `sources` is enclosed so that an edit in any of them is noticed.
    """

    @njit_cached(_nrt=False)
    def encode_all(slots: int, stride: int, projection: Floats, work: Bytes, out: Any, tokens: Any) -> None:
        m, there = _cut(work), list_size(slots) // stride
        if sources < 0:  # never
            return
        for r in range(out.shape[0]):
            x = out[r]
            x[:] = 0.0
            x[0] = 1.0
            if r >= there:
                tokens[r] = 0.0
                continue
            tokens[r] = _encode_one(slots, r * stride, stride, projection, m, x)

    return encode_all


encode_all = _compiled(_sources())
"""Encode a batch: one row of `out` and one element of `tokens` per request.

`slots` is the address of a list with `stride` objects per request (`SLOTS` says which); it and what it
holds stay alive meanwhile. No other thread can change it while the kernel runs, but one may have before:
requests that are no longer there are left as zeros.
"""
