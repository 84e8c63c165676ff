"""Change detection: whether a model has become better or worse than its votes said.

Each vote is compared with the prediction that its decision logged; the standardised residuals of a model have mean 0
while nothing changes. Four cumulative sums per model look for a shift up or down, large or small (Page, Continuous
inspection schemes, 1954), and an alarm says by how much to shrink what is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from banditroute.bandit.evidence import ModelKey

SHIFTS: Final = (1.0, 0.4)  # sizes of the shifts looked for, in predictive standard deviations of one vote
THRESHOLD: Final = 13.0  # of a cumulative log-likelihood ratio: a false alarm per exp(13) votes or fewer
LEAST_VOTES: Final = 10.0  # a model with fewer has nothing to forget
KEPT_VOTES: Final = 1.0  # what is left of the changed model's votes
OTHERS_VOTES: Final = 100.0  # at most this much is left of every other model's,
OTHERS_SHARE: Final = (
    0.25  # and at most this share: what was learned by comparing with the changed model is stale
)


class ChangeDetector:
    """Watches the residual sums of every model.

    The log likelihood ratio of a shift by δ standard deviations after m residuals of sum z is δz − mδ²/2; a cumulative
    sum is its largest value over all starting points, kept at 0 or above.

    Examples
    --------
    >>> detector = ChangeDetector()
    >>> key = ModelKey("a")
    >>> any(detector.look(key, n, 0.0) for n in range(1, 1000))
    False
    >>> next(m for m in range(1, 100) if detector.look(key, 999 + m, 1.5 * m))
    14
    """

    def __init__(self) -> None:
        self._seen: dict[ModelKey, tuple[float, float]] = {}
        self._sums: dict[ModelKey, list[float]] = {}

    def look(self, key: ModelKey, residuals: float, total: float) -> bool:
        """Take the number and sum of all residuals of a model; return whether it has changed.

        After an alarm the model starts again from 0.
        """
        before, self._seen[key] = self._seen.get(key, (0.0, 0.0)), (residuals, total)
        count, rise = residuals - before[0], total - before[1]
        if count == 0.0 and rise == 0.0:
            return False
        sums = self._sums.setdefault(key, [0.0] * (2 * len(SHIFTS)))
        alarm = False
        for i, shift in enumerate(SHIFTS):
            drift = count * 0.5 * shift * shift
            for j, sign in ((2 * i, 1.0), (2 * i + 1, -1.0)):
                sums[j] = max(0.0, sums[j] + sign * shift * rise - drift)
                alarm = alarm or sums[j] > THRESHOLD
        if alarm:
            self.restart(key)
        return alarm

    def begin(self, key: ModelKey, residuals: float, total: float) -> None:
        """Take the residuals so far as the start: what came before this process is not looked at again."""
        self._seen[key] = (residuals, total)
        self.restart(key)

    def restart(self, key: ModelKey) -> None:
        """Forget the cumulative sums of a model."""
        self._sums.pop(key, None)


def verdict(changed: ModelKey, votes: Mapping[ModelKey, float]) -> dict[str, float] | None:
    """Return by which factor to multiply each model's evidence once `changed` has changed.

    Parameters
    ----------
    changed : ModelKey
        The model of the alarm.
    votes : mapping of ModelKey to float
        Sum of weights of every model's quality votes.

    Returns
    -------
    dict of str to float, or None
        Factors below 1 by name; None when the model has too few votes to have anything to forget.

    Examples
    --------
    >>> verdict(ModelKey("a"), {ModelKey("a"): 50.0, ModelKey("b"): 1000.0, ModelKey("c"): 0.0})
    {'a': 0.02, 'b': 0.1, 'c': 0.25}
    """
    if votes.get(changed, 0.0) <= LEAST_VOTES:
        return None
    totals: dict[str, float] = {}
    for key, n in votes.items():
        totals[key.name] = totals.get(key.name, 0.0) + n
    return {
        name: KEPT_VOTES / n if name == changed.name else min(OTHERS_SHARE, OTHERS_VOTES / max(n, 1.0))
        for name, n in sorted(totals.items())
    }
