"""Compile kernels once per machine where that is possible, and still start where it is not.

``numba.njit(cache=True)`` writes machine code next to the source file, below ``NUMBA_CACHE_DIR`` or into the
user's cache folder, and raises at import when none of the three can be written: a read-only image that runs
without a home would not start. `njit_cached` is the one place that knows; every kernel of the product is
decorated with it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
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

    numba's cache does not notice an edited callee in another module, so kernels that call each other belong
    in one file, or enclose a checksum of those that they call: what a function encloses is part of its key.

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
                return cast("Callable[P, R]", _sparing(numba.njit(cache=True, **options)(function)))
            except RuntimeError as error:
                # numba looks for a writable folder when it decorates and has no narrower exception for
                # finding none. Asking it is the only answer that cannot disagree with it.
                if "no locator available" not in str(error):
                    raise
        return cast("Callable[P, R]", numba.njit(**options)(function))

    return decorate


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
