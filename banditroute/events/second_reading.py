"""What a decoder refused is read once more: forgiving where there is one meaning, and else with a reason of ours.

The first reading is compiled and strict, and nearly all events pass it. Here time does not matter, so that lone
surrogates, nulls, whole floats and NaN can be put right, and so that a reason names place and expectation in words
that no library can change.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

T = TypeVar("T")

TOO_DEEP: Final = "the value is nested too deeply"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_REPLACEMENT: Final = "�"
_MOST_WHOLE: Final = 2.0**63


class Unreadable(Exception):
    """What was read is not JSON; its only argument is the reason."""


class Mismatch(NamedTuple):
    """Where a value is not what was expected, as a path such as ``$.tags[1]``, and what was."""

    path: str
    expected: str

    def __str__(self) -> str:
        return f"Expected {self.expected}" + ("" if self.path == "$" else f" - at `{self.path}`")


def parsed(value: bytes) -> Any:
    """Parse JSON as Python's writers make it: with lone surrogates, NaN and Infinity.

    Parameters
    ----------
    value : bytes
        UTF-8.

    Returns
    -------
    object
        Strings hold U+FFFD in the place of every lone surrogate.

    Raises
    ------
    Unreadable
        With a reason that quotes nothing of the value.
    """
    try:
        return json.loads(value.decode())
    except UnicodeDecodeError as error:
        raise Unreadable(f"invalid UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        if not value.strip():
            raise Unreadable("the value is empty; expected a JSON object") from error
        raise Unreadable(f"the value is not JSON, at character {error.pos}; is it cut off?") from error
    except RecursionError as error:
        raise Unreadable(TOO_DEEP) from error
    except ValueError as error:  # a number of thousands of digits
        raise Unreadable("the value holds a number that is too long") from error


def read_again(payload: Any, kind: type[T]) -> T | str:
    """Convert a payload that a strict reading refused.

    Parameters
    ----------
    payload : object
        What JSON or a caller gave: mappings, sequences, strings, numbers; also numbers of numpy.
    kind : type
        A `msgspec.Struct`.

    Returns
    -------
    T or str
        The event, or one short sentence that says where it is not what was expected.
    """
    try:
        info = inspect.type_info(kind)
        mended = _mended(payload, info)
        return msgspec.convert(mended, kind)
    except RecursionError:
        return TOO_DEEP
    except (msgspec.ValidationError, TypeError, ValueError):
        return explanation(payload, kind)


def explanation(payload: Any, kind: Any) -> str:
    """Say where a payload differs from a type, in words of ours; the payload is not quoted."""
    try:
        info = inspect.type_info(kind)
        wrong = mismatch(_mended(payload, info), info, "$")
    except (RecursionError, ValueError):
        return TOO_DEEP
    return str(wrong or Mismatch("$", "another form, which docs/EVENTS.md gives"))


# -- what is forgiven ------------------------------------------------------------------------------


def _mended(value: Any, info: inspect.Type) -> Any:
    """Return a value with what has one meaning only put into the form of its type."""
    value = plain(value)
    if isinstance(info, inspect.UnionType):
        return _mended_union(value, info)
    if isinstance(value, str):
        return _SURROGATE.sub(_REPLACEMENT, value)
    if isinstance(info, inspect.IntType) and isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _MOST_WHOLE else value
    if isinstance(info, inspect.LiteralType) and isinstance(value, float) and value in info.values:
        return int(value)
    if isinstance(info, inspect.StructType) and isinstance(value, Mapping):
        return _mended_struct(value, info)
    if isinstance(info, inspect.CollectionType) and _is_list(value):
        return [_mended(each, info.item_type) for each in value]
    return value


def plain(value: Any) -> Any:
    """Return the Python number of a number of numpy, and None for what pandas writes where nothing is known."""
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def _mended_union(value: Any, info: inspect.UnionType) -> Any:
    accepts_none = any(isinstance(each, inspect.NoneType) for each in info.types)
    if accepts_none and isinstance(value, float) and math.isnan(value):
        return None  # an optional number that is not known, as tables have it
    for each in info.types:
        mended = _mended(value, each)
        if mismatch(mended, each, "$") is None:
            return mended
    structs = [each for each in info.types if isinstance(each, inspect.StructType | inspect.CollectionType)]
    return _mended(value, structs[0]) if structs else value


def _mended_struct(value: Mapping[Any, Any], info: inspect.StructType) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, each in value.items():
        found[_SURROGATE.sub(_REPLACEMENT, name) if isinstance(name, str) else name] = each
    mended = {}
    if info.tag_field is not None and info.tag_field in found:
        mended[info.tag_field] = found[info.tag_field]
    for field in info.fields:
        if field.encode_name not in found:
            continue
        inner = _mended(found[field.encode_name], field.type)
        if inner is None and not field.required:
            continue  # a null is as good as nothing
        mended[field.encode_name] = inner
    return mended


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


# -- what was expected -----------------------------------------------------------------------------


def mismatch(value: Any, info: inspect.Type, path: str) -> Mismatch | None:
    """Find the first place where a value is not of a type.

    Parameters
    ----------
    value : object
        Mappings, sequences, strings, numbers, None.
    info : msgspec.inspect.Type
        The type.
    path : str
        Where the value is.

    Returns
    -------
    Mismatch or None
        None where it is of that type as far as can be told.
    """
    if isinstance(info, inspect.UnionType):
        return _union_mismatch(value, info, path)
    if isinstance(info, inspect.StructType):
        return _struct_mismatch(value, info, path)
    if isinstance(info, inspect.CollectionType):
        return _list_mismatch(value, info, path)
    if isinstance(info, inspect.DictType):
        return _dict_mismatch(value, info, path)
    if isinstance(info, inspect.CustomType):
        return _custom_mismatch(value, info, path)
    check = _CHECKS.get(type(info))
    return None if check is None or check(value, info) else Mismatch(path, expectation(info))


def _union_mismatch(value: Any, info: inspect.UnionType, path: str) -> Mismatch | None:
    tagged = [each for each in info.types if isinstance(each, inspect.StructType) and each.tag_field]
    if tagged and isinstance(value, Mapping):
        field = str(tagged[0].tag_field)
        for each in tagged:
            if value.get(field) == each.tag:
                return mismatch(value, each, path)
        return Mismatch(f"{path}.{field}", "one of " + ", ".join(str(each.tag) for each in tagged))
    some = [each for each in info.types if not isinstance(each, inspect.NoneType)]
    if len(some) == 1 and value is not None:
        return mismatch(value, some[0], path)
    wrongs = [mismatch(value, each, path) for each in info.types]
    deepest = Mismatch(path, expectation(info))
    for wrong in wrongs:
        if wrong is None:
            return None
        if len(wrong.path) > len(deepest.path):
            deepest = wrong
    return deepest


def _struct_mismatch(value: Any, info: inspect.StructType, path: str) -> Mismatch | None:
    if not isinstance(value, Mapping):
        return Mismatch(path, "an object")
    for field in info.fields:
        if field.encode_name in value:
            wrong = mismatch(value[field.encode_name], field.type, f"{path}.{field.encode_name}")
            if wrong is not None:
                return wrong
        elif field.required:
            return Mismatch(path, f"an object with `{field.encode_name}`")
    return None


def _list_mismatch(value: Any, info: inspect.CollectionType, path: str) -> Mismatch | None:
    if not _is_list(value):
        return Mismatch(path, "a list")
    if info.max_length is not None and len(value) > info.max_length:
        return Mismatch(path, f"a list of at most {info.max_length}")
    for place, each in enumerate(value):
        wrong = mismatch(each, info.item_type, f"{path}[{place}]")
        if wrong is not None:
            return wrong
    return None


def _dict_mismatch(value: Any, info: inspect.DictType, path: str) -> Mismatch | None:
    if not isinstance(value, Mapping):
        return Mismatch(path, "an object")
    for key, each in value.items():
        wrong = mismatch(each, info.value_type, f"{path}.{key}")
        if wrong is not None:
            return wrong
    return None


def _custom_mismatch(value: Any, info: inspect.CustomType, path: str) -> Mismatch | None:
    """Ask a type of ours, which parses text, what it expects."""
    try:
        parse: Any = getattr(info.cls, "parse", None)
        if parse is not None:
            parse(value)
    except ValueError as error:
        return Mismatch(path, str(error).removeprefix("Expected "))
    return None


def _fits_number(value: Any, info: Any) -> bool:
    return (
        (info.ge is None or value >= info.ge)
        and (info.gt is None or value > info.gt)
        and (info.le is None or value <= info.le)
        and (info.lt is None or value < info.lt)
    )


def _fits_text(value: Any, info: inspect.StrType) -> bool:
    return (
        isinstance(value, str)
        and (info.min_length is None or len(value) >= info.min_length)
        and (info.max_length is None or len(value) <= info.max_length)
        and (info.pattern is None or re.search(info.pattern, value) is not None)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_CHECKS: Final[dict[type, Any]] = {
    inspect.IntType: lambda value, info: (
        isinstance(value, int) and not isinstance(value, bool) and _fits_number(value, info)
    ),
    inspect.FloatType: lambda value, info: _is_number(value) and _fits_number(value, info),
    inspect.StrType: _fits_text,
    inspect.BoolType: lambda value, _: isinstance(value, bool),
    inspect.NoneType: lambda value, _: value is None,
    inspect.LiteralType: lambda value, info: any(
        value == each and type(value) is type(each) for each in info.values
    ),
}


def _bounds(info: Any) -> str:
    parts = []
    for name, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        bound = getattr(info, name)
        if bound is not None:
            parts.append(f"{words} {bound:g}" if isinstance(bound, float) else f"{words} {bound}")
    return " of " + " and ".join(parts) if parts else ""


def expectation(info: inspect.Type) -> str:
    """Say in words what values a type has.

    Examples
    --------
    >>> expectation(inspect.type_info(int | None))
    'an integer'
    """
    if isinstance(info, inspect.UnionType):
        words = [expectation(each) for each in info.types if not isinstance(each, inspect.NoneType)]
        return " or ".join(words)
    if isinstance(info, inspect.IntType):
        return "an integer" + _bounds(info)
    if isinstance(info, inspect.FloatType):
        return "a number" + _bounds(info)
    if isinstance(info, inspect.StrType):
        if info.pattern is not None:
            return "text of the form " + info.pattern.strip("^$")
        most = "" if info.max_length is None else f" of at most {info.max_length} characters"
        return f"text{most}" if not info.min_length else f"text that is not empty{most and f', {most[4:]}'}"
    if isinstance(info, inspect.LiteralType):
        return "one of " + ", ".join(map(str, info.values)) if len(info.values) > 1 else f"{info.values[0]}"
    if isinstance(info, inspect.CollectionType):
        return "a list"
    names = {inspect.BoolType: "true or false", inspect.NoneType: "null"}
    return names.get(type(info), "an object")
