"""Overlap: how much of a target's choices the logging policy hardly ever makes, told from what it predicted.

Weights that were seen cannot tell: where the log holds no such choice at all, no large weight was seen either. The
propensities of all models are reckoned from the predictions that were logged; only that of the choice is logged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.evaluate.log import Batch
from banditroute_sim.evaluate.targets import Objective, Plan

Floats = NDArray[np.float64]

EXPECTED: Final = 30.0  # logged decisions that a choice should have had, had it always been the same
_PER_OCTAVE, _OCTAVES = 16, 64  # down to 2**-64


class Overlap:
    """The target's choices by how probable they were in the log.

    Attributes
    ----------
    known : bool
        Whether every decision so far had predictions.
    n : int
        Decisions.
    """

    def __init__(self, floor: float) -> None:
        self.known = True
        self.n = 0
        self._logged = Objective(sampled=True, floor=floor)
        self._greedy = replace(self._logged, sampled=False)
        self._off = 0.0
        self._mass = np.zeros(_PER_OCTAVE * _OCTAVES)
        self._cost = np.zeros(
            _PER_OCTAVE * _OCTAVES
        )  # Σ π² / p, what a choice adds to the second moment of w

    def add(self, batch: Batch, plan: Plan) -> None:
        """Add what a target does with a batch."""
        if not batch.predicted or np.isnan(batch.sd).any():
            self.known = False
            return
        self.n += len(batch)
        # a logged propensity of 1 with several models to choose from is the frozen mode, which does not explore
        frozen = bool((batch.propensity == 1.0).all()) and batch.eligible.sum() > len(batch)
        chance = (self._greedy if frozen else self._logged).plan(batch).probabilities
        at = np.arange(len(batch)), batch.chosen
        self._off += float(np.abs(chance[at] - batch.propensity).sum())
        chance[at] = batch.propensity
        wanted = plan.probabilities > 0.0
        p, pi = np.maximum(chance[wanted], 2.0**-_OCTAVES), plan.probabilities[wanted]
        cell = np.clip(np.floor(-_PER_OCTAVE * np.log2(p)), 0, len(self._mass) - 1).astype(np.int64)
        self._mass += np.bincount(cell, pi, minlength=len(self._mass))
        self._cost += np.bincount(cell, pi * pi / p, minlength=len(self._mass))

    @property
    def misfit(self) -> float:
        """Mean absolute difference of reckoned and logged propensity of the choices."""
        return self._off / self.n if self.n else 0.0

    @property
    def threshold(self) -> float:
        """Propensity below which a choice counts as hardly ever made."""
        return min(EXPECTED / self.n, 0.5) if self.n else 0.5

    def _rare(self) -> NDArray[np.bool_]:
        most = 2.0 ** (-np.arange(len(self._mass)) / _PER_OCTAVE)  # the upper end of each cell
        return np.asarray(most <= self.threshold)

    @property
    def unsupported(self) -> float:
        """Share of the target's choices that the log hardly ever makes."""
        total = float(self._mass.sum())
        return float(self._mass[self._rare()].sum()) / total if total else 0.0

    @property
    def ess(self) -> float:
        """The effective sample size to be expected, choices that are hardly ever made left out."""
        second = float(self._cost[~self._rare()].sum())
        return float(self._mass.sum()) ** 2 / second if second else 0.0
