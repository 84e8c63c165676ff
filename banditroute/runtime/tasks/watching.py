"""Watches the topics themselves: one that was made anew, that is gone, or that has other partitions than before.

A topic that is deleted and made again begins at offset 0: what users write to it would be taken for what was read long
ago, and left out without a word. Kafka gives topics ids, which tell one from another of the same name.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from banditroute.errors import BrokerError, StateError
from banditroute.runtime.broker.ports import TopicDescription
from banditroute.runtime.state.topic_ids import names_of, refuse_made_anew
from banditroute.runtime.state.topics import Layout

if TYPE_CHECKING:
    from banditroute.runtime.tasks.engine import Engine

log = logging.getLogger("banditroute.engine")

WATCH_SECONDS: Final = 2.0
LOOKS: Final = 3  # in a row: a broker that has just started does not tell of all it has yet


class Watching:
    """Looks at the topics now and then.

    Parameters
    ----------
    engine : Engine
        Whose client, names and alerts are used.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._names = names_of(engine.names)
        self._known: dict[str, TopicDescription] = {}
        self._counts: dict[str, int] = {}
        self._beyond: Counter[tuple[str, int]] = Counter()  # looks in a row at an end before what was read
        self._missing: Counter[str] = Counter()  # looks in a row that did not find a topic
        self._told: set[tuple[str, int]] = set()

    async def begin(self, layout: Layout | None = None) -> dict[str, TopicDescription]:
        """Take note of the topics as they are, and return them by name."""
        # also of brokers that have no topic ids
        names = self._engine.names
        if layout is not None:
            self._counts = {names.requests: layout.partitions, names.feedback: layout.feedback}
        self._known = await self._engine.client.describe(list(self._names.values())) or {}
        return self._known

    async def loop(self) -> None:
        """Look until cancelled; raises TopicError where a topic was made anew."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                now = await self._engine.client.describe(list(self._names.values()))
            except BrokerError:
                continue
            if now is not None:
                await self._compare(now)
            await self._look_at_offsets()

    async def _look_at_offsets(self) -> None:
        """Refuse to go on from offsets that the topics of users have never reached.

        A forged record, or a topic made anew where the broker gives no ids, would have everything up to that offset
        taken for what was done long ago.

        Raises
        ------
        StateError
            One sentence that names the partition.
        """
        engine = self._engine
        reached = {number: learner.r for number, learner in engine.learners().items()}
        copied: dict[int, int] = {}
        for learner in engine.learners().values():
            for source, offset in learner.fields.hi.items():
                copied[source] = max(copied.get(source, 0), offset + 1)
        try:
            for topic, offsets in ((engine.names.requests, reached), (engine.names.feedback, copied)):
                known = range(self._counts.get(topic, 0))
                ends = await engine.client.ends(topic, [number for number in offsets if number in known])
                for number, end in zip((number for number in offsets if number in known), ends, strict=True):
                    if offsets[number] <= end:
                        del self._beyond[topic, number]
                        continue
                    self._beyond[topic, number] += 1
                    if self._beyond[topic, number] >= LOOKS:
                        await self._refuse(topic, number, offsets[number], end)
                for number in offsets.keys() - set(known) if known else ():
                    await self._refuse(topic, number, offsets[number], 0)
            await self._look_at_control()
        except BrokerError as error:
            log.debug("the ends of the topics are not known: %s", error)

    async def _look_at_control(self) -> None:
        """Tell when edits that come will be taken for applied: the topic may rightly have been made anew, so go on."""
        engine, name = self._engine, self._engine.names.control
        applied = max((learner.fields.cursor for learner in engine.learners().values()), default=-1)
        if applied < 0 or name not in self._known:
            return
        (end,) = await engine.client.ends(name, [0])
        if applied >= end:
            await self._tell(
                name,
                -2,
                f"'{name}' ends at {end}, but its record {applied} was applied: the topic was made anew, or a journal "
                "record was forged; edits that are written now are ignored up to that offset: name a new control topic "
                "and new topics for journal and state",
            )

    async def _refuse(self, topic: str, partition: int, offset: int, end: int) -> None:
        message = (
            f"records of ours speak of offset {offset - 1} of {topic}-{partition}, which ends at {end}: a record was "
            "forged or damaged, or the topic was made anew; `banditroute state inspect` shows what is there"
        )
        await self._engine.alert("state", message, partition)
        raise StateError(message)

    async def _compare(self, now: Mapping[str, TopicDescription]) -> None:
        ids = {
            role: known.topic_id
            for role, name in self._names.items()
            if (known := self._known.get(name)) is not None and known.topic_id is not None
        }
        refuse_made_anew(self._names, ids, now)
        for role, name in self._names.items():
            before, there = self._known.get(name), now.get(name)
            if before is None:
                continue
            self._missing[name] = 0 if there is not None else self._missing[name] + 1
            if there is None:
                if self._missing[name] >= LOOKS:
                    message = f"topic '{name}' is gone: make it again or stop the engine; {_LOST[role]}"
                    await self._tell(name, 0, message)
            elif there.partitions > before.partitions:
                if role == "feedback":  # what is added there is read, so offsets of it are no damage
                    self._counts[name] = there.partitions
                more = f"topic '{name}' has {there.partitions} partitions and had {before.partitions}"
                await self._tell(
                    name, there.partitions, f"{more}: {_MORE.get(role, 'the new ones are not used')}"
                )
            elif there.topic_id not in (None, before.topic_id):
                await self._tell(name, -1, f"topic '{name}' was deleted and made anew; {_LOST[role]}")
                self._known[name] = there

    async def _tell(self, name: str, what: int, message: str) -> None:
        if (name, what) not in self._told:
            self._told.add((name, what))
            await self._engine.alert("topics", message)


_MORE: Final = {
    "requests": (
        "requests on the new ones are not decided; begin a new deployment with topics of that size "
        "(`banditroute state export --prior` keeps what was learned)"
    ),
    "feedback": "the new ones are read as well",
}
_WAITS: Final = "nothing is decided or learned until it is there again, and then this engine refuses to go on"
_LOST: Final = {
    "requests": "no request is decided meanwhile",
    "feedback": "no feedback is learned meanwhile",
    "decisions": _WAITS,
    "journal": _WAITS,
    "state": "what was learned since the last start is in the logs alone until the engines publish again",
    "control": "prices and pauses that were set with `banditroute control` are lost for engines that start now",
    "dead_letter": "partitions with something to say there wait for it",
    "alerts": "alerts are in the log of the engine alone",
    "reply": "partitions with replies to send wait for it",
}
