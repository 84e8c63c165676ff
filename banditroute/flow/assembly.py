"""From a configuration to the parts of a router: settings, encoder, pacer, prior knowledge and policy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from banditroute.bandit.choice.policy import Policy
from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.bandit.objectives.pacing import BudgetPacer, Fixed, FloorPacer, Pacer
from banditroute.bandit.posterior.posterior import ModelPrior
from banditroute.bandit.posterior.prior import quality_offsets
from banditroute.catalog import Catalog
from banditroute.config import Config
from banditroute.errors import ConfigError
from banditroute.flow.records.position import LearnerSettings
from banditroute.flow.records.warm_start import WarmStart, decode_warm_start
from banditroute.flow.settling.effects import Learned, LearnedRun
from banditroute_features import Encoder, FeatureSpec
from banditroute_features.reading import read_bounded


def learner_settings(config: Config) -> LearnerSettings:
    """Return the settings that evidence depends on."""
    learning = config.learning
    return LearnerSettings(
        half_life_ms=None if learning.half_life is None else 1000.0 * learning.half_life,
        thumb_weight=learning.thumb_weight,
        score_weight=learning.score_weight,
        judge_weight=learning.judge_weight,
        outcome_weight=learning.outcome_weight,
        max_parked=config.feedback.max_parked,
    )


def make_encoder(config: Config) -> Encoder:
    """Return the encoder of a configuration; raises ConfigError for a wrong [features] table."""
    try:
        return Encoder(FeatureSpec.from_dict(config.features))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def make_pacer(config: Config) -> Pacer:
    """Return what gives the cost weight in force: the objective of a configuration."""
    objective = config.objective
    if objective.quality_floor is not None and objective.reference is not None:
        return FloorPacer(objective.quality_floor, config.catalog.names.index(objective.reference))
    if objective.budget_usd_per_request is not None:
        return BudgetPacer(objective.budget_usd_per_request)
    if objective.budget_usd_per_day is not None and objective.requests_per_day is not None:
        return BudgetPacer(per_day=objective.budget_usd_per_day, requests_per_day=objective.requests_per_day)
    return Fixed(objective.cost_weight)


def settled_costs(learned: Sequence[Learned | LearnedRun]) -> tuple[float, float]:
    """Return what the decisions that were learned from did cost, and what they had expected to cost, in USD."""
    actual = expected = 0.0
    for some in learned:
        if isinstance(some, LearnedRun):
            for cost, cost_pred in some.costs().tolist():  # one by one: sums are rounded as those below
                actual += cost
                expected += cost_pred
            continue
        vote, weight = some.vote, some.weight
        if vote.cost_usd == vote.cost_usd and vote.cost_pred == vote.cost_pred:  # neither is NaN
            sign = math.copysign(1.0, weight)
            actual += sign * vote.cost_usd
            expected += sign * vote.cost_pred
    return actual, expected


def make_warm_start(config: Config, spec: FeatureSpec) -> WarmStart | None:
    """Return what the file of `learning.prior` knows; raises ConfigError if it is not for this configuration."""
    path = config.learning.prior
    if path is None:
        return None
    try:
        data = read_bounded(path)
    except OSError as error:
        raise ConfigError(f"learning.prior: cannot read '{path}': {error.strerror}") from error
    keys = [ModelKey(model.name, model.generation) for model in config.catalog]
    return decode_warm_start(data, path, spec.spec_id, spec.d, keys)


def origin(warm: WarmStart | None) -> str:
    """Return the end of a posterior version: which file it started from, if any."""
    return "" if warm is None else f"~{warm.digest}"


def make_policy(config: Config, spec: FeatureSpec, warm: WarmStart | None = None) -> Policy:
    """Return the policy of a configuration, before any evidence of its own."""
    blocks = [(block.start, block.stop) for block in spec.blocks]
    return Policy(
        model_priors(config.catalog, config.learning.price_prior),
        blocks,
        seed=config.learning.seed,
        greedy=config.engine.mode == "frozen",
        floor=config.learning.exploration_floor,
        warm=None if warm is None else warm.evidence,
    )


def model_priors(catalog: Catalog, price_slope: float) -> list[ModelPrior]:
    """Return what is known of the models before any vote: from prices, declared quality and latency, likeness."""
    offsets = quality_offsets(
        [(model.input_usd_per_mtok, model.output_usd_per_mtok) for model in catalog],
        [model.prior_quality for model in catalog],
        price_slope,
    )
    keys = {model.name: ModelKey(model.name, model.generation) for model in catalog}
    return [
        ModelPrior(
            keys[model.name],
            quality_offset=0.0 if model.like is not None else offset,
            latency_ms=float("nan") if model.prior_latency_ms is None else model.prior_latency_ms,
            like=None if model.like is None else keys[model.like],
        )
        for model, offset in zip(catalog, offsets, strict=True)
    ]
