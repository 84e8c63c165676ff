"""Read Python objects from compiled code: strings where they lie, without a copy and without a new object.

Each function takes the address of an object that somebody keeps alive while the kernel runs, under the GIL, and
calls CPython's own C functions, so nothing here knows the layout of an object. An object of another type is a
value (-1, not a number) and never a crash: the functions check types, and their errors are cleared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]  # ships no types
from numba import extending
from numba.core import cgutils as numba_cgutils

__all__ = [
    "copy_bytes",
    "float_of",
    "int_of",
    "list_item",
    "list_size",
    "peek_1",
    "peek_2",
    "peek_4",
    "string_of",
    "tuple_item",
    "tuple_size",
]

# What numba leaves without types.
types: Any = numba.types
cgutils: Any = numba_cgutils
# The first argument of an intrinsic is numba's own, so the type of numba's decorator does not fit its callers.
intrinsic: Callable[[Callable[..., Any]], Callable[..., Any]] = extending.intrinsic

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_VOID_P = _I8.as_pointer()
_NOT_A_NUMBER = float("nan")


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def _object(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _VOID_P)


def _clear_error(builder: Any, failed: Any) -> None:
    with builder.if_then(failed, likely=False):
        _call(builder, "PyErr_Clear", ir.VoidType(), [])


@intrinsic
def list_item(_typing: Any, _list: Any, _i: Any) -> Any:
    """Address of item i of a list that is long enough."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        item = _call(builder, "PyList_GetItem", _VOID_P, [_object(builder, args[0]), args[1]])
        return builder.ptrtoint(item, _I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def list_size(_typing: Any, _list: Any) -> Any:
    """Return the length of a list."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _call(builder, "PyList_Size", _I64, [_object(builder, args[0])])

    return types.int64(types.int64), generate


@intrinsic
def tuple_item(_typing: Any, _tuple: Any, _i: Any) -> Any:
    """Address of item i of a tuple that is long enough."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        item = _call(builder, "PyTuple_GetItem", _VOID_P, [_object(builder, args[0]), args[1]])
        return builder.ptrtoint(item, _I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def tuple_size(_typing: Any, _tuple: Any) -> Any:
    """Length of a tuple, -1 for anything else."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        size = _call(builder, "PyTuple_Size", _I64, [_object(builder, args[0])])
        _clear_error(builder, builder.icmp_signed("<", size, ir.Constant(_I64, 0)))
        return size

    return types.int64(types.int64), generate


@intrinsic
def int_of(_typing: Any, _number: Any) -> Any:
    """Value of an integer; -1 for anything else and for what does not fit 64 bits."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        value = _call(builder, "PyLong_AsLongLong", _I64, [_object(builder, args[0])])
        _clear_error(builder, builder.icmp_signed("==", value, ir.Constant(_I64, -1)))
        return value

    return types.int64(types.int64), generate


@intrinsic
def float_of(_typing: Any, _number: Any) -> Any:
    """Value of a number as float64; NaN for anything else and for integers beyond its range."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        double = ir.DoubleType()
        value = _call(builder, "PyFloat_AsDouble", double, [_object(builder, args[0])])
        slot = cgutils.alloca_once(builder, double)
        builder.store(value, slot)
        with builder.if_then(builder.fcmp_ordered("==", value, ir.Constant(double, -1.0)), likely=False):
            error = _call(builder, "PyErr_Occurred", _VOID_P, [])
            with builder.if_then(cgutils.is_not_null(builder, error)):
                builder.store(ir.Constant(double, _NOT_A_NUMBER), slot)
                _call(builder, "PyErr_Clear", ir.VoidType(), [])
        return builder.load(slot)

    return types.float64(types.int64), generate


@intrinsic
def string_of(_typing: Any, _string: Any) -> Any:
    """Address of the characters, their number (-1: no string), bytes per character, and 1 if all are ASCII."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        string = _object(builder, args[0])
        parts = [cgutils.alloca_once_value(builder, ir.Constant(_I64, value)) for value in (0, -1, 1, 1)]
        size = _call(builder, "PyUnicode_GetLength", _I64, [string])
        is_string = builder.icmp_signed(">=", size, ir.Constant(_I64, 0))
        with builder.if_else(is_string, likely=True) as (then, otherwise):
            with then:
                api = context.get_python_api(builder)
                ok, data, length, kind, is_ascii, _ = api.string_as_string_size_and_kind(string)
                with builder.if_then(ok, likely=True):
                    values = [
                        builder.ptrtoint(data, _I64),
                        length,
                        builder.zext(kind, _I64),
                        builder.zext(is_ascii, _I64),
                    ]
                    for value, part in zip(values, parts, strict=True):
                        builder.store(value, part)
            with otherwise:
                _call(builder, "PyErr_Clear", ir.VoidType(), [])
        return context.make_tuple(builder, signature.return_type, [builder.load(part) for part in parts])

    return types.UniTuple(types.int64, 4)(types.int64), generate


def _peek(integer: Any) -> Any:
    """Return an intrinsic that reads an unsigned number of this width at an address."""

    def read(_typing: Any, _address: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], integer.as_pointer())
            return builder.zext(builder.load(pointer), _I64)

        return types.int64(types.int64), generate

    return intrinsic(read)


peek_1, peek_2, peek_4 = _peek(_I8), _peek(_I16), _peek(_I32)


@intrinsic
def copy_bytes(_typing: Any, array: Any, _at: Any, _address: Any, _count: Any) -> Any:
    """Copy `count` bytes from an address to ``array[at:]``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        to = builder.gep(data, [args[1]])
        cgutils.raw_memcpy(builder, to, builder.inttoptr(args[2], _VOID_P), args[3], 1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, types.int64), generate
