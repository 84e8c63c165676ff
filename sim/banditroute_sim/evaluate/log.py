"""An exported log of the engine as batches of columns: decisions, what they predicted, what came back."""

from __future__ import annotations

import base64
import binascii
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.arithmetic.chance import request_key
from banditroute.errors import DataSetError, StateError
from banditroute.events import Decision, Rejected, decode_feedback, feedback_of, measured
from banditroute.flow.records.header import HEADER_NAME, Header, parse_header
from banditroute_sim.data.dropped import ALLOWED, Dropped
from banditroute_sim.evaluate.files import batches, find
from banditroute_sim.evaluate.votes import Votes, decision_key, served_key

Floats = NDArray[np.float64]

CHOSEN_BY_CHANCE = ("utility", "only-eligible", "greedy")


@dataclass(frozen=True, slots=True)
class Batch:
    """Columns of n decisions among K models.

    Attributes
    ----------
    names : tuple of str
        The models.
    chosen : int64[n]
        What was logged.
    eligible : bool[n, K]
        What could have been chosen.
    propensity : float64[n]
        Of the logged choice, in (0, 1].
    quality, sd, cost : float64[n, K]
        What was expected before the outcome, NaN where the log does not say; cost in USD.
    log_tokens, log_latency : float64[n, K]
        As in a decision's header.
    input_tokens, cost_weight, latency_weight : float64[n]
    outcome : float64[n, 4]
        Quality, cost (USD), input and output tokens that came back, NaN = unknown.
    cell : int64[n]
        Kind of context, for outcome models that are learned from the log.
    """

    names: tuple[str, ...]
    chosen: NDArray[np.int64]
    eligible: NDArray[np.bool_]
    propensity: Floats
    quality: Floats
    sd: Floats
    cost: Floats
    log_tokens: Floats
    log_latency: Floats
    input_tokens: Floats
    cost_weight: Floats
    latency_weight: Floats
    outcome: Floats
    cell: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def predicted(self) -> bool:
        """Whether every candidate's quality and cost were logged."""
        return not (np.isnan(self.quality).any() or np.isnan(self.cost).any())


class Log(Protocol):
    """A log that can be read more than once."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """Decisions that were not used, by reason, of the last reading."""

    @property
    def dropped(self) -> Dropped:
        """Feedback that cannot be used, and why."""

    def batches(self) -> Iterator[Batch]:
        """Yield the decisions that were drawn with a known propensity, in the order of the log."""


@dataclass
class ExportedLog:
    """A folder with ``decisions*`` and ``feedback*`` as parquet or JSON lines; see docs/EVALUATION.md.

    Parameters
    ----------
    folder : Path
        Where it is.
    kind : str, optional
        Take quality from this kind of feedback alone.
    allow_dropped : float
        Share of the feedback that may be unusable.

    Attributes
    ----------
    left_out : Counter
        Decisions that were not used, by reason.
    dropped : Dropped
        Feedback events, and why some are not valid.
    """

    folder: Path
    kind: str | None = None
    allow_dropped: float = ALLOWED
    left_out: Counter[str] = field(default_factory=Counter)
    dropped: Dropped = field(default_factory=lambda: Dropped("feedback events"))
    _votes: Votes | None = None

    def votes(self) -> Votes:
        """Return the feedback, settled; read once."""
        if self._votes is None:
            paths = find(self.folder, "feedback")
            if not paths:
                raise DataSetError(
                    f"{self.folder} holds no feedback: expected feedback*.parquet or feedback*.jsonl"
                )
            votes = Votes(self.kind)
            for path in paths:
                for rows in batches(path):
                    for row in rows:
                        self._take(votes, row)
            if not votes.taken:
                raise DataSetError(
                    f"{paths[0]} holds no valid feedback: expected the fields of docs/EVENTS.md; "
                    + (self.dropped.sentence() or "it is empty")
                )
            self.dropped.check(str(paths[0]), self.allow_dropped)
            votes.settle()
            self._votes = votes
        return self._votes

    def _take(self, votes: Votes, row: Mapping[str, Any]) -> None:
        value = row.get("value") if "request_id" not in row else None
        if isinstance(value, str | bytes):
            event = decode_feedback(value.encode() if isinstance(value, str) else value)
        else:
            event = feedback_of(value if isinstance(value, Mapping) else row)
        self.dropped.take(event.reason if isinstance(event, Rejected) else None)
        if not isinstance(event, Rejected):
            votes.add(measured(event))

    def batches(self) -> Iterator[Batch]:
        """See `Log.batches`."""
        paths = find(self.folder, "decisions")
        if not paths:
            raise DataSetError(
                f"{self.folder} holds no decisions: expected decisions*.parquet or decisions*.jsonl"
            )
        votes = self.votes()
        self.left_out = Counter()
        newest: dict[str, int] = {}
        for path in paths:
            for rows in batches(path):
                drawn = [one for row in rows if (one := self._drawn(row, path, newest)) is not None]
                for names, group in groupby(drawn, key=_names):
                    yield _columns(names, list(group), votes)

    def _drawn(
        self, row: Mapping[str, Any], path: Path, newest: dict[str, int]
    ) -> tuple[Decision, Header | None] | None:
        """Return a decision that was drawn with a propensity, or None after counting why not."""
        decision = read_decision(row, path)
        partition, _, offset = decision.decision_id.partition("-")
        if not offset.isdecimal():
            raise DataSetError(f"{path}: decision_id '{decision.decision_id}' is not `partition-offset`")
        if int(offset) < newest.get(partition, 0):
            self.left_out["repeated"] += 1
            return None
        newest[partition] = int(offset) + 1
        reason = "shadow" if decision.mode == "shadow" else decision.reason.partition(":")[0]
        if reason not in CHOSEN_BY_CHANCE or decision.model is None:
            self.left_out[reason] += 1
            return None
        p = decision.propensity
        if p is None or not 0.0 < p <= 1.0:
            raise DataSetError(
                f"{path}: the propensity of decision {decision.decision_id} is {p}: expected a number in (0, 1]"
            )
        header = read_header(row, path, decision)
        if header is not None and header.predicted(decision.model) is None:
            raise DataSetError(
                f"{path}: decision {decision.decision_id} chose '{decision.model}', which its header does not know"
            )
        return decision, header


def read_decision(row: Mapping[str, Any], path: Path) -> Decision:
    """Return the decision of a row, from its bytes or from its columns; raises DataSetError."""
    value = row.get("value")
    try:
        if isinstance(value, str | bytes):
            return msgspec.json.decode(value, type=Decision)
        # nulls were left out of the row
        return msgspec.convert(value if isinstance(value, Mapping) else {"model": None, **row}, Decision)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise DataSetError(f"{path} holds a row that is not a decision: {error}") from error


def read_header(row: Mapping[str, Any], path: Path, decision: Decision) -> Header | None:
    """Return the header of a row, None if it has none; raises DataSetError."""
    raw = row.get(HEADER_NAME)
    if raw is None:
        return None
    try:
        header = parse_header(raw if isinstance(raw, bytes) else base64.b64decode(raw, validate=True))
    except (StateError, binascii.Error, ValueError, TypeError) as error:
        raise DataSetError(
            f"{path}: the header of decision {decision.decision_id} cannot be read: {error}"
        ) from error
    return header


def _names(one: tuple[Decision, Header | None]) -> tuple[str, ...]:
    decision, header = one
    if header is not None:
        return tuple(key.name for key in header.keys)
    return tuple(sorted({str(decision.model), *decision.fallbacks}))


def _columns(names: tuple[str, ...], rows: list[tuple[Decision, Header | None]], votes: Votes) -> Batch:
    n, k = len(rows), len(names)
    index = {name: column for column, name in enumerate(names)}
    predictions = np.full((n, k, 5), np.nan)
    eligible = np.zeros((n, k), np.bool_)
    tokens = np.full(n, np.nan)
    keys = []
    for i, (decision, header) in enumerate(rows):
        assert decision.model is not None
        for name in (decision.model, *decision.fallbacks):
            if name not in index:
                raise DataSetError(
                    f"decision {decision.decision_id} falls back on '{name}', which its header does not know"
                )
            eligible[i, index[name]] = True
        if header is not None:
            predictions[i], tokens[i] = header.predictions, header.input_tokens
        both = request_key(decision.request_id), decision_key(decision.decision_id, decision.request_id)
        keys.append([*both, *(served_key(key, decision.model) for key in both)])
    quality, cost = predictions[:, :, 0], predictions[:, :, 3]
    outcome = votes.look_up(keys)
    decisions = [decision for decision, _ in rows]
    weights = np.array([[one.weights.cost, one.weights.latency] for one in decisions])
    propensity = np.array([one.propensity for one in decisions], np.float64)
    return Batch(
        names=names,
        chosen=np.array([index[str(one.model)] for one in decisions], np.int64),
        eligible=eligible,
        propensity=propensity,
        quality=quality,
        sd=predictions[:, :, 1],
        cost=cost,
        log_tokens=predictions[:, :, 2],
        log_latency=predictions[:, :, 4],
        input_tokens=tokens,
        cost_weight=weights[:, 0],
        latency_weight=weights[:, 1],
        outcome=outcome,
        cell=np.zeros(n, np.int64),
    )


def check_numbers(where: str, name: str, values: Floats, low: float, high: float) -> None:
    """Raise DataSetError unless all numbers are from ``low`` to ``high`` or NaN."""
    wrong = values[~np.isnan(values) & ~((values >= low) & (values <= high))]
    if len(wrong):
        bound = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of {low:g} or more"
        raise DataSetError(f"{where}: {name} holds {wrong[0]:g}; expected numbers {bound}")
