"""Turns what was chosen into `Decision` objects: for the library face, and for the few that are written one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from banditroute.bandit.choice.policy import LIMITS
from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.events import WIRE_VERSION, Decision, Expected, Weights
from banditroute.flow.deciding.chosen import Chosen
from banditroute.flow.records.header import COLUMNS

Mode = Literal["active", "shadow", "frozen"]

_LATENCY = LIMITS.index("latency_weight")
_FILTERS: Final = {1: "request", 2: "max_cost_usd", 3: "max_latency_ms"}


class DecisionStructs:
    """Makes the decisions of one configuration.

    Parameters
    ----------
    keys : sequence of ModelKey
        The catalog.
    spec_id : str
        Of the contexts.
    mode : str
        ``active``, ``shadow`` or ``frozen``.
    """

    def __init__(self, keys: Sequence[ModelKey], spec_id: str, mode: Mode) -> None:
        self._names = [key.name for key in keys]
        self._spec_id = spec_id
        self._mode: Mode = mode
        self._ranked = np.array([*self._names, None], object)  # by rank, -1 being the last place

    def of(self, chosen: Chosen, places: Iterable[int] | None = None) -> list[Decision]:
        """Return the decisions at some places, or all; columns become lists first, which costs a tenth."""
        at = range(len(chosen.fresh)) if places is None else list(places)
        rows = slice(None) if places is None else at
        choices, batch, predictions = chosen.choices, chosen.batch, chosen.predictions[rows]
        latency = np.exp(predictions[:, COLUMNS - 1]).tolist()
        expected = predictions[:, (0, 3)].tolist()
        weights = np.stack((choices.cost_weight[rows], batch.limits[rows, _LATENCY]), axis=1).tolist()
        propensity, explored = choices.propensity[rows].tolist(), choices.explored[rows].tolist()
        orders = self._orders(choices.rank[rows])
        offsets, models = chosen.offsets[rows].tolist(), chosen.chosen[rows].tolist()
        blocked = choices.blocked
        names, spec_id, mode = self._names, self._spec_id, self._mode
        partition, version, fresh = chosen.partition, chosen.version, chosen.fresh
        usual = "greedy" if mode == "frozen" else "utility"
        stale = frozenset(chosen.stale)
        tenants, segments = chosen.tenants, chosen.segments
        decisions = []
        last: tuple[list[float], Weights] | None = None
        for i, (place, offset, model) in enumerate(zip(at, offsets, models, strict=True)):
            order = orders[i]
            if last is None or last[0] != weights[i]:  # mostly the same for a whole batch
                last = (weights[i], Weights(*weights[i]))
            reason, fallbacks, prediction = usual, order[1:], None
            if model < 0:
                reason, fallbacks = f"none-eligible: {_FILTERS[int(blocked[place])]}", ()
            else:
                if not fallbacks and usual == "utility":
                    reason = "only-eligible"
                quality, cost = expected[i]
                milliseconds = latency[i]
                prediction = Expected(quality, cost, None if milliseconds != milliseconds else milliseconds)
            decision = Decision(
                v=WIRE_VERSION,
                decision_id=f"{partition}-{offset}",
                request_id=fresh[place][1].request_id,
                tenant=tenants[place],
                model=names[model] if model >= 0 else None,
                fallbacks=fallbacks,
                propensity=propensity[i] if model >= 0 else None,
                explored=explored[i] if model >= 0 else False,
                expected=prediction,
                segment=segments[place],
                weights=last[1],
                reason=reason,
                posterior_version=version,
                spec_id=spec_id,
                mode=mode,
            )
            decisions.append(decision)
            if place in stale:
                decisions[i] = _aged(decision, order)
        return decisions

    def _orders(self, ranks: NDArray[np.int32]) -> list[tuple[str, ...]]:
        """Return the names of each row of ranks, int32[n, K], which ends with -1 for models that may not serve."""
        orders = list(map(tuple, self._ranked[ranks].tolist()))
        short = (ranks < 0).any(axis=1)
        for i in np.flatnonzero(short).tolist():
            orders[i] = tuple(name for name in orders[i] if name is not None)
        return orders


def _aged(decision: Decision, order: tuple[str, ...]) -> Decision:
    """Return the decision for a request that is too old: the default model, which nobody chose."""
    fallbacks = tuple(name for name in order if name != decision.model)
    return replace(
        decision, reason="stale", fallbacks=fallbacks, propensity=None, explored=False, expected=None
    )
