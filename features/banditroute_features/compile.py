"""Compile kernels once per machine where that is possible, and still start where it is not.

``numba.njit(cache=True)`` writes machine code next to the source file, below ``NUMBA_CACHE_DIR`` or into the
user's cache folder, and raises at import when none of the three can be written: a read-only image that runs
without a home would not start. `njit_cached` is the one place that knows; every kernel of the product is
decorated with it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba

__all__ = ["njit_cached"]

P = ParamSpec("P")
R = TypeVar("R")


def njit_cached(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that compiles a function with numba and caches the machine code where it can.

    Where no cache folder is writable the function is compiled anew in each process (some ten seconds at its
    first call); set ``NUMBA_CACHE_DIR`` to a folder that outlives the process to avoid that. A fresh
    temporary folder would not: nobody finds it again, and somebody would have to delete it.

    numba's cache looks at the file of a function alone. Here it also notices an edit of the kernels, and a new
    value of the constants, that the function's module imports, and those that they import in turn.

    Parameters
    ----------
    **options
        Passed on to ``numba.njit``. ``cache`` is decided here.

    Returns
    -------
    callable
        Takes the function, returns its compiled form with the same call signature.

    Raises
    ------
    ValueError
        If ``cache`` or ``fastmath`` is given: results must be the same on every run and every split into
        batches, and fastmath lets the compiler reorder sums.

    Examples
    --------
    >>> @njit_cached()
    ... def twice(x: float) -> float:
    ...     return x + x
    >>> twice(2.0)
    4.0
    """
    for name in ("cache", "fastmath"):
        if name in options:
            raise ValueError(
                f"njit_cached: {name!r} is not an option here; it is decided for all kernels at once"
            )

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if _may_cache():
            try:
                compiled = numba.njit(cache=True, **options)(function)
                _stamp(compiled, function)
                return cast("Callable[P, R]", _sparing(compiled))
            except RuntimeError:
                # numba looks for a writable folder when it decorates. Asking it is the only answer that cannot
                # disagree with it; an error of another cause is met again without a cache.
                pass
        return cast("Callable[P, R]", numba.njit(**options)(function))

    return decorate


def _stamp(compiled: Any, function: Any) -> None:
    """Make the kernels that a function's module imports part of what numba compares before it trusts its cache."""
    index = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if index is not None:  # numba's own affair: where it is kept elsewhere, its cache works as it always did
        stamp = _imported(function.__code__.co_filename, function.__globals__)
        index._source_stamp = (index._source_stamp, stamp)


def _imported(file: str, names: Mapping[str, Any]) -> int:
    """Return a checksum of the kernels and constants in the globals ``names`` of a source file, and of what these use.

    A kernel's own file is left to numba. Functions of numpy and the like are no kernels: only files called
    ``_kernels*.py`` are followed.
    """
    found = zlib.crc32(b"")
    followed = {file}
    waiting = [names]
    while waiting:
        for name, value in sorted(waiting.pop().items()):
            if isinstance(value, int | float | str | tuple) and not name.startswith("__"):
                found = zlib.crc32(f"{name}={value!r}".encode(), found)
                continue
            function = getattr(value, "py_func", None) or getattr(value, "_defn", None) or value
            source = getattr(getattr(function, "__code__", None), "co_filename", "")
            if source not in followed and Path(source).name.startswith("_kernels"):
                followed.add(source)
                found = zlib.crc32(_checksum(source).to_bytes(4, "little"), found)
                waiting.append(function.__globals__)
    return found


@functools.cache
def _checksum(path: str) -> int:
    return zlib.crc32(Path(path).read_bytes())


def _sparing(dispatcher: Any) -> Any:
    """Let a kernel that was compiled run although the disk is too full to keep it for the next process."""
    cache = getattr(dispatcher, "_cache", None)
    save = getattr(cache, "save_overload", None)
    if save is not None:

        def save_overload(*arguments: Any) -> None:
            with contextlib.suppress(OSError):
                save(*arguments)

        cache.save_overload = save_overload  # type: ignore[union-attr]  # there is one, or there is no method
    return dispatcher


def _may_cache() -> bool:
    """Whether numba may be let to look for a cache folder at all.

    A user without HOME and without an entry in the user database has the home ``~``, literally: numba would
    then create a folder of that name in whatever the working directory is.
    """
    told = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return bool(told) or Path(os.path.expanduser("~")).is_absolute()
