"""The quality sums that a posterior is solved from: gathered from evidence, and laid out for the kernels.

The kernels work on eight models side by side (last axis), everything else on one model after the other (first axis).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit import _kernels
from banditroute.bandit import layout as at
from banditroute.bandit.evidence import Evidence, ModelKey
from banditroute.bandit.layout import Layout
from banditroute.bandit.packing import padded
from banditroute.bandit.usage import bounded

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
        row = bounded(evidence.rows[key])
        if k in known:
            rows[k] = bounded(rows[k] + row)
        else:
            rows[k] = row
            known.add(k)
        if row[at.N_FREE] > _kernels.TINY:
            kinds.setdefault(key.kind, []).append((k, row))
    if len(kinds) < 2:
        return rows, dict.fromkeys(kinds, rows)
    parts = {}
    for kind, found in kinds.items():
        part = parts[kind] = np.zeros_like(rows)
        for k, row in found:
            part[k] = row
    return rows, parts


def _nothing(count: int, d: int) -> Sums:
    """Return zeros for so many models, side by side."""
    groups, tall, lanes = -(-count // _kernels.LANES), padded(d, 4), _kernels.LANES
    a, b = np.zeros((groups, tall, tall + 1, lanes)), np.zeros((groups, tall, lanes))
    return Sums(a, b, np.zeros((groups, lanes)), np.zeros((groups, lanes)))


def side_by_side(rows: Floats, layout: Layout) -> Sums:
    """Return the sums of evidence rows, eight models side by side."""
    sums = _nothing(len(rows), layout.d)
    for k, row in enumerate(rows):
        g, lane = divmod(k, _kernels.LANES)
        _kernels.gather(row[layout.a], sums.a[g], lane)
        sums.b[g, : layout.d, lane] = row[layout.b]
        sums.n[g, lane], sums.q2[g, lane] = max(row[at.N], 0.0), max(row[at.SQ2], 0.0)
        extra = row[at.N_FREE] - row[at.N]
        if extra > _kernels.TINY * row[at.N_FREE]:  # less is what rounding left
            sums.a[g, 0, 0, lane] += extra
            sums.b[g, 0, lane] = row[
                at.Q_FREE
            ]  # the intercept's column is 1: Σwq of the votes with context and without
            sums.n[g, lane], sums.q2[g, lane] = row[at.N_FREE], max(row[at.Q2_FREE], 0.0)
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
    return Sums(matrices(sums.a, count, d), vectors(sums.b, count, d), n, q2)


def matrices(groups: Floats, count: int, d: int) -> Floats:
    """Return float64[K, d, d] of matrices that come side by side."""
    out = np.empty((count, d, d))
    _kernels.scatter(groups, out)
    return out


def vectors(groups: Floats, count: int, d: int) -> Floats:
    """Return float64[K, d] of vectors that come side by side."""
    flat: Floats = groups[:, :d].transpose(0, 2, 1).reshape(-1, d)[:count]
    return flat
