"""From residual sums to verdicts: the change detector on merged evidence, and the control edits that follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.change import ChangeDetector, verdict
from banditroute.bandit.evidence import ModelKey
from banditroute.bandit.layout import RES_N, RES_Z, N
from banditroute.events import Changed

Floats = NDArray[np.float64]


class Judge:
    """Looks at the sums of all partitions and says which model has changed.

    One judge at a time speaks (the router, or the engine that owns partition 0). It remembers nothing that matters: its
    verdicts are control records, and a repeated one is ignored by its epoch.
    """

    def __init__(self) -> None:
        self._detector = ChangeDetector()

    def begin(self, heads: Mapping[ModelKey, Floats]) -> None:
        """Start from these sums: verdicts are about what comes after."""
        for key, head in heads.items():
            self._detector.begin(key, float(head[RES_N]), float(head[RES_Z]))

    def look(
        self, models: Iterable[ModelKey], heads: Mapping[ModelKey, Floats], epochs: Mapping[str, int]
    ) -> list[Changed]:
        """Look at some models.

        Parameters
        ----------
        models : iterable of ModelKey
            Whose residuals may have grown.
        heads : mapping of ModelKey to float64 array
            Evidence rows (or their heads), summed over all partitions, of every model.
        epochs : mapping of str to int
            The last epoch applied per model name.

        Returns
        -------
        list of Changed
            One edit per model that has changed.
        """
        edits = []
        for key in models:
            head = heads[key]
            if not self._detector.look(key, float(head[RES_N]), float(head[RES_Z])):
                continue
            factors = verdict(key, {one: float(other[N]) for one, other in heads.items()})
            if factors is not None:
                edits.append(Changed(key.name, epochs.get(key.name, 0) + 1, factors))
        return edits
