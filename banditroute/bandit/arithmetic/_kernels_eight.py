"""Arithmetic on eight models at once, written as LLVM instructions: the compiler would do one after the other.

Every operation is rounded as it would be for one model alone.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from banditroute.bandit.arithmetic._kernels_chance import CENTRE, CENTRE_BELOW, GOLDEN, MIX1, MIX2
from banditroute.bandit.arithmetic._kernels_lanes import (
    BLOCK,
    LANES,
    WORD,
    cgutils,
    data_of,
    intrinsic,
    read,
    splat,
    write,
)

WORDS = ir.VectorType(WORD, BLOCK)
MOST_LOG_TOKENS = 16.0  # predictions end at e**16 = 8.9 million output tokens
BOUND = 1e30  # utilities beyond this are cut, so that differences of them stay finite
LOG2_E, LOG_2_HIGH, LOG_2_LOW = 1.0 / math.log(2.0), 0.6931471803691238, 1.9082149292705877e-10
TAYLOR = tuple(1.0 / math.factorial(n) for n in range(13, -1, -1))


class Eight:
    """Eight float64 or uint64 numbers, with the operators of Python."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value
        self.real = value.type == LANES

    def _other(self, other: Any) -> Any:
        return other.value if isinstance(other, Eight) else ir.Constant(self.value.type, [other] * BLOCK)

    def _do(self, real: str, whole: str, other: Any) -> Eight:
        verb = getattr(self.builder, real if self.real else whole)
        return Eight(self.builder, verb(self.value, self._other(other)))

    def __add__(self, other: Any) -> Eight:
        return self._do("fadd", "add", other)

    def __sub__(self, other: Any) -> Eight:
        return self._do("fsub", "sub", other)

    def __mul__(self, other: Any) -> Eight:
        return self._do("fmul", "mul", other)

    def __truediv__(self, other: Any) -> Eight:
        return self._do("fdiv", "udiv", other)

    def __xor__(self, other: Any) -> Eight:
        return self._do("", "xor", other)

    def __rshift__(self, other: int) -> Eight:
        return self._do("", "lshr", other)

    def __lshift__(self, other: int) -> Eight:
        return self._do("", "shl", other)

    def _chosen(self, comparison: str, other: Any) -> Eight:
        bound = self._other(other)
        kept = self.builder.fcmp_ordered(comparison, self.value, bound)  # false for NaN
        return Eight(self.builder, self.builder.select(kept, self.value, bound))

    def at_least(self, other: Any) -> Eight:
        """Return the larger of both; NaN takes the bound."""
        return self._chosen(">", other)

    def at_most(self, other: Any) -> Eight:
        """Return the smaller of both; NaN takes the bound."""
        return self._chosen("<", other)

    def applied(self, function: str) -> Eight:
        """Return LLVM's ``sqrt`` or ``floor`` of all."""
        kind = ir.FunctionType(LANES, [LANES])
        call = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.{function}.v{BLOCK}f64")
        return Eight(self.builder, self.builder.call(call, [self.value]))

    def converted(self) -> Eight:
        """Return integers as float64, or float64 as integers, towards 0."""
        verb = self.builder.fptosi if self.real else self.builder.sitofp
        return Eight(self.builder, verb(self.value, WORDS if self.real else LANES))

    def reinterpreted(self) -> Eight:
        """Return the float64 with the bits of an integer."""
        return Eight(self.builder, self.builder.bitcast(self.value, LANES))


class Memory:
    """The arguments of an intrinsic: numbers, and pairs of an array and a place in it."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.context, self.builder, self.kinds, self.args = context, builder, signature.args, args

    def number(self, at: int) -> Eight:
        """Return an argument eight times."""
        return Eight(self.builder, splat(self.builder, self.args[at], BLOCK))

    def load(self, at: int, vector: Any = LANES) -> Eight:
        """Return eight elements from the place that arguments ``at`` and ``at + 1`` name."""
        data = data_of(self.context, self.builder, self.kinds[at], self.args[at])
        return Eight(self.builder, read(self.builder, data, self.args[at + 1], vector))

    def store(self, at: int, numbers: Eight) -> None:
        """Write eight elements there."""
        data = data_of(self.context, self.builder, self.kinds[at], self.args[at])
        write(self.builder, numbers.value, data, self.args[at + 1])


def _mixed(z: Eight) -> Eight:
    z = (z ^ (z >> 30)) * int(MIX1)
    z = (z ^ (z >> 27)) * int(MIX2)
    return z ^ (z >> 31)


def _polynomial(coefficients: tuple[float, ...], r: Eight) -> Eight:
    total = r * coefficients[0] + coefficients[1]
    for c in coefficients[2:]:
        total = total * r + c
    return total


@intrinsic
def central_normals(
    typing: Any, stream: Any, names: Any, names_at: Any, p: Any, p_at: Any, z: Any, z_at: Any
) -> Any:
    """Write the probability of eight models, and the normal quantile of those within 0.425 of ½.

    The same bits as `_kernels_chance.probability` and its central formula.
    """

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memory = Memory(context, builder, signature, args)
        mixed = _mixed((memory.load(1, WORDS) ^ memory.number(0)) + int(GOLDEN))
        probability = ((mixed >> 12).converted() + 0.5) * 2.0**-52
        q = probability - 0.5
        r = Eight(builder, ir.Constant(LANES, [0.180625] * BLOCK)) - q * q
        memory.store(3, probability)
        memory.store(5, q * _polynomial(CENTRE, r) / _polynomial(CENTRE_BELOW, r))
        return context.get_dummy_value()

    whole = types.intp
    return types.void(types.uint64, names, whole, p, whole, z, whole), lower


@intrinsic
def expectations(
    typing: Any, common: Any, sigma: Any, offset: Any, offset_at: Any, q: Any, q_at: Any, logs: Any, logs_at: Any,
    tokens: Any, tokens_at: Any, sd: Any, sd_at: Any,
) -> Any:  # fmt: skip
    """Write log tokens, tokens before calibration, and the sd of a vote of eight models; double q, at least 0.

    log tokens are ``common`` and each one's offset, in 0..16; e to that is its Taylor series about the nearest multiple
    of log 2, error below 3e-16.
    """

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memory = Memory(context, builder, signature, args)
        logs = (memory.load(2) + memory.number(0)).at_least(0.0).at_most(MOST_LOG_TOKENS)
        n = (logs * LOG2_E + 0.5).applied("floor")
        r = (logs - n * LOG_2_HIGH) - n * LOG_2_LOW
        power = ((n.converted() + 1023) << 52).reinterpreted()
        q = (memory.load(4) * 2.0).at_least(0.0)
        memory.store(4, q)
        memory.store(6, logs)
        memory.store(8, _polynomial(TAYLOR, r) * power - 1.0)
        memory.store(10, memory.number(1) * (q + 1.0).applied("sqrt"))
        return context.get_dummy_value()

    whole = types.intp
    return (
        types.void(
            types.float64, types.float64, offset, whole, q, whole, logs, whole, tokens, whole, sd, whole
        ),
        lower,
    )


@intrinsic
def scores(
    typing: Any, utility: Any, utility_at: Any, q: Any, q_at: Any, bonus: Any, bonus_at: Any, spread: Any,
    spread_at: Any, z: Any, z_at: Any, center: Any, center_at: Any, score: Any, score_at: Any,
) -> Any:  # fmt: skip
    """Bound the utility of eight models, and write their scores and the centres of these: bonus · q more, and noise."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        memory = Memory(context, builder, signature, args)
        bounded = memory.load(0).at_least(-BOUND).at_most(BOUND)
        center = bounded + (memory.load(4) * memory.load(2)).at_most(BOUND)
        memory.store(0, bounded)
        memory.store(10, center)
        memory.store(12, center + memory.load(6) * memory.load(8))
        return context.get_dummy_value()

    whole = types.intp
    pairs = [kind for array in (utility, q, bonus, spread, z, center, score) for kind in (array, whole)]
    return types.void(*pairs), lower
