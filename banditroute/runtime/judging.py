"""Verdicts of the owner of partition 0: a model that has changed becomes a control record and an alert."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from banditroute.events import encode
from banditroute.flow.decider import OutputRecord

if TYPE_CHECKING:
    from banditroute.runtime.engine import Engine

JUDGE_SECONDS: Final = 0.5


async def judge(engine: Engine) -> None:
    """Look for changes until cancelled."""
    while True:
        for edit in engine.learning.verdicts():
            kept = 100.0 * edit.factors[edit.model]
            await engine.alert(
                "change", f"model '{edit.model}' has changed: {kept:.2g} % of its evidence is kept"
            )
            await engine.insist(engine.names.control, 0, [OutputRecord(b"changed", encode(edit))])
        await asyncio.sleep(JUDGE_SECONDS)
