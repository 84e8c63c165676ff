"""What an engine has to know before it joins the group: the topics, and the newest state of every partition."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from banditroute.errors import TopicError
from banditroute.runtime.broker.ports import TopicPartition
from banditroute.runtime.state.topic_ids import names_of, refuse_made_anew
from banditroute.runtime.state.topics import Layout, check_topics, create_topics, read_states

if TYPE_CHECKING:
    from banditroute.runtime.tasks.engine import Engine

log = logging.getLogger("banditroute.engine")


async def prepare(engine: Engine, *, init: bool, admin: bool) -> Layout:
    """Check the topics, read the states into the board, follow state and control, and derive.

    Parameters
    ----------
    engine : Engine
        Whose client, names and learning are used.
    init : bool
        Create missing topics and genesis records first.
    admin : bool
        Whether the broker can create topics.

    Raises
    ------
    TopicError, StateError
        One sentence each.
    """
    client, config, learning, names = engine.client, engine.config, engine.learning, engine.names
    warm = learning.warm
    if warm is not None:
        log.info(
            "prior %s: starts from %s; cold: %s; not in the catalog, ignored: %s",
            warm.digest,
            ", ".join(key.name for key in warm.evidence.rows) or "nothing",
            ", ".join(warm.cold) or "none",
            ", ".join(warm.ignored) or "none",
        )
    if init:
        for line in await create_topics(client, config, learning.spec, int(engine.now_ms()), admin=admin):
            log.info(line)
    layout = await check_topics(client, config)
    described = await engine.watching.begin(layout)
    begin, _ = await client.bounds(names.control, 0)
    followed = {TopicPartition(names.control, 0): begin}
    states = await read_states(client, config, range(layout.partitions), learning.spec)
    for number, (state, end, damaged) in states.items():
        for sentence in damaged:
            await engine.alert("state", sentence, number)
        if state is None:
            raise TopicError(
                f"partition {number} of '{names.state}' holds no genesis record: run "
                "`banditroute topics create -c FILE` (or `banditroute run --init`) once"
            )
        refuse_made_anew(names_of(names), state.genesis.topic_ids, described)
        learning.put(state)
        followed[TopicPartition(names.state, number)] = end
    client.follow(followed)
    learning.derive()
    return layout
