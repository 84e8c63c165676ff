"""The quality sums that a posterior is solved from: gathered from evidence, and laid out for the kernels.

The kernels work on eight models side by side (last axis), everything else on one model after the other (first axis).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice.state_layout import padded
from banditroute.bandit.evidence import row_layout as at
from banditroute.bandit.evidence.evidence import Evidence, ModelKey
from banditroute.bandit.evidence.row_layout import Layout
from banditroute.bandit.posterior import _kernels_layout
from banditroute.bandit.posterior import _kernels_solve as _kernels
from banditroute.bandit.posterior.usage import LARGEST, bounded

Floats = NDArray[np.float64]


class Sums(NamedTuple):
    """Quality sums: A = Σwxxᵀ, b = Σwqx, n = Σw and Σwq² of every model, votes without context folded in.

    One by one they are float64[K, d, d], [K, d], [K] and [K]; side by side [groups, D, D + 1, 8], [groups, D, 8],
    [groups, 8] and [groups, 8], zero where there is no model, D being d padded to a multiple of four.
    """

    a: Floats
    b: Floats
    n: Floats
    q2: Floats


def gather(evidence: Evidence, keys: Sequence[ModelKey]) -> tuple[Floats, dict[str, Floats]]:
    """Return float64[K, row_size] over all kinds of feedback, and for each kind that has quality votes.

    Zeros where nothing is known; bounded so that squares stay finite. A single kind has the rows of all together, which
    hold no other votes.
    """
    index = {key: k for k, key in enumerate(keys)}
    rows = np.zeros((len(keys), evidence.layout.row_size))
    kinds: dict[str, list[tuple[int, Floats]]] = {}
    known: set[int] = set()
    for key in sorted(evidence.rows):
        k = index.get(key[:2])  # type: ignore[call-overload]  # a tuple is equal to the key made of it
        if k is None:
            continue
        row = evidence.rows[key]
        if k in known:
            rows[k] = bounded(bounded(rows[k]) + bounded(row))
        else:
            rows[k] = row
            known.add(k)
        if row.item(at.N_FREE) > _kernels.TINY:
            kinds.setdefault(key.kind, []).append((k, row))
    if not _kernels_layout.tame(rows, LARGEST):
        rows = np.array([bounded(row) for row in rows])
    if len(kinds) < 2:
        return rows, dict.fromkeys(kinds, rows)
    parts = {}
    for kind, found in kinds.items():
        part = parts[kind] = np.zeros_like(rows)
        for k, row in found:
            part[k] = bounded(row)
    return rows, parts


def _nothing(count: int, d: int) -> Sums:
    """Return zeros for so many models, side by side."""
    groups, tall, lanes = -(-count // _kernels.LANES), padded(d, 4), _kernels.LANES
    a, b = np.zeros((groups, tall, tall + 1, lanes)), np.zeros((groups, tall, lanes))
    return Sums(a, b, np.zeros((groups, lanes)), np.zeros((groups, lanes)))


def side_by_side(rows: Floats, layout: Layout) -> Sums:
    """Return the sums of evidence rows, eight models side by side."""
    sums, count, lanes = _nothing(len(rows), layout.d), len(rows), _kernels.LANES
    for g in range(len(sums.a)):
        some = rows[g * lanes : (g + 1) * lanes]
        _kernels_layout.gather(some, layout.a.start, sums.a[g])
        sums.b[g, : layout.d, : len(some)] = some[:, layout.b].T
    n, q2 = sums.n.reshape(-1)[:count], sums.q2.reshape(-1)[:count]
    np.maximum(rows[:, at.N], 0.0, out=n)
    np.maximum(rows[:, at.SQ2], 0.0, out=q2)
    extra = rows[:, at.N_FREE] - rows[:, at.N]
    for k in np.flatnonzero(
        extra > _kernels.TINY * rows[:, at.N_FREE]
    ).tolist():  # less is what rounding left
        row, (g, lane) = rows[k], divmod(k, lanes)
        sums.a[g, 0, 0, lane] += extra[k]
        sums.b[g, 0, lane] = row[at.Q_FREE]  # the intercept is 1: Σwq of the votes with context and without
        n[k], q2[k] = row[at.N_FREE], max(row[at.Q2_FREE], 0.0)
    return sums


def grouped(sums: Sums) -> Sums:
    """Return sums that come one by one eight models side by side."""
    count, d = sums.b.shape
    groups = _nothing(count, d)
    for k in range(count):
        g, lane = divmod(k, _kernels.LANES)
        groups.a[g, :d, :d, lane], groups.b[g, :d, lane] = sums.a[k], sums.b[k]
        groups.n[g, lane], groups.q2[g, lane] = sums.n[k], sums.q2[k]
    return groups


def one_by_one(sums: Sums, count: int, d: int) -> Sums:
    """Return sums that come side by side one model after the other."""
    n, q2 = (part.ravel()[:count] for part in (sums.n, sums.q2))
    b, a, _ = scattered(sums.b, sums.a, np.zeros(d), np.arange(count))
    return Sums(a, b, n, q2)


def scattered(
    vectors: Floats, matrices: Floats, xbar: Floats, place: NDArray[np.intp]
) -> tuple[Floats, Floats, Floats]:
    """Return vectors and matrices M that come side by side one after the other, and x̄ᵀMx̄ of each, at least 0.

    Number k becomes number ``place[k]``: float64[K, d], [K, d, d] and [K].
    """
    count, d = len(place), len(xbar)
    flat, table, qbar = np.empty((count, d)), np.empty((count, d, d)), np.empty(count)
    _kernels_layout.scatter(vectors, matrices, xbar, place, flat, table, qbar)
    return flat, table, qbar
