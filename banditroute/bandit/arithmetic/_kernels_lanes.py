"""Vector products in a fixed order, written as LLVM instructions: a vectoriser would leave the short ones scalar.

A sum over i goes into one accumulator per i modulo the number of lanes (16 of float32, 8 of float64), each in the
order of i, and the accumulators are added in halves. Products and sums are rounded one by one, without fused
multiply-add, so a result depends neither on the processor nor on how many products a call takes together: a tile of
them shares loads, never sums.

A *half matrix* is the lower triangle of a symmetric matrix of ``wide`` rows, a multiple of eight, with half of its
diagonal, in float32: the matrix is the sum of it and its transpose. It is stored in blocks of eight columns, one after
the other; a block has the eight numbers of each row from its diagonal down, zero right of the diagonal.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import extending, types
from numba.core import cgutils as untyped

TILE = 4  # rows of the second matrix that one call multiplies by: as many sums keep the adders busy
BLOCK = 8  # contexts and the rows of a half matrix are padded to a multiple of it
cgutils: Any = untyped
intrinsic: Any = extending.intrinsic  # it hides the type of what it makes
WORD = ir.IntType(64)
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()
NARROW, LANES = ir.VectorType(FLOAT, BLOCK), ir.VectorType(DOUBLE, BLOCK)
ZERO, STEP = ir.Constant(WORD, 0), ir.Constant(WORD, BLOCK)


@extending.register_jitable
def triangle_size(wide: int) -> int:
    """Return the length of a half matrix of ``wide`` rows."""
    return wide * (wide + BLOCK) // 2


def vector_of(element: Any) -> Any:
    """Return the vector type of 64 bytes of an array's elements."""
    return LANES if element == types.float64 else ir.VectorType(FLOAT, 16)


def data_of(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return the pointer to an array's elements."""
    return context.make_array(kind)(context, builder, value).data


def _place(builder: Any, data: Any, index: Any, vector: Any) -> Any:
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def read(builder: Any, data: Any, index: Any, vector: Any) -> Any:
    """Load a vector that may start at any element."""
    return builder.load(_place(builder, data, index, vector), align=4)


def write(builder: Any, value: Any, data: Any, index: Any) -> None:
    """Store a vector that may start at any element."""
    builder.store(value, _place(builder, data, index, value.type), align=4)


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Return a vector of equal elements."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )


def _splats(builder: Any, vector: Any) -> list[Any]:
    """Return one vector of equal elements for each element."""
    lanes = range(vector.type.count)
    kind = ir.VectorType(ir.IntType(32), vector.type.count)
    return [
        builder.shuffle_vector(vector, vector, ir.Constant(kind, [lane for _ in lanes])) for lane in lanes
    ]


def _folded(builder: Any, first: Any, second: Any, lanes: int) -> Any:
    """Add the upper half of every ``lanes`` lanes to their lower half, first those of one vector, then of another."""
    places = [at for at in range(2 * first.type.count) if at % lanes < lanes // 2]
    if first is second:
        places = [at for at in places if at < first.type.count]
    kind = ir.VectorType(ir.IntType(32), len(places))
    low = builder.shuffle_vector(first, second, ir.Constant(kind, places))
    high = builder.shuffle_vector(first, second, ir.Constant(kind, [at + lanes // 2 for at in places]))
    return builder.fadd(low, high)


def totals(builder: Any, vectors: list[Any]) -> Any:
    """Return a vector with the sum of the lanes of each of 1, 4 or 8 vectors.

    Lanes are added in halves, 16 to 8 to 4 to 2 to 1, however many vectors there are.
    """
    count, lanes = len(vectors), vectors[0].type.count
    while lanes > count:
        vectors = [_folded(builder, vector, vector, lanes) for vector in vectors]
        lanes //= 2
    while lanes > 1:
        vectors = [_folded(builder, *pair, lanes) for pair in zip(vectors[::2], vectors[1::2], strict=True)]
        lanes //= 2
    return vectors[0]


def accumulators(builder: Any, vector: Any, count: int) -> list[Any]:
    """Return places for so many sums, all zero; they end up in registers."""
    zero = ir.Constant(vector, [0.0] * vector.count)
    places = [cgutils.alloca_once_value(builder, zero) for _ in range(count)]
    for place in places:
        builder.store(zero, place)
    return places


def _add_to(builder: Any, place: Any, value: Any) -> None:
    builder.store(builder.fadd(builder.load(place), value), place)


def _dots(rows: int, columns: int) -> Any:
    """Return the intrinsic that multiplies ``rows`` rows of one matrix by ``columns`` rows of another."""

    def dots(
        typing: Any, a: Any, a_at: Any, a_step: Any, b: Any, b_at: Any, n: Any, out: Any, out_at: Any, out_step: Any
    ) -> Any:  # fmt: skip
        """Write out[out_at + r * out_step + m] = sum over i < n of a[a_at + r * a_step + i] * b[b_at + m * n + i].

        All arrays are flat; ``n`` is a multiple of the lanes. The sum is in the type of ``a`` and ``b``, the result
        float64.
        """

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            source, other, target = (data_of(context, builder, kinds[i], args[i]) for i in (0, 3, 6))
            _, a_at, a_step, _, b_at, n, _, out_at, out_step = args
            vector = vector_of(kinds[0].dtype)
            sums = accumulators(builder, vector, rows * columns)
            left = [builder.add(a_at, builder.mul(a_step, ir.Constant(WORD, r))) for r in range(rows)]
            right = [builder.add(b_at, builder.mul(n, ir.Constant(WORD, m))) for m in range(columns)]
            step = ir.Constant(WORD, vector.count)
            with cgutils.for_range_slice(builder, ZERO, n, step, inc=True) as (i, _count):
                ours = [read(builder, source, builder.add(place, i), vector) for place in left]
                for m in range(columns):
                    theirs = read(builder, other, builder.add(right[m], i), vector)
                    for r in range(rows):
                        _add_to(builder, sums[r * columns + m], builder.fmul(ours[r], theirs))
            for r in range(rows):
                line = totals(
                    builder, [builder.load(place) for place in sums[r * columns : (r + 1) * columns]]
                )
                if line.type.element != DOUBLE:
                    line = builder.fpext(line, ir.VectorType(DOUBLE, columns))
                write(builder, line, target, builder.add(out_at, builder.mul(out_step, ir.Constant(WORD, r))))
            return context.get_dummy_value()

        whole = types.intp
        return types.void(a, whole, whole, b, whole, whole, out, whole, whole), lower

    return intrinsic(dots)


dots_4, dots_4_4 = _dots(1, TILE), _dots(TILE, TILE)


@intrinsic
def dot(typing: Any, a: Any, a_at: Any, b: Any, b_at: Any, n: Any) -> Any:
    """Return the product of a[a_at : a_at + n] and b[b_at : b_at + n], float64; ``n`` is a multiple of eight."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one, other = (data_of(context, builder, signature.args[i], args[i]) for i in (0, 2))
        _, a_at, _, b_at, n = args
        (place,) = accumulators(builder, LANES, 1)
        with cgutils.for_range_slice(builder, ZERO, n, STEP, inc=True) as (i, _count):
            left = read(builder, one, builder.add(a_at, i), LANES)
            _add_to(builder, place, builder.fmul(left, read(builder, other, builder.add(b_at, i), LANES)))
        total = totals(builder, [builder.load(place)])
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return types.float64(a, types.intp, b, types.intp, types.intp), lower


def _block(builder: Any, at: Any, wide: Any, top: Any, j: Any) -> list[Any]:
    """Return where row ``top`` and the seven after it begin in the block of columns j..j + 7 of a half matrix."""
    eight, one = STEP, ir.Constant(WORD, 1)
    before = builder.lshr(builder.mul(j, builder.sub(j, eight)), one)
    start = builder.add(at, builder.sub(builder.mul(j, wide), before))
    start = builder.add(start, builder.mul(builder.sub(top, j), eight))
    return [builder.add(start, ir.Constant(WORD, BLOCK * r)) for r in range(BLOCK)]


def _quadratics(requests: int, models: int) -> Any:
    """Return the intrinsic that multiplies half matrices of some models by the contexts of some requests."""

    def quadratics(
        typing: Any, x: Any, x_at: Any, x_step: Any, wide: Any, w: Any, w_at: Any, size: Any, out: Any, out_at: Any,
        out_step: Any,
    ) -> Any:  # fmt: skip
        """Write xᵀWx to out[out_at + r * out_step + m], which is half of xᵀ(W + Wᵀ)x.

        Context r is at x[x_at + r * x_step], half matrix m at w[w_at + m * size]; sums are float32, the result float64.
        """

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = signature.args
            source, matrix, target = (data_of(context, builder, kinds[i], args[i]) for i in (0, 4, 7))
            _, x_at, x_step, wide, _, w_at, size, _, out_at, out_step = args
            rows = [builder.add(x_at, builder.mul(x_step, ir.Constant(WORD, r))) for r in range(requests)]
            starts = [builder.add(w_at, builder.mul(size, ir.Constant(WORD, m))) for m in range(models)]
            sums = accumulators(builder, NARROW, requests * models)
            columns = accumulators(builder, NARROW, requests * models)
            with cgutils.for_range_slice(builder, ZERO, wide, STEP, inc=True) as (j, _count):
                first = _block(builder, ZERO, wide, ZERO, j)[0]
                for place in columns:
                    builder.store(ir.Constant(NARROW, [0.0] * BLOCK), place)
                with cgutils.for_range_slice(builder, j, wide, ir.Constant(WORD, 1), inc=True) as (i, _inner):
                    at = builder.add(first, builder.mul(i, STEP))
                    factors = [
                        splat(builder, builder.load(builder.gep(source, [builder.add(row, i)])), BLOCK)
                        for row in rows
                    ]
                    for m in range(models):
                        values = read(builder, matrix, builder.add(starts[m], at), NARROW)
                        for r in range(requests):
                            _add_to(builder, columns[r * models + m], builder.fmul(factors[r], values))
                for r in range(requests):
                    own = read(builder, source, builder.add(rows[r], j), NARROW)
                    for m in range(models):
                        place = r * models + m
                        _add_to(builder, sums[place], builder.fmul(builder.load(columns[place]), own))
            for r in range(requests):
                line = totals(builder, [builder.load(place) for place in sums[r * models : (r + 1) * models]])
                line = builder.fpext(line, ir.VectorType(DOUBLE, models))
                write(builder, line, target, builder.add(out_at, builder.mul(out_step, ir.Constant(WORD, r))))
            return context.get_dummy_value()

        whole = types.intp
        return types.void(x, whole, whole, whole, w, whole, whole, out, whole, whole), lower

    return intrinsic(quadratics)


quadratics_4, quadratics_8, quadratics_4_4 = (
    _quadratics(1, TILE),
    _quadratics(1, 2 * TILE),
    _quadratics(TILE, TILE),
)


@intrinsic
def half_times(typing: Any, w: Any, at: Any, x: Any, x_at: Any, wide: Any, out: Any, out_at: Any) -> Any:
    """Write (W + Wᵀ) x for the half matrix at ``at``, all float32."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line, source, target = (data_of(context, builder, signature.args[i], args[i]) for i in (0, 2, 5))
        _, at, _, x_at, wide, _, out_at = args

        def tile(top: Any, j: Any, factors: list[Any], sums: list[Any], kept: Any) -> Any:
            theirs = read(builder, source, builder.add(x_at, j), NARROW)
            for start, factor, place in zip(_block(builder, at, wide, top, j), factors, sums, strict=True):
                values = read(builder, line, start, NARROW)
                _add_to(builder, place, builder.fmul(values, theirs))
                kept = builder.fadd(kept, builder.fmul(factor, values))
            return kept

        with cgutils.for_range_slice(builder, ZERO, wide, STEP, inc=True) as (top, _count):
            factors = _splats(builder, read(builder, source, builder.add(x_at, top), NARROW))
            sums = accumulators(builder, NARROW, BLOCK)
            with cgutils.for_range_slice(builder, ZERO, top, STEP, inc=True) as (j, _inner):
                place = builder.add(out_at, j)
                kept = tile(top, j, factors, sums, read(builder, target, place, NARROW))
                write(builder, kept, target, place)
            kept = tile(top, top, factors, sums, ir.Constant(NARROW, [0.0] * BLOCK))
            kept = builder.fadd(kept, totals(builder, [builder.load(place) for place in sums]))
            write(builder, kept, target, builder.add(out_at, top))
        return context.get_dummy_value()

    whole = types.intp
    return types.void(w, whole, x, whole, whole, out, whole), lower


@intrinsic
def downdate(typing: Any, w: Any, at: Any, x: Any, x_at: Any, wide: Any, c: Any) -> Any:
    """Subtract c x xᵀ from the matrix whose half is at ``at``, all float32; the padding stays as it is."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        line, source = (data_of(context, builder, signature.args[i], args[i]) for i in (0, 2))
        _, at, _, x_at, wide, c = args

        def subtract(place: Any, factor: Any, values: Any) -> None:
            product = builder.fmul(factor, values)
            write(builder, builder.fsub(read(builder, line, place, NARROW), product), line, place)

        with cgutils.for_range_slice(builder, ZERO, wide, STEP, inc=True) as (top, _count):
            own = read(builder, source, builder.add(x_at, top), NARROW)
            factors = _splats(builder, builder.fmul(splat(builder, c, BLOCK), own))
            with cgutils.for_range_slice(builder, ZERO, top, STEP, inc=True) as (j, _inner):
                theirs = read(builder, source, builder.add(x_at, j), NARROW)
                for start, factor in zip(_block(builder, at, wide, top, j), factors, strict=True):
                    subtract(start, factor, theirs)
            corner = _block(builder, at, wide, top, top)
            for r in range(BLOCK):  # half of the diagonal, and nothing right of it
                share = ir.Constant(NARROW, [*[1.0] * r, 0.5, *[0.0] * (BLOCK - 1 - r)])
                subtract(corner[r], builder.fmul(factors[r], share), own)
        return context.get_dummy_value()

    whole = types.intp
    return types.void(w, whole, x, whole, whole, types.float32), lower


@intrinsic
def add_row(typing: Any, out: Any, out_at: Any, x: Any, x_at: Any, c: Any, n: Any) -> Any:
    """Add c · x[x_at : x_at + n] to out[out_at : out_at + n], all float64; nothing beyond is read or written."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source = (data_of(context, builder, signature.args[i], args[i]) for i in (0, 2))
        _, out_at, _, x_at, c, n = args
        factor = splat(builder, c, BLOCK)
        whole = builder.and_(n, ir.Constant(WORD, -BLOCK))
        with cgutils.for_range_slice(builder, ZERO, whole, STEP, inc=True) as (i, _count):
            place = builder.add(out_at, i)
            product = builder.fmul(factor, read(builder, source, builder.add(x_at, i), LANES))
            write(builder, builder.fadd(read(builder, target, place, LANES), product), target, place)
        one = ir.Constant(WORD, 1)
        with cgutils.for_range_slice(builder, whole, n, one, inc=True) as (i, _count):
            place = builder.gep(target, [builder.add(out_at, i)])
            product = builder.fmul(c, builder.load(builder.gep(source, [builder.add(x_at, i)])))
            builder.store(builder.fadd(builder.load(place), product), place)
        return context.get_dummy_value()

    return types.void(out, types.intp, x, types.intp, types.float64, types.intp), lower
