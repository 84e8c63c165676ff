"""The broker that tests start is the one that they talk to."""

from __future__ import annotations

import socket

import pytest
from kafka_broker import KafkaBroker, is_taken
from kafka_jars import KafkaError, java_problem


def test_a_port_that_is_taken_is_an_error_and_not_somebody_elses_broker() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert is_taken(port)
        broker = KafkaBroker(port=port)
        with pytest.raises(KafkaError) as refused:
            broker.start()
        broker.stop()
    if java_problem() is None:
        assert f"127.0.0.1:{port} already" in str(refused.value)
    assert not is_taken(port)
