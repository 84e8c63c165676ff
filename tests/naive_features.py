"""The obvious way to encode a request: plain Python, one definition per column, no numpy and no numba.

It is the oracle of ``banditroute_features``: slow, written from the column definitions and not from the
kernels, and compared with ``==``. Only ``+ - * /``, ``sqrt`` and integer counting are used on either side,
all of which IEEE 754 rounds correctly, so there is no tolerance to choose. The fixed centres, gains and
shares are data of the algorithm version and come from the package.
"""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any

from banditroute_features.columns import (
    CHAT_TABLE,
    CLIP,
    NUMERIC_TABLE,
    SCRIPT_TABLE,
    STATISTICS_TABLE,
    TAG_CLIP,
    block_scales,
)
from tests.naive_text import COUNTED, UPPER, WORD, count, log2p, raw_numbers, tokens_of

SALTS = ("tag", "tenant", "session", "language", "cross", "char", "word", "embedding")
ALL_64 = (1 << 64) - 1
NOT_A_NUMBER = float("nan")


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def clip(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


# -- hashing --------------------------------------------------------------------------------------------


def mix64(h: int) -> int:
    """The finaliser of splitmix64."""
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & ALL_64
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & ALL_64
    return h ^ (h >> 31)


def basis(seed: int, block: str) -> int:
    salt = SALTS.index(block) + 1
    return 0xCBF29CE484222325 ^ mix64((seed + salt * 0x9E3779B97F4A7C15) & ALL_64)


def fnv(h: int, data: bytes) -> int:
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & ALL_64
    return h


def place(h: int, columns: int) -> tuple[int, int]:
    """Column and sign of a mixed hash."""
    return ((h >> 32) * columns) >> 32, (-1 if h & 1 else 1)


def hashed(text: str, seed: int, block: str, columns: int) -> tuple[int, int]:
    """Column and sign of one name."""
    return place(mix64(fnv(basis(seed, block), as_bytes(text))), columns)


def folded(text: bytes) -> bytes:
    """Small ASCII letters; every byte up to the space is a space."""
    return bytes(32 if b < 32 else b + 32 if b in UPPER else b for b in text)


def character_grams(text: bytes) -> list[bytes]:
    """3- to 5-grams within a word and one space on either side."""
    grams = []
    for word in folded(text).split(b" "):
        if word:
            padded = b" " + word + b" "
            grams += [padded[i : i + n] for n in (3, 4, 5) for i in range(len(padded) - n + 1)]
    return grams


def gram_keys(seed: int) -> list[int]:
    return [(mix64((seed + (16 + i) * 0x9E3779B97F4A7C15) & ALL_64) & 0xFFFF) | 1 for i in range(6)]


def gram_place(gram: bytes, keys: list[int]) -> tuple[int, int]:
    """One of 64 columns, and a sign: multilinear hashing of the bytes, the last one first."""
    h = keys[5]
    for key, b in zip(keys, reversed(gram), strict=False):
        h += key * b
    h &= 0xFFFF
    return h >> 10, (-1 if h & 0x200 else 1)


def word_hashes(text: bytes, seed: int) -> list[int]:
    """Hashes of the words and of the pairs of neighbouring words."""
    words = "".join(chr(b) if b in WORD else " " for b in folded(text)).split(" ")
    plain = [fnv(basis(seed, "word"), word.encode("latin-1")) for word in words if word]
    pairs = [((a * 0x9E3779B97F4A7C15) & ALL_64) ^ b for a, b in itertools.pairwise(plain)]
    return [mix64(h) for h in [*plain, *pairs]]


# -- blocks ---------------------------------------------------------------------------------------------


def names_block(names: list[Any], seed: int, block: str, columns: int, factor: float) -> list[float]:
    names = [name for name in names if isinstance(name, str)]
    sums = [0] * columns
    for name in names:
        if columns:
            column, sign = hashed(name, seed, block, columns)
            sums[column] += sign
    return [clip(k / math.sqrt(max(len(names), 1)), TAG_CLIP) * factor for k in sums]


def unit(sums: list[int], factor: float) -> list[float]:
    squares = sum(k * k for k in sums)
    scale = factor / math.sqrt(squares) if squares else 0.0
    return [k * scale for k in sums]


def scaled(
    raw: dict[str, float], table: Any, width: int, block: str, fitted: Any, factor: float
) -> list[float]:
    x = []
    for name, *fixed in table[:width]:
        centre, gain = fitted.get(f"{block}.{name}", fixed)
        x.append(clip((raw[name] - centre) * gain, CLIP) * factor)
    return x


def number(value: Any) -> float:
    try:
        return float(value) if not isinstance(value, str | bytes) else NOT_A_NUMBER
    except (TypeError, OverflowError):
        return NOT_A_NUMBER


def embedding_block(spec: Any, values: Any, factor: float) -> list[float]:
    m, nothing = spec.embedding, [0.0] * spec.embedding
    if not m or not values:
        return nothing
    values = [number(value) for value in values]
    fitted = spec.fitted if spec.fitted and spec.fitted.components else None
    squares = 0.0
    for value in values:
        squares += value * value
    if not 0.0 < squares < math.inf or (fitted and len(fitted.mean) != len(values)):
        return nothing
    y = [0.0] * m
    for j, value in enumerate(values):
        if fitted:
            for c in range(m):
                y[c] += value * fitted.components[c][j]
        else:
            sign = -1.0 if mix64(basis(spec.seed, "embedding") ^ j) & 1 else 1.0
            y[j % m] += sign * value
    norm = 0.0
    for c in range(m):
        y[c] /= math.sqrt(squares)
        if fitted:
            offset = 0.0
            for mean, weight in zip(fitted.mean, fitted.components[c], strict=True):
                offset += mean * weight
            y[c] -= offset
        norm += y[c] * y[c]
    shrink = 2.0 / math.sqrt(norm) if norm > 4.0 else 1.0
    return [value * shrink * factor for value in y]


def context_block(spec: Any, values: Any, factor: float) -> list[float]:
    x = [0.0] * spec.context
    fitted = spec.fitted.scales if spec.fitted else {}
    for j, value in enumerate(list(values or ())[: spec.context]):
        centre, gain = fitted.get(f"context.{j}", (0.0, 1.0))
        scaled_value = (number(value) - centre) * gain
        if not math.isnan(scaled_value):
            x[j] = clip(scaled_value, CLIP) * factor
    return x


HALF = [
    *(1.0, (math.sqrt(6) + math.sqrt(2)) / 4, math.sqrt(3) / 2, math.sqrt(2) / 2, 0.5),
    *((math.sqrt(6) - math.sqrt(2)) / 4, 0.0),
]


def cosine(hour: int) -> float:
    """Cosine of an hour of the day."""
    hour = min(hour % 24, 24 - hour % 24)
    return HALF[hour] if hour <= 6 else -HALF[12 - hour]


def as_count(value: Any) -> int:
    """A whole number that fits 64 bits, else -1."""
    return value if isinstance(value, int) and -(2**63) <= value < 2**63 else -1


def texts_of(request: Any) -> tuple[list[tuple[str, bytes]] | None, bool]:
    """Role and bytes of the texts of a request, None when it has none; and whether it is a chat."""
    if request.prompt is not None:
        return [("", as_bytes(request.prompt))], False
    if request.messages is not None:
        return [
            (m.role, as_bytes(m.content) if isinstance(m.content, str) else b"") for m in request.messages
        ], True
    return None, False


def chat_numbers(texts: list[tuple[str, bytes]]) -> dict[str, float]:
    silent = ("system", "developer")
    users = [len(text) for role, text in texts if role == "user"]
    return {
        "turns": log2p(max(sum(role not in silent for role, _ in texts), 1) - 1),
        "replies": log2p(sum(role == "assistant" for role, _ in texts)),
        "others": log2p(sum(role not in (*silent, "user", "assistant") for role, _ in texts)),
        "last_user": log2p(users[-1] if users else 0),
        "system": log2p(sum(len(text) for role, text in texts if role in silent)),
    }


def field_columns(spec: Any, request: Any, factor: dict[str, float]) -> list[float]:
    """Tag, tenant, session, language, hour and crosses."""
    session, language = getattr(request, "session_id", None), getattr(request, "language", None)
    hour = getattr(request, "hour", None)
    tags = [request.tags] if isinstance(request.tags, str) else list(request.tags or ())
    x: list[float] = []
    for block, names in (
        ("tag", tags),
        ("tenant", [request.tenant]),
        ("session", [session]),
        ("language", [language]),
    ):
        x += names_block(names, spec.seed, block, spec.width(block), factor[block])
    if spec.hour:
        good = 0 <= as_count(hour) < 24
        x += [cosine(hour) * factor["hour"], cosine(hour + 18) * factor["hour"]] if good else [0.0, 0.0]
    known = {
        "tag": tags[0] if tags else None,
        "tenant": request.tenant,
        "session": session,
        "language": language,
        "hour": None if hour is None else str(hour),
    }
    pairs = [(known[a], known[b]) for a, b in spec.crosses]
    crossed = [f"{a}\x1f{b}" for a, b in pairs if a is not None and b is not None]
    return x + names_block(crossed, spec.seed, "cross", spec.cross, factor["cross"])


def text_columns(
    spec: Any, texts: list[tuple[str, bytes]], is_chat: bool, c: dict[str, int], factor: dict[str, float]
) -> list[float]:
    """Statistics, scripts, chat, characters and words of a request that has texts."""
    fitted = spec.fitted.scales if spec.fitted else {}
    columns, keys, grams = [0] * 64, gram_keys(spec.seed), 0
    for _, text in texts:
        for gram in character_grams(text):
            column, sign = gram_place(gram, keys)
            columns[column] += sign
            grams += 1
    raw = raw_numbers(c, sum(k * k for k in columns), grams)
    x = scaled(raw, STATISTICS_TABLE, spec.statistics, "stat", fitted, factor["stat"])
    x += scaled(raw, SCRIPT_TABLE, spec.scripts, "script", fitted, factor["script"])
    shown = is_chat and any(role not in ("system", "developer") or text for role, text in texts)
    shape = scaled(chat_numbers(texts), CHAT_TABLE, spec.chat, "chat", fitted, factor["chat"])
    x += shape if shown else [0.0] * spec.chat
    chars = [0] * spec.chars
    for column, value in enumerate(columns):
        if spec.chars:
            chars[(column * spec.chars) >> 6] += value
    x += unit(chars, factor["char"])
    sums = [0] * spec.words
    for _, text in texts if spec.words else []:
        for h in word_hashes(text, spec.seed):
            column, sign = place(h, spec.words)
            sums[column] += sign
    return x + unit(sums, factor["word"])


def encode(spec: Any, request: Any) -> tuple[list[float], float]:
    """The context of one request and its input tokens."""
    factor = block_scales(spec)
    fitted = spec.fitted.scales if spec.fitted else {}
    texts, is_chat = texts_of(request)
    c = dict.fromkeys(COUNTED, 0)
    for _, text in texts or []:
        for name, value in count(text).items():
            c[name] += value
    estimate = tokens_of(c)
    counted = as_count(request.input_tokens)
    asked = as_count(getattr(request, "max_output_tokens", None))
    numbers = {
        "input_tokens": log2p(float(counted) if counted >= 0 else estimate),
        "max_output_tokens": log2p(max(asked, 0)),
    }
    x = [1.0, *field_columns(spec, request, factor)]
    numeric = scaled(numbers, NUMERIC_TABLE, spec.numeric, "numeric", fitted, factor["numeric"])
    there = [counted >= 0 or texts is not None, asked >= 0]
    x += [value if present else 0.0 for value, present in zip(numeric, there, strict=False)]
    if texts is None:
        x += [0.0] * sum(spec.width(block) for block in ("stat", "script", "chat", "char", "word"))
    else:
        x += text_columns(spec, texts, is_chat, c, factor)
    x += embedding_block(spec, getattr(request, "embedding", None), factor["embedding"])
    x += context_block(spec, getattr(request, "context", None), factor["context"])
    return [float32(value) for value in x], float(counted) if 0 <= counted < 2**53 else estimate
