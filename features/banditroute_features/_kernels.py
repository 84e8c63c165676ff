"""The compiled half of the encoder: counting bytes, squashing counts, hashing names.

Results are the same on every machine and for every split into batches: counts are integers, and only
``+ - * /`` and ``sqrt`` follow, which IEEE 754 rounds correctly; even the logarithm is made of them, because
the ones of C libraries differ. All kernels live in this file, since numba's cache does not notice an edited
callee in another module.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .compile import njit_cached

__all__ = ["CLIP_AT", "FIELDS", "GRAM_BUCKETS", "STATISTICS_AT", "TOKENS_AT", "encode_all"]

_Ints = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float64]

# Classes of bytes. From _LOWER on they belong to words, so that one comparison finds where a word starts.
_SPACE, _NEWLINE, _STOP, _QUESTION, _CODE, _OPERATOR, _LATEX = range(7)
_LOWER, _UPPER, _DIGIT, _LATIN, _ALPHABET, _SYMBOL, _CJK, _CONTINUATION = range(8, 16)

FIELDS: Final = (
    4  # per request in `meta`: texts or -1, turns, 2 * tags + (1 if there is a tenant), tokens or -1
)
GRAM_BUCKETS: Final = 1024
# Where things are in `numbers`: scales of tag, tenant and statistics; the two clips; token weights; then
# centre and gain of each statistic, one pair after the other.
CLIP_AT: Final = 3
TOKENS_AT: Final = 5
STATISTICS_AT: Final = 15


def _byte_classes() -> _Bytes:
    """Return the class of each of the 256 bytes; what is not named is space."""
    table = np.full(256, _SPACE, np.uint8)
    for byte_class, members in (
        (_NEWLINE, b"\n"),
        (_STOP, b".,:!'\"()"),
        (_QUESTION, b"?"),
        (_CODE, b"{}[];_`@#&|~<>"),
        (_OPERATOR, b"+-*/=^%"),
        (_LATEX, b"\\$"),
        (_LOWER, range(ord("a"), ord("z") + 1)),
        (_UPPER, range(ord("A"), ord("Z") + 1)),
        (_DIGIT, range(ord("0"), ord("9") + 1)),
        (_CONTINUATION, range(0x80, 0xC0)),
        (_LATIN, range(0xC0, 0xCA)),  # Latin letters with marks
        (_ALPHABET, range(0xCA, 0xE2)),  # Greek, Cyrillic, Hebrew, Arabic, the scripts of India, Thai, …
        (_SYMBOL, [0xE2, *range(0xF0, 0x100)]),  # typographic signs, mathematical signs, emoji
        (_CJK, range(0xE3, 0xF0)),  # kana, Han, Hangul, full-width forms
    ):
        table[list(members)] = byte_class
    return table


_CLASS = _byte_classes()


@njit_cached()
def _log2p(x: float) -> float:
    """About log2(1 + x) for x >= 0, to 0.01: the exponent, and a parabola through the mantissa."""
    bits = np.float64(1.0 + x).view(np.int64)
    f = np.int64((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).view(np.float64) - 1.0
    return float(((bits >> 52) - 1023) + f + 0.34375 * (f * (1.0 - f)))


@njit_cached()
def _is_marker(text: _Bytes, at: int) -> bool:
    """Whether the line that starts at `at` is an item of a list, a heading, an option or a table row."""
    end = text.shape[0]
    limit = min(end, at + 8)  # bounded, or lines of blanks would take quadratic time
    while at < limit and (text[at] == 32 or text[at] == 9):
        at += 1
    if at + 1 >= end:
        return False
    first, second = text[at], text[at + 1]
    if first == 45 or first == 42 or first == 43 or first == 35 or first == 124:  # - * + # |
        return bool(second == 32)
    byte_class = _CLASS[first]
    if byte_class == _LOWER or byte_class == _UPPER:
        return bool(second == 46 or second == 41)  # . )
    if first == 40:  # (
        inside = _CLASS[second]
        return bool(_LOWER <= inside <= _DIGIT and at + 2 < end and text[at + 2] == 41)
    digits = at
    limit = min(end, at + 3)
    while digits < limit and _CLASS[text[digits]] == _DIGIT:
        digits += 1
    return digits > at and digits < end and (text[digits] == 46 or text[digits] == 41)


@njit_cached()
def _count(text: _Bytes, pairs: _Ints, grams: npt.NDArray[np.uint32]) -> tuple[int, np.int64]:
    """Add a text to the counts of class pairs and of hashed 4-grams; return list markers and repeats.

    ``pairs[16 * before + class]`` holds all that the statistics need: its column sums count classes, its
    cells count word starts, indented lines and digits beside operators. No branch depends on the text
    but the one for line ends. Repeats are pairs of equal 4-grams, counted as each one arrives because
    running over all buckets afterwards costs as much as a short prompt.
    """
    markers = 1 if _is_marker(text, 0) else 0
    repeats = np.int64(0)
    row = np.uint64(_NEWLINE * 16)  # a text starts on a line of its own
    gram = np.uint64(0)
    for i in range(text.shape[0]):
        byte = text[i]
        byte_class = np.uint64(_CLASS[byte])
        pairs[row | byte_class] += 1
        gram = (gram >> np.uint64(8)) | (np.uint64(byte) << np.uint64(24))
        bucket = (gram * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(54)
        repeats += np.int64(grams[bucket])
        grams[bucket] += np.uint32(1)
        if byte_class == np.uint64(_NEWLINE) and _is_marker(text, i + 1):
            markers += 1
        row = byte_class << np.uint64(4)
    return markers, repeats


@njit_cached()
def _summarise(pairs: _Ints, totals: _Ints) -> int:
    """Fill the count of each class; return the number of words."""
    totals[:] = 0
    words = 0
    for before in range(16):
        row = pairs[before * 16 : before * 16 + 16]
        for byte_class in range(16):
            totals[byte_class] += row[byte_class]
        if before < _LOWER:
            for byte_class in range(_LOWER, 16):
                words += row[byte_class]
    return words


@njit_cached()
def _statistics(
    pairs: _Ints, totals: _Ints, words: int, repeats: np.int64, markers: int, turns: int, raw: _Floats
) -> None:
    """Fill the raw statistics, in the order of the columns."""
    n = totals.sum()
    word_bytes = totals[_LOWER:].sum()
    leads = totals[_LATIN:_CONTINUATION].sum()
    per_byte = float(max(n, 1))
    per_character = float(max(n - totals[_CONTINUATION], 1))
    raw[0] = _log2p(n)
    raw[1] = _log2p(word_bytes / max(words, 1))
    raw[2] = _log2p(totals[_NEWLINE])
    raw[3] = math.sqrt(totals[_DIGIT] / per_byte)
    raw[4] = math.sqrt(totals[_UPPER] / per_byte)
    raw[5] = math.sqrt(totals[_STOP] / per_byte)
    raw[6] = _log2p(totals[_QUESTION])
    raw[7] = math.sqrt(totals[_CODE] / per_byte)
    raw[8] = _log2p(pairs[_NEWLINE * 16 + _SPACE])
    raw[9] = math.sqrt((totals[_OPERATOR] + totals[_LATEX]) / per_byte)
    raw[10] = _log2p(pairs[_DIGIT * 16 + _OPERATOR] + pairs[_OPERATOR * 16 + _DIGIT])
    raw[11] = math.sqrt(leads / per_character)
    raw[12] = math.sqrt((totals[_ALPHABET] + totals[_CJK]) / per_character)
    raw[13] = _log2p(markers)
    raw[14] = _log2p(2.0 * GRAM_BUCKETS * float(repeats) / max(float(n) * float(n - 1), 1.0))
    raw[15] = _log2p(max(turns, 1) - 1)


@njit_cached()
def _tokens(totals: _Ints, words: int, weights: _Floats) -> float:
    """Estimate the input tokens; the weights are binary fractions, so the sum is exact in any order."""
    signs = totals[_STOP] + totals[_QUESTION] + totals[_CODE] + totals[_OPERATOR] + totals[_LATEX]
    estimate = weights[0] + weights[1] * words + weights[2] * (totals[_LOWER] + totals[_UPPER])
    estimate += weights[3] * totals[_DIGIT] + weights[4] * signs + weights[5] * totals[_NEWLINE]
    estimate += weights[6] * totals[_LATIN] + weights[7] * totals[_ALPHABET]
    return float(estimate + weights[8] * totals[_SYMBOL] + weights[9] * totals[_CJK])


@njit_cached()
def _hash(name: _Bytes, basis: Any) -> Any:
    """FNV-1a 64 from a seeded basis, finished by the mixer of splitmix64 (FNV's high bits are weak)."""
    h = basis
    for i in range(name.shape[0]):
        h = (h ^ np.uint64(name[i])) * np.uint64(0x100000001B3)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@njit_cached()
def _add_name(name: _Bytes, basis: Any, block: npt.NDArray[np.float32]) -> None:
    """Add +1 or -1 to the column of a name: sign from the lowest bit, column from the upper half."""
    if block.shape[0] == 0:
        return
    h = _hash(name, basis)
    column = ((h >> np.uint64(32)) * np.uint64(block.shape[0])) >> np.uint64(32)
    block[column] += np.float32(-1.0) if h & np.uint64(1) else np.float32(1.0)


@njit_cached()
def _rescale(block: npt.NDArray[np.float32], names: int, clip: float, scale: float) -> None:
    """Turn sums of signs into ``clip(sum / sqrt(names)) * scale``."""
    root = math.sqrt(max(names, 1))
    for i in range(block.shape[0]):
        block[i] = min(max(float(block[i]) / root, -clip), clip) * scale


@njit_cached()
def _standardise(raw: _Floats, numbers: _Floats, block: npt.NDArray[np.float32]) -> None:
    """Centre, scale and clip the first raw statistics into their columns."""
    scale, clip = numbers[2], numbers[CLIP_AT + 1]
    table = numbers[STATISTICS_AT:]
    for j in range(block.shape[0]):
        value = (raw[j] - table[2 * j]) * table[2 * j + 1]
        block[j] = min(max(value, -clip), clip) * scale


@njit_cached()
def _encode_names(
    data: _Bytes, lengths: _Ints, meta: _Ints, count: int, numbers: _Floats, tags: Any, tenant: Any
) -> int:
    """Encode `count` tags and the tenants that follow (one or none); return how many bytes they had."""
    at = 0
    for i in range(lengths.shape[0]):
        name = data[at : at + lengths[i]]
        at += lengths[i]
        if i < count:
            _add_name(name, np.uint64(meta[0]), tags)
        else:
            _add_name(name, np.uint64(meta[1]), tenant)
    _rescale(tags, count, numbers[CLIP_AT], numbers[0])
    _rescale(tenant, 1, 1.0, numbers[1])
    return at


@njit_cached()
def encode_all(
    data: _Bytes, meta: _Ints, numbers: _Floats, tags: int, tenant: int, out: Any, tokens: _Floats
) -> None:
    """Encode a batch: one row of `out` and one element of `tokens` per request.

    `data` holds, request after request, the bytes of its texts, its tags and its tenant; `meta` holds the
    two hash bases, `FIELDS` numbers per request and then the length of every piece of `data`.
    """
    pairs, grams = np.zeros(256, np.int64), np.zeros(GRAM_BUCKETS, np.uint32)
    totals, raw = np.zeros(16, np.int64), np.zeros(16, np.float64)
    lengths = meta[2 + FIELDS * out.shape[0] :]
    piece = at = 0
    for r in range(out.shape[0]):
        x = out[r]
        f = 2 + FIELDS * r
        texts, turns, names, counted = meta[f], meta[f + 1], meta[f + 2], meta[f + 3]
        x[:] = 0.0
        x[0] = 1.0
        pairs[:] = 0
        grams[:] = 0
        markers = 0
        repeats = np.int64(0)
        for length in lengths[piece : piece + max(texts, 0)]:
            more_markers, more_repeats = _count(data[at : at + length], pairs, grams)
            markers += more_markers
            repeats += more_repeats
            at += length
        piece += max(texts, 0)
        stop = piece + (names >> 1) + (names & 1)
        blocks = x[1 : 1 + tags], x[1 + tags : 1 + tags + tenant]
        at += _encode_names(data[at:], lengths[piece:stop], meta, names >> 1, numbers, blocks[0], blocks[1])
        piece = stop
        words = _summarise(pairs, totals)
        if texts >= 0:
            _statistics(pairs, totals, words, repeats, markers, turns, raw)
            _standardise(raw, numbers, x[1 + tags + tenant :])
        tokens[r] = counted if counted >= 0 else _tokens(totals, words, numbers[TOKENS_AT:STATISTICS_AT])
