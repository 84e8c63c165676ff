"""A session decides and learns what the router decides and learns, bit for bit, without events."""

from __future__ import annotations

import numpy as np
import pytest

from banditroute import Router
from banditroute.bandit.arithmetic.chance import request_key
from banditroute.bandit.objectives.pacing import BudgetPacer, Fixed, Pacer
from banditroute.config import from_dict
from banditroute.events import request_of
from banditroute.router import make_encoder, model_priors
from banditroute_sim.session import Session

MODELS = [
    {"name": "small", "input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4},
    {"name": "large", "input_usd_per_mtok": 2.0, "output_usd_per_mtok": 8.0},
    {"name": "other", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 3.0},
]


@pytest.mark.parametrize(
    ("objective", "pacer"),
    [
        ({"cost_weight": 40.0}, Fixed(40.0)),
        ({"budget_usd_per_request": 0.001}, BudgetPacer(0.001)),
    ],
)
def test_a_session_and_the_router_agree_on_every_decision_and_every_bit_of_evidence(
    objective: dict[str, float], pacer: Pacer
) -> None:
    document = {"models": MODELS, "objective": objective, "learning": {"seed": 5}}
    router, encoder = Router.from_dict(document), make_encoder(from_dict(document))
    blocks = [(block.start, block.stop) for block in encoder.spec.blocks]
    priors = model_priors(from_dict(document).catalog, 0.06)
    session = Session(priors, blocks, 5, pacer=pacer)
    prices = np.array(
        [[model["input_usd_per_mtok"], model["output_usd_per_mtok"]] for model in MODELS], float
    )
    rng = np.random.default_rng(3)
    x = np.empty((1, encoder.spec.d), np.float32)
    tokens = np.empty(1)
    everyone = np.ones(3, bool)
    for t in range(400):
        event = {"request_id": f"r-{t}", "prompt": "word " * int(rng.integers(1, 200)), "tags": [f"t{t % 3}"]}
        decision = router.decide(event)
        encoder.encode_batch([request_of(event)], x, tokens)  # type: ignore[list-item]
        key = request_key(event["request_id"])
        choices = session.decide(key, x[0].copy(), prices, float(tokens[0]), everyone, estimated=True)
        model = int(choices.chosen[0])
        assert decision.model == MODELS[model]["name"]
        assert decision.propensity == choices.propensity[0]
        assert decision.weights.cost == choices.cost_weight[0]
        better = 0.9 if t < 250 else 0.1  # the large model falls
        quality = round(float(np.clip((better if model == 1 else 0.5) + 0.1 * rng.normal(), 0.0, 1.0)), 3)
        output, cost = 50 + int(rng.integers(300)), round(float(prices[model, 1]) * 2e-4, 9)
        reported = int(tokens[0] * (1.4 if model == 0 else 1.0)) + 1
        router.learn(
            {
                "request_id": event["request_id"],
                "kind": "score",
                "value": quality,
                "output_tokens": output,
                "cost_usd": cost,
                "input_tokens": reported,
            }
        )
        session.learn(key, model, quality, output, cost, reported)
    assert router.evidence == session.evidence
    assert session.policy.posterior.input_ratio[0] > 1.3
    assert [name for _, name in session.changes] == ["large"] or objective.get("budget_usd_per_request")
    assert router.ledger.get("control", 0) == len(session.changes)
