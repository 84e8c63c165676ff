"""Outcome models: what the log predicted, or running means where it predicts nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.evaluate.log import Batch
from banditroute_sim.evaluate.targets import Plan

Floats = NDArray[np.float64]

_CHUNK = 128
_PRIOR = 20.0  # answers that the mean of all models counts for


class RunningMeans:
    """Predicts outcomes without having seen them.

    A logged prediction was made before its outcome. Where there are none, a model is predicted to do as it did so far
    in the same kind of context, drawn towards the mean of all.

    Attributes
    ----------
    logged : bool
        Whether all predictions so far were logged ones.
    """

    def __init__(self) -> None:
        self.logged = True
        self._quality = _Means()
        self._cost = _Means()

    def predict(self, batch: Batch) -> Floats:
        """Return expected quality; float64[n, K]. Learns from the batch afterwards, chunk by chunk."""
        if not np.isnan(batch.quality).any():
            return batch.quality
        self.logged = False
        return self._quality.predict(batch, batch.outcome[:, 0])

    def costs(self, batch: Batch, plan: Plan) -> Floats:
        """Return expected cost in USD at the target's prices; float64[n, K]."""
        return self._cost.predict(batch, plan.paid) if np.isnan(plan.cost).any() else plan.cost


class _Means:
    def __init__(self) -> None:
        self._rows: dict[tuple[int, str], list[float]] = {}  # answers, their sum
        self._all = [0.0, 0.0]

    def predict(self, batch: Batch, outcome: Floats) -> Floats:
        """Predict every chunk from what came before it."""
        result = np.empty((len(batch), len(batch.names)))
        for start in range(0, len(batch), _CHUNK):
            stop = min(start + _CHUNK, len(batch))
            cells = batch.cell[start:stop].tolist()
            middle = self._all[1] / self._all[0] if self._all[0] else 0.0
            table = {cell: self._row(cell, batch.names, middle) for cell in set(cells)}
            result[start:stop] = [table[cell] for cell in cells]
            for row in range(start, stop):
                value = float(outcome[row])
                if value == value:
                    known = self._rows.setdefault(
                        (cells[row - start], batch.names[batch.chosen[row]]), [0.0, 0.0]
                    )
                    for pair in (known, self._all):
                        pair[0] += 1.0
                        pair[1] += value
        return result

    def _row(self, cell: int, names: tuple[str, ...], middle: float) -> list[float]:
        known = [self._rows.get((cell, name), (0.0, 0.0)) for name in names]
        return [(total + _PRIOR * middle) / (n + _PRIOR) for n, total in known]
