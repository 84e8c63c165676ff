"""Turns a data set into what a router knows beforehand: the votes of every model on every prompt, discounted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import Evidence, ModelKey, Vote
from banditroute_sim.data.dataset import DataSet
from banditroute_sim.data.encoding import Encoded
from banditroute_sim.data.tables import Table

DEFAULT_VOTES = 100.0


def models_of(folder: Path) -> list[str]:
    """Return the models that a data set has outcomes of, sorted; raises DataSetError."""
    return sorted(set(Table.read(folder / "outcomes.parquet").strings("model")))


def warm_evidence(
    data: DataSet,
    encoded: Encoded,
    votes: float = DEFAULT_VOTES,
    generations: dict[str, int] | None = None,
    rows: NDArray[np.int64] | None = None,
) -> Evidence:
    """Return the evidence of a data set, every model's scaled down to at most ``votes`` votes.

    Parameters
    ----------
    data : DataSet
        What every model made of every prompt.
    encoded : Encoded
        Its contexts.
    votes : float
        How much a model's outcomes count at most, in votes: what is measured on another day, by another judge, on
        other prompts is worth less than a vote.
    generations : mapping of str to int, optional
        Generation of each model; default 0.
    rows : int64[m], optional
        The prompts to take; default: all.
    """
    known = Evidence(encoded.x.shape[1])
    chosen = np.arange(len(data)) if rows is None else rows
    weight = min(1.0, votes / max(len(chosen), 1))
    for k, name in enumerate(data.models):
        key = ModelKey(name, (generations or {}).get(name, 0))
        for row in chosen:
            vote = Vote(
                quality=float(data.quality[row, k]),
                output_tokens=float(data.output_tokens[row, k]),
                latency_ms=1000.0 * float(data.latency_s[row, k]),
            )
            known.add(key, encoded.x[row], vote, weight)
    return known
