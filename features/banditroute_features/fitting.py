"""Fit scales of columns and a projection of embeddings to a data set, once and offline.

Nothing here runs while serving. The result is data of the spec (`Fitted`), so it need not be bit-equal on another
machine: whoever uses the file uses these very numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from .columns import SCALED, block_scales
from .encoder import Encoder
from .fitted import Fitted
from .protocol import RequestLike
from .spec import FeatureSpec

__all__ = ["Principal", "fit_projection", "fit_scales", "tags_alone"]

_SMALLEST_GAIN = 1e-3  # of the probe: no raw number comes near 3000 standard deviations, so nothing is cut
_BATCH = 1024


def fit_scales(
    spec: FeatureSpec, requests: Sequence[RequestLike], least_spread: float = 0.02
) -> dict[str, tuple[float, float]]:
    """Return centre and gain that standardise the scaled columns of a spec over a data set.

    Parameters
    ----------
    spec
        Its statistics, scripts, chat, numeric and context columns are fitted.
    requests
        The data set.
    least_spread
        A column that hardly varies keeps its fixed scale: a gain fitted to a tiny spread would cut everything
        between the plain case and the first other one.

    Returns
    -------
    dict of str to pair of float
        As `Fitted.scales` wants it.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> requests = [
    ...     SimpleNamespace(prompt="a" * n, messages=None, tenant=None, tags=(), input_tokens=None)
    ...     for n in (1, 3, 7, 15)
    ... ]
    >>> scales = fit_scales(FeatureSpec(statistics=True), requests)
    >>> scales["stat.log_bytes"]
    (2.5, 0.894427)
    """
    columns = {f"{block}.{row[0]}" for block, table in SCALED.items() for row in table[: spec.width(block)]}
    columns |= {f"context.{i}" for i in range(spec.context)}
    probe = replace(spec, fitted=Fitted(scales=dict.fromkeys(columns, (0.0, _SMALLEST_GAIN))))
    encoder, factors = Encoder(probe), block_scales(probe)
    sums, squares = np.zeros(spec.d), np.zeros(spec.d)
    out = np.empty((_BATCH, spec.d), np.float32)
    for start in range(0, len(requests), _BATCH):
        some = requests[start : start + _BATCH]
        encoder.encode_batch(some, out[: len(some)])
        raw = out[: len(some)].astype(float)
        sums += raw.sum(axis=0)
        squares += (raw * raw).sum(axis=0)
    fitted = {}
    for i, name in enumerate(spec.columns):
        if name in columns and requests:
            unit = _SMALLEST_GAIN * factors[name.partition(".")[0]]
            centre = float(sums[i]) / len(requests) / unit
            variance = float(squares[i]) / len(requests) / unit**2 - centre**2
            spread = max(variance, 0.0) ** 0.5
            if spread >= least_spread:
                fitted[name] = (round(centre, 6), round(1 / spread, 6))
    return fitted


def tags_alone(spec: FeatureSpec, tags: Iterable[str]) -> tuple[int, int]:
    """Return how many distinct tags there are, and how many of them have a column to themselves.

    Examples
    --------
    >>> tags_alone(FeatureSpec(tags=20), ["code", "maths", "chat", "code"])
    (3, 3)
    """
    names = sorted(set(tags))
    off: dict[str, Any] = dict.fromkeys(
        ("tenant", "session", "language", "hour", "cross", "numeric", "statistics"), 0
    )
    off |= dict.fromkeys(("scripts", "chat", "chars", "words", "embedding", "context"), 0)
    only = replace(spec, **off, fitted=None)
    if not names or not only.tags:
        return len(names), 0
    out = np.empty((len(names), only.d), np.float32)
    requests = [{"tags": (name,)} for name in names]
    Encoder(only).encode_batch(cast("Sequence[RequestLike]", requests), out)
    taken = (out[:, 1:] != 0).sum(axis=0)
    return len(names), int((taken == 1).sum())


class Principal:
    """Principal components of unit embeddings, in one pass over batches of any size.

    Mean and second moments are summed, so memory is D squared and the number of embeddings does not matter.

    Examples
    --------
    >>> principal = Principal()
    >>> for sign in (1.0, -1.0):
    ...     principal.add([[1.0, sign * 0.5, 0.0], [1.0, 0.0, sign * 0.1]])
    >>> mean, components = principal.components(1)
    >>> [abs(round(w, 1)) for w in components[0]]
    [0.0, 3.2, 0.0]
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum: npt.NDArray[np.float64] | None = None
        self._moments: npt.NDArray[np.float64] = np.zeros((0, 0))

    def add(self, embeddings: Iterable[Sequence[float]]) -> None:
        """Add embeddings of one dimension; zeros and what is not finite are left out.

        Raises
        ------
        ValueError
            If their dimension differs from that of the first ones.
        """
        batch = np.array(list(embeddings), np.float64)
        if not batch.size:
            return
        norms = np.sqrt((batch * batch).sum(axis=1))
        good = np.isfinite(norms) & (norms > 0)
        batch = batch[good] / norms[good, None]
        if self._sum is None:
            self._sum, self._moments = np.zeros(batch.shape[1]), np.zeros((batch.shape[1],) * 2)
        if batch.shape[1] != len(self._sum):
            raise ValueError(f"embeddings: expected {len(self._sum)} numbers each, got {batch.shape[1]}")
        self.count += len(batch)
        self._sum += batch.sum(axis=0)
        self._moments += batch.T @ batch

    def components(self, columns: int) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
        """Return the mean, and the first components scaled so that the squared norm is 1 on average.

        Raises
        ------
        ValueError
            If there are fewer embeddings or dimensions than columns.
        """
        if self._sum is None or min(self.count, len(self._sum)) < columns:
            dimensions = 0 if self._sum is None else len(self._sum)
            raise ValueError(
                f"embeddings: {columns} components need as many embeddings and dimensions, "
                f"got {self.count} of {dimensions}"
            )
        mean = self._sum / self.count
        values, vectors = np.linalg.eigh(self._moments / self.count - np.outer(mean, mean))
        rows = vectors[:, ::-1][:, :columns].T
        kept = max(float(values[::-1][:columns].sum()), 1e-12)
        rows = rows * np.sign(rows[np.arange(columns), np.abs(rows).argmax(axis=1)])[:, None] / kept**0.5
        return _rounded(mean), tuple(_rounded(row) for row in rows)


def fit_projection(
    embeddings: Iterable[Sequence[float]], columns: int
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """Return mean and components of a data set of embeddings, as `Fitted` wants them."""
    principal, batch = Principal(), []
    for embedding in embeddings:
        batch.append(embedding)
        if len(batch) == _BATCH:
            principal.add(batch)
            batch = []
    principal.add(batch)
    return principal.components(columns)


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Return floats with seven digits, which is more than the float32 of a context holds."""
    return tuple(float(f"{value:.7g}") for value in values)
