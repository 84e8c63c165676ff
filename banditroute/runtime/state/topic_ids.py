"""Which topics a state was learned from, told by their ids: a topic made anew is another one under the same name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from banditroute.config.tables import Topics
from banditroute.errors import TopicError
from banditroute.runtime.broker.ports import Client, TopicDescription

#: topics whose offsets are in what was learned; another one of the name is another history
BOUND: Final = ("requests", "feedback", "decisions", "journal")
_ANEW: Final = (
    "topic '{}' was deleted and made anew: its offsets mean other records now; name new topics for decisions, "
    "journal and state, and a new group, and run `banditroute topics create` (`banditroute state export --prior` "
    "keeps what was learned)"
)


def names_of(topics: Topics) -> dict[str, str]:
    """Return the topics of a deployment by what they are for."""
    roles = (
        "requests",
        "feedback",
        "decisions",
        "journal",
        "state",
        "control",
        "dead_letter",
        "alerts",
        "reply",
    )
    return {role: name for role in roles if (name := getattr(topics, role)) is not None}


async def ids_of(client: Client, names: Topics) -> dict[str, str]:
    """Return the ids of the topics whose offsets will be in what is learned; empty where the broker has none."""
    described = await client.describe([getattr(names, role) for role in BOUND]) or {}
    found = {role: described.get(getattr(names, role)) for role in BOUND}
    return {
        role: topic.topic_id
        for role, topic in found.items()
        if topic is not None and topic.topic_id is not None
    }


def refuse_made_anew(
    names: Mapping[str, str], ids: Mapping[str, str], now: Mapping[str, TopicDescription]
) -> None:
    """Refuse topics that are not those a state was learned from.

    Parameters
    ----------
    names : mapping of str to str
        Topics by what they are for.
    ids : mapping of str to str
        Their ids as they were, where known.
    now : mapping of str to TopicDescription
        Topics by name, as the broker describes them.

    Raises
    ------
    TopicError
        One sentence that names the topic.
    """
    for role in BOUND:
        there = now.get(names[role])
        known = ids.get(role)
        if known is not None and there is not None and there.topic_id not in (None, known):
            raise TopicError(_ANEW.format(names[role]))
