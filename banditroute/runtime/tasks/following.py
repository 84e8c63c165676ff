"""What every engine follows beside its own partitions: states of the others, control records, the journal's tail."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from banditroute.errors import StateError
from banditroute.events import Edit, Rejected, decode_edit
from banditroute.flow.deciding.decider import InputRecord
from banditroute.flow.records.snapshot import believable_state
from banditroute.runtime.tasks.partition_task import PartitionTask

if TYPE_CHECKING:
    from banditroute.runtime.tasks.engine import Engine

log = logging.getLogger("banditroute.engine")

POLL_SECONDS: Final = 0.05


class Following:
    """Reads the topics that belong to no group and hands each record to whom it concerns.

    Parameters
    ----------
    engine : Engine
        Whose client, tasks and board are used.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._edits: dict[int, Edit] = {}

    async def loop(self) -> None:
        """Read until cancelled."""
        engine = self._engine
        while True:
            for where, records in (await engine.client.poll_followed(POLL_SECONDS)).items():
                if where.topic == engine.names.journal:
                    if where.partition in engine.partitions:
                        engine.partitions[where.partition].follow(records)
                elif where.topic == engine.names.state:
                    await self._see_states(where.partition, records)
                else:
                    self._see_control(records)

    async def _see_states(self, number: int, records: Iterable[InputRecord]) -> None:
        engine = self._engine
        for record in records:
            try:
                state = believable_state(record.value)
            except StateError as error:
                where = f"{engine.names.state}-{number} offset {record.offset}"
                await engine.alert("state", f"{where}: {error}", number)
                continue
            task = engine.partitions.get(number)
            if task is not None:
                task.saw_state(state)
            engine.learning.put(state, ours=task is not None)
        engine.learning.derive_if_due()

    def _see_control(self, records: Iterable[InputRecord]) -> None:
        for record in records:
            edit = decode_edit(record.value)
            if isinstance(edit, Rejected):
                log.error("refused control record %d: %s", record.offset, edit.reason)
            else:
                self._edits[record.offset] = edit
        for task in self._engine.partitions.values():
            self.tell_control(task)

    def tell_control(self, task: PartitionTask) -> None:
        """Tell a partition every control record known; it copies those its cursor has not passed."""
        if task.partition is not None:
            for number, edit in self._edits.items():
                task.partition.learn_of_control(number, edit)
