"""What goes into `bench.stream`: requests, feedback and the configuration of a round."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from typing import Any

import orjson

PARTITIONS = 4
MODELS = 8
PROMPT_BYTES = 400
FEEDBACK_SHARE = 0.3
BATCH_BYTES = 900_000
EPOCH = 1_700_000_000.0  # Unix seconds from which feedback counts the time at which it was sent
OURS = ("requests", "feedback", "decisions", "journal", "state", "control", "dead_letter", "alerts")


def models() -> list[dict[str, Any]]:
    """Return the K models of the catalog."""
    return [
        {
            "name": f"model-{k}",
            "input_usd_per_mtok": round(0.1 * 1.7**k, 3),
            "output_usd_per_mtok": round(0.4 * 1.7**k, 3),
        }
        for k in range(MODELS)
    ]


def requests(count: int, seed: int = 1) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of request events: prompts of 400 bytes of words, tags and a tenant."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(2000)]
    prompts = [" ".join(draw.choices(words, k=100))[:PROMPT_BYTES] for _ in range(1000)]
    for number in range(count):
        request_id = f"req-{number:012d}"
        event = {
            "request_id": request_id,
            "prompt": prompts[number % len(prompts)],
            "tags": [f"task-{number % 7}"],
            "tenant": f"tenant-{number % 5}",
        }
        yield request_id.encode(), orjson.dumps(event)


def feedback(request_id: str, number: int) -> bytes:
    """Return a feedback event: a score with usage."""
    return orjson.dumps(
        {
            "request_id": request_id,
            "kind": "score",
            "value": (number % 101) / 100,
            "output_tokens": 50 + number % 400,
            "latency_ms": 200.0 + number % 900,
        }
    )


def answered(request_id: str) -> bool:
    """Tell whether a request gets feedback: 30 % of them, the same in every round."""
    return (int(request_id[4:]) * 7919) % 1000 < 1000 * FEEDBACK_SHARE


def configuration(bootstrap: str, source: str, prefix: str) -> dict[str, Any]:
    """Return the configuration of one round: the shared requests topic, and fresh ones for everything else."""
    topics = {name: f"{prefix}{name}" for name in OURS} | {"requests": source}
    return {
        "models": models(),
        "objective": {"cost_weight": 20.0},
        "kafka": {
            "bootstrap_servers": bootstrap,
            "group": f"{prefix}group",
            "partitions": PARTITIONS,
            "topics": topics,
        },
        "logging": {"level": "warning"},
    }
