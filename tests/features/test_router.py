"""The router hands every field of a request to the encoder."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from banditroute import Router
from banditroute.events import Request, decode_request
from banditroute_features import Encoder, FeatureSpec

FEATURES: dict[str, Any] = {
    "tags": 4,
    "tenant": 3,
    "session": 3,
    "language": 3,
    "hour": 2,
    "cross": 4,
    "numeric": 2,
    "chat": 3,
    "chars": 8,
    "words": 4,
    "embedding": 4,
    "context": 2,
    "crosses": [["tag", "language"], ["hour", "tenant"]],
}
REQUEST: dict[str, Any] = {
    "request_id": "r",
    "messages": [{"role": "system", "content": "Short."}, {"role": "user", "content": "Warum 3 + 4?"}],
    "tags": ["maths"],
    "tenant": "acme",
    "session_id": "s",
    "language": "de",
    "hour": 23,
    "max_output_tokens": 50,
    "embedding": [0.5, -1.0, 2.0, 0.25, 1.0],
    "context": [1.5, -0.5],
}


def learned(request: dict[str, Any]) -> np.ndarray:
    """The context of a decision, as it arrived in the evidence: one good answer adds it to b."""
    model = {"name": "only", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
    router = Router.from_dict({"models": [model], "features": FEATURES})
    router.decide(request, now=1.0)
    assert router.learn({"request_id": "r", "kind": "outcome", "value": 1.0}, now=2.0) == "applied"
    (row,) = router.evidence.rows.values()
    return row[router.evidence.layout.b]


def test_what_the_router_learns_from_is_what_the_encoder_says() -> None:
    event = decode_request(json.dumps(REQUEST).encode())
    assert isinstance(event, Request)
    x = Encoder(FeatureSpec.from_dict(FEATURES)).encode(event).astype(float)
    assert np.allclose(learned(REQUEST), x * (learned(REQUEST)[0] / x[0]))
    assert np.count_nonzero(x) > 20


@pytest.mark.parametrize(
    "name", ["tags", "tenant", "session_id", "language", "hour", "max_output_tokens", "embedding", "context"]
)
def test_every_optional_field_of_a_request_event_reaches_the_context(name: str) -> None:
    without = {key: value for key, value in REQUEST.items() if key != name}
    block = {"tags": "tag", "session_id": "session", "max_output_tokens": "numeric"}.get(name, name)
    spec = FeatureSpec.from_dict(FEATURES)
    (start, stop) = next((b.start, b.stop) for b in spec.blocks if b.name == block)
    there, missing = learned(REQUEST)[start:stop], learned(without)[start:stop]
    assert there.any()
    assert (there != missing).any()
