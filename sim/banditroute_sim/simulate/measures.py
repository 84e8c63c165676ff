"""What a policy made of an episode, summed up piece by piece."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute_sim.scenarios.episode import Episode
from banditroute_sim.simulate.players import Played

Floats = NDArray[np.float64]

POINTS: Final = 100  # of a curve
WINDOW, HELD = 100, 80  # recovered: so many of the last hundred rounds had a best pick


class Truth:
    """What was to be had in a piece: the same for all policies.

    Attributes
    ----------
    utility : float64[n, K]
        Expected quality minus expected cost, minus infinity where a model may not serve.
    best : float64[n]
    """

    def __init__(self, piece: Episode) -> None:
        self.utility = piece.utility
        self.best: Floats = self.utility.max(axis=1)


class Recovery:
    """Rounds from a change to the first one from which the last 100 rounds hold 80 best picks.

    Attributes
    ----------
    rounds : int or None
        At least 100; None while there are too few.
    """

    def __init__(self, change: int) -> None:
        self.rounds: int | None = None
        self._change = change
        self._tail = np.zeros(0, np.bool_)
        self._seen = 0  # rounds after the change, the tail included

    def add(self, start: int, best: NDArray[np.bool_]) -> None:
        """Take the next rounds, the first of which is ``start``: whether each had a best pick."""
        after = best[max(self._change - start, 0) :]
        if self.rounds is not None or not len(after):
            return
        joined = np.concatenate([self._tail, after])
        first = self._seen - len(self._tail)
        self._seen += len(after)
        if len(joined) >= WINDOW:
            total = np.concatenate([[0], np.cumsum(joined)])
            held = total[WINDOW:] - total[:-WINDOW] >= HELD
            if held.any():
                self.rounds = first + int(held.argmax()) + WINDOW
        self._tail = joined[-(WINDOW - 1) :]


@dataclass(slots=True)
class Outcome:
    """What one policy made of one episode.

    Attributes
    ----------
    policy : str
    regret : float
        Cumulative: expected utility of the best model of every round minus that of the chosen one.
    curve : float64[points]
        Cumulative regret at the ends of equal stretches of the episode.
    shares : int64[points, K]
        How often each model was chosen in each of them.
    best_share : float
        Share of the rounds in which no available model was better.
    quality, cost : float
        Per round: expected quality, and what was paid.
    latency_ms : float or None
        Mean, in worlds that tell it.
    recovery : list of int
        After every change; what was left of the episode where it never recovered.
    seconds : float
        CPU time of deciding and learning.
    sample : float64[3, n]
        Of some rounds: expected quality, the vote, and the propensity of the choice.
    """

    policy: str
    regret: float
    curve: Floats
    shares: NDArray[np.int64]
    best_share: float
    quality: float
    cost: float
    latency_ms: float | None
    recovery: list[int]
    seconds: float
    sample: Floats


@dataclass(slots=True)
class Measure:
    """Sums up one policy's episode.

    Attributes
    ----------
    policy : str
    horizon, models : int
    changes : tuple of int
    seconds : float
        CPU time so far, added by whoever took it.
    """

    policy: str
    horizon: int
    models: int
    changes: tuple[int, ...]
    seconds: float = 0.0
    _regret: float = 0.0
    _best: int = 0
    _quality: float = 0.0
    _cost: float = 0.0
    _latency: float | None = None
    _ends: NDArray[np.int64] = field(init=False)
    _curve: Floats = field(init=False)
    _shares: NDArray[np.int64] = field(init=False)
    _recoveries: list[Recovery] = field(init=False)
    _samples: list[Floats] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ends = stretches(self.horizon)
        self._curve = np.zeros(len(self._ends))
        self._shares = np.zeros((len(self._ends), self.models), np.int64)
        self._recoveries = [Recovery(change) for change in self.changes]

    def add(self, piece: Episode, truth: Truth, played: Played) -> None:
        """Take the next piece, and what was decided in it."""
        rows, chosen = np.arange(len(piece)), played.chosen
        regret = truth.best - truth.utility[rows, chosen]
        running = self._regret + np.cumsum(regret)
        inside = np.flatnonzero((self._ends > piece.start) & (self._ends <= piece.start + len(piece)))
        self._curve[inside] = running[self._ends[inside] - piece.start - 1]
        self._regret = float(running[-1])
        best = regret <= 0.0
        self._best += int(best.sum())
        self._quality += float(piece.mean[rows, chosen].sum())
        self._cost += float((piece.cost if piece.paid is None else piece.paid)[rows, chosen].sum())
        if piece.latency_ms is not None:
            self._latency = (self._latency or 0.0) + float(piece.latency_ms[rows, chosen].sum())
        stretch = np.searchsorted(self._ends, rows + piece.start, side="right")
        cells = np.bincount(stretch * self.models + chosen, minlength=self._shares.size)
        self._shares += cells.reshape(self._shares.shape)
        for recovery in self._recoveries:
            recovery.add(piece.start, best)
        if played.expected is not None and played.propensity is not None:
            at = np.flatnonzero(~np.isnan(played.expected))
            votes = piece.quality[at, chosen[at]]
            self._samples.append(np.stack([played.expected[at], votes, played.propensity[at]]))

    def outcome(self) -> Outcome:
        """Return the sums."""
        return Outcome(
            self.policy,
            self._regret,
            self._curve,
            self._shares,
            self._best / self.horizon,
            self._quality / self.horizon,
            self._cost / self.horizon,
            None if self._latency is None else self._latency / self.horizon,
            [
                self.horizon - change if each.rounds is None else each.rounds
                for change, each in zip(self.changes, self._recoveries, strict=True)
            ],
            self.seconds,
            np.concatenate(self._samples, axis=1) if self._samples else np.zeros((3, 0)),
        )


def stretches(horizon: int) -> NDArray[np.int64]:
    """Return the ends of at most a hundred stretches of an episode, as equal as can be."""
    return np.unique(np.linspace(0, horizon, min(POINTS, horizon) + 1).round().astype(np.int64))[1:]
