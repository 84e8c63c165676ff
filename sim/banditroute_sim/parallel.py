"""Independent cases on several processes: results in the order of the cases, and an end by Ctrl-C.

A case is a pure function of its arguments, so results do not depend on the number of workers. joblib runs them; its
Dask and Ray back ends (`joblib.parallel_config`) run the same cases on a cluster.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from banditroute.errors import MissingExtraError

Case = TypeVar("Case")
Result = TypeVar("Result")


def each(
    function: Callable[[Case], Result],
    cases: Sequence[Case],
    workers: int = 1,
    note: Callable[[int], None] | None = None,
) -> list[Result]:
    """Return the results of the cases; after Ctrl-C those of the first ones that are done.

    Parameters
    ----------
    function : callable
        Of the top level of a module, when there is more than one worker.
    cases : sequence
        Its arguments.
    workers : int
        Processes; 1 is this one.
    note : callable, optional
        Called with how many are done.

    Raises
    ------
    KeyboardInterrupt
        If nothing is done yet.
    MissingExtraError
        If joblib is not installed and there is more than one worker.
    """
    done: list[Result] = []
    try:
        for result in results(function, cases, workers):
            done.append(result)
            if note is not None:
                note(len(done))
    except KeyboardInterrupt:
        if not done:
            raise
    return done


def results(
    function: Callable[[Case], Result], cases: Sequence[Case], workers: int = 1, *, ordered: bool = True
) -> Iterator[Result]:
    """Yield the results of the cases as they are done, in the order of the cases or in that of being done.

    Raises
    ------
    MissingExtraError
        If joblib is not installed and there is more than one worker.
    """
    if workers <= 1 or len(cases) == 1:
        yield from map(function, cases)
        return
    try:
        from joblib import Parallel, delayed  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise MissingExtraError("More than one worker", "sim") from error
    calls = [delayed(_away)(function, case, os.getpid()) for case in cases]
    count = min(workers, len(cases))
    try:
        run = Parallel(
            n_jobs=count, return_as="generator" if ordered else "generator_unordered", batch_size=1
        )
    except ValueError:  # Ray's back end gives lists only: short ones, so that what is finished is kept
        for start in range(0, len(calls), 2 * count):
            yield from Parallel(n_jobs=count)(calls[start : start + 2 * count])
        return
    found: Any = run(calls)
    with contextlib.closing(found):
        yield from found


def _away(function: Callable[[Case], Result], case: Case, parent: int) -> Result:
    """Run a case in a process that leaves it to its parent to be interrupted."""
    if os.getpid() != parent and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return function(case)
