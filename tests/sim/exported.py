"""A log as the engine writes it: a router decides and learns, and its records are kept."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from banditroute import Router
from banditroute.config import from_dict
from banditroute.events import encode
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.records.header import HEADER_NAME

MODELS = [
    {"name": "small", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0},
    {"name": "middle", "input_usd_per_mtok": 2.0, "output_usd_per_mtok": 6.0},
    {"name": "large", "input_usd_per_mtok": 4.0, "output_usd_per_mtok": 20.0},
]
QUALITY = {"small": 0.5, "middle": 0.6, "large": 0.7}
TOKENS = {"small": 200, "middle": 250, "large": 300}
DOCUMENT = {
    "models": MODELS,
    "objective": {"cost_weight": 20.0},
    "learning": {"seed": 3, "exploration_floor": 0.3},
}


def cost_of(name: str, prices: list[dict[str, Any]] | None = None) -> float:
    """Return what a request of 100 tokens costs, in USD."""
    one = next(model for model in prices or MODELS if model["name"] == name)
    return (100 * one["input_usd_per_mtok"] + TOKENS[name] * one["output_usd_per_mtok"]) / 1e6


def records(
    requests: int, document: dict[str, Any] | None = None, answered: float = 1.0
) -> tuple[list[OutputRecord], list[dict[str, Any]]]:
    """Return decision records and feedback events."""
    router = Router(from_dict(document or DOCUMENT))
    kept: list[OutputRecord] = []
    inner = router._decider.decide_requests

    def tap(*arguments: Any) -> Any:
        decisions, known = inner(*arguments)
        for decision, header in zip(decisions, known.headers, strict=True):
            record = OutputRecord(decision.request_id.encode(), encode(decision), [(HEADER_NAME, header)])
            kept.append(record)
        return decisions, known

    router._decider.decide_requests = tap
    rng = np.random.default_rng(1)
    events = []
    for number in range(requests):
        request = {"request_id": f"r-{number}", "prompt": "Count the boats", "input_tokens": 100}
        decision = router.decide({**request, "tags": [f"t{number % 3}"]})
        vote = float(rng.random() < QUALITY.get(decision.model, 0.5))
        event = {
            "request_id": decision.request_id,
            "decision_id": decision.decision_id,
            "kind": "score",
            "value": vote,
            "cost_usd": cost_of(decision.model),
            "input_tokens": 100,
            "output_tokens": TOKENS[decision.model],
            "feedback_id": f"f-{number}",
        }
        if rng.random() < answered:
            router.learn(event)
            events.append(event)
    return kept, events


def header_of(record: OutputRecord) -> bytes:
    """Return the binary header of a decision record."""
    return dict(record.headers)["banditroute"]


def write_lines(folder: Path, decisions: list[OutputRecord], events: list[dict[str, Any]]) -> Path:
    """Write a log as JSON lines: the decisions' fields and the header in base64."""
    folder.mkdir(exist_ok=True)
    rows = [
        {**json.loads(one.value), "banditroute": base64.b64encode(header_of(one)).decode()}
        for one in decisions
    ]
    for name, table in (("decisions", rows), ("feedback", events)):
        (folder / f"{name}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, table)))
    return folder


def write_parquet(folder: Path, decisions: list[OutputRecord], events: list[dict[str, Any]]) -> Path:
    """Write a log as parquet: the bytes of the records."""
    folder.mkdir(exist_ok=True)
    rows = [{"value": one.value, "banditroute": header_of(one)} for one in decisions]
    pq.write_table(pa.Table.from_pylist(rows), folder / "decisions.parquet")
    values = [{"value": orjson.dumps(event)} for event in events]
    pq.write_table(pa.Table.from_pylist(values), folder / "feedback.parquet")
    return folder
