"""One pass over a log: estimates of what a target policy would have got, how sure they are, or why there are none."""

from __future__ import annotations

import math
from typing import Any, Final

from banditroute.errors import DataSetError
from banditroute_sim.evaluate.estimators import ESTIMATORS, PLAIN, ROBUST, WEIGHTED, WIDTH, Statistic
from banditroute_sim.evaluate.intervals import bootstrap, empirical_bernstein
from banditroute_sim.evaluate.log import Log
from banditroute_sim.evaluate.overlap import Overlap
from banditroute_sim.evaluate.support import (
    EvaluationOptions,
    Kept,
    bound,
    described,
    diagnosed,
    refusal,
    shares,
    warnings,
)
from banditroute_sim.evaluate.targets import Target

__all__ = ["EvaluationOptions", "evaluate"]

OUTCOMES: Final = ("quality", "cost_usd")
_BOUNDED: Final = {"ips": WEIGHTED, "dr": ROBUST, "logged": PLAIN}


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
    kept = Kept(Overlap(options.logged_floor))
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
    refused = refusal(kept, options)
    result: dict[str, Any] = {
        "target": target.label,
        "refused": refused,
        "cost_weight": weight,
        "confidence": options.confidence,
        "replicates": options.replicates,
        "seed": options.seed,
        "log": described(kept, log),
        "weights": diagnosed(kept, options),
        "share": shares(kept),
        "estimates": None,
        "logged": None,
        "gain": None,
        "warnings": warnings(kept),
    }
    if refused is None:
        result |= _estimates(kept, weight, options)
    return result


def _estimates(kept: Kept, cost_weight: float, options: EvaluationOptions) -> dict[str, Any]:
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
    kept: Kept, outcome: str, name: str, cost_weight: float, options: EvaluationOptions
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
    kept: Kept, outcome: int, name: str, confidence: float, options: EvaluationOptions
) -> tuple[float, float]:
    column = WIDTH * outcome + _BOUNDED[name]
    n = int(kept.moments.n[column])
    if not n:
        return math.nan, math.nan
    most = bound(kept, options)
    # w r is in [0, W]; v in [0, 1] and w (r − q̂) in [−W, W]
    width = {"ips": most, "dr": 1.0 + 2.0 * most, "logged": 1.0}[name]
    scale = 1.0 if outcome == 0 else kept.dearest
    mean, variance = kept.moments.mean(column), kept.moments.variance(column)
    return empirical_bernstein(mean, variance, n, width * scale, confidence)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(ends: tuple[float, float]) -> list[float] | None:
    return list(ends) if all(map(math.isfinite, ends)) else None
