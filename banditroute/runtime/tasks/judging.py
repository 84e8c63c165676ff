"""Verdicts of the owner of partition 0: a model that has changed becomes a control record and an alert.

And alerts of every owner: a model that has drifted on requests with one tag.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from typing import TYPE_CHECKING, Final

from banditroute.events import encode
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.runtime.tasks.drift import DriftWatch

if TYPE_CHECKING:
    from banditroute.runtime.tasks.engine import Engine

JUDGE_SECONDS: Final = 0.5
MOST_SHARE: Final = 20.0  # rest at least so many times as long as a look took


log = logging.getLogger("banditroute.engine")


async def watch_drift(engine: Engine) -> None:
    """Begin to watch for drift by segment; the package takes a second to import, and decisions do not wait for it."""
    if not engine.config.learning.drift_alerts:
        return
    if not DriftWatch.is_there():
        log.info(
            "no alerts of drift by tag: they need the package river, as in pip install 'banditroute[sim]'"
        )
        return
    await asyncio.to_thread(importlib.import_module, "river.drift")
    engine.learning.drift = DriftWatch()


async def judge(engine: Engine) -> None:
    """Look for changes until cancelled."""
    while True:
        begun = time.monotonic()
        for edit in engine.learning.verdicts():
            kept = 100.0 * edit.factors[edit.model]
            await engine.alert(
                "change", f"model '{edit.model}' has changed: {kept:.2g} % of its evidence is kept"
            )
            await engine.insist(engine.names.control, 0, [OutputRecord(b"changed", encode(edit))])
        # A look derives a posterior, which may take long where there are many models.
        await asyncio.sleep(max(JUDGE_SECONDS, MOST_SHARE * (time.monotonic() - begun)))
