"""Turns what was chosen for a batch into decision records, and into the columns that become pending."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from banditroute.bandit.evidence import ModelKey
from banditroute.bandit.thompson import LIMITS, Choices, DecideBatch
from banditroute.events import WIRE_VERSION, Decision, Expected, Request, Weights, encode
from banditroute.flow.header import COLUMNS, HEADER_NAME, HeaderWriter
from banditroute.flow.known import KnownBatch
from banditroute_features import FeatureSpec

MAX_PASSED_HEADERS: Final = 8192  # bytes of pass-through headers per decision
_INPUT, _ESTIMATED = LIMITS.index("input_tokens"), LIMITS.index("input_estimated")
_LATENCY = LIMITS.index("latency_weight")
_FILTERS: Final = {1: "request", 2: "max_cost_usd", 3: "max_latency_ms"}
_MOST_RANKINGS: Final = 8192  # remembered as tuples of names


class InputRecord(Struct, frozen=True, gc=False):
    """A record read from a topic; `timestamp` in milliseconds."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


class OutputRecord(Struct, frozen=True, gc=False):
    """A record to be written."""

    key: bytes | None
    value: bytes
    headers: Sequence[tuple[str, bytes]] = ()


class Poison(NamedTuple):
    """A record that was refused."""

    record: InputRecord
    reason: str


class DecidedBatch(Struct):
    """What a batch of requests became.

    The rows of `known` describe `records`, with their log offset still to be told by the acknowledgement; `keys` are
    the ids of all valid requests; `through` is the offset after the last request looked at.
    """

    records: list[OutputRecord]
    known: KnownBatch | None
    decisions: list[Decision]
    poison: list[Poison]
    keys: list[bytes]
    through: int
    repeats: int = 0
    below: int = 0


def no_decisions(through: int) -> DecidedBatch:
    """Return an empty batch to be filled."""
    return DecidedBatch([], None, [], [], [], through)


class DecisionWriter:
    """Writes the decisions of one configuration.

    Parameters
    ----------
    keys : sequence of ModelKey
        The catalog.
    spec : FeatureSpec
        Of the contexts.
    mode : str
        ``active``, ``shadow`` or ``frozen``.
    passed : iterable of str
        Names of the request headers that are copied.
    default : int or None
        The model of requests that are too old to be chosen for.
    """

    def __init__(
        self,
        keys: Sequence[ModelKey],
        spec: FeatureSpec,
        mode: Literal["active", "shadow", "frozen"],
        passed: Iterable[str],
        default: int | None,
    ) -> None:
        self._keys = tuple(keys)
        self._names = [key.name for key in keys]
        self._spec_id = spec.spec_id
        self._mode: Literal["active", "shadow", "frozen"] = mode
        self._passed = frozenset(passed)
        self._default = default
        self._headers = HeaderWriter(keys, spec.spec_id, spec.d)
        self._rankings: dict[bytes, tuple[str, ...]] = {}

    def write(
        self,
        partition: int,
        fresh: Sequence[tuple[InputRecord, Request]],
        batch: DecideBatch,
        choices: Choices,
        stale: Sequence[int],
        version: str,
        decided: DecidedBatch,
    ) -> None:
        """Add the records, decisions and columns of a batch to `decided`; `stale` requests get the default model."""
        chosen = choices.chosen.astype(np.int64)
        if stale and self._default is not None:
            chosen[stale] = self._default
        offsets = np.fromiter((record.offset for record, _ in fresh), np.int64, len(fresh))
        shadow = self._mode == "shadow"
        tokens = batch.limits[:, _INPUT].astype(np.float32)
        counted = batch.limits[:, _ESTIMATED] == 0.0
        headers = self._headers.write(offsets, batch.x, choices.candidates, tokens, counted, shadow)
        predictions = choices.candidates[np.arange(len(fresh)), chosen]
        predictions[chosen < 0] = np.nan
        decisions = self._decisions(
            partition, fresh, offsets, batch, choices, chosen, predictions, stale, version
        )
        keys = [request.request_id.encode() for _, request in fresh]
        passed = self._passed
        for (record, _), key, decision, header in zip(fresh, keys, decisions, headers, strict=True):
            own = [(HEADER_NAME, header)]
            if record.headers:
                own += _pass_through(record.headers, passed)
            decided.records.append(OutputRecord(key, encode(decision), own))
        decided.decisions += decisions
        decided.known = KnownBatch(
            offsets, keys, batch.x, chosen, predictions, tokens, counted,
            [request.tenant for _, request in fresh], [decision.segment for decision in decisions],
            headers, self._keys, shadow,
        )  # fmt: skip

    def _decisions(
        self,
        partition: int,
        fresh: Sequence[tuple[InputRecord, Request]],
        offsets: NDArray[np.int64],
        batch: DecideBatch,
        choices: Choices,
        chosen: NDArray[np.int64],
        predictions: NDArray[np.float64],
        stale: Sequence[int],
        version: str,
    ) -> list[Decision]:
        """Return the decisions; columns become lists first, which costs a tenth of reading arrays one by one."""
        latency = np.exp(predictions[:, COLUMNS - 1]).tolist()
        expected = predictions[:, (0, 3)].tolist()
        weights = np.stack((choices.cost_weight, batch.limits[:, _LATENCY]), axis=1).tolist()
        propensity, explored = choices.propensity.tolist(), choices.explored.tolist()
        ranked = np.ascontiguousarray(choices.rank)
        rows, width = ranked.tobytes(), ranked.shape[1] * ranked.itemsize
        names, rankings, spec_id, mode = self._names, self._rankings, self._spec_id, self._mode
        usual = "greedy" if mode == "frozen" else "utility"
        decisions = []
        last: tuple[list[float], Weights] | None = None
        for i, (offset, model) in enumerate(zip(offsets.tolist(), chosen.tolist(), strict=True)):
            request = fresh[i][1]
            blob = rows[i * width : (i + 1) * width]
            order = rankings.get(blob)
            if order is None:
                order = self._ranking(blob)
            if last is None or last[0] != weights[i]:  # mostly the same for a whole batch
                last = (weights[i], Weights(*weights[i]))
            reason, fallbacks, prediction = usual, order[1:], None
            if model < 0:
                reason, fallbacks = f"none-eligible: {_FILTERS[int(choices.blocked[i])]}", ()
            else:
                if not fallbacks and usual == "utility":
                    reason = "only-eligible"
                quality, cost = expected[i]
                milliseconds = latency[i]
                prediction = Expected(quality, cost, None if milliseconds != milliseconds else milliseconds)
            decisions.append(
                Decision(
                    v=WIRE_VERSION,
                    decision_id=f"{partition}-{offset}",
                    request_id=request.request_id,
                    tenant=request.tenant,
                    model=names[model] if model >= 0 else None,
                    fallbacks=fallbacks,
                    propensity=propensity[i] if model >= 0 else None,
                    explored=explored[i] if model >= 0 else False,
                    expected=prediction,
                    segment=request.tags[0] if request.tags else None,
                    weights=last[1],
                    reason=reason,
                    posterior_version=version,
                    spec_id=spec_id,
                    mode=mode,
                )
            )
        for i in stale:
            decisions[i] = self._aged(decisions[i], self._ranking(rows[i * width : (i + 1) * width]))
        return decisions

    def _aged(self, decision: Decision, order: tuple[str, ...]) -> Decision:
        """Return the decision for a request that is too old: the default model, which nobody chose."""
        fallbacks = tuple(name for name in order if name != decision.model)
        return replace(
            decision, reason="stale", fallbacks=fallbacks, propensity=None, explored=False, expected=None
        )

    def _ranking(self, blob: bytes) -> tuple[str, ...]:
        """Return the names of a row of ranks."""
        if len(self._rankings) >= _MOST_RANKINGS:
            self._rankings.clear()
        order = tuple(self._names[a] for a in np.frombuffer(blob, np.int32).tolist() if a >= 0)
        self._rankings[blob] = order
        return order


def _pass_through(headers: Sequence[tuple[str, bytes]], names: frozenset[str]) -> list[tuple[str, bytes]]:
    # Kafka allows a header without a value
    passed = [(name, value or b"") for name, value in headers if name in names]
    size = sum(len(name) + len(value) for name, value in passed)
    return passed if size <= MAX_PASSED_HEADERS else []
