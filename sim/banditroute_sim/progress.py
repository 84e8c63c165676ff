"""How far a run is, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """Yield what moves a progress bar with the time left on standard error, or None where that is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal or total <= 0:
        yield None
        return
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)
