"""The obvious way to encode a request: plain Python, one definition per column, no numpy and no numba.

It is the oracle of ``banditroute_features``: slow, written from the column definitions and not from the
kernels, and compared with ``==``. Only ``+ - * /``, ``sqrt`` and integer counting are used on either side,
all of which IEEE 754 rounds correctly, so there is no tolerance to choose. The fixed centres, gains and
shares are data of the algorithm version and come from the package.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from banditroute_features.columns import (
    STATISTICS_CLIP,
    STATISTICS_TABLE,
    TAG_CLIP,
    TOKEN_WEIGHTS,
    block_scales,
)

LOWER = set(b"abcdefghijklmnopqrstuvwxyz")
UPPER = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
DIGIT = set(b"0123456789")
STOP = set(b".,:!'\"()")
CODE = set(b"{}[];_`@#&|~<>")
OPERATOR = set(b"+-*/=^%")
LATEX = set(b"\\$")
COUNTED = [
    *("bytes", "words", "word_bytes", "newlines", "lower", "upper", "digits", "stops", "questions", "code"),
    *("indented", "operators", "latex", "arithmetic", "continuation", "latin", "alphabet", "symbol", "cjk"),
    *("markers", "collisions"),
]
ALL_64 = (1 << 64) - 1


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def log2p(x: float) -> float:
    """About log2(1 + x): the exponent, and a parabola through the mantissa."""
    mantissa, exponent = math.frexp(1.0 + x)  # mantissa in [0.5, 1)
    f = mantissa * 2.0 - 1.0
    return ((exponent - 1) + f) + 0.34375 * (f * (1.0 - f))


def is_word_byte(b: int) -> bool:
    return b in LOWER or b in UPPER or b in DIGIT or b >= 0x80


def is_list_marker(line: bytes) -> bool:
    """``- x``, ``* x``, ``+ x``, ``# x``, ``| x``, ``12. x``, ``3) x``, ``B) x``, ``(c) x``."""
    rest = line
    for _ in range(8):
        if rest[:1] in (b" ", b"\t"):
            rest = rest[1:]
    if rest[:1] in (b"-", b"*", b"+", b"#", b"|"):
        return rest[1:2] == b" "
    if rest[:1] == b"(":
        return len(rest) > 2 and (rest[1] in LOWER | UPPER | DIGIT) and rest[2] == ord(")")
    if rest[:1] and rest[0] in LOWER | UPPER:
        return rest[1:2] in (b".", b")")
    digits = 0
    while digits < 3 and digits < len(rest) and rest[digits] in DIGIT:
        digits += 1
    return digits > 0 and rest[digits : digits + 1] in (b".", b")")


def count(texts: list[bytes]) -> dict[str, int]:
    """Everything that is counted, as exact integers, summed over the texts of one request."""
    c = dict.fromkeys(COUNTED, 0)
    grams: dict[int, int] = {}
    for text in texts:
        c["bytes"] += len(text)
        last_four = [0, 0, 0, 0]
        for i, b in enumerate(text):
            before = text[i - 1] if i else ord("\n")  # a text starts on a line of its own
            c["words"] += is_word_byte(b) and not is_word_byte(before)
            c["word_bytes"] += is_word_byte(b)
            c["newlines"] += b == ord("\n")
            c["lower"] += b in LOWER
            c["upper"] += b in UPPER
            c["digits"] += b in DIGIT
            c["stops"] += b in STOP
            c["questions"] += b == ord("?")
            c["code"] += b in CODE
            c["indented"] += (
                before == ord("\n") and (b < 0x20 or b == 0x7F or b == ord(" ")) and b != ord("\n")
            )
            c["operators"] += b in OPERATOR
            c["latex"] += b in LATEX
            c["arithmetic"] += (b in DIGIT and before in OPERATOR) or (b in OPERATOR and before in DIGIT)
            c["continuation"] += 0x80 <= b < 0xC0
            c["latin"] += 0xC0 <= b <= 0xC9
            c["alphabet"] += 0xCA <= b <= 0xE1
            c["symbol"] += b == 0xE2 or b >= 0xF0
            c["cjk"] += 0xE3 <= b <= 0xEF
            last_four = [*last_four[1:], b]
            word = sum(value << (8 * place) for place, value in enumerate(last_four))
            bucket = ((word * 0x9E3779B97F4A7C15) & ALL_64) >> 54
            grams[bucket] = grams.get(bucket, 0) + 1
        c["markers"] += sum(is_list_marker(line) for line in text.split(b"\n"))
    c["collisions"] = sum(k * (k - 1) for k in grams.values())
    return c


def raw_statistics(texts: list[bytes], turns: int) -> dict[str, float]:
    """Every statistic before centring and scaling, by column name."""
    c = count(texts)
    n = c["bytes"]
    leads = c["latin"] + c["alphabet"] + c["symbol"] + c["cjk"]
    characters = n - c["continuation"]
    pairs = n * (n - 1)

    def share(part: int, whole: int) -> float:
        return math.sqrt(part / whole) if whole else 0.0

    return {
        "log_bytes": log2p(n),
        "word_length": log2p(c["word_bytes"] / c["words"]) if c["words"] else 0.0,
        "lines": log2p(c["newlines"]),
        "digits": share(c["digits"], n),
        "upper": share(c["upper"], n),
        "punctuation": share(c["stops"], n),
        "questions": log2p(c["questions"]),
        "code": share(c["code"], n),
        "indentation": log2p(c["indented"]),
        "maths": share(c["operators"] + c["latex"], n),
        "arithmetic": log2p(c["arithmetic"]),
        "non_ascii": share(leads, characters),
        "other_script": share(c["alphabet"] + c["cjk"], characters),
        "lists": log2p(c["markers"]),
        "repetition": log2p(1024.0 * c["collisions"] / pairs) if pairs else 0.0,
        "turns": log2p(max(turns, 1) - 1),
    }


def estimate_tokens(texts: list[bytes]) -> float:
    c = count(texts)
    signs = c["stops"] + c["questions"] + c["code"] + c["operators"] + c["latex"]
    counted = {
        "text": 1,
        "words": c["words"],
        "letters": c["lower"] + c["upper"],
        "digits": c["digits"],
        "signs": signs,
        "newlines": c["newlines"],
        "latin": c["latin"],
        "alphabet": c["alphabet"],
        "symbol": c["symbol"],
        "cjk": c["cjk"],
    }
    return float(sum(TOKEN_WEIGHTS[name] * counted[name] for name in counted))


def mix64(h: int) -> int:
    """The finaliser of splitmix64."""
    h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & ALL_64
    h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & ALL_64
    return h ^ (h >> 31)


def hashed(text: str, seed: int, salt: int, columns: int) -> tuple[int, int]:
    """Column and sign of one name: FNV-1a 64 from a seeded basis, finished by splitmix64."""
    h = 0xCBF29CE484222325 ^ mix64((seed + salt * 0x9E3779B97F4A7C15) & ALL_64)
    for b in as_bytes(text):
        h = ((h ^ b) * 0x100000001B3) & ALL_64
    h = mix64(h)
    return ((h >> 32) * columns) >> 32, (-1 if h & 1 else 1)


def clip(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def texts_of(request: Any) -> tuple[list[bytes] | None, int]:
    """The texts of a request and its turns; None when it has no text at all."""
    if request.prompt is not None:
        return [as_bytes(request.prompt)], 1
    if request.messages is not None:
        turns = sum(m.role not in ("system", "developer") for m in request.messages)
        return [as_bytes(m.content) for m in request.messages], turns
    return None, 0


def encode(spec: Any, request: Any) -> tuple[list[float], float]:
    """The context of one request and its input-token estimate."""
    scales = block_scales(spec)
    tags = [0] * spec.tags
    tenant = [0] * spec.tenant
    if spec.tags:
        for tag in request.tags:
            column, sign = hashed(tag, spec.seed, 1, spec.tags)
            tags[column] += sign
    if spec.tenant and request.tenant is not None:
        column, sign = hashed(request.tenant, spec.seed, 2, spec.tenant)
        tenant[column] = sign
    x = [1.0]
    x += [clip(k / math.sqrt(max(len(request.tags), 1)), TAG_CLIP) * scales["tag"] for k in tags]
    x += [k * scales["tenant"] for k in tenant]
    texts, turns = texts_of(request)
    if texts is None:
        x += [0.0] * spec.statistics
    else:
        raw = raw_statistics(texts, turns)
        for name, centre, gain in STATISTICS_TABLE[: spec.statistics]:
            x.append(clip((raw[name] - centre) * gain, STATISTICS_CLIP) * scales["stat"])
    tokens = estimate_tokens(texts or [])
    if request.input_tokens is not None and 0 <= request.input_tokens < 2**53:
        tokens = float(request.input_tokens)
    return [float32(value) for value in x], tokens
