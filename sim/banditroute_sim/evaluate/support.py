"""What a log and a target have in common: the sums that are kept, and whether they support an estimate."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from banditroute_sim.evaluate.estimators import PLAIN, WIDTH, terms
from banditroute_sim.evaluate.log import Batch, Log, check_numbers
from banditroute_sim.evaluate.means import RunningMeans
from banditroute_sim.evaluate.overlap import Overlap
from banditroute_sim.evaluate.sums import Blocks, Moments, Weights
from banditroute_sim.evaluate.targets import Logged, Plan, Target

Floats = NDArray[np.float64]

_FEWEST_DECISIONS: Final = 30
_NEVER_LOGGED: Final = 0.01  # share of the target that a model which was never logged may have
_UNSUPPORTED: Final = 0.01  # share of the target's choices that the log may hardly ever make
_MISSING: Final = 0.1  # how far from 1 the mean weight may be
_SIGMAS: Final = 4.0  # and how many standard errors


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    """How to evaluate.

    Parameters
    ----------
    cost_weight : float, optional
        Of the utility that is reported, quality per USD; default: the mean of the logged ones.
    confidence : float
        Of the intervals, in (0, 1).
    replicates : int
        Resamples of the bootstrap.
    seed : int
        Of the bootstrap.
    least_ess : float
        Refuse below this effective sample size.
    logged_floor : float
        Exploration floor of the logging policy: it bounds the weights. 0: the largest weight seen stands for the bound.
    """

    cost_weight: float | None = None
    confidence: float = 0.95
    replicates: int = 2000
    seed: int = 0
    least_ess: float = 100.0
    logged_floor: float = 0.0


@dataclass
class Kept:
    """What is kept of the log."""

    overlap: Overlap
    blocks: Blocks = field(default_factory=lambda: Blocks(2 * WIDTH))
    moments: Moments = field(default_factory=lambda: Moments(2 * WIDTH))
    weights: Weights = field(default_factory=Weights)
    decisions: int = 0
    without_model: int = 0
    cost_weight: float = 0.0
    widest: int = 1  # most models that could be chosen
    dearest: float = 0.0  # USD
    logged: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    wanted: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    fit: RunningMeans = field(default_factory=RunningMeans)

    def add(self, batch: Batch, target: Target) -> None:
        """Add a batch."""
        check_numbers("the feedback", "quality", batch.outcome[:, 0], 0.0, 1.0)
        check_numbers("the feedback", "cost_usd", batch.outcome[:, 1], 0.0, math.inf)
        plan = target.plan(batch)
        if not isinstance(target, Logged):
            self.overlap.add(batch, plan)
        used = plan.probabilities.sum(axis=1) > 0.0
        self.decisions += len(batch)
        self.without_model += int(np.count_nonzero(~used))
        self.cost_weight += float(batch.cost_weight.sum())
        self.widest = max(self.widest, int(batch.eligible.sum(axis=1).max(initial=1)))
        known = ~np.isnan(batch.outcome[:, 0])
        for k, name in enumerate(batch.names):
            mine = batch.chosen == k
            self.logged[name] += int(np.count_nonzero(mine))
            self.answered[name] += int(np.count_nonzero(mine & known))
            self.wanted[name] += float(plan.probabilities[:, k].sum())
        rows = self._terms(batch, plan)[used]
        self.blocks.add(rows)
        for outcome in range(2):
            part = slice(WIDTH * outcome, WIDTH * (outcome + 1))
            unknown = rows[:, part][:, :1] == 0.0
            rows[:, part] = np.where(unknown, np.nan, rows[:, part])
        self.moments.add(rows)
        self.weights.add(plan.weight[used & known])

    def _terms(self, batch: Batch, plan: Plan) -> Floats:
        quality = np.clip(self.fit.predict(batch), 0.0, 1.0)
        cost = self.fit.costs(batch, plan)
        at = np.arange(len(batch)), batch.chosen
        paid = plan.paid
        self.dearest = max(self.dearest, float(np.nanmax(paid, initial=0.0)), float(cost.max(initial=0.0)))
        return np.hstack(
            [
                terms(plan.weight, outcome, predicted[at], (plan.probabilities * predicted).sum(axis=1))
                for outcome, predicted in ((batch.outcome[:, 0], quality), (paid, cost))
            ]
        )


def refusal(kept: Kept, options: EvaluationOptions) -> str | None:
    """Say why the log does not support the target, or None."""
    weights, total = kept.weights, max(sum(kept.wanted.values()), 1e-300)
    if weights.n < _FEWEST_DECISIONS:
        return (
            f"only {weights.n} decisions have a quality and a model under the target: "
            f"at least {_FEWEST_DECISIONS} are needed"
        )
    never = [
        (name, wanted / total)
        for name, wanted in kept.wanted.items()
        if wanted / total > _NEVER_LOGGED and not kept.answered[name]
    ]
    if never:
        name, share = max(never, key=lambda one: one[1])
        return f"the target gives {share:.1%} of the requests to '{name}', of which the log holds no answered decision"
    if weights.ess < options.least_ess:
        return (
            f"the effective sample size is {weights.ess:.1f} of {weights.n} decisions, below {options.least_ess:g}: "
            "the target mostly chooses what the log seldom does"
        )
    overlap = kept.overlap
    if overlap.known and overlap.n:
        if overlap.unsupported > _UNSUPPORTED:
            return (
                f"{overlap.unsupported:.1%} of the target's choices had a propensity below {overlap.threshold:.2g} in "
                f"the log, at most {_UNSUPPORTED:.0%} may: the target chooses what the log hardly ever does"
            )
        if overlap.ess < options.least_ess:
            return (
                f"an effective sample size of {overlap.ess:.1f} is to be expected, below {options.least_ess:g}: "
                "the target mostly chooses what the log seldom does"
            )
    off = weights.mean - 1.0
    if abs(off) > _MISSING and abs(off) > _SIGMAS * weights.error:
        why = (
            "the target chooses what the log never does"
            if off < 0.0
            else "the logged propensities are not those of the choices"
        )
        return f"the weights average {weights.mean:.2f} instead of 1: {why}"
    return None


def described(kept: Kept, log: Log) -> dict[str, Any]:
    """Return what was read."""
    return {
        "decisions": kept.decisions,
        "used": kept.decisions - kept.without_model,
        "without_model": kept.without_model,
        "left_out": dict(log.left_out),
        "dropped": log.dropped.as_dict(),
        "with_quality": int(kept.moments.n[PLAIN]),
        "with_cost": int(kept.moments.n[WIDTH + PLAIN]),
        "predictions": "logged" if kept.fit.logged else "running means",
    }


def diagnosed(kept: Kept, options: EvaluationOptions) -> dict[str, Any]:
    """Return the diagnostics of the weights."""
    weights = kept.weights
    return {
        "mean": weights.mean,
        "largest": weights.largest,
        "zero_share": weights.zeros / weights.n if weights.n else None,
        "effective_sample_size": weights.ess,
        "effective_share": weights.ess / weights.n if weights.n else None,
        "top_1_percent_share": weights.top_share,
        "tail_shape": weights.tail_shape,
        "overlap": _overlap(kept.overlap),
        "bound": bound(kept, options),
        "bound_from": "logged_floor" if options.logged_floor > 0.0 else "largest weight seen",
    }


def _overlap(overlap: Overlap) -> dict[str, float] | None:
    if not overlap.known or not overlap.n:
        return None
    return {
        "threshold": overlap.threshold,
        "unsupported_share": overlap.unsupported,
        "expected_effective_sample_size": overlap.ess,
        "propensity_misfit": overlap.misfit,
    }


def shares(kept: Kept) -> dict[str, dict[str, float]]:
    """Return how often each model is chosen in the log and by the target, and how often the log has an answer."""
    total = max(sum(kept.wanted.values()), 1e-300)
    return {
        name: {
            "logged": kept.logged[name] / kept.decisions,
            "target": kept.wanted[name] / total,
            "answered": kept.answered[name] / kept.logged[name] if kept.logged[name] else 0.0,
        }
        for name in kept.logged
    }


def warnings(kept: Kept) -> list[str]:
    """Say what may bias an estimate."""
    found = []
    table = [
        (kept.answered[name], kept.logged[name] - kept.answered[name])
        for name in kept.logged
        if kept.logged[name]
    ]
    counts = np.array(table)
    if len(table) > 1 and counts.sum(axis=0).all() and chi2_contingency(counts).pvalue < 1e-3:
        found.append(
            "models are not answered equally often: estimates hold for the answered requests, "
            "and only if answering does not depend on quality"
        )
    with_cost, used = int(kept.moments.n[WIDTH + PLAIN]), kept.decisions - kept.without_model
    if not with_cost:
        found.append("no cost was reported: there is no estimate of cost and utility")
    elif with_cost < 0.5 * used:
        found.append(f"cost was reported for {with_cost} of {used} decisions")
    return found


def bound(kept: Kept, options: EvaluationOptions) -> float:
    """Return what no weight can be above."""
    if options.logged_floor > 0.0:
        return max(kept.widest / options.logged_floor, kept.weights.largest)
    return kept.weights.largest
