"""Reads our fields out of payloads that were not written for us."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class FieldMap:
    """Picks our fields out of a foreign JSON payload.

    Parameters
    ----------
    paths : mapping of str to str
        Our field name to a path such as ``"$.meta.requestId"``; fields not named are taken under their own
        name from the top level.

    Examples
    --------
    >>> FieldMap({"request_id": "$.meta.id"}).pick({"meta": {"id": "a"}, "prompt": "hi"})
    {'meta': {'id': 'a'}, 'prompt': 'hi', 'request_id': 'a'}
    """

    def __init__(self, paths: Mapping[str, str]) -> None:
        self._paths = {field: tuple(path.removeprefix("$.").split(".")) for field, path in paths.items()}

    def pick(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the payload with our fields laid over it."""
        picked = dict(payload)
        for field, path in self._paths.items():
            node: Any = payload
            for step in path:
                node = node.get(step) if isinstance(node, Mapping) else None
            if node is None:
                picked.pop(field, None)
            else:
                picked[field] = node
        return picked
