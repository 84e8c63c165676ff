"""The task of one owned feedback partition: it copies feedback into the journals."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from banditroute.flow.deciding.decider import InputRecord
from banditroute.runtime.broker.ports import TopicPartition
from banditroute.runtime.state.topics import committed_or
from banditroute.runtime.tasks import letters

if TYPE_CHECKING:
    from banditroute.runtime.tasks.engine import Engine

log = logging.getLogger("banditroute.engine")

COPIED_AT_ONCE: Final = 256  # feedback copied before other work gets its turn


class FeedbackTask:
    """The owner of a feedback partition: copies it into the journals."""

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine = engine
        self.number = number
        self.source = TopicPartition(engine.names.feedback, number)
        self.commit_to: int | None = None
        self._position: int | None = None
        self._records: deque[InputRecord] = deque()
        self._job: asyncio.Task[None] | None = None
        self._told: set[str] = set()

    async def begin(self, start: int) -> None:
        """Find where to continue."""
        position, lost = await committed_or(self._engine.client, self.source, start)
        if lost:
            await self._engine.alert(
                "lag",
                f"retention removed {lost} feedback events of partition {self.number} before they were read",
            )
        self._position = self.commit_to = position
        self._engine.client.seek(self.source, position)

    def suspend(self) -> None:
        """Let go."""
        if self._job is not None:
            self._job.cancel()
        self._records.clear()
        self._position = None

    @property
    def wants(self) -> bool:
        """Whether there is room for more feedback."""
        return self._position is not None and len(self._records) < self._engine.config.engine.max_queue

    @property
    def busy(self) -> bool:
        """Whether something is under way or waiting."""
        return bool(self._job or self._records)

    def receive(self, records: Sequence[InputRecord]) -> None:
        """Take polled feedback."""
        if self._position is None:
            return
        fresh = [record for record in records if record.offset >= self._position]
        if fresh:
            self._position = fresh[-1].offset + 1
            self._records.extend(fresh)
            self.kick()

    def kick(self) -> None:
        """Copy the next batch unless one is unacknowledged."""
        if self._job is None and self._records and self._position is not None:
            count = min(len(self._records), self._engine.config.engine.max_batch, COPIED_AT_ONCE)
            records = [self._records.popleft() for _ in range(count)]
            self._job = asyncio.ensure_future(self._copy(records))

    async def _copy(self, records: list[InputRecord]) -> None:
        engine = self._engine
        try:
            with engine.learning.meter.work("copy"):
                batch = engine.copier.copy(self.number, records)
            await asyncio.gather(
                *(
                    engine.insist(engine.names.journal, target, copies)
                    for target, copies in batch.targets.items()
                )
            )
            if batch.poison:
                passed = engine.config.requests.header_pass_through
                refused = letters.poison(engine.names.feedback, self.number, batch.poison, passed, keep=True)
                await engine.insist(engine.names.dead_letter, 0, refused)
            self.commit_to = batch.through
            engine.stats.feedback_copied += batch.copied
            engine.stats.poison += len(batch.poison)
            engine.stats.unmeasured += batch.unmeasured.total()
            self._tell(batch.unmeasured)
        except Exception as error:  # noqa: BLE001 - nothing may end a task in silence
            engine.die(error)
        finally:
            self._job = None
        self.kick()
        engine.wake()

    def _tell(self, unmeasured: Counter[str]) -> None:
        """Log once which fields hold numbers that no answer has."""
        for name in sorted(unmeasured.keys() - self._told):
            self._told.add(name)
            log.warning(
                "feedback reports a %s that no answer has, such as a latency of 0: it is not learned from; "
                "leave the field out where it was not measured",
                name,
            )
