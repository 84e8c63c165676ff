"""The events of a run, written the way services write them: plain JSON under their own field names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from banditroute.config import Config
from banditroute.events import WIRE_VERSION
from banditroute_sim.data.dataset import DataSet

Record = tuple[bytes, bytes]


class Wire:
    """Names the requests of a run and writes its events.

    Parameters
    ----------
    source : DataSet
        Prompts and outcomes; request number i is row i modulo n.
    run_id : str
        What every request_id of the run begins with.
    voter : str
        The `source` of the feedback.
    config : Config
        Its field maps say under which names the engine looks for our fields.
    """

    def __init__(self, source: DataSet, run_id: str, voter: str, config: Config) -> None:
        self.prefix = f"{run_id}-"
        self._data = source
        # Python floats: reading single numbers out of an array takes ten times as long
        self._input_tokens = source.request_tokens.tolist()
        self._outcomes = np.stack(
            [source.quality, source.cost, source.input_tokens, source.output_tokens, 1e3 * source.latency_s],
            axis=2,
        ).tolist()
        self._voter = voter
        self._request_map = config.requests.field_map
        self._feedback_map = config.feedback.field_map

    def name(self, number: int) -> str:
        """Return the request_id of request `number`, counted from 0."""
        return f"{self.prefix}{number + 1:06d}"

    def number(self, request_id: str) -> int | None:
        """Return the number of a request of this run, None for any other."""
        digits = request_id.removeprefix(self.prefix)
        if not (digits.isascii() and digits.isdecimal()):
            return None
        number = int(digits) - 1
        return number if self.name(number) == request_id else None

    def request(self, number: int) -> Record:
        """Return key and value of a request event; what the data set does not know is left out."""
        row = number % len(self._data)
        name, task, tokens = self.name(number), self._data.tasks[row], self._input_tokens[row]
        event: dict[str, Any] = {"v": WIRE_VERSION, "request_id": name, "prompt": self._data.prompts[row]}
        if task is not None:
            event["tags"] = [task]
        if not math.isnan(tokens):
            event["input_tokens"] = round(tokens)
        return name.encode(), _encode(event, self._request_map)

    def feedback(self, number: int, column: int, decision_id: str | None) -> Record:
        """Return key and value of the score of a request served by the model of `column`."""
        name = self.name(number)
        quality, cost, tokens_in, tokens_out, latency_ms = self._outcomes[number % len(self._data)][column]
        event: dict[str, Any] = {
            "v": WIRE_VERSION,
            "request_id": name,
            "kind": "score",
            "value": quality,
            "cost_usd": cost,
            "feedback_id": f"{name}-score",
            "source": self._voter,
        }
        if decision_id is not None:
            event["decision_id"] = decision_id
        if not math.isnan(tokens_in):
            event["input_tokens"] = round(tokens_in)
        if not math.isnan(tokens_out):
            event["output_tokens"] = round(tokens_out)
        if not math.isnan(latency_ms):
            event["latency_ms"] = latency_ms
        return name.encode(), _encode(event, self._feedback_map)


def _encode(event: dict[str, Any], field_map: Mapping[str, str]) -> bytes:
    """Encode an event with each field where the map looks for it."""
    for field, path in field_map.items():
        if field in event:
            value, node = event.pop(field), event
            *steps, last = path.removeprefix("$.").split(".")
            for step in steps:
                node = node.setdefault(step, {})
            node[last] = value
    return orjson.dumps(event)
