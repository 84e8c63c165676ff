"""The product's whole library face in an episode: events in, decisions out, feedback over a wire that may go wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from banditroute.events import PriceEdit
from banditroute.router import Router
from banditroute_sim.policies.base import Bools, Context, Floats, Opaque
from banditroute_sim.scenarios.episode import Episode

_TOKENS = (
    1000  # of every request; with a cost weight as large a price per million tokens is a cost in utility
)
_LATE = 20  # a message that is out of order comes up to so many messages later


class ThroughRouter(Opaque):
    """A `Router` that is sent requests and feedback as events.

    Parameters
    ----------
    episode : Episode
        Models, blocks, declared qualities, and what happens to messages, are read. A score is between 0 and 1 on the
        wire: votes beyond are cut.
    seed : int
        Of the router, and of the wire.
    """

    def __init__(self, episode: Episode, seed: int) -> None:
        known = episode.declared.any()
        self._names = episode.names
        self._prices = np.zeros(len(self._names))
        models = [
            {"name": name, "input_usd_per_mtok": 0.0, "output_usd_per_mtok": 0.0}
            | ({"prior_quality": float(0.5 + declared)} if known else {})
            for name, declared in zip(self._names, episode.declared, strict=True)
        ]
        columns = {"tags": 0, "tenant": 0, "statistics": 0, "scripts": 0, "context": episode.x.shape[1] - 1}
        self.router = Router.from_dict(
            {
                "models": models,
                "features": columns,
                "objective": {"cost_weight": float(_TOKENS)},
                "learning": {"seed": seed, "price_prior": 0.0},
            }
        )
        self._rng = np.random.default_rng([seed, 29])
        self._wire = episode.messages
        self._held: list[tuple[int, dict[str, Any]]] = []
        self._sent = self._asked = 0
        self._ids: dict[int, str] = {}

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:
        """See `Chooser.choose`."""
        for k in np.flatnonzero(cost != self._prices):
            self.router.control(PriceEdit(self._names[k], float(cost[k]), 0.0))
        self._prices = cost.copy()
        # A round may be asked again: an id is never used twice.
        self._asked += 1
        self._ids[t] = f"{t}-{self._asked}"
        request: dict[str, Any] = {"request_id": self._ids[t], "input_tokens": _TOKENS}
        request |= {"context": x[1:].tolist()} if len(x) > 1 else {"prompt": ""}
        if not available.all():
            request["deny"] = [self._names[k] for k in np.flatnonzero(~available)]
        model = self.router.decide(request).model
        assert model is not None
        return self._names.index(model)

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        event = {
            "request_id": self._ids[t],
            "feedback_id": f"f{t}",
            "model": self._names[model],
            "kind": "score",
            "value": min(max(quality, 0.0), 1.0),
        }
        late = self._sent + int(self._rng.integers(1, _LATE)) if self._lot(self._wire.reordered) else 0
        for due in (late, self._sent + 1) if self._lot(self._wire.repeated) else (late,):
            self._held.append((due, event))
        self._sent += 1
        self._held, ready = (
            [one for one in self._held if one[0] >= self._sent],
            [one for one in self._held if one[0] < self._sent],
        )
        for _, one in ready:
            self.router.learn(one)

    def _lot(self, share: float) -> bool:
        return share > 0.0 and self._rng.random() < share
