"""What the encoder reads of a request: attributes only, so any object that has them will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["Message", "RequestLike"]


class Message(Protocol):
    """One message of a chat."""

    @property
    def role(self) -> str:
        """Who speaks; ``system`` and ``developer`` messages are no turns of the chat."""

    @property
    def content(self) -> Any:
        """The text of the message; what is not a string counts as no text."""


class RequestLike(Protocol):
    """The attributes of a request that become its context.

    The text of a request is its `prompt`, or else the contents of its `messages`, or nothing at all.
    Strings may hold anything a Python string can hold, lone surrogates included.

    These five are always read. Blocks that are switched on read more, and take an attribute that is not
    there for None: `session_id`, `language` (str), `hour` (int from 0 to 23, of the caller's day),
    `max_output_tokens` (int), `embedding` and `context` (sequences of numbers).
    """

    @property
    def prompt(self) -> str | None:
        """The prompt; when it is there, `messages` are not looked at."""

    @property
    def messages(self) -> Sequence[Message] | None:
        """The chat so far, oldest message first."""

    @property
    def tenant(self) -> str | None:
        """On whose behalf the request was sent."""

    @property
    def tags(self) -> Sequence[str]:
        """Labels given by the caller, in any order; the name of the task is the best one there is."""

    @property
    def input_tokens(self) -> int | None:
        """Input tokens as counted by the caller; estimated from the text when missing."""
