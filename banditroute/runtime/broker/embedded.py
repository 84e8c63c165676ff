"""A Kafka broker inside this process: librdkafka's mock cluster, which comes with the confluent-kafka wheel.

It speaks the real protocol on a real port, so that `banditroute demo` and the tests have a broker where there
is no Kafka. It is not Kafka: one consumer group member with aiokafka, no admin requests, every new topic has
four partitions and is created by its first use, timestamps are those of the producer, nothing is compacted,
and it keeps about 5 MiB per partition and forgets what is older.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from banditroute.errors import BrokerUnavailable, MissingExtraError

__all__ = ["EmbeddedBroker"]

_START_SECONDS = 10.0


def _ignore(_error: object) -> None:
    """Take librdkafka's errors without printing them: its own client points nowhere on purpose."""


class EmbeddedBroker:
    """A mock Kafka cluster on 127.0.0.1 that lives as long as this object.

    Parameters
    ----------
    brokers : int
        Number of brokers of the cluster.

    Raises
    ------
    MissingExtraError
        If confluent-kafka is not installed.
    BrokerUnavailable
        If the cluster does not answer within ten seconds.

    Examples
    --------
    >>> with EmbeddedBroker() as broker:
    ...     host, port = broker.bootstrap.split(":")
    >>> host
    '127.0.0.1'
    """

    def __init__(self, brokers: int = 1) -> None:
        if brokers < 1:
            raise ValueError(f"brokers must be at least 1, got {brokers}")
        try:
            from confluent_kafka import KafkaException, Producer  # noqa: PLC0415 - an optional dependency
        except ImportError as error:
            raise MissingExtraError("The embedded broker", "demo") from error
        # The cluster belongs to a producer that nobody sends with; the address it is given is replaced by
        # those of the mock brokers. Log level 0 and the callbacks keep librdkafka off stderr.
        self._owner: Any = Producer(
            {
                "test.mock.num.brokers": brokers,
                "bootstrap.servers": "127.0.0.1:1",
                "log_level": 0,
                "error_cb": _ignore,
            },
        )
        #: ``host:port`` of every broker, joined by commas.
        self.bootstrap = ""
        until = time.monotonic() + _START_SECONDS
        while not self.bootstrap:
            try:
                found = self._owner.list_topics(timeout=1.0).brokers.values()
            except KafkaException as error:
                if time.monotonic() > until:
                    self.close()
                    raise BrokerUnavailable(f"The embedded broker did not start: {error}.") from error
            else:
                self.bootstrap = ",".join(sorted(f"{broker.host}:{broker.port}" for broker in found))

    def close(self) -> None:
        """Take the cluster down together with all that was written to it; may be called twice."""
        # librdkafka destroys the cluster with the handle that owns it, and there is no other way to ask.
        self._owner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
