"""The obvious way to count what a prompt says: plain Python, one definition per statistic.

Part of the oracle `tests.naive_features`; integers, and what follows from them by ``+ - * /`` and ``sqrt`` alone.
"""

from __future__ import annotations

import math

from banditroute_features.columns import TOKEN_WEIGHTS

LOWER = set(b"abcdefghijklmnopqrstuvwxyz")
UPPER = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
LETTER = LOWER | UPPER
DIGIT = set(b"0123456789")
SPACE = set(range(33))
BLANK = SPACE - {10}
WORD = LETTER | DIGIT | set(range(128, 256))
CODE = set(b"[]_`{|}~;<>")
OPERATOR = set(b"+-*/=^%")
LATEX = set(b"\\$")
KEYWORDS = (b"def ", b"func", b"SELE")


def log2p(x: float) -> float:
    """About log2(1 + x): the exponent, and a parabola through the mantissa."""
    mantissa, exponent = math.frexp(1.0 + x)  # mantissa in [0.5, 1)
    f = mantissa * 2.0 - 1.0
    return ((exponent - 1) + f) + 0.34375 * (f * (1.0 - f))


# -- what begins a line ---------------------------------------------------------------------------------


def is_item(body: bytes) -> bool:
    """A line without its indentation: ``- x``, ``* x``, ``+ x``, ``# x``, ``12. x``, ``3) x``."""
    if body[:1] in (b"-", b"*", b"+", b"#"):
        return len(body) > 1 and body[1] in BLANK
    digits = 0
    while digits < len(body) and body[digits] in DIGIT:
        digits += 1
    return digits > 0 and body[digits : digits + 1] in (b".", b")")


def is_option(body: bytes) -> bool:
    """``A. x``, ``b) x``, ``(c) x``, ``(4) x``."""
    if body[:1] and body[0] in LETTER:
        return body[1:2] in (b".", b")")
    return body[:1] == b"(" and len(body) > 2 and body[1] in LETTER | DIGIT and body[2:3] == b")"


def indentation(line: bytes) -> int:
    spaces = 0
    while spaces < len(line) and line[spaces] in BLANK:
        spaces += 1
    return spaces


# -- what is counted ------------------------------------------------------------------------------------


def beside(text: bytes, i: int, kind: set[int]) -> bool:
    """Whether the byte before position i, or the one before a single blank, is of a kind."""
    if i >= 1 and text[i - 1] in kind:
        return True
    return i >= 2 and text[i - 1] in BLANK and text[i - 2] in kind


def fence_ends(text: bytes) -> list[int]:
    """Positions of the third back-tick in every run of three or more."""
    ends, run = [], 0
    for i, b in enumerate(text):
        run = run + 1 if b == ord("`") else 0
        if run == 3:
            ends.append(i)
    return ends


def quoted_bytes(text: bytes) -> int:
    """Bytes in double quotes (the opening one counts), in fences, or in lines that begin with ``>``."""
    ends, total, start = set(fence_ends(text)), 0, 0
    in_quote = in_fence = False
    cited: set[int] = set()
    for line in text.split(b"\n"):
        first = start + indentation(line)
        if text[first : first + 1] == b">":
            cited |= set(range(first, start + len(line)))
        start += len(line) + 1
    for i, b in enumerate(text):
        in_quote ^= b == ord('"')
        in_fence ^= i in ends
        total += in_quote or in_fence or i in cited
    return total


def script_of(text: bytes, i: int) -> str | None:
    """Script of the character whose UTF-8 form leads with byte i; None for what is no lead byte."""
    b = text[i]
    if b < 0xC0:
        return None
    if b in (0xC2, 0xE2) or b >= 0xEE:
        return "symbols"
    if 0xC3 <= b <= 0xC9:
        return "latin"
    if 0xD0 <= b <= 0xD4:
        return "cyrillic"
    if 0xD8 <= b <= 0xDB or b == 0xDD:
        return "arabic"
    if b >= 0xE3:
        return "cjk"
    if b == 0xE0 and text[i + 1] in (0xA4, 0xA5):
        return "devanagari"
    return "other"


COUNTED = [
    *("bytes", "words", "word_bytes", "lines", "digits", "upper", "lower", "signs", "questions", "code"),
    *("keywords", "indented", "fences", "operators", "latex", "commands", "arithmetic", "items", "rows"),
    *("pairs", "urls", "options", "quoted", "continued"),
    *("latin", "cyrillic", "cjk", "arabic", "devanagari", "other", "symbols"),
]


def count(text: bytes) -> dict[str, int]:
    """Everything that is counted in one text, as exact integers."""
    c = dict.fromkeys(COUNTED, 0)
    c["bytes"] = len(text)
    for i, b in enumerate(text):
        before = text[i - 1] if i else None
        c["words"] += b in WORD and before not in WORD
        c["word_bytes"] += b in WORD
        c["lines"] += b == ord("\n")
        c["digits"] += b in DIGIT
        c["upper"] += b in UPPER
        c["lower"] += b in LOWER
        c["signs"] += b not in SPACE and b not in WORD
        c["questions"] += b == ord("?")
        c["code"] += b in CODE
        c["operators"] += b in OPERATOR
        c["latex"] += b in LATEX
        c["commands"] += b in LETTER and before == ord("\\")
        c["arithmetic"] += (b in DIGIT and beside(text, i, OPERATOR)) or (
            b in OPERATOR and beside(text, i, DIGIT)
        )
        c["continued"] += 0x80 <= b < 0xC0
        script = script_of(text, i)
        if script is not None:
            c[script] += 1
    for line in text.split(b"\n"):
        spaces = indentation(line)
        body = line[spaces:]
        c["indented"] += spaces > 0
        c["items"] += is_item(body)
        c["options"] += is_option(body)
        c["rows"] += body[:1] == b"|"
        c["keywords"] += body.startswith(KEYWORDS)
    c["fences"] = len(fence_ends(text))
    c["pairs"] = text.count(b'":')
    c["urls"] = text.count(b"://")
    c["questions"] += text.count("？".encode()) + text.count("؟".encode())
    c["quoted"] = quoted_bytes(text)
    return c


def tokens_of(c: dict[str, int]) -> float:
    counted = {
        "text": 1,
        "words": c["words"],
        "letters": c["lower"] + c["upper"],
        "digits": c["digits"],
        "signs": c["signs"],
        "newlines": c["lines"],
        "latin": c["latin"],
        "alphabet": c["cyrillic"] + c["arabic"] + c["devanagari"] + c["other"],
        "symbol": c["symbols"],
        "cjk": c["cjk"],
    }
    return float(sum(TOKEN_WEIGHTS[name] * counted[name] for name in counted))


def raw_numbers(c: dict[str, int], squares: int, grams: int) -> dict[str, float]:
    """Statistics and scripts before centring and scaling."""
    per_byte = max(c["bytes"], 1)
    ascii_letters = c["lower"] + c["upper"]
    scripts = ("latin", "cyrillic", "cjk", "arabic", "devanagari", "other")
    letters = max(ascii_letters + sum(c[script] for script in scripts), 1)
    raw = {
        "log_bytes": log2p(c["bytes"]),
        "log_words": log2p(c["words"]),
        "log_tokens": log2p(tokens_of(c)),
        "word_length": log2p(c["word_bytes"] / max(c["words"], 1)),
        "digits": math.sqrt(c["digits"] / per_byte),
        "upper": math.sqrt(c["upper"] / per_byte),
        "punctuation": math.sqrt((c["signs"] - c["code"] - c["operators"] - c["latex"]) / per_byte),
        "code": math.sqrt(c["code"] / per_byte),
        "maths": math.sqrt((c["operators"] + c["latex"]) / per_byte),
        "quoted": math.sqrt(c["quoted"] / per_byte),
        "repetition": log2p(squares / max(grams, 1)),
        "symbols": math.sqrt(c["symbols"] / max(c["bytes"] - c["continued"], 1)),
    }
    logs = {
        "indentation": "indented",
        "latex": "commands",
        "lists": "items",
        "tables": "rows",
        "json": "pairs",
    }
    same = ("lines", "questions", "keywords", "fences", "arithmetic", "urls", "options")
    logs |= dict(zip(same, same, strict=True))
    raw |= {name: log2p(c[source]) for name, source in logs.items()}
    raw |= {script: c[script] / letters for script in scripts}
    return raw | {"latin": (letters - sum(c[script] for script in scripts[1:])) / letters}
