"""What the broker says of topics, with the id that tells a topic from another one of the same name.

Kafka gives topics ids since 2.8 (KIP-516). aiokafka does not ask for them, so the request is described here in its
terms; a broker that does not know this version is asked for the partitions alone.
"""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any, Final
from uuid import UUID

from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from banditroute.runtime.broker.ports import TopicDescription

_METADATA: Final = 3
_VERSION: Final = 12
_NO_ID: Final = UUID(int=0)


class _Uuid:
    """A topic id on the wire: 16 bytes."""

    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))

    @classmethod
    def repr(cls, value: UUID) -> str:
        return str(value)


class _Response(Response):  # type: ignore[misc]  # aiokafka is untyped
    API_KEY = _METADATA
    API_VERSION = _VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Struct(RequestStruct):  # type: ignore[misc]  # as above
    API_KEY = _METADATA
    API_VERSION = _VERSION
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _TopicsByName(Request[_Struct]):  # type: ignore[misc]  # as above
    API_KEY = _METADATA

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def build(self, request_struct_class: type[_Struct]) -> _Struct:
        return request_struct_class([(_NO_ID, name, {}) for name in self._names], False, False, {})


async def describe(client: Any, names: list[str], timeout: float) -> dict[str, TopicDescription] | None:
    """Ask a broker for topics, without creating any.

    Parameters
    ----------
    client : AIOKafkaClient
        A connected client.
    names : list of str
        The topics.
    timeout : float
        Seconds to wait for an answer.

    Returns
    -------
    dict or None
        The topics that exist; None where no broker answers, or none that knows topic ids.
    """
    for node in [broker.nodeId for broker in client.cluster.brokers()]:
        try:
            async with asyncio.timeout(timeout):
                answer = await client.send(node, _TopicsByName(names))
        except (KafkaError, OSError, TimeoutError, NotImplementedError):
            continue
        return {
            name: TopicDescription(len(partitions), None if topic_id == _NO_ID else topic_id.hex)
            for error, name, topic_id, _, partitions, *_ in answer.topics
            if error != UnknownTopicOrPartitionError.errno
        }
    return None
