"""Products and sums for eight problems side by side, written as LLVM instructions: see `_kernels_lanes`.

Every element is eight float64 numbers, one per problem, so each problem has the sums that it would have alone.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from banditroute.bandit.arithmetic._kernels_lanes import (
    BLOCK,
    LANES,
    WORD,
    ZERO,
    accumulators,
    cgutils,
    data_of,
    intrinsic,
    read,
    splat,
    vector_of,
    write,
)


@intrinsic
def subtract_row(typing: Any, out: Any, out_at: Any, x: Any, x_at: Any, c: Any, n: Any) -> Any:
    """Subtract c · x[x_at : x_at + n] from out[out_at : out_at + n], all float64; ``n`` is a multiple of 8."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source = (data_of(context, builder, signature.args[i], args[i]) for i in (0, 2))
        _, out_at, _, x_at, c, n = args
        vector = vector_of(types.float64)
        factor = splat(builder, c, vector.count)
        step = ir.Constant(WORD, vector.count)
        with cgutils.for_range_slice(builder, ir.Constant(WORD, 0), n, step, inc=True) as (i, _count):
            place = builder.add(out_at, i)
            product = builder.fmul(factor, read(builder, source, builder.add(x_at, i), vector))
            write(builder, builder.fsub(read(builder, target, place, vector), product), target, place)
        return context.get_dummy_value()

    return types.void(out, types.intp, x, types.intp, types.float64, types.intp), lower


@intrinsic
def reduce_block(typing: Any, p: Any, wide: Any, top: Any, start: Any) -> Any:
    """Do p[i, j] -= Σ p[k, i] p[k, j] over k < top on rows top..top + 3 and columns start..start + 7 of a matrix."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = data_of(context, builder, signature.args[0], args[0])
        _, wide, top, start = args
        rows = [builder.add(top, ir.Constant(WORD, r)) for r in range(4)]
        places = [builder.add(builder.mul(row, wide), start) for row in rows]
        sums = accumulators(builder, LANES, 4)
        for place, kept in zip(places, sums, strict=True):
            builder.store(read(builder, data, place, LANES), kept)
        with cgutils.for_range_slice(builder, ZERO, top, ir.Constant(WORD, 1), inc=True) as (k, _count):
            line = builder.mul(k, wide)
            theirs = read(builder, data, builder.add(line, start), LANES)
            for row, kept in zip(rows, sums, strict=True):
                factor = splat(builder, builder.load(builder.gep(data, [builder.add(line, row)])), BLOCK)
                builder.store(builder.fsub(builder.load(kept), builder.fmul(factor, theirs)), kept)
        for place, kept in zip(places, sums, strict=True):
            write(builder, builder.load(kept), data, place)
        return context.get_dummy_value()

    return types.void(p, types.intp, types.intp, types.intp), lower


def _lane_tile(rows: int, columns: int, finish: str) -> Any:
    """Return the intrinsic that multiplies some rows by some others, for eight problems side by side."""

    def lane_tile(
        typing: Any, a: Any, a_at: Any, a_step: Any, b: Any, b_at: Any, b_step: Any, n: Any, c: Any, c_at: Any,
        out: Any, out_at: Any, out_step: Any,
    ) -> Any:  # fmt: skip
        """Sum a[a_at + r a_step + i] b[b_at + s b_step + i] over i < n into out[out_at + r out_step + s].

        Every element is eight float64 numbers, one per problem; places and steps count elements. Depending on the
        intrinsic the sum is subtracted, subtracted and the difference multiplied by c[c_at], written, written with
        the other sign, or written twice: mirrored, from out[c_at] on, too.
        """

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            source, other, factor, target = (
                data_of(context, builder, kinds[i], args[i]) for i in (0, 3, 7, 9)
            )
            _, a_at, a_step, _, b_at, b_step, n, _, c_at, _, out_at, out_step = args
            vector = vector_of(types.float64)
            lanes = ir.Constant(WORD, vector.count)
            sums = accumulators(builder, vector, rows * columns)

            def starts(at: Any, step: Any, count: int) -> list[Any]:
                return [
                    builder.mul(lanes, builder.add(at, builder.mul(step, ir.Constant(WORD, r))))
                    for r in range(count)
                ]

            left, right = starts(a_at, a_step, rows), starts(b_at, b_step, columns)
            end = builder.mul(lanes, n)
            with cgutils.for_range_slice(builder, ir.Constant(WORD, 0), end, lanes, inc=True) as (i, _count):
                ours = [read(builder, source, builder.add(start, i), vector) for start in left]
                theirs = [read(builder, other, builder.add(start, i), vector) for start in right]
                for r in range(rows):
                    for s in range(columns):
                        place = sums[r * columns + s]
                        product = builder.fmul(ours[r], theirs[s])
                        builder.store(builder.fadd(builder.load(place), product), place)
            for r, start in enumerate(starts(out_at, out_step, rows)):
                for s in range(columns):
                    index = builder.add(start, ir.Constant(WORD, s * vector.count))
                    value = builder.load(sums[r * columns + s])
                    if finish in ("subtract", "scale"):
                        value = builder.fsub(read(builder, target, index, vector), value)
                    if finish == "negate":
                        value = builder.fsub(ir.Constant(vector, [0.0] * vector.count), value)
                    if finish == "scale":
                        value = builder.fmul(value, read(builder, factor, builder.mul(lanes, c_at), vector))
                    write(builder, value, target, index)
                    if finish == "mirror":
                        place = builder.add(
                            builder.add(c_at, builder.mul(out_step, ir.Constant(WORD, s))),
                            ir.Constant(WORD, r),
                        )
                        write(builder, value, target, builder.mul(lanes, place))
            return context.get_dummy_value()

        whole = types.intp
        return (
            types.void(a, whole, whole, b, whole, whole, whole, c, whole, out, whole, whole),
            lower,
        )

    return intrinsic(lane_tile)


reduce_1, reduce_4 = _lane_tile(1, 1, "scale"), _lane_tile(4, 1, "scale")
reduce_tile, negate_tile, mirror_tile, multiply_4 = (
    _lane_tile(4, 4, "subtract"),
    _lane_tile(4, 4, "negate"),
    _lane_tile(4, 4, "mirror"),
    _lane_tile(4, 1, "write"),
)
