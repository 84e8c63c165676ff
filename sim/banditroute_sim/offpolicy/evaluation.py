"""One pass over a log: estimates of what a target policy would have got, how sure they are, or why there are none."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from banditroute.errors import DataSetError
from banditroute_sim.offpolicy.estimators import (
    ESTIMATORS,
    PLAIN,
    ROBUST,
    WEIGHTED,
    WIDTH,
    Statistic,
    terms,
)
from banditroute_sim.offpolicy.intervals import bootstrap, empirical_bernstein
from banditroute_sim.offpolicy.log import Batch, Log, check_numbers
from banditroute_sim.offpolicy.means import RunningMeans
from banditroute_sim.offpolicy.overlap import Overlap
from banditroute_sim.offpolicy.sums import Blocks, Moments, Weights
from banditroute_sim.offpolicy.targets import Logged, Plan, Target

Floats = NDArray[np.float64]

OUTCOMES: Final = ("quality", "cost_usd")
_BOUNDED: Final = {"ips": WEIGHTED, "dr": ROBUST, "logged": PLAIN}
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
class _Kept:
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


def evaluate(log: Log, target: Target, options: EvaluationOptions | None = None) -> dict[str, Any]:
    """Estimate quality, cost and utility of a target policy from a log.

    Utility is quality − cost_weight · cost; quality and cost are estimated apart, each from the decisions of which it
    is known, and resampled together.

    Parameters
    ----------
    log : Log
        What was logged.
    target : Target
        What is asked about.
    options : EvaluationOptions, optional
        How.

    Returns
    -------
    dict
        ``refused`` is None or one sentence, and then there are no ``estimates``; see docs/EVALUATION.md.

    Raises
    ------
    DataSetError
        If the log holds no usable decision or no quality, or a number is impossible.
    """
    options = options or EvaluationOptions()
    kept = _Kept(Overlap(options.logged_floor))
    for batch in log.batches():
        kept.add(batch, target)
    if not kept.decisions:
        reasons = ", ".join(f"{count} {reason}" for reason, count in log.left_out.items())
        raise DataSetError(
            "the log holds no decision with a propensity" + (f" (left out: {reasons})" if reasons else "")
        )
    if not sum(kept.answered.values()):
        raise DataSetError(
            "no decision of the log has a quality: its feedback holds no vote on any of them, or NaN alone"
        )
    weight = kept.cost_weight / kept.decisions if options.cost_weight is None else options.cost_weight
    refused = _refusal(kept, options)
    result = {
        "target": target.label,
        "refused": refused,
        "cost_weight": weight,
        "confidence": options.confidence,
        "replicates": options.replicates,
        "seed": options.seed,
        "log": _described(kept, log),
        "weights": _diagnosed(kept, options),
        "share": _shares(kept),
        "estimates": None,
        "logged": None,
        "gain": None,
        "warnings": _warnings(kept),
    }
    if refused is None:
        result |= _estimates(kept, weight, options)
    return result


def _refusal(kept: _Kept, options: EvaluationOptions) -> str | None:
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


def _described(kept: _Kept, log: Log) -> dict[str, Any]:
    return {
        "decisions": kept.decisions,
        "used": kept.decisions - kept.without_model,
        "without_model": kept.without_model,
        "left_out": dict(log.left_out),
        "with_quality": int(kept.moments.n[PLAIN]),
        "with_cost": int(kept.moments.n[WIDTH + PLAIN]),
        "predictions": "logged" if kept.fit.logged else "running means",
    }


def _diagnosed(kept: _Kept, options: EvaluationOptions) -> dict[str, Any]:
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
        "bound": _bound(kept, options),
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


def _shares(kept: _Kept) -> dict[str, dict[str, float]]:
    total = max(sum(kept.wanted.values()), 1e-300)
    return {
        name: {
            "logged": kept.logged[name] / kept.decisions,
            "target": kept.wanted[name] / total,
            "answered": kept.answered[name] / kept.logged[name] if kept.logged[name] else 0.0,
        }
        for name in kept.logged
    }


def _warnings(kept: _Kept) -> list[str]:
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


def _bound(kept: _Kept, options: EvaluationOptions) -> float:
    """Return what no weight can be above."""
    if options.logged_floor > 0.0:
        return max(kept.widest / options.logged_floor, kept.weights.largest)
    return kept.weights.largest


def _estimates(kept: _Kept, cost_weight: float, options: EvaluationOptions) -> dict[str, Any]:
    rows = kept.blocks.rows
    wanted: dict[str, Statistic] = {}
    for name in (*ESTIMATORS, "logged"):
        quality, cost = Statistic.of(name, 0), Statistic.of(name, 1)
        wanted[f"quality {name}"], wanted[f"cost_usd {name}"] = quality, cost
        wanted[f"utility {name}"] = quality.plus(-cost_weight, cost)
    for outcome in (*OUTCOMES, "utility"):
        for name in ESTIMATORS:
            wanted[f"{outcome} {name} gain"] = wanted[f"{outcome} {name}"].plus(
                -1.0, wanted[f"{outcome} logged"]
            )
    # fmt: off
    intervals = bootstrap(
        rows, wanted, replicates=options.replicates, seed=options.seed, confidence=options.confidence
    )
    # fmt: on
    sums = rows.sum(axis=0)

    def told(outcome: str, name: str, suffix: str = "") -> dict[str, Any]:
        key = f"{outcome} {name}{suffix}"
        value: dict[str, Any] = {
            "value": _number(float(wanted[key].value(sums))),
            "bootstrap": _interval(intervals[key]),
        }
        if not suffix:
            value["empirical_bernstein"] = _interval(_bounded(kept, outcome, name, cost_weight, options))
        return value

    outcomes = (*OUTCOMES, "utility")
    return {
        "estimates": {one: {name: told(one, name) for name in ESTIMATORS} for one in outcomes},
        "logged": {one: told(one, "logged") for one in outcomes},
        "gain": {one: {name: told(one, name, " gain") for name in ESTIMATORS} for one in outcomes},
    }


def _bounded(
    kept: _Kept, outcome: str, name: str, cost_weight: float, options: EvaluationOptions
) -> tuple[float, float]:
    """Return the empirical Bernstein interval; of utility, by a union bound over quality and cost."""
    if name not in _BOUNDED:
        return math.nan, math.nan
    if outcome == "utility":
        half = 1.0 - 0.5 * (1.0 - options.confidence)
        (q_low, q_high), (c_low, c_high) = (_one(kept, k, name, half, options) for k in range(2))
        return q_low - cost_weight * c_high, q_high - cost_weight * c_low
    return _one(kept, OUTCOMES.index(outcome), name, options.confidence, options)


def _one(
    kept: _Kept, outcome: int, name: str, confidence: float, options: EvaluationOptions
) -> tuple[float, float]:
    column = WIDTH * outcome + _BOUNDED[name]
    n = int(kept.moments.n[column])
    if not n:
        return math.nan, math.nan
    bound = _bound(kept, options)
    # w r is in [0, W]; v in [0, 1] and w (r − q̂) in [−W, W]
    width = {"ips": bound, "dr": 1.0 + 2.0 * bound, "logged": 1.0}[name]
    scale = 1.0 if outcome == 0 else kept.dearest
    mean, variance = kept.moments.mean(column), kept.moments.variance(column)
    return empirical_bernstein(mean, variance, n, width * scale, confidence)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(ends: tuple[float, float]) -> list[float] | None:
    return list(ends) if all(map(math.isfinite, ends)) else None
