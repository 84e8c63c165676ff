"""Vector instructions for the kernels: 64 bytes at a time, written once for every machine.

numba vectorises loops, but neither byte masks nor bit-sliced counting come out of plain loops. These intrinsics
emit LLVM vectors of 64 bytes, which the compiler cuts to what the machine has (AVX-512, AVX2, NEON). All of it
is integer arithmetic: results do not depend on the width. Every function becomes part of the kernel that calls
it, so this file and `_kernels.py` are one unit for numba's cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import llvmlite.binding as llvm  # type: ignore[import-untyped]  # ships no types
import numba
from llvmlite import ir
from numba import extending
from numba.core import cgutils as numba_cgutils

__all__ = ["BLOCK", "MINUS_AT", "add_grams", "fold", "gram_indices", "in_range", "popcount"]

BLOCK: Final = 64
"""Bytes per step."""

MINUS_AT: Final = 13_056
"""Where the indices of minus signs start: room for 4,096 bytes with three grams each, and for padding."""

_GROUP: Final = 128  # indices per step: sixteen vectors of eight one-hot words
_PLANES: Final = 9  # ones to 256s
_ROUND: Final = 31  # groups until the planes of sixteens and up could overflow: each adds one sixteen at most
_LOW_PLANES: Final = 7  # those whose sum fits a signed byte
_LANES: Final = 8
_NEEDED: Final = ("avx512bw", "avx512vl", "avx512vbmi2")
# What numba leaves without types.
config: Any = numba.config
types: Any = numba.types
cgutils: Any = numba_cgutils
# The first argument of an intrinsic is numba's own, so the type of numba's decorator does not fit its callers.
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_BYTES = ir.VectorType(_I8, BLOCK)
_SHORTS = ir.VectorType(_I16, BLOCK)
_INTS = ir.VectorType(_I32, BLOCK)
_WORDS = ir.VectorType(_I64, _LANES)
_MASK = ir.VectorType(ir.IntType(1), BLOCK)


def _constant(vector: Any, value: int) -> Any:
    return ir.Constant(vector, [value] * vector.count)


def _splat(builder: Any, vector: Any, value: Any) -> Any:
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, at: Any, vector: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


def _load(context: Any, builder: Any, array_type: Any, array: Any, at: Any, vector: Any) -> Any:
    loaded = builder.load(_pointer(context, builder, array_type, array, at, vector))
    loaded.align = 1
    return loaded


def _store(value: Any, context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> None:
    builder.store(value, _pointer(context, builder, array_type, array, at, value.type)).align = 1


@intrinsic
def in_range(_typing: Any, text: Any, _at: Any, _low: Any, _count: Any) -> Any:
    """Mask of the 64 bytes from ``text[at]`` on with ``low <= byte < low + count``, lowest bit first."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = _load(context, builder, signature.args[0], args[0], args[1], _BYTES)
        above = builder.sub(block, _splat(builder, _BYTES, args[2]))
        mask = builder.icmp_unsigned("<", above, _splat(builder, _BYTES, args[3]))
        return builder.bitcast(mask, _I64)

    return types.uint64(text, types.int64, types.uint8, types.uint8), generate


@intrinsic
def popcount(_typing: Any, _mask: Any) -> Any:
    """Count the bits that are set."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@intrinsic
def fold(_typing: Any, text: Any, _at: Any, folded: Any, wide: Any) -> Any:
    """Copy 64 bytes to the same place of `folded`, and of `wide` with 16 bits each.

    ASCII letters become small and control characters spaces.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block = _load(context, builder, signature.args[0], args[0], args[1], _BYTES)
        from_a = builder.sub(block, _constant(_BYTES, ord("A")))
        is_upper = builder.icmp_unsigned("<", from_a, _constant(_BYTES, 26))
        small = builder.select(is_upper, builder.or_(block, _constant(_BYTES, 32)), block)
        is_space = builder.icmp_unsigned("<", block, _constant(_BYTES, 32))
        plain = builder.select(is_space, _constant(_BYTES, 32), small)
        _store(plain, context, builder, signature.args[2], args[2], args[1])
        shorts = builder.zext(plain, _SHORTS)
        _store(shorts, context, builder, signature.args[3], args[3], args[1])
        return context.get_dummy_value()

    return types.void(text, types.int64, folded, wide), generate


def _compresses() -> bool:
    """Whether the machine that is compiled for drops bytes of a vector in one instruction."""
    if config.CPU_FEATURES is not None:
        return all(f"+{feature}" in config.CPU_FEATURES for feature in _NEEDED)
    if config.CPU_NAME is not None:
        return False
    features = llvm.get_host_cpu_features()
    return all(features.get(feature) for feature in _NEEDED)


def _compress(builder: Any, block: Any, kept: Any) -> Any:
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(_BYTES, [_BYTES, _MASK, _BYTES]),
        "llvm.experimental.vector.compress.v64i8",
    )
    return builder.call(function, [block, kept, _constant(_BYTES, 0)])


def _list_kept(
    context: Any, builder: Any, indices: tuple[Any, Any], hashes: Any, broken: Any, to: list[Any]
) -> None:
    """List the columns of 64 hashes, those of plus and of minus signs apart, and move the ends of the lists."""
    column = builder.trunc(builder.lshr(hashes, _constant(_SHORTS, 10)), _BYTES)
    sign_bit = builder.and_(hashes, _constant(_SHORTS, 1 << 9))
    is_minus = builder.icmp_unsigned("!=", sign_bit, _constant(_SHORTS, 0))
    if not _compresses():
        index = builder.select(is_minus, builder.or_(column, _constant(_BYTES, 64)), column)
        index = builder.select(broken, builder.or_(index, _constant(_BYTES, 128)), index)
        _store(index, context, builder, indices[0], indices[1], to[0])
        to[0] = builder.add(to[0], ir.Constant(_I64, BLOCK))
        return
    whole = builder.not_(broken)
    for sign in range(2):
        kept = builder.and_(whole, is_minus if sign else builder.not_(is_minus))
        at = builder.add(to[sign], ir.Constant(_I64, MINUS_AT)) if sign else to[sign]
        _store(_compress(builder, column, kept), context, builder, indices[0], indices[1], at)
        to[sign] = builder.add(to[sign], builder.ctpop(builder.bitcast(kept, _I64)))


@intrinsic
def gram_indices(
    _typing: Any, folded: Any, wide: Any, _at: Any, keys: Any, indices: Any, cursors: Any
) -> Any:
    """Hash the 3-, 4- and 5-grams that end in the 64 bytes from ``folded[at]`` on, and list their columns.

    A gram with a space inside does not count. Columns of plus signs go to ``indices[cursors[0]]`` and on,
    those of minus signs to ``indices[MINUS_AT + cursors[1]]`` and on. Machines that cannot compress a vector
    list ``column + 64 * minus`` at the first place instead, and 128 more for a gram that does not count
    (128 places and not one, because a processor waits when it counts in the same place again).
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        folded_type, wide_type, _, keys_type, indices_type, cursors_type = signature.args
        keys_at = context.make_array(keys_type)(context, builder, args[3]).data
        places = [builder.gep(keys_at, [ir.Constant(_I64, j)]) for j in range(6)]
        key = [_splat(builder, _SHORTS, builder.load(place)) for place in places]
        ends = context.make_array(cursors_type)(context, builder, args[5]).data
        ends = [ends, builder.gep(ends, [ir.Constant(_I64, 1)])]
        to = [builder.load(end) for end in ends]
        total, broken = key[5], None
        for j in range(5):
            back = builder.sub(args[2], ir.Constant(_I64, j))
            block = _load(context, builder, wide_type, args[1], back, _SHORTS)
            total = builder.add(total, builder.mul(key[j], block))
            if j >= 2:
                _list_kept(context, builder, (indices_type, args[4]), total, broken, to)
            if 1 <= j <= 3:
                block = _load(context, builder, folded_type, args[0], back, _BYTES)
                is_space = builder.icmp_unsigned("==", block, _constant(_BYTES, 32))
                broken = is_space if broken is None else builder.or_(broken, is_space)
        for sign in range(2):
            builder.store(to[sign], ends[sign])
        return context.get_dummy_value()

    return types.void(folded, wide, types.int64, keys, indices, cursors), generate


def _add_bits(builder: Any, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
    """Full adder of every bit: sum and carry (the majority, which LLVM does not see is one instruction)."""
    arguments = [a, b, c, ir.Constant(_I32, 0xE8)]
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(a.type, [argument.type for argument in arguments]),
        f"llvm.x86.avx512.pternlog.q.{64 * a.type.count}",
    )
    return builder.xor(builder.xor(a, b), c), builder.call(function, arguments)


def _add_words(builder: Any, words: list[Any], planes: list[Any]) -> None:
    """Add sixteen words to the planes of ones, twos, fours …: carry-save adders, then a ripple."""
    for weight in range(4):
        carries, plane = [], builder.load(planes[weight])
        for i in range(0, len(words), 2):
            plane, carry = _add_bits(builder, plane, words[i], words[i + 1])
            carries.append(carry)
        builder.store(plane, planes[weight])
        words = carries
    carry = words[0]
    for place in planes[4:]:
        plane = builder.load(place)
        builder.store(builder.xor(plane, carry), place)
        carry = builder.and_(plane, carry)


def _pick(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Return lanes of two vectors, those of `b` counted on from those of `a`."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def _add_numbers(builder: Any, lows: list[Any], highs: list[Any]) -> list[Any]:
    """Add bit-sliced numbers; the sum has one plane more."""
    carry, planes = _constant(lows[0].type, 0), []
    for low, high in zip(lows, highs, strict=True):
        plane, carry = _add_bits(builder, low, high, carry)
        planes.append(plane)
    return [*planes, carry]


def _add_lanes(builder: Any, pluses: list[Any], minuses: list[Any]) -> list[Any]:
    """Add the eight lanes of two bit-sliced numbers down to one of each."""
    lower, upper = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
    pairs = list(zip(pluses, minuses, strict=True))
    lows, highs = ([_pick(builder, a, b, half) for a, b in pairs] for half in (lower, upper))
    fours = _add_numbers(builder, lows, highs)
    lows, highs = ([_pick(builder, n, n, half) for n in fours] for half in ([0, 1, 4, 5], [2, 3, 6, 7]))
    twos = _add_numbers(builder, lows, highs)
    lows, highs = ([_pick(builder, n, n, half) for n in twos] for half in ([0, 2], [1, 3]))
    return _add_numbers(builder, lows, highs)


def _counts(builder: Any, planes: list[Any], lane: int) -> list[Any]:
    """Turn one lane of a bit-sliced number into 64 bytes for its low planes and 64 for the others."""
    parts = []
    for first in range(0, len(planes), _LOW_PLANES):
        part = _constant(_BYTES, 0)
        for weight, plane in enumerate(planes[first : first + _LOW_PLANES]):
            word = builder.extract_element(plane, ir.Constant(_I32, lane))
            more = builder.add(part, _constant(_BYTES, 1 << weight))
            part = builder.select(builder.bitcast(word, _MASK), more, part)
        parts.append(part)
    return parts


def _count_sliced(
    context: Any, builder: Any, indices: Any, first: Any, groups: Any, planes_wanted: int
) -> list[Any]:
    """Count the columns in `groups` groups of indices from `first` on: planes of eight lanes."""
    planes = [cgutils.alloca_once(builder, _WORDS) for _ in range(planes_wanted)]
    for plane in planes:
        builder.store(_constant(_WORDS, 0), plane)
    eight = ir.VectorType(_I8, _LANES)
    with cgutils.for_range(builder, groups) as loop:
        words = []
        for i in range(_GROUP // _LANES):
            at = builder.mul(loop.index, ir.Constant(_I64, _GROUP))
            at = builder.add(builder.add(first, at), ir.Constant(_I64, i * _LANES))
            shift = builder.zext(_load(context, builder, indices[0], indices[1], at, eight), _WORDS)
            words.append(builder.shl(_constant(_WORDS, 1), shift))
        _add_words(builder, words, planes)
    return [builder.load(plane) for plane in planes]


def _add_round(
    context: Any, builder: Any, indices: Any, groups: list[Any], done: Any, totals: Any, planes_wanted: int
) -> None:
    """Add as many groups of either sign to the totals as the planes can hold: each adds at most sixteen."""
    planes = []
    for sign in range(2):
        left = builder.sub(groups[sign], done)
        left = builder.select(
            builder.icmp_signed(">", left, ir.Constant(_I64, 0)), left, ir.Constant(_I64, 0)
        )
        most = ir.Constant(_I64, (1 << (planes_wanted - 4)) - 1)
        some = builder.select(builder.icmp_signed("<", left, most), left, most)
        first = builder.add(builder.mul(done, ir.Constant(_I64, _GROUP)), ir.Constant(_I64, sign * MINUS_AT))
        planes.append(_count_sliced(context, builder, indices, first, some, planes_wanted))
    lanes = _add_lanes(builder, *planes)
    signed = [_counts(builder, lanes, lane) for lane in range(2)]
    total = _load(context, builder, totals[0], totals[1], ir.Constant(_I64, 0), _INTS)
    for part in range(2):
        plus, minus = (builder.zext(counts[part], _INTS) for counts in signed)
        difference = builder.sub(plus, minus)
        total = builder.add(total, builder.shl(difference, _constant(_INTS, _LOW_PLANES * part)))
    _store(total, context, builder, totals[0], totals[1], ir.Constant(_I64, 0))


def _add_rounds(context: Any, builder: Any, indices: Any, groups: list[Any], totals: Any) -> None:
    """Add all groups to the totals, as many at once as the planes can hold."""
    more = builder.icmp_unsigned(">", groups[0], groups[1])
    most = builder.select(more, groups[0], groups[1])
    few = builder.icmp_unsigned(
        "<=", most, ir.Constant(_I64, 7)
    )  # a short text: fewer planes to add up in the end
    with builder.if_else(few) as (then, otherwise):
        with then:
            _add_round(context, builder, indices, groups, ir.Constant(_I64, 0), totals, 7)
        with otherwise:
            rounds = builder.udiv(builder.add(most, ir.Constant(_I64, _ROUND - 1)), ir.Constant(_I64, _ROUND))
            with cgutils.for_range(builder, rounds) as loop:
                done = builder.mul(loop.index, ir.Constant(_I64, _ROUND))
                _add_round(context, builder, indices, groups, done, totals, _PLANES)


def _pad(context: Any, builder: Any, indices: Any, ends: list[Any]) -> tuple[list[Any], list[Any]]:
    """Fill the last group of either list with zeros; return the numbers of groups and of zeros."""
    groups, padding = [], []
    for sign, end in enumerate(ends):
        for i in range(0, _GROUP, BLOCK):
            at = builder.add(end, ir.Constant(_I64, i + MINUS_AT * sign))
            _store(_constant(_BYTES, 0), context, builder, indices[0], indices[1], at)
        up = builder.add(end, ir.Constant(_I64, _GROUP - 1))
        groups.append(builder.udiv(up, ir.Constant(_I64, _GROUP)))
        padding.append(builder.sub(builder.mul(groups[sign], ir.Constant(_I64, _GROUP)), end))
    return groups, padding


@intrinsic
def add_grams(_typing: Any, indices: Any, cursors: Any, totals: Any) -> Any:
    """Add the signs of the listed grams to the 64 totals of their columns, their number to a 65th; empty the lists.

    Every column becomes a one-hot word of 64 bits, and the words are counted bit by bit with carry-save adders
    (the Harley-Seal scheme). Scattering into memory takes a store per gram and stumbles over equal
    neighbours; this takes half an instruction per gram, whatever the text. It is the way of machines that
    compress vectors; others scatter.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        indices_of, totals_of = (signature.args[0], args[0]), (signature.args[2], args[2])
        cursors_at = context.make_array(signature.args[1])(context, builder, args[1]).data
        totals_at = context.make_array(signature.args[2])(context, builder, args[2]).data
        ends_at = [cursors_at, builder.gep(cursors_at, [ir.Constant(_I64, 1)])]
        ends = [builder.load(end_at) for end_at in ends_at]
        number_at = builder.gep(totals_at, [ir.Constant(_I64, BLOCK)])
        for end_at in ends_at:
            builder.store(ir.Constant(_I64, 0), end_at)
        if not _compresses():
            _scatter(context, builder, indices_of, ends[0], number_at, totals_of)
            return context.get_dummy_value()
        groups, padding = _pad(context, builder, indices_of, ends)
        counted = builder.trunc(builder.add(ends[0], ends[1]), _I32)
        builder.store(builder.add(builder.load(number_at), counted), number_at)
        _add_rounds(context, builder, indices_of, groups, totals_of)
        excess = builder.trunc(builder.sub(padding[0], padding[1]), _I32)
        builder.store(builder.sub(builder.load(totals_at), excess), totals_at)
        return context.get_dummy_value()

    return types.void(indices, cursors, totals), generate


def _scatter(context: Any, builder: Any, indices: Any, end: Any, number_at: Any, totals: Any) -> None:
    """Count listed indices by scattering: columns of plus signs, of minus signs, and what does not count."""
    table = cgutils.alloca_once(builder, ir.ArrayType(_I32, 256))
    cgutils.memset(builder, table, ir.Constant(_I64, 1024), 0)
    cells = builder.bitcast(table, _I32.as_pointer())
    data = context.make_array(indices[0])(context, builder, indices[1]).data
    with cgutils.for_range(builder, end) as loop:
        index = builder.zext(builder.load(builder.gep(data, [loop.index])), _I64)
        cell = builder.gep(cells, [index])
        builder.store(builder.add(builder.load(cell), ir.Constant(_I32, 1)), cell)
    counted = cgutils.alloca_once_value(builder, builder.load(number_at))
    with cgutils.for_range(builder, ir.Constant(_I64, 2 * BLOCK)) as loop:
        cell = builder.load(builder.gep(cells, [loop.index]))
        builder.store(builder.add(builder.load(counted), cell), counted)
    builder.store(builder.load(counted), number_at)
    total = _load(context, builder, totals[0], totals[1], ir.Constant(_I64, 0), _INTS)
    for sign in range(2):
        start = builder.gep(cells, [ir.Constant(_I64, BLOCK * sign)])
        counts = builder.load(builder.bitcast(start, _INTS.as_pointer()))
        counts.align = 4
        total = (builder.sub if sign else builder.add)(total, counts)
    _store(total, context, builder, totals[0], totals[1], ir.Constant(_I64, 0))
