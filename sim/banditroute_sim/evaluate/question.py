"""From a question in words to a log and a target policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from banditroute.bandit.objectives._kernels_pacing import bracket
from banditroute.bandit.objectives.pacing import AIM
from banditroute.config import Config
from banditroute.errors import ConfigError, DataSetError
from banditroute_sim.data.dropped import ALLOWED
from banditroute_sim.evaluate.log import ExportedLog, Log
from banditroute_sim.evaluate.open_bandit import OpenBanditLog, open_bandit_files
from banditroute_sim.evaluate.table_log import TableLog, table_files
from banditroute_sim.evaluate.targets import (
    Always,
    ByCell,
    Logged,
    Objective,
    Price,
    Prices,
    Target,
    Uniform,
    free_score,
    noise,
)

SURVEYED: Final = 20_000  # decisions that a budget is solved on


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which target policy is asked about.

    Parameters
    ----------
    policy : str, optional
        ``logging``, ``uniform``, ``fixed:MODEL``, or ``policy:NAME`` of an Open Bandit log; None is an objective.
    cost_weight, budget : float, optional
        Quality per USD; or USD per request, for which it is solved.
    models : tuple of str
        These alone; none is all.
    prices : mapping of str to (float, float)
        USD per million input and output tokens, where they differ from those in force.
    target : Config, optional
        A configuration: its models, prices, objective and exploration floor.
    logged : Config, optional
        The configuration that was in force: needed for other prices.
    greedy : bool
        Do not explore.
    floor : float
        Exploration floor of the target.
    """

    policy: str | None = None
    cost_weight: float | None = None
    budget: float | None = None
    models: tuple[str, ...] = ()
    prices: Mapping[str, Price] = field(default_factory=dict)
    target: Config | None = None
    logged: Config | None = None
    greedy: bool = False
    floor: float = 0.0


def open_log(
    folder: Path,
    *,
    kind: str | None = None,
    logged_by: str | None = None,
    allow_dropped: float = ALLOWED,
    fields: Mapping[str, str] | None = None,
) -> Log:
    """Open an exported log, or a table with Open Bandit columns; see `ExportedLog` and `OpenBanditLog`.

    Raises
    ------
    DataSetError
        If the folder holds neither.
    """
    if fields is not None:
        return TableLog(table_files(folder), fields, allow_dropped)
    files = open_bandit_files(folder)
    if files:
        return OpenBanditLog(files, logged_by)
    return ExportedLog(folder, kind, allow_dropped)


def make_target(log: Log, question: Question) -> tuple[Target, float | None]:
    """Return the target that a question means, and the cost weight of its utility if it says one.

    Raises
    ------
    DataSetError
        If the log does not know a model that is named.
    ConfigError
        If parts of the question contradict each other, or ask for what cannot be evaluated.
    """
    policy = question.policy
    weight = question.cost_weight
    if policy is not None:
        given = {
            "--target-config": question.target,
            "--budget-usd-per-request": question.budget,
            "--price": question.prices,
            "--greedy": question.greedy,
            "--floor": question.floor,
        }
        extra = [name for name, value in given.items() if value]
        if extra:
            raise ConfigError(
                f"{extra[0]} is for an objective, and --policy {policy} has none: give one of them"
            )
    if policy == "logging":
        return Logged(), weight
    if policy is not None and policy.startswith("policy:"):
        if not isinstance(log, OpenBanditLog):
            raise ConfigError(f"--policy {policy} is for logs with Open Bandit columns and a column 'policy'")
        name = policy.removeprefix("policy:")
        return ByCell(name, log.table(name)), weight
    models = frozenset(question.models) or None
    if policy is not None and policy.startswith("fixed:"):
        name = policy.removeprefix("fixed:")
        _check_known(log, [name])
        return Always(name), weight
    _check_known(log, question.models)
    if policy == "uniform":
        return Uniform(models), weight
    if policy is not None:
        raise ConfigError(f"--policy is logging, uniform, fixed:MODEL or policy:NAME, got '{policy}'")
    return _objective(log, question, models)


def _objective(log: Log, question: Question, models: frozenset[str] | None) -> tuple[Target, float | None]:
    target, weight, budget, floor = question.target, question.cost_weight, question.budget, question.floor
    greedy, latency, told = question.greedy, None, dict(question.prices)
    if target is not None:
        objective = target.objective
        if objective.quality_floor is not None:
            raise ConfigError(
                "objective.quality_floor cannot be evaluated from a log: give --cost-weight instead"
            )
        budget, latency = budget or objective.budget_usd_per_request, objective.latency_weight
        if budget is None and objective.budget_usd_per_day and objective.requests_per_day:
            budget = objective.budget_usd_per_day / objective.requests_per_day
        if weight is None and budget is None:
            weight = objective.cost_weight
        floor, greedy = floor or target.learning.exploration_floor, greedy or target.engine.mode == "frozen"
        models = models or frozenset(target.catalog.names)
        _check_known(log, sorted(models))
        if question.logged is not None:
            listed = {m.name: (m.input_usd_per_mtok, m.output_usd_per_mtok) for m in target.catalog}
            told = listed | told
    if weight is not None and budget is not None:
        raise ConfigError("a budget is met by solving for the cost weight: give one of them")
    prices = _prices(log, question, told)
    label = _label(question, weight, budget)
    plain = Objective(None, latency, models, prices, floor, not greedy, label)
    if budget is not None:
        mix = _solve(log, plain, AIM * budget)
        spent = sum(one * share for one, share in mix)
        return Objective(mix, latency, models, prices, floor, not greedy, label), spent
    mixed = None if weight is None else ((weight, 1.0),)
    return Objective(mixed, latency, models, prices, floor, not greedy, label), weight


def _prices(log: Log, question: Question, told: dict[str, Price]) -> Prices | None:
    if not told:
        return None
    _check_known(log, sorted(question.prices))
    if question.logged is None:
        raise ConfigError(
            "other prices need those that were in force: give the configuration of the log with -c"
        )
    before = {m.name: (m.input_usd_per_mtok, m.output_usd_per_mtok) for m in question.logged.catalog}
    return Prices(before, told)


def _label(question: Question, weight: float | None, budget: float | None) -> str:
    parts = ["the configuration given"] if question.target is not None else []
    if weight is not None:
        parts.append(f"cost weight {weight:g}")
    if budget is not None:
        parts.append(f"budget ${budget:g} per request")
    if question.models:
        parts.append(f"models {', '.join(question.models)}")
    if question.prices:
        parts.append(f"other prices of {', '.join(sorted(question.prices))}")
    if question.greedy:
        parts.append("greedy")
    return "; ".join(parts) or "the logged objective"


def _check_known(log: Log, models: tuple[str, ...] | list[str]) -> None:
    """Raise DataSetError unless the log has all these models."""
    if not models:
        return
    known: set[str] = set()
    for batch in log.batches():
        known.update(batch.names)
        if known.issuperset(models):
            return
    missing = next(name for name in models if name not in known)
    raise DataSetError(
        f"the log knows nothing of the model '{missing}': it has {', '.join(sorted(known)) or 'no decisions'}"
    )


def _solve(log: Log, plain: Objective, budget: float) -> tuple[tuple[float, float], ...]:
    """Return the two cost weights, and their shares, that spend a budget on a sample of the log."""
    rng = np.random.default_rng(0)
    scores: list[Any] = []
    costs: list[Any] = []
    seen = 0
    for batch in log.batches():
        plan = plain.plan(batch)
        score = free_score(batch, plain.latency_weight)
        if plain.sampled:
            bonus, spread = noise(batch)
            score = score + bonus + spread * rng.standard_normal(score.shape)
        allowed = batch.eligible & np.array(
            [plain.models is None or one in plain.models for one in batch.names]
        )
        score = np.where(allowed, score, -np.inf)
        for row in np.flatnonzero(allowed.any(axis=1)).tolist():
            seen += 1
            at = len(scores) if len(scores) < SURVEYED else int(rng.integers(seen))
            if at == len(scores):
                scores.append(score[row])
                costs.append(plan.cost[row])
            elif at < SURVEYED:
                scores[at], costs[at] = score[row], plan.cost[row]
    if not scores:
        raise DataSetError("the log holds no decision that the target has a model for")
    widest = max(map(len, scores))
    table, spent = np.full((len(scores), widest), -np.inf), np.zeros((len(scores), widest))
    for row, (score, cost) in enumerate(zip(scores, costs, strict=True)):
        table[row, : len(score)], spent[row, : len(cost)] = score, cost
    out = np.zeros(3)
    bracket(table, spent, budget, out)
    low, high, share = out.tolist()
    return ((low, 1.0 - share), (high, share)) if share > 0.0 else ((low, 1.0),)
