"""Tells aiokafka in its own words that a connection is gone, where the event loop is uvloop.

A write to a transport that was closed a moment ago raises RuntimeError in uvloop and nothing in asyncio. aiokafka
expects OSError (its issue 1038): at anything else its background tasks end for good, and an engine whose broker was
restarted would go on with a producer that sends no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

WRITERS: Final = ("send", "_send_sasl_token")


def _translating(write: Callable[..., Any]) -> Callable[..., Any]:
    def translated(self: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return write(self, *arguments, **named)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error

    return translated


def install() -> None:
    """Let connections of this process raise KafkaConnectionError instead of RuntimeError."""
    for name in WRITERS:
        write = getattr(AIOKafkaConnection, name)
        if write.__name__ != "translated":
            setattr(AIOKafkaConnection, name, _translating(write))
