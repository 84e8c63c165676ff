"""Where everything is that kernels and encoder hand each other: plan, numbers, slots, counts, workspace.

Constants only, which numba freezes into the kernels; the orders here are those of the definitions in the kernels.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from ._kernels_vector import MINUS_AT

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.uint64]

BLOCKS: Final = (
    *("tag", "tenant", "session", "language", "hour", "cross", "numeric", "stat", "script", "chat"),
    *("char", "word", "embedding", "context"),
)
"""Order of the blocks after the intercept. The plan holds a width for each, then a hash basis for each."""

TAG, TENANT, SESSION, LANGUAGE, HOUR, CROSS, NUMERIC, STAT, SCRIPT, CHAT = range(10)
CHAR, WORD, EMBEDDING, CONTEXT = range(10, 14)

RAW: Final = (
    *("log_bytes", "log_words", "log_tokens", "word_length", "lines", "digits", "upper", "punctuation"),
    *("questions", "code", "keywords", "indentation", "fences", "maths", "latex", "arithmetic", "lists"),
    *("tables", "json", "urls", "options", "quoted", "repetition"),
    *("latin", "cyrillic", "cjk", "arabic", "devanagari", "other", "symbols"),
    *("turns", "replies", "others", "last_user", "system"),
    *("input_tokens", "max_output_tokens"),
)
"""Order of the raw numbers that are centred and scaled: statistics, scripts, chat, numeric fields."""

SLOTS: Final = 12
"""Objects per request: text or texts, roles, tags, tenant, input tokens, session, language, hour, crosses,
maximal output tokens, embedding, context. A shorter stride leaves the rest out."""
CROSSES_AT: Final = 8

STATS, SCRIPTS, CHATS, NUMERICS = 0, 23, 30, 35
RAWS: Final = len(RAW)

# The plan: widths, first columns and the end of the last block, bases, whether grams are wanted, the address of None,
# and the place in `RAW` of every column that is scaled.
STARTS_AT: Final = len(BLOCKS)
BASES_AT: Final = 2 * len(BLOCKS) + 1
GRAMS_AT: Final = BASES_AT + len(BLOCKS)
NONE_AT: Final = GRAMS_AT + 1
ORDER_AT: Final = GRAMS_AT + 2
PLAN: Final = ORDER_AT + RAWS

# The numbers: factors of the blocks, clips of names, scaled columns and contexts, token weights, centre and gain of
# every raw number and of the caller's numbers, and the cosine of every hour.
CLIPS_AT: Final = len(BLOCKS)
TOKENS_AT: Final = CLIPS_AT + 3
SCALES_AT: Final = TOKENS_AT + 10
CONTEXT_SCALES_AT: Final = SCALES_AT + 2 * RAWS
MOST_CONTEXT: Final = 256
HOURS_AT: Final = CONTEXT_SCALES_AT + 2 * MOST_CONTEXT
NUMBERS: Final = HOURS_AT + 24

# What is counted in the texts of a request. Sizes of the last user message and of the system's follow.
BYTES, WORDS, WORD_BYTES, LINES, DIGITS, UPPER, LOWER, SIGNS, QUESTIONS, CODE, KEYWORDS = range(11)
INDENTED, FENCES, OPERATORS, LATEX, COMMANDS, ARITHMETIC, ITEMS, ROWS, PAIRS, URLS = range(11, 21)
OPTIONS, QUOTED, CONTINUED, LATIN, CYRILLIC, CJK, ARABIC, DEVANAGARI, LEADS, SYMBOLS = range(21, 31)
LAST_USER, SYSTEM, TURNS, REPLIES, OTHERS = range(31, 36)
COUNTS: Final = 36

# What is carried from one block to the next: for line starts, for fences, for spans, and always.
IN_INDENT, AFTER_BULLET, IN_NUMBER, AFTER_LETTER, AFTER_OPEN, AFTER_INNER, AFTER_FIRST = range(7)
AFTER_TICK, AFTER_TWO, AFTER_THREE, IN_CITED, IN_QUOTE, IN_FENCE = range(7, 13)
AFTER_WORD, AFTER_BACKSLASH, AFTER_DIGIT, AFTER_OPERATOR, AFTER_DIGIT_BLANK = range(13, 18)
AFTER_OPERATOR_BLANK, AFTER_QUOTE, AFTER_COLON, AFTER_SLASH, AFTER_NEWLINE = range(18, 23)
LINE_CARRIES, TICK_CARRIES, SPAN_CARRIES, CARRIES = 7, 10, 13, 23

CHUNK: Final = 4096
MOST_BYTES: Final = 1 << 29  # of one request; what follows is not read, so that no count overflows
TEXT: Final = 64 + CHUNK + 128
INDICES: Final = 2 * MINUS_AT
# The workspace: text, folded text, indices, totals, key of the gram hash, cursors, bits carried from one block
# to the next, counts, raw numbers, words' hashes, words' totals, embedding, and what never changes: plan and numbers.
FOLDED_AT: Final = TEXT
INDICES_AT: Final = 4 * TEXT
TOTALS_AT: Final = INDICES_AT + INDICES
STATE_AT: Final = TOTALS_AT + 4 * 80
STATE: Final = 2 + CARRIES + COUNTS + 2
RAW_AT: Final = STATE_AT + 8 * STATE
SUMS_AT: Final = RAW_AT + 8 * RAWS
KEYS_AT: Final = TOTALS_AT + 4 * 72
PLAN_AT: Final = SUMS_AT + 8 * (64 + 256)
NUMBERS_AT: Final = PLAN_AT + 8 * PLAN
WORK_BYTES: Final = NUMBERS_AT + 8 * NUMBERS


class Memory(NamedTuple):
    """The workspace, cut into arrays once per run."""

    text: Bytes
    folded: Bytes
    wide: npt.NDArray[np.uint16]
    indices: Bytes
    totals: npt.NDArray[np.int32]
    keys: npt.NDArray[np.uint16]
    cursors: Ints
    carries: Bits
    counts: Ints
    words: Bits
    raw: Floats
    sums: Ints
    embedding: Floats
    plan: Ints
    numbers: Floats
