"""How a policy lays out what its kernels read: one flat buffer, because every array argument of a call costs time.

A *state* is float64, with K padded to ``lanes``, a multiple of eight: sixteen numbers (models, d, d padded to 8, sigma,
mean log latency, greedy, floor, the bits of the seed, lanes, and where the working covariance starts, in float32),
then one row of weights per model and the common one of log tokens, zero rows up to a multiple of four, then nine
columns of one number per model (noise sd, token offset, token ratio, latency intercept and slope, input ratio, q̄, the
bits of the name key, and the bonus per unit of xᵀVx; a model without bonus is not explored), then the mean context,
scratch space for two contexts in float64, and for the same in float32.

The *working covariance* is at the end, float32: the half matrix W of every model (`_kernels_lanes`), so that
xᵀVx is twice xᵀWx; it has zero models up to a multiple of four. It follows votes between
two derives, a tenth more of them, so what float32 rounds away does not add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.arithmetic._kernels_lanes import BLOCK, TILE, triangle_size
from banditroute.bandit.posterior._kernels_layout import pack

if TYPE_CHECKING:  # which imports the kernels that are laid out here
    from banditroute.bandit.posterior.posterior import Posterior

Floats = NDArray[np.float64]

HEADER: Final = 16
LANES_AT, COVARIANCE_AT = 8, 9  # places in the header
COLUMNS: Final = 9
SPREAD, TOKEN_OFFSET, TOKEN_RATIO, LATENCY, LATENCY_SLOPE, INPUT_RATIO, QBAR, NAME, BONUS = range(COLUMNS)
NOISE: Final = 0.5  # model-level noise in units of sigma * sqrt(qbar)
CURIOSITY: Final = 2.0  # bonus in units of sigma * xᵀVx


def padded(count: int, block: int) -> int:
    """Return the next multiple of ``block``."""
    return -(-count // block) * block


def aligned(size: int, kind: Any = np.float64) -> NDArray[Any]:
    """Return zeros that start at a cache line: a vector that straddles two costs two loads."""
    kind = np.dtype(kind)
    raw = np.zeros(size * kind.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * kind.itemsize].view(kind)


def rows_of(models: int) -> int:
    """Return the rows of weights: one per model, the common one, and padding."""
    return padded(models + 1, TILE)


def tail_of(state: Floats) -> tuple[Floats, Floats]:
    """Return views of the columns of a state, float64[9, K], and of its mean context, float64[d]."""
    models, d, wide, lanes = (int(state[at]) for at in (0, 1, 2, LANES_AT))
    start = HEADER + rows_of(models) * wide
    end = start + COLUMNS * lanes
    return state[start:end].reshape(COLUMNS, lanes)[:, :models], state[end : end + d]


def weights_of(state: Floats) -> Floats:
    """Return a view of the weights of a state: float64[K + 1, d]."""
    models, d, wide = (int(number) for number in state[:3])
    return state[HEADER : HEADER + (models + 1) * wide].reshape(models + 1, wide)[:, :d]


def halves_of(state: Floats) -> NDArray[np.float32]:
    """Return a view of the half matrices of a state: float32[K, size]."""
    size = triangle_size(int(state[2]))
    start = int(state[COVARIANCE_AT])
    halves: NDArray[np.float32] = state.view(np.float32)[start : start + int(state[0]) * size]
    return halves.reshape(-1, size)


def covariance_of(state: Floats) -> Floats:
    """Return a copy of the working covariance of a state: float64[K, d, d]."""
    d = int(state[1])
    i, j = np.tril_indices(d)
    block = j // BLOCK * BLOCK
    start = block * int(state[2]) - block * (block - BLOCK) // 2 + (i - block) * BLOCK - block
    v = np.zeros((int(state[0]), d, d))
    v[:, i, j] = halves_of(state)[:, start + j]
    return v + v.transpose(0, 2, 1)


def explore(columns: Floats, sigma: float, explored: NDArray[np.bool_]) -> None:
    """Give noise and bonus to the models that are explored, and none to the others."""
    columns[SPREAD] = np.where(explored, NOISE * sigma * np.sqrt(columns[QBAR]), 0.0)
    columns[BONUS] = np.where(explored, CURIOSITY * sigma, 0.0)


def pack_state(
    posterior: Posterior, names: Sequence[int], seed: np.uint64, floor: float, *, greedy: bool
) -> Floats:
    """Return the state of a policy whose models have the key ``names``."""
    models, d = posterior.mu.shape
    wide, lanes = padded(d, BLOCK), padded(models, BLOCK)
    sigma = posterior.sigma2**0.5
    start = HEADER + (rows_of(models) + 4) * wide + COLUMNS * lanes
    state = aligned(start + padded(models, TILE) * triangle_size(wide) // 2)
    bits = state.view(np.uint64)
    state[:7] = models, d, wide, sigma, posterior.latency_pool, greedy, floor
    bits[7] = seed
    state[LANES_AT], state[COVARIANCE_AT] = lanes, 2 * start
    weights = weights_of(state)
    weights[:-1], weights[-1] = posterior.mu, posterior.token_beta
    columns, mean = tail_of(state)
    columns[QBAR] = posterior.qbar
    explore(columns, sigma, np.ones(models, np.bool_))
    columns[TOKEN_OFFSET], columns[TOKEN_RATIO] = posterior.token_offset, posterior.token_ratio
    columns[LATENCY], columns[LATENCY_SLOPE] = posterior.latency_intercept, posterior.latency_slope
    columns[INPUT_RATIO] = posterior.input_ratio
    columns.view(np.uint64)[NAME] = np.array(names, dtype=np.uint64)
    mean[:] = posterior.xbar
    pack(posterior.V, wide, halves_of(state))
    return state
