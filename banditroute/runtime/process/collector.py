"""Python's garbage collector, set for a process that streams.

Decisions, contexts and votes live in arrays and in structs that the collector does not track; reference counts free
them. What it would find are the modules, the compiled code and the configuration, over and over again: after start-up
they are frozen, and a young generation is looked at every 50,000 allocations instead of every 700. Cycles (asyncio
makes some when tasks fail) are still collected.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 50_000  # container objects allocated and not freed before the young generation is looked at
OLDER: Final = 20  # looks at one generation before the next one gets its turn


def settle() -> None:
    """Freeze what start-up has made and look for cycles less often; for a process whose engine has started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, OLDER, OLDER)
