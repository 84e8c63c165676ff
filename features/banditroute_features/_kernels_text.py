"""The pass over a text: 64 bytes at a time into counts, hashed n-grams and hashed words.

Everything that is counted looks back and never ahead, so that a text of any length passes through one buffer of
4,096 bytes. Masks have one bit per byte; what has to cross from one block of 64 bytes to the next is carried, and
what is rare is looked for only where something it begins with is there. The files `_kernels*.py` are one unit, of
which `_kernels.encode_all` is the compiled face.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from . import _kernels_layout as layout
from ._kernels_layout import Bits, Bytes, Ints, Memory
from ._kernels_objects import copy_bytes, list_item, peek_1, peek_2, peek_4, string_of, tuple_item, tuple_size
from ._kernels_vector import BLOCK, add_grams, fold, gram_indices, in_range, popcount

__all__ = ["ONE", "fill", "inlined", "kernel", "mix", "read_texts"]

# Without reference counts: every array here is a view of memory that the caller of `encode_all` keeps alive,
# and a request takes a hundred views, at two calls each. Without a cache: all of it ends up in `encode_all`,
# which has one, and every cached function costs a look at the disk when the package is imported.
_njit: Any = numba.njit
kernel = _njit(_nrt=False)
inlined = _njit(_nrt=False, forceinline=True)

ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
ONE = np.uint64(1)
TOP = np.uint64(63)


@inlined
def _is(text: Bytes, at: int, byte: int) -> Any:
    """Mask of the bytes that are equal to one byte."""
    return in_range(text, at, np.uint8(byte), np.uint8(1))


@inlined
def _within(text: Bytes, at: int, low: int, count: int) -> Any:
    return in_range(text, at, np.uint8(low), np.uint8(count))


@inlined
def _next(mask: Any, carries: Bits, i: int) -> Any:
    """Mask of the bytes that follow a byte of `mask`, across blocks."""
    moved = (mask << ONE) | carries[i]
    carries[i] = mask >> TOP
    return moved


@inlined
def _after_runs(run: Any, starts: Any, carries: Bits, i: int) -> Any:
    """Mask of the first byte after every run of `run` that begins in `starts`, empty runs included.

    Adding the starts to the runs lets a carry travel through each run and fall out behind it.
    """
    starts |= carries[i]
    total = run + (starts & run)
    carries[i] = np.uint64(total < run)
    return (total | starts) & ~run


@inlined
def _inside(toggles: Any, carries: Bits, i: int) -> Any:
    """Mask of the bytes with an odd number of toggles up to them."""
    for shift in (1, 2, 4, 8, 16, 32):
        toggles ^= toggles << np.uint64(shift)
    toggles ^= carries[i]
    carries[i] = np.uint64(0) - (toggles >> TOP)
    return toggles


@inlined
def _any(carries: Bits, start: int, stop: int) -> Any:
    """Whether anything is carried from the block before; where nothing is, a rare thing needs no look."""
    found = np.uint64(0)
    for i in range(start, stop):
        found |= carries[i]
    return found


@inlined
def _keywords(text: Bytes, at: int) -> Any:
    """Mask of the fourth byte of ``def ``, ``function`` and ``SELECT``."""
    found = _is(text, at - 3, 100) & _is(text, at - 2, 101) & _is(text, at - 1, 102) & _is(text, at, 32)
    found |= _is(text, at - 3, 102) & _is(text, at - 2, 117) & _is(text, at - 1, 110) & _is(text, at, 99)
    return found | (_is(text, at - 3, 83) & _is(text, at - 2, 69) & _is(text, at - 1, 76) & _is(text, at, 69))


@kernel
def _scan_scripts(text: Bytes, at: int, counts: Ints) -> None:
    """Count characters beyond ASCII by the lead byte of their UTF-8 form; Devanagari needs the second."""
    counts[layout.CONTINUED] += popcount(_within(text, at, 0x80, 0x40))
    counts[layout.LEADS] += popcount(_within(text, at, 0xC0, 0x40))
    counts[layout.LATIN] += popcount(_within(text, at, 0xC3, 7))
    counts[layout.CYRILLIC] += popcount(_within(text, at, 0xD0, 5))
    counts[layout.ARABIC] += popcount(_within(text, at, 0xD8, 4) | _is(text, at, 0xDD))
    counts[layout.CJK] += popcount(_within(text, at, 0xE3, 11))
    counts[layout.SYMBOLS] += popcount(
        _is(text, at, 0xC2) | _is(text, at, 0xE2) | _within(text, at, 0xEE, 18)
    )
    counts[layout.DEVANAGARI] += popcount(_is(text, at - 1, 0xE0) & _within(text, at, 0xA4, 2))
    wide = _is(text, at - 2, 0xEF) & _is(text, at - 1, 0xBC)
    counts[layout.QUESTIONS] += popcount((wide | _is(text, at - 1, 0xD8)) & _is(text, at, 0x9F))


@inlined
def _scan_lines(
    text: Bytes,
    at: int,
    carries: Bits,
    counts: Ints,
    starts: Any,
    blank: Any,
    digit: Any,
    letter: Any,
    live: Any,
) -> Any:
    """Count what begins a line; return the mask of lines that begin with ``>``."""
    counts[layout.INDENTED] += popcount(starts & blank & live)
    first = _after_runs(blank, starts, carries, layout.IN_INDENT)
    close = _is(text, at, 41)
    ends = close | _is(text, at, 46)
    bullets = first & (_is(text, at, 45) | _within(text, at, 42, 2) | _is(text, at, 35))
    items = _next(bullets, carries, layout.AFTER_BULLET) & blank & live
    items |= _after_runs(digit, first & digit, carries, layout.IN_NUMBER) & ends
    counts[layout.ITEMS] += popcount(items)
    options = _next(first & letter, carries, layout.AFTER_LETTER) & ends
    inner = _next(first & _is(text, at, 40), carries, layout.AFTER_OPEN) & (letter | digit)
    options |= _next(inner, carries, layout.AFTER_INNER) & close
    counts[layout.OPTIONS] += popcount(options)
    counts[layout.ROWS] += popcount(first & _is(text, at, 124))
    fourth = (first << np.uint64(3)) | carries[layout.AFTER_FIRST]
    carries[layout.AFTER_FIRST] = first >> np.uint64(61)
    counts[layout.KEYWORDS] += popcount(_keywords(text, at) & fourth)
    return first & _is(text, at, 62)


@inlined
def _scan_spans(cited: Any, quote: Any, fences: Any, newline: Any, carries: Bits) -> Any:
    """Mask of the bytes between double quotes, between fences, or in lines that begin with ``>``."""
    line = ~newline
    cited |= carries[layout.IN_CITED]
    total = line + (cited & line)
    carries[layout.IN_CITED] = np.uint64(total < line)
    spans = (total ^ line) & line
    return spans | _inside(quote, carries, layout.IN_QUOTE) | _inside(fences, carries, layout.IN_FENCE)


@inlined
def _count_neighbours(
    text: Bytes, at: int, carries: Bits, counts: Ints, digit: Any, blank: Any, operator: Any, quote: Any
) -> None:
    """Count what two or three bytes make together: arithmetic, pairs of JSON, addresses."""
    after_digit = _next(digit, carries, layout.AFTER_DIGIT)
    after_operator = _next(operator, carries, layout.AFTER_OPERATOR)
    after_digit |= _next(after_digit & blank, carries, layout.AFTER_DIGIT_BLANK)
    after_operator |= _next(after_operator & blank, carries, layout.AFTER_OPERATOR_BLANK)
    counts[layout.ARITHMETIC] += popcount((after_digit & operator) | (after_operator & digit))
    colon, slash = _is(text, at, 58), _is(text, at, 47)
    counts[layout.PAIRS] += popcount(_next(quote, carries, layout.AFTER_QUOTE) & colon)
    slashes = _next(colon, carries, layout.AFTER_COLON) & slash
    counts[layout.URLS] += popcount(_next(slashes, carries, layout.AFTER_SLASH) & slash)


@inlined
def _scan_signs(
    text: Bytes, at: int, carries: Bits, counts: Ints, blank: Any, digit: Any, letter: Any, quote: Any
) -> None:
    """Count signs of code and of maths."""
    backslash, caret, equals = _is(text, at, 92), _is(text, at, 94), _is(text, at, 61)
    operator = caret | equals | _is(text, at, 47) | _within(text, at, 42, 2) | _is(text, at, 45)
    operator |= _is(text, at, 37)
    code = (_within(text, at, 91, 6) & ~(backslash | caret)) | _within(text, at, 123, 4)
    code |= _within(text, at, 59, 4) & ~equals
    counts[layout.QUESTIONS] += popcount(_is(text, at, 63))
    counts[layout.CODE] += popcount(code)
    counts[layout.OPERATORS] += popcount(operator)
    counts[layout.LATEX] += popcount(backslash | _is(text, at, 36))
    counts[layout.COMMANDS] += popcount(_next(backslash, carries, layout.AFTER_BACKSLASH) & letter)
    _count_neighbours(text, at, carries, counts, digit, blank, operator, quote)


@inlined
def _scan_fences(tick: Any, carries: Bits, counts: Ints) -> Any:
    """Count runs of three back-ticks; return the mask of their third ones."""
    two = _next(tick, carries, layout.AFTER_TICK) & tick
    three = _next(two, carries, layout.AFTER_TWO) & tick
    fences = three & ~_next(three, carries, layout.AFTER_THREE)
    counts[layout.FENCES] += popcount(fences)
    return fences


@inlined
def _scan_block(text: Bytes, at: int, live: Any, carries: Bits, counts: Ints) -> None:
    """Add 64 bytes to the counts. Bytes beyond the end are NUL; `live` leaves them out of spans."""
    space, newline = _within(text, at, 0, 33), _is(text, at, 10)
    digit, high = _within(text, at, 48, 10), _within(text, at, 128, 128)
    upper, lower = _within(text, at, 65, 26), _within(text, at, 97, 26)
    blank, letter = space & ~newline, upper | lower
    word, tick, quote = letter | digit | high, _is(text, at, 96), _is(text, at, 34)
    counts[layout.DIGITS] += popcount(digit)
    counts[layout.UPPER] += popcount(upper)
    counts[layout.LOWER] += popcount(lower)
    counts[layout.LINES] += popcount(newline)
    counts[layout.WORD_BYTES] += popcount(word)
    counts[layout.WORDS] += popcount(word & ~_next(word, carries, layout.AFTER_WORD))
    counts[layout.SIGNS] += popcount(~(space | word))
    _scan_signs(text, at, carries, counts, blank, digit, letter, quote)
    starts = _next(newline, carries, layout.AFTER_NEWLINE)
    cited, fences = np.uint64(0), np.uint64(0)
    if starts | _any(carries, 0, layout.LINE_CARRIES):
        cited = _scan_lines(text, at, carries, counts, starts, blank, digit, letter, live)
    if tick | _any(carries, layout.LINE_CARRIES, layout.TICK_CARRIES):
        fences = _scan_fences(tick, carries, counts)
    if cited | quote | fences | _any(carries, layout.TICK_CARRIES, layout.SPAN_CARRIES):
        counts[layout.QUOTED] += popcount(_scan_spans(cited, quote, fences, newline, carries) & live)
    if high:
        _scan_scripts(text, at, counts)


@kernel
def fill(source: Any, first: int, text: Bytes, to: int, stop: int) -> tuple[int, int]:
    """Write characters from the `first` on as UTF-8 into ``text[to:stop]``; return where both have got to."""
    address, length, kind, ascii_only = source
    if ascii_only:
        count = min(length - first, stop - to)
        copy_bytes(text, to, address + first, count)
        return first + count, to + count
    while first < length and to + 4 <= stop:
        if kind == 1:
            c = peek_1(address + first)
        elif kind == 2:
            c = peek_2(address + 2 * first)
        else:
            c = peek_4(address + 4 * first)
        first += 1
        if c < 0x80:
            text[to] = c
            to += 1
        elif c < 0x800:
            text[to] = 0xC0 | (c >> 6)
            text[to + 1] = 0x80 | (c & 63)
            to += 2
        elif c < 0x10000:
            text[to] = 0xE0 | (c >> 12)
            text[to + 1] = 0x80 | ((c >> 6) & 63)
            text[to + 2] = 0x80 | (c & 63)
            to += 3
        else:
            text[to] = 0xF0 | (c >> 18)
            text[to + 1] = 0x80 | ((c >> 12) & 63)
            text[to + 2] = 0x80 | ((c >> 6) & 63)
            text[to + 3] = 0x80 | (c & 63)
            to += 4
    return first, to


@inlined
def mix(h: Any) -> Any:
    """Finish a hash with the mixer of splitmix64 (the high bits of FNV are weak)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@kernel
def _add_words(folded: Bytes, stop: int, basis: Any, words: Bits, sums: Ints) -> None:
    """Hash words and pairs of neighbours among ``folded[64:stop]``; a word may have begun earlier.

    ``words`` carries the hash of the word that has begun (0: none) and of the one before it (0: none).
    """
    h, before, columns = words[0], words[1], np.uint64(sums.shape[0])
    for i in range(64, stop):
        byte = folded[i]
        if byte >= 128 or 97 <= byte <= 122 or 48 <= byte <= 57:
            h = ((basis if h == np.uint64(0) else h) ^ np.uint64(byte)) * np.uint64(0x100000001B3)
        elif h != np.uint64(0):
            mixed = mix(h)
            column = ((mixed >> np.uint64(32)) * columns) >> np.uint64(32)
            sums[column] += -1 if mixed & ONE else 1
            if before != np.uint64(0):
                mixed = mix((before * np.uint64(0x9E3779B97F4A7C15)) ^ h)
                column = ((mixed >> np.uint64(32)) * columns) >> np.uint64(32)
                sums[column] += -1 if mixed & ONE else 1
            before, h = h, np.uint64(0)
    words[0], words[1] = h, before


@inlined
def _read_blocks(end: int, blocks: int, last: bool, m: Memory) -> None:
    """Count the blocks of the buffer, list and add their grams, and add the words that end in them."""
    text, folded, plan = m.text, m.folded, m.plan
    grams, words_wanted = plan[layout.GRAMS_AT], plan[layout.WORD] > 0
    folds = grams or words_wanted
    if folds:
        fold(text, 0, folded, m.wide)
    for block in range(blocks):
        at = 64 + BLOCK * block
        left = end - at
        live = ALL if left >= 64 else (ONE << np.uint64(max(left, 0))) - ONE
        _scan_block(text, at, live, m.carries, m.counts)
        if folds:
            fold(text, at, folded, m.wide)
    if grams:
        for block in range(blocks):
            gram_indices(folded, m.wide, 64 + BLOCK * block, m.keys, m.indices, m.cursors)
        add_grams(m.indices, m.cursors, m.totals)
    if words_wanted:
        stop, basis = end + 1 if last else 64 + BLOCK * blocks, np.uint64(plan[layout.BASES_AT + layout.WORD])
        _add_words(folded, stop, basis, m.words, m.sums[: plan[layout.WORD]])


@inlined
def _read_text(source: Any, m: Memory) -> int:
    """Count a text, list and add its grams and words; return its bytes."""
    text, carries = m.text, m.carries
    text[:64] = 0
    carries[:] = np.uint64(0)
    carries[layout.AFTER_NEWLINE] = ONE  # a text starts on a line of its own
    m.words[:] = np.uint64(0)
    first, end, size, last = 0, 64, 0, False
    while not last:
        first, end = fill(source, first, text, end, 64 + layout.CHUNK)
        last = first >= source[1] or m.counts[layout.BYTES] + size > layout.MOST_BYTES
        blocks = (end - 64) >> 6
        if last:
            text[end : end + 64] = 0
            blocks += 1
        _read_blocks(end, blocks, last, m)
        if not last:
            size += BLOCK * blocks
            done = 64 + BLOCK * blocks
            for i in range(64 + end - done):
                text[i] = text[done - 64 + i]
            end = 64 + end - done
    return size + end - 64


@inlined
def read_texts(slots: int, at: int, stride: int, m: Memory) -> bool:
    """Read the text or the messages of a request; return whether it has any."""
    counts, plan = m.counts, m.plan
    item, number, role, roles = list_item(slots, at), 1, 0, plan[layout.NONE_AT]
    if item == plan[layout.NONE_AT]:
        return False
    if stride > 1:
        roles = list_item(slots, at + 1)
    letters = np.int64(0)
    if roles != plan[layout.NONE_AT]:
        number, letters = tuple_size(item), string_of(roles)[0]
    for i in range(number):
        if letters != 0:
            role = peek_1(letters + i)
        source, size = string_of(tuple_item(item, i) if letters != 0 else item), 0
        if source[1] >= 0 and counts[layout.BYTES] <= layout.MOST_BYTES:
            size = _read_text(source, m)
            counts[layout.BYTES] += size
        elif letters == 0:
            return False
        if role == 115:  # s: system or developer
            counts[layout.SYSTEM] += size
        elif role != 0:
            counts[layout.TURNS] += 1
            if role == 117:  # u: user
                counts[layout.LAST_USER] = size
            elif role == 97:  # a: assistant
                counts[layout.REPLIES] += 1
            else:
                counts[layout.OTHERS] += 1
    return True
