"""Compiled kernels that carry numbers between layouts: evidence rows, eight models side by side, posteriors."""

from __future__ import annotations

from typing import Any

import numpy as np

from banditroute.bandit.posterior._kernels_solve import LANES, kernel, lane_times


@kernel
def tame(rows: Any, bound: float) -> bool:
    """Return whether no number is beyond ``bound``, infinite or NaN."""
    for k in range(rows.shape[0]):
        row = rows[k]
        wild = 0
        for i in range(row.shape[0]):
            wild += not abs(row[i]) <= bound
        if wild > 0:
            return False
    return True


@kernel
def gather(rows: Any, start: int, group: Any) -> None:
    """Write packed lower triangles, from column ``start`` of each row, to both triangles of ``group[D, D + 1, 8]``."""
    count = rows.shape[0]
    at = start
    i = 0
    while at < rows.shape[1]:
        for j in range(i + 1):
            cell = group[i, j]
            for lane in range(count):
                cell[lane] = rows[lane, at + j]
            mirror = group[j, i]
            for lane in range(LANES):
                mirror[lane] = cell[lane]
        i += 1
        at += i


@kernel
def scatter(means: Any, covariances: Any, xbar: Any, place: Any, mu: Any, v: Any, qbar: Any) -> None:
    """Write what comes eight models side by side to ``mu[K, d]`` and ``v[K, d, d]``, and x̄ᵀVx̄ to ``qbar[K]``.

    Model k goes to ``place[k]``.
    """
    d, tall = mu.shape[1], means.shape[1]
    across, out = np.zeros((tall, LANES)), np.empty((tall, LANES))
    for i in range(d):
        across[i] = xbar[i]
    for g in range(means.shape[0]):
        mean, group = means[g], covariances[g]
        lane_times(group, across, out)
        for lane in range(min(LANES, len(place) - g * LANES)):
            k = place[g * LANES + lane]
            total = 0.0
            for i in range(d):
                mu[k, i] = mean[i, lane]
                total += xbar[i] * out[i, lane]
            qbar[k] = max(total, 0.0)
            for i in range(d):
                line, source = v[k, i], group[i]
                for j in range(d):
                    line[j] = source[j, lane]


@kernel
def pack(v: Any, wide: int, halves: Any) -> None:
    """Write the half matrices of V[K, d, d], padded to ``wide``, to ``halves[K, size]``; see `_kernels_lanes`."""
    for k in range(v.shape[0]):
        for j in range(0, v.shape[1], LANES):
            start = j * wide - j * (j - LANES) // 2
            for i in range(j, v.shape[1]):
                line, target = v[k, i, j:], halves[k, start + (i - j) * LANES :]
                if i >= j + LANES:
                    for lane in range(LANES):
                        target[lane] = line[lane]
                    continue
                for lane in range(i - j):
                    target[lane] = line[lane]
                target[i - j] = 0.5 * line[i - j]
