"""Requests of any form: what is missing or of a wrong type counts as not told, and never raises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final

__all__ = ["names_of", "numbers_of", "tame"]

_ATTRIBUTES: Final = (
    *("prompt", "messages", "tags", "tenant", "input_tokens", "session_id", "language", "hour"),
    *("max_output_tokens", "embedding", "context"),
)


def names_of(tags: Any) -> tuple[Any, ...] | None:
    """Return tags as a tuple; a string is one tag, and what is no sequence is none."""
    if isinstance(tags, str):
        return (tags,)
    return tuple(tags) if isinstance(tags, Iterable) else None


def numbers_of(values: Any) -> tuple[Any, ...] | None:
    """Return a sequence of numbers as a tuple, and anything else as None."""
    if values is None or type(values) is tuple:
        return values
    return tuple(values) if isinstance(values, Iterable) else None


def tame(request: Any) -> SimpleNamespace:
    """Return a request with all attributes that an encoder reads, from an object or a mapping with some of them.

    Examples
    --------
    >>> tame({"prompt": "Why?", "tags": 7}).prompt
    'Why?'
    """
    found = _parts(request, _ATTRIBUTES)
    found["tags"] = names_of(found["tags"])
    found["messages"] = _messages(found["messages"])
    return SimpleNamespace(**found)


def _messages(messages: Any) -> list[SimpleNamespace] | None:
    """Return messages with a role that is a string, or None for what is no chat."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Iterable):
        return None
    chat = []
    for message in messages:
        found = _parts(message, ("role", "content"))
        if not isinstance(found["role"], str):
            found["role"] = ""
        chat.append(SimpleNamespace(**found))
    return chat


def _parts(source: Any, names: tuple[str, ...]) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return {name: source.get(name) for name in names}
    return {name: getattr(source, name, None) for name in names}
