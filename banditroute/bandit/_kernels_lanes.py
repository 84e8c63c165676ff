"""Vector products in a fixed order, written as LLVM instructions: a vectoriser would leave the short ones scalar.

A sum over i goes into one accumulator per i modulo the number of lanes (16 of float32, 8 of float64), each in the
order of i, and the accumulators are added in halves. Products and sums are rounded one by one, without fused
multiply-add, so a result depends neither on the processor nor on how many products a call takes together: a tile of
them shares loads, never sums.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types
from numba.core import cgutils as untyped

TILE = 4  # rows of the second matrix that one call multiplies by: as many sums keep the adders busy
BLOCK = 8  # rows of a packed triangle are padded to a multiple of it
cgutils: Any = untyped
intrinsic: Any = extending.intrinsic  # it hides the type of what it makes
WORD = ir.IntType(64)
DOUBLE = ir.DoubleType()


@extending.register_jitable
def triangle_size(wide: int) -> int:
    """Return the length of a packed lower triangle of ``wide`` rows, row i padded to a multiple of 8."""
    return wide * (wide + BLOCK) // 2


def _vector(element: Any) -> Any:
    """Return the vector type of 64 bytes of an array's elements."""
    return ir.VectorType(DOUBLE, 8) if element == types.float64 else ir.VectorType(ir.FloatType(), 16)


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


def _place(builder: Any, data: Any, index: Any, vector: Any) -> Any:
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _read(builder: Any, data: Any, index: Any, vector: Any) -> Any:
    return builder.load(_place(builder, data, index, vector), align=4)


def _write(builder: Any, value: Any, data: Any, index: Any) -> None:
    builder.store(value, _place(builder, data, index, value.type), align=4)


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )


def _total(builder: Any, vector: Any) -> Any:
    """Add the lanes of a vector in halves: 16 to 8 to 4 to 2 to 1."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        kind = ir.VectorType(ir.IntType(32), lanes)
        low = builder.shuffle_vector(vector, vector, ir.Constant(kind, list(range(lanes))))
        high = builder.shuffle_vector(vector, vector, ir.Constant(kind, list(range(lanes, 2 * lanes))))
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))


def _dots(rows: int) -> Any:
    """Return the intrinsic that multiplies ``rows`` rows of one matrix by `TILE` rows of another."""

    def dots(
        typing: Any,
        a: Any,
        a_at: Any,
        a_step: Any,
        b: Any,
        b_at: Any,
        n: Any,
        out: Any,
        out_at: Any,
        out_step: Any,
    ) -> Any:
        """Write out[out_at + r * out_step + m] = sum over i < n of a[a_at + r * a_step + i] * b[b_at + m * n + i].

        All arrays are flat; ``n`` is a multiple of the lanes. The sum is in the type of ``a`` and ``b``, the result
        float64.
        """

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            source, other, target = (_data(context, builder, kinds[i], args[i]) for i in (0, 3, 6))
            _, a_at, a_step, _, b_at, n, _, out_at, out_step = args
            vector = _vector(kinds[0].dtype)
            zero = ir.Constant(vector, [0.0] * vector.count)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(rows * TILE)]
            for place in sums:
                builder.store(zero, place)
            left = [builder.add(a_at, builder.mul(a_step, ir.Constant(WORD, r))) for r in range(rows)]
            right = [builder.add(b_at, builder.mul(n, ir.Constant(WORD, m))) for m in range(TILE)]
            with cgutils.for_range_slice(
                builder, ir.Constant(WORD, 0), n, ir.Constant(WORD, vector.count), inc=True
            ) as (i, _count):
                ours = [_read(builder, source, builder.add(place, i), vector) for place in left]
                for m in range(TILE):
                    theirs = _read(builder, other, builder.add(right[m], i), vector)
                    for r in range(rows):
                        place = sums[r * TILE + m]
                        product = builder.fmul(ours[r], theirs)
                        builder.store(builder.fadd(builder.load(place), product), place)
            for r in range(rows):
                start = builder.add(out_at, builder.mul(out_step, ir.Constant(WORD, r)))
                for m in range(TILE):
                    total = _total(builder, builder.load(sums[r * TILE + m]))
                    if total.type != DOUBLE:
                        total = builder.fpext(total, DOUBLE)
                    builder.store(total, builder.gep(target, [builder.add(start, ir.Constant(WORD, m))]))
            return context.get_dummy_value()

        whole = types.intp
        return types.void(a, whole, whole, b, whole, whole, out, whole, whole), lower

    return intrinsic(dots)


dots_1, dots_4 = _dots(1), _dots(4)


@intrinsic
def products(typing: Any, x: Any, x_at: Any, wide: Any, out: Any, out_at: Any) -> Any:
    """Write the products x_i x_j of one context, float32, in the order of a packed triangle (j up to the padding)."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, target = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3))
        _, x_at, wide, _, out_at = args
        vector = ir.VectorType(ir.FloatType(), BLOCK)
        block, zero = ir.Constant(WORD, BLOCK), ir.Constant(WORD, 0)
        cursor = cgutils.alloca_once_value(builder, out_at)
        builder.store(out_at, cursor)
        with cgutils.for_range_slice(builder, zero, wide, block, inc=True) as (top, _count):
            end = builder.add(top, block)
            for r in range(BLOCK):
                c = builder.load(
                    builder.gep(source, [builder.add(x_at, builder.add(top, ir.Constant(WORD, r)))])
                )
                c = _splat(builder, c, BLOCK)
                start = builder.load(cursor)
                with cgutils.for_range_slice(builder, zero, end, block, inc=True) as (j, _inner):
                    value = _read(builder, source, builder.add(x_at, j), vector)
                    _write(builder, builder.fmul(c, value), target, builder.add(start, j))
                builder.store(builder.add(start, end), cursor)
        return context.get_dummy_value()

    return types.void(x, types.intp, types.intp, out, types.intp), lower


@intrinsic
def half_row(typing: Any, w: Any, at: Any, x: Any, c: Any, n: Any, out: Any) -> Any:
    """Return the product of one packed row, w[at : at + n], and x[:n]; add c times the row to out[:n]. All float64."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line, source, target = (_data(context, builder, signature.args[i], args[i]) for i in (0, 2, 5))
        _, at, _, c, n, _ = args
        vector = _vector(types.float64)
        zero = ir.Constant(vector, [0.0] * vector.count)
        total = cgutils.alloca_once_value(builder, zero)
        builder.store(zero, total)
        factor = _splat(builder, c, vector.count)
        with cgutils.for_range_slice(
            builder, ir.Constant(WORD, 0), n, ir.Constant(WORD, vector.count), inc=True
        ) as (i, _count):
            row = _read(builder, line, builder.add(at, i), vector)
            product = builder.fmul(row, _read(builder, source, i, vector))
            builder.store(builder.fadd(builder.load(total), product), total)
            kept = _read(builder, target, i, vector)
            _write(builder, builder.fadd(kept, builder.fmul(factor, row)), target, i)
        return _total(builder, builder.load(total))

    return types.float64(w, types.intp, x, types.float64, types.intp, out), lower


@intrinsic
def downdate_row(typing: Any, w: Any, t: Any, at: Any, row: Any, x: Any, c: Any) -> Any:
    """Subtract c · x from row ``row`` of a half matrix, half of it on the diagonal; write twice the row to ``t``.

    ``w`` is float64 and ``t`` float32, packed alike with the row at ``at``; the padding stays as it is.
    """

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line, copy, source = (_data(context, builder, signature.args[i], args[i]) for i in (0, 1, 4))
        _, _, at, row, _, c = args
        vector = _vector(types.float64)
        lanes = ir.VectorType(WORD, BLOCK)
        factor = _splat(builder, c, BLOCK)
        half = builder.fmul(factor, ir.Constant(vector, [0.5] * BLOCK))
        two = ir.Constant(vector, [2.0] * BLOCK)
        zero = ir.Constant(vector, [0.0] * BLOCK)

        def subtract(i: Any, factor: Any) -> None:
            place = builder.add(at, i)
            value = builder.fsub(
                _read(builder, line, place, vector), builder.fmul(factor, _read(builder, source, i, vector))
            )
            _write(builder, value, line, place)
            narrow = builder.fptrunc(builder.fmul(two, value), ir.VectorType(ir.FloatType(), BLOCK))
            _write(builder, narrow, copy, place)

        last = builder.and_(row, ir.Constant(WORD, -BLOCK))
        with cgutils.for_range_slice(
            builder, ir.Constant(WORD, 0), last, ir.Constant(WORD, BLOCK), inc=True
        ) as (i, _count):
            subtract(i, factor)
        place = _splat(builder, builder.sub(row, last), BLOCK)
        lane = ir.Constant(lanes, list(range(BLOCK)))
        below = builder.icmp_signed("<", lane, place)
        here = builder.icmp_signed("==", lane, place)
        subtract(last, builder.select(below, factor, builder.select(here, half, zero)))
        return context.get_dummy_value()

    return types.void(w, t, types.intp, types.intp, x, types.float64), lower


@intrinsic
def subtract_row(typing: Any, out: Any, out_at: Any, x: Any, x_at: Any, c: Any, n: Any) -> Any:
    """Subtract c · x[x_at : x_at + n] from out[out_at : out_at + n], all float64; ``n`` is a multiple of 8."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source = (_data(context, builder, signature.args[i], args[i]) for i in (0, 2))
        _, out_at, _, x_at, c, n = args
        vector = _vector(types.float64)
        factor = _splat(builder, c, vector.count)
        step = ir.Constant(WORD, vector.count)
        with cgutils.for_range_slice(builder, ir.Constant(WORD, 0), n, step, inc=True) as (i, _count):
            place = builder.add(out_at, i)
            product = builder.fmul(factor, _read(builder, source, builder.add(x_at, i), vector))
            _write(builder, builder.fsub(_read(builder, target, place, vector), product), target, place)
        return context.get_dummy_value()

    return types.void(out, types.intp, x, types.intp, types.float64, types.intp), lower


def _lane_tile(rows: int, columns: int, finish: str) -> Any:
    """Return the intrinsic that multiplies some rows by some others, for eight problems side by side."""

    def lane_tile(
        typing: Any, a: Any, a_at: Any, a_step: Any, b: Any, b_at: Any, b_step: Any, n: Any, c: Any, c_at: Any,
        out: Any, out_at: Any, out_step: Any,
    ) -> Any:  # fmt: skip
        """Sum a[a_at + r a_step + i] b[b_at + s b_step + i] over i < n into out[out_at + r out_step + s].

        Every element is eight float64 numbers, one per problem; places and steps count elements. Depending on the
        intrinsic the sum is written, subtracted, or subtracted and the difference multiplied by c[c_at].
        """

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            source, other, factor, target = (_data(context, builder, kinds[i], args[i]) for i in (0, 3, 7, 9))
            _, a_at, a_step, _, b_at, b_step, n, _, c_at, _, out_at, out_step = args
            vector = _vector(types.float64)
            lanes = ir.Constant(WORD, vector.count)
            zero = ir.Constant(vector, [0.0] * vector.count)
            sums = [cgutils.alloca_once_value(builder, zero) for _ in range(rows * columns)]
            for place in sums:
                builder.store(zero, place)

            def starts(at: Any, step: Any, count: int) -> list[Any]:
                return [
                    builder.mul(lanes, builder.add(at, builder.mul(step, ir.Constant(WORD, r))))
                    for r in range(count)
                ]

            left, right = starts(a_at, a_step, rows), starts(b_at, b_step, columns)
            end = builder.mul(lanes, n)
            with cgutils.for_range_slice(builder, ir.Constant(WORD, 0), end, lanes, inc=True) as (i, _count):
                ours = [_read(builder, source, builder.add(start, i), vector) for start in left]
                theirs = [_read(builder, other, builder.add(start, i), vector) for start in right]
                for r in range(rows):
                    for s in range(columns):
                        place = sums[r * columns + s]
                        product = builder.fmul(ours[r], theirs[s])
                        builder.store(builder.fadd(builder.load(place), product), place)
            for r, start in enumerate(starts(out_at, out_step, rows)):
                for s in range(columns):
                    index = builder.add(start, ir.Constant(WORD, s * vector.count))
                    value = builder.load(sums[r * columns + s])
                    if finish != "write":
                        value = builder.fsub(_read(builder, target, index, vector), value)
                    if finish == "scale":
                        value = builder.fmul(value, _read(builder, factor, builder.mul(lanes, c_at), vector))
                    _write(builder, value, target, index)
            return context.get_dummy_value()

        whole = types.intp
        return (
            types.void(a, whole, whole, b, whole, whole, whole, c, whole, out, whole, whole),
            lower,
        )

    return intrinsic(lane_tile)


reduce_1, reduce_4 = _lane_tile(1, 1, "scale"), _lane_tile(4, 1, "scale")
reduce_tile, multiply_tile, multiply_4 = (
    _lane_tile(4, 4, "subtract"),
    _lane_tile(4, 4, "write"),
    _lane_tile(4, 1, "write"),
)
