"""Reads a log for a rehearsal: a sample of its decisions with what came back, and what all of it taught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.arithmetic.chance import request_key
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, Vote
from banditroute.config import Config
from banditroute.errors import DataSetError
from banditroute.events import Decision, Feedback, Rejected, decode_feedback, feedback_of, measured
from banditroute.flow.records.header import Header
from banditroute_sim.data.dropped import ALLOWED, Dropped
from banditroute_sim.evaluate.files import batches, find
from banditroute_sim.evaluate.log import ExportedLog, read_decision, read_header
from banditroute_sim.evaluate.votes import COST, QUALITY, Votes, decision_key, served_key

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

SAMPLED: Final = 20_000
LEAST_VOTES: Final = 100
_DAY_MS: Final = 86_400_000.0


class _Row(NamedTuple):
    decision: Decision
    header: Header
    timestamp: float


@dataclass(frozen=True, slots=True)
class LoggedSample:
    """What a rehearsal knows of a log; m sampled decisions, K models of the catalog.

    Attributes
    ----------
    x : float32[m, d]
    tokens : float64[m]
    estimated : bool[m]
    served : int64[m]
        The model that served.
    outcome : float64[m, 4]
        Quality, cost (USD), input and output tokens, NaN = unknown.
    latency_s : float64[m]
        As reported, NaN = unknown.
    delay_ms : float64[m]
        From the decision to the first vote, NaN = no vote, or no timestamps.
    evidence : Evidence
        Of all decisions, sampled or not.
    decisions, answered : int
        All that a model served, and those with a quality.
    per_day : float
        Decisions per day, NaN without timestamps.
    quality, cost : float
        Means of all that came back, NaN where nothing did.
    left_out : Counter
        Decisions that were not used, by reason.
    dropped : Dropped
        Feedback that cannot be used, and why.
    """

    x: NDArray[np.float32]
    tokens: Floats
    estimated: NDArray[np.bool_]
    served: Rows
    outcome: Floats
    latency_s: Floats
    delay_ms: Floats
    evidence: Evidence
    decisions: int
    answered: int
    per_day: float
    quality: float
    cost: float
    left_out: Counter[str]
    dropped: Dropped


def read_log(
    folder: Path, config: Config, spec_id: str, d: int, allow_dropped: float = ALLOWED
) -> LoggedSample:
    """Read an exported log (`banditroute export-log`), of an engine that was active or in the shadow.

    Parameters
    ----------
    folder : Path
        With ``decisions*`` and ``feedback*``.
    config : Config
        Its catalog has every model that served.
    spec_id, d : str, int
        Of its features.
    allow_dropped : float
        Share of the feedback that may be unusable.

    Raises
    ------
    DataSetError
        If there is no log, its contexts are of other features, a model that served is not in the catalog, or too
        little came back.
    """
    paths = find(folder, "decisions")
    if not paths:
        raise DataSetError(f"{folder} holds no decisions: expected decisions*.parquet or decisions*.jsonl")
    exported = ExportedLog(folder, allow_dropped=allow_dropped)
    votes = exported.votes()
    keys = [ModelKey(model.name, model.generation) for model in config.catalog]
    index = {key.name: k for k, key in enumerate(keys)}
    evidence = Evidence(d)
    rng = np.random.default_rng(0)
    kept: list[tuple[_Row, int, Floats]] = []
    left_out: Counter[str] = Counter()
    seen = answered = 0
    sums, counts = np.zeros(2), np.zeros(2)
    first, last = np.inf, -np.inf
    for rows in _pieces(paths, spec_id, left_out):
        for row, (name, outcome) in zip(rows, _served(rows, votes, index), strict=True):
            if name is None:
                left_out["not known who served"] += 1
                continue
            seen += 1
            first, last = min(first, row.timestamp), max(last, row.timestamp)
            known = ~np.isnan(outcome[[QUALITY, COST]])
            sums += np.where(known, outcome[[QUALITY, COST]], 0.0)
            counts += known
            answered += bool(known[0])
            if not np.isnan(outcome).all():
                _learn(evidence, keys[index[name]], row, outcome)
            at = len(kept) if len(kept) < SAMPLED else int(rng.integers(seen))
            if at == len(kept):
                kept.append((row, index[name], outcome))
            elif at < SAMPLED:
                kept[at] = row, index[name], outcome
    if not seen and left_out["of other features"]:
        raise DataSetError(
            f"{folder} has no decision with the features of this configuration: give the [features] that were in "
            "force, or rehearse on a data set"
        )
    if answered < LEAST_VOTES:
        raise DataSetError(
            f"{folder} has {answered} decisions with a quality: a rehearsal needs {LEAST_VOTES} at least"
        )
    days = (last - first) / _DAY_MS
    with np.errstate(invalid="ignore"):
        quality, cost = sums / counts
    latency, delay = _times(folder, [row for row, _, _ in kept])
    return LoggedSample(
        x=np.array([row.header.x for row, _, _ in kept], np.float32),
        tokens=np.array([row.header.input_tokens for row, _, _ in kept]),
        estimated=np.array([not row.header.counted for row, _, _ in kept]),
        served=np.array([name for _, name, _ in kept], np.int64),
        outcome=np.array([outcome for _, _, outcome in kept]),
        latency_s=latency,
        delay_ms=delay,
        evidence=evidence,
        decisions=seen,
        answered=answered,
        per_day=seen / days if np.isfinite(days) and days > 0.0 else float("nan"),
        quality=float(quality),
        cost=float(cost),
        left_out=left_out,
        dropped=exported.dropped,
    )


def _pieces(paths: list[Path], spec_id: str, left_out: Counter[str]) -> Iterator[list[_Row]]:
    newest: dict[str, int] = {}
    for path in paths:
        for rows in batches(path):
            found = []
            for row in rows:
                decision = read_decision(row, path)
                partition, _, offset = decision.decision_id.partition("-")
                if not offset.isdecimal():
                    raise DataSetError(
                        f"{path}: decision_id '{decision.decision_id}' is not `partition-offset`"
                    )
                if int(offset) < newest.get(partition, 0):
                    left_out["repeated"] += 1
                    continue
                newest[partition] = int(offset) + 1
                header = read_header(row, path, decision)
                if header is None:
                    raise DataSetError(
                        f"{path}: decision {decision.decision_id} has no header, and so no context: export the log "
                        "with `banditroute export-log`"
                    )
                if header.spec_id != spec_id:
                    left_out["of other features"] += 1
                    continue
                if decision.model is None:
                    left_out["no model"] += 1
                    continue
                stamp = row.get("timestamp")
                found.append(
                    _Row(decision, header, float(stamp) if isinstance(stamp, int | float) else np.nan)
                )
            if found:
                yield found


def _served(rows: list[_Row], votes: Votes, index: Mapping[str, int]) -> Iterator[tuple[str | None, Floats]]:
    """Yield the model that served each decision, None where nobody knows, and what came back for it."""
    keys = []
    for decision, _, _ in rows:
        active = decision.mode != "shadow"
        if active and decision.model not in index:
            raise DataSetError(
                f"the log was served by '{decision.model}', which is not in the catalog: add it, with paused = true "
                "if nothing is to be sent there"
            )
        both = request_key(decision.request_id), decision_key(decision.decision_id, decision.request_id)
        for name in index:
            # a vote that names no model is about the one that was decided, and about nobody in the shadow
            plain = both if active and name == decision.model else (0, 0)
            keys.append([*plain, *(served_key(key, name) for key in both)])
    outcomes = votes.look_up(keys).reshape(len(rows), len(index), -1)
    names = list(index)
    for (decision, _, _), outcome in zip(rows, outcomes, strict=True):
        told = np.count_nonzero(np.isfinite(outcome), axis=1) > 0
        decided = index.get(str(decision.model)) if decision.mode != "shadow" else None
        if decided is not None and (told[decided] or not told.any()):
            yield names[decided], outcome[decided]
        elif told.any():
            yield names[int(told.argmax())], outcome[int(told.argmax())]
        else:
            yield None, outcome[0]


def _learn(evidence: Evidence, key: ModelKey, row: _Row, outcome: Floats) -> None:
    quality, cost, given, written = outcome.tolist()
    predicted = row.header.predicted(key.name)
    vote = Vote(
        quality=quality,
        output_tokens=written,
        cost_usd=cost,
        input_tokens=given,
        input_pred=float("nan") if row.header.counted else row.header.input_tokens,
        cost_pred=float("nan") if predicted is None else predicted.cost,
        log_tokens_pred=float("nan") if predicted is None else predicted.log_tokens,
    )
    evidence.add(key, row.header.x, vote, 1.0)


def _times(folder: Path, rows: list[_Row]) -> tuple[Floats, Floats]:
    """Return latency (s) and the time to the first vote (ms) of some decisions; NaN = unknown."""
    latency, first = np.full(len(rows), np.nan), np.full(len(rows), np.inf)
    place: dict[str, int] = {row.decision.request_id: i for i, row in enumerate(rows)}
    for path in find(folder, "feedback"):
        for batch in batches(path):
            for row in batch:
                event = _feedback(row)
                if event is None or (i := place.get(event.request_id or "")) is None:
                    continue
                if event.latency_ms is not None:
                    latency[i] = event.latency_ms / 1000.0
                stamp = row.get("timestamp")
                if event.quality is not None and isinstance(stamp, int | float):
                    first[i] = min(first[i], float(stamp))
    delay = first - np.array([row.timestamp for row in rows])
    return latency, np.where(np.isfinite(delay), np.maximum(delay, 0.0), np.nan)


def _feedback(row: Mapping[str, Any]) -> Feedback | None:
    value = row.get("value") if "request_id" not in row else None
    if isinstance(value, str | bytes):
        event = decode_feedback(value.encode() if isinstance(value, str) else value)
    else:
        event = feedback_of(value if isinstance(value, Mapping) else row)
    return None if isinstance(event, Rejected) else measured(event)
