"""Compiled writer of decision records: JSON value and the frame that Kafka wants, row by row.

A record of Kafka's record batch, version 2 (Kafka protocol, "Record Batch"), is: length, attributes, timestamp delta,
offset delta, key, value, headers; lengths and deltas are zigzag varints. The JSON is that of `events.encode`, byte by
byte.
"""

from __future__ import annotations

from typing import Any, Final

from banditroute_features.compile import njit_cached

kernel = njit_cached(_nrt=False)  # nothing is allocated, so no references are counted

# the parts of a decision that never change, by their place among the constants
BEGIN, REQUEST, MODEL, USUAL, ONLY, FALLBACKS, PROPENSITY, EXPLORED, QUALITY, COST, LATENCY, END = range(12)
NUMBERS: Final = 4  # propensity, quality, cost and latency
KEY_AT, KEY_END, VALUE_AT, VALUE_END, HEADER_AT, HEADER_END = range(6)  # columns of `spans`
SPANS: Final = 6
FRAME: Final = 40  # bytes of a record beside key, value and headers, at most
_COMMA: Final = ord(",")
_CLOSE: Final = ord("]")
_MINUS: Final = ord("-")
_ZERO: Final = ord("0")


@kernel
def number_ends(text: Any, ends: Any) -> None:
    """Write where each number of a JSON array ends; the first begins at 1."""
    found = 0
    for i in range(text.shape[0]):
        if text[i] == _COMMA or text[i] == _CLOSE:
            ends[found] = i
            found += 1


@kernel
def _copy(out: Any, at: int, source: Any, start: int, stop: int) -> int:
    count = stop - start
    there, here = (
        out[at : at + count],
        source[start:stop],
    )  # slices: the compiler sees that no index is negative
    for i in range(count):
        there[i] = here[i]
    return at + count


@kernel
def _part(out: Any, at: int, texts: Any, ends: Any, index: int) -> int:
    """Copy one of some texts that lie one behind the other."""
    return _copy(out, at, texts, ends[index - 1] if index > 0 else 0, ends[index])


@kernel
def _integer(out: Any, at: int, value: int) -> int:
    """Write a number that is not negative in decimal."""
    digits, rest = 1, value // 10
    while rest > 0:
        digits += 1
        rest //= 10
    for i in range(digits):
        out[at + digits - 1 - i] = _ZERO + value % 10
        value //= 10
    return at + digits


@kernel
def _varint(out: Any, at: int, value: int) -> int:
    """Write a number that is not negative as a zigzag varint."""
    rest = value << 1
    while rest > 127:
        out[at] = (rest & 127) | 128
        rest >>= 7
        at += 1
    out[at] = rest
    return at + 1


@kernel
def _size(value: int) -> int:
    """Return the bytes of a zigzag varint."""
    rest, size = value << 1, 1
    while rest > 127:
        rest >>= 7
        size += 1
    return size


@kernel
def _value(
    out: Any,
    row: int,
    ids: Any,
    offsets: Any,
    constants: Any,
    names: Any,
    rank: Any,
    numbers: Any,
    flags: Any,
    weights: Any,
    places: Any,
    fragments: Any,
) -> int:
    """Write the JSON of a decision and return its length."""
    parts, ends = constants
    at = _part(out, 0, parts, ends, BEGIN)
    at = _integer(out, at, offsets[row])
    at = _part(out, at, parts, ends, REQUEST)
    at = _part(out, at, ids[0], ids[1], row)
    at = _part(out, at, parts, ends, MODEL)
    at = _part(out, at, names[0], names[1], rank[row, 0])
    count = 1
    while count < rank.shape[1] and rank[row, count] >= 0:
        count += 1
    at = _part(out, at, parts, ends, ONLY if count == 1 else USUAL)
    at = _part(out, at, weights[0], weights[1], places[row, 0])
    if count > 1:
        at = _part(out, at, parts, ends, FALLBACKS)
        for i in range(1, count):
            at = _part(out, at, names[0], names[1], rank[row, i])
            out[at] = _COMMA if i + 1 < count else _CLOSE
            at += 1
    text, stops = numbers
    first = NUMBERS * row
    at = _part(out, at, parts, ends, PROPENSITY)
    at = _copy(out, at, text, stops[first - 1] + 1 if first > 0 else 1, stops[first])
    if flags[row, 0]:
        at = _part(out, at, parts, ends, EXPLORED)
    for i in range(1, 4 if flags[row, 1] else 3):
        at = _part(out, at, parts, ends, QUALITY + i - 1)
        at = _copy(out, at, text, stops[first + i - 1] + 1, stops[first + i])
    out[at] = 125  # the brace that closes what is expected
    at += 1
    for i in range(1, 3):
        if places[row, i] >= 0:
            at = _part(out, at, fragments[0], fragments[1], places[row, i])
    return _part(out, at, parts, ends, END)


@kernel
def write_records(
    out: Any,
    scratch: Any,
    spans: Any,
    start: int,
    stop: int,
    ids: Any,
    offsets: Any,
    constants: Any,
    names: Any,
    rank: Any,
    numbers: Any,
    flags: Any,
    weights: Any,
    places: Any,
    fragments: Any,
    special: Any,
    extra: Any,
    counts: Any,
    header_name: Any,
    headers: Any,
) -> tuple[int, int]:
    """Write the records of rows `start` to `stop` as far as they find room; return the next row and the bytes used.

    Parameters
    ----------
    out, scratch : uint8[...]
        Where records go, and room for one value.
    spans : int64[n, 6]
        Receives where key, value and header of each record are in `out`.
    ids, constants, names, numbers, weights, fragments, special, extra : (uint8[...], int64[...])
        Texts one behind the other, and where each ends. `special` are values that are written already, empty for
        most rows; `extra` are encoded headers behind ours.
    offsets : int64[n]
        Request offsets.
    rank : int32[n, K]
        The chosen model, then the others.
    flags : uint8[n, 2]
        Whether it explored, and whether a latency is expected.
    places : int32[n, 3]
        Which weights, and which fragment for segment and tenant, -1 for none.
    counts : int32[n]
        How many headers `extra` holds.
    header_name : uint8[...]
        Name of our header.
    headers : uint8[n, size]
        Our headers.
    """
    size_of_header = headers.shape[1]
    at, row = 0, start
    while row < stop:
        own = special[1][row] - (special[1][row - 1] if row > 0 else 0)
        if own > 0:
            length = _part(scratch, 0, special[0], special[1], row)
        else:
            length = _value(
                scratch, row, ids, offsets, constants, names, rank, numbers, flags, weights, places, fragments
            )
        key = ids[1][row] - (ids[1][row - 1] if row > 0 else 0)
        more = extra[1][row] - (extra[1][row - 1] if row > 0 else 0)
        size = 2 + _size(row - start) + _size(key) + key + _size(length) + length + more
        size += _size(counts[row] + 1) + _size(header_name.shape[0]) + header_name.shape[0]
        size += _size(size_of_header) + size_of_header
        if at + _size(size) + size > out.shape[0]:
            break
        at = _varint(out, at, size)
        out[at], out[at + 1] = 0, 0  # attributes, and no difference in time
        at = _varint(out, at + 2, row - start)
        at = _varint(out, at, key)
        spans[row, KEY_AT] = at
        at = _part(out, at, ids[0], ids[1], row)
        spans[row, KEY_END] = at
        at = _varint(out, at, length)
        spans[row, VALUE_AT] = at
        at = _copy(out, at, scratch, 0, length)
        spans[row, VALUE_END] = at
        at = _varint(out, at, counts[row] + 1)
        at = _varint(out, at, header_name.shape[0])
        at = _copy(out, at, header_name, 0, header_name.shape[0])
        at = _varint(out, at, size_of_header)
        spans[row, HEADER_AT] = at
        at = _copy(out, at, headers[row], 0, size_of_header)
        spans[row, HEADER_END] = at
        if more > 0:
            at = _part(out, at, extra[0], extra[1], row)
        row += 1
    return row, at
