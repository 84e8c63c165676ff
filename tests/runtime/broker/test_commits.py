"""Commits of a member whose group is rebalancing: one that is sent too late makes it join again, and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import CommitFailedError, RequestTimedOutError

from banditroute.config import from_dict
from banditroute.runtime.broker.kafka import KafkaClient
from banditroute.runtime.broker.ports import TopicPartition

pytestmark = pytest.mark.asyncio
CONFIG = {"models": [{"name": "m", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}]}
MINE, OTHERS = TopicPartition("requests", 0), TopicPartition("requests", 1)


class Group:
    """Takes what is committed, or refuses it."""

    def __init__(self) -> None:
        self.commits: list[dict[KafkaPartition, int]] = []
        self.refusal: Exception | None = None

    async def commit(self, offsets: Mapping[KafkaPartition, int]) -> None:
        self.commits.append(dict(offsets))
        if self.refusal is not None:
            raise self.refusal


def member() -> tuple[KafkaClient, Any]:
    client, group = KafkaClient(from_dict(CONFIG)), Group()
    client._group = group
    client.record_assignment([KafkaPartition(*MINE)])
    return client, group


async def test_nothing_is_committed_while_the_group_is_being_rejoined() -> None:
    client, group = member()
    client.record_rejoining()
    assert await client.commit({MINE: 5}) is False
    assert group.commits == []
    client.record_assignment([KafkaPartition(*MINE)])
    assert await client.commit({MINE: 5}) is True
    assert group.commits == [{KafkaPartition(*MINE): 5}]


async def test_after_a_refusal_by_the_group_the_next_commit_waits_for_an_assignment() -> None:
    client, group = member()
    group.refusal = CommitFailedError()
    assert await client.commit({MINE: 5}) is False
    group.refusal = None
    assert await client.commit({MINE: 6}) is False
    assert len(group.commits) == 1
    client.record_assignment([KafkaPartition(*MINE)])
    assert await client.commit({MINE: 7}) is True


async def test_after_another_error_the_next_commit_is_tried() -> None:
    client, group = member()
    group.refusal = RequestTimedOutError()
    assert await client.commit({MINE: 5}) is False
    group.refusal = None
    assert await client.commit({MINE: 5}) is True


async def test_offsets_of_a_partition_that_others_own_are_not_committed_and_not_said_to_be() -> None:
    client, group = member()
    assert await client.commit({OTHERS: 5}) is False
    assert group.commits == []
    assert await client.commit({MINE: 4, OTHERS: 5}) is False
    assert group.commits == [{KafkaPartition(*MINE): 4}]
