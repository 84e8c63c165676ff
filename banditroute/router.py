"""The library face: one partition in memory, no Kafka, no files, no threads.

>>> from banditroute import Router
>>> router = Router.from_dict(
...     {
...         "models": [
...             {"name": "small", "input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4},
...             {"name": "large", "input_usd_per_mtok": 2.0, "output_usd_per_mtok": 8.0},
...         ]
...     }
... )
>>> decision = router.decide({"request_id": "r-1", "prompt": "Translate: good morning"})
>>> decision.model in ("small", "large")
True
>>> router.learn({"request_id": "r-1", "kind": "thumb", "value": True})
'applied'
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from banditroute.bandit.evidence import Evidence, ModelKey
from banditroute.bandit.exploration import Exploration
from banditroute.bandit.pacing import BudgetPacer, Fixed, FloorPacer, Pacer
from banditroute.bandit.posterior import ModelPrior, Posterior
from banditroute.bandit.prior import quality_offsets
from banditroute.bandit.thompson import Policy
from banditroute.catalog import Catalog
from banditroute.config import Config, from_dict, load
from banditroute.errors import ConfigError, InputError
from banditroute.events import Control as ControlRecord
from banditroute.events import (
    Copied,
    Decision,
    Edit,
    Feedback,
    Rejected,
    Request,
    edit_of,
    encode,
    feedback_of,
    request_of,
)
from banditroute.flow.decider import Decider, InputRecord
from banditroute.flow.effects import Learned, LearnedRun, Ready
from banditroute.flow.fields import LearnerSettings
from banditroute.flow.judge import Judge
from banditroute.flow.partition import Partition, genesis_state
from banditroute.flow.snapshot import Genesis
from banditroute.flow.warm_start import WarmStart, decode_warm_start
from banditroute_features import Encoder, FeatureSpec


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
        data = Path(path).read_bytes()
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


class Router:
    """Decides and learns in memory, with the code that the engine runs.

    Parameters
    ----------
    config : Config
        Models, features, objective and learning are read; `kafka` and `engine` are not needed.

    Notes
    -----
    The router has no clock: time is what `now` says, in Unix seconds, and stands still when it is not given. The
    join window, forgetting and `max_request_age` go by it. Not thread-safe.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._catalog = config.catalog
        encoder = make_encoder(config)
        warm = make_warm_start(config, encoder.spec)
        self._policy = make_policy(config, encoder.spec, warm)
        self._origin = origin(warm)
        self._pacer = make_pacer(config)
        self._decider = Decider(config, self._catalog, encoder, self._policy, self._pacer)
        settings = learner_settings(config)
        # nothing that the router returns depends on the key; without it nobody can choose ids that collide
        genesis = Genesis(log_epoch=0, hash_key=secrets.token_hex(16))
        start = genesis_state(0, encoder.spec.d, encoder.spec.spec_id, settings, genesis)
        self._partition = Partition(start, encoder.spec.d, encoder.spec.spec_id, settings, keep=None)
        self._partition.begin()
        self._partition.finish()
        self._judge = Judge()
        self._now_ms = 0.0
        self._requests = 0
        self._feedback = 0
        self._controls = 0
        self._updates = 0
        self._covered = 0
        self._frozen = config.engine.mode == "frozen"

    @classmethod
    def from_config(cls, path: str | os.PathLike[str]) -> Router:
        """Build a router from a configuration file; raises ConfigError."""
        return cls(load(path))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Router:
        """Build a router from a parsed configuration; raises ConfigError."""
        return cls(from_dict(document))

    @property
    def exploration(self) -> Exploration:
        """What exploration has cost so far, and which models are not explored because they cannot win."""
        return self._decider.exploration

    @property
    def posterior(self) -> Posterior:
        """What is believed now; immutable."""
        return self._policy.posterior

    @property
    def evidence(self) -> Evidence:
        """What was learned, as a copy."""
        return self._partition.learner.evidence.copy()

    @property
    def ledger(self) -> dict[str, int]:
        """What became of every feedback."""
        return dict(self._partition.learner.ledger)

    def decide(self, request: Request | Mapping[str, Any], now: float | None = None) -> Decision:
        """Decide one request.

        Parameters
        ----------
        request : Request or mapping
            As in docs/EVENTS.md.
        now : float, optional
            Unix seconds.

        Raises
        ------
        InputError
            If the request is not valid, or its request_id already has an open decision.
        """
        return self.decide_many([request], now)[0]

    def decide_many(
        self, requests: Iterable[Request | Mapping[str, Any]], now: float | None = None
    ) -> list[Decision]:
        """Decide many requests at once, with one posterior; see `decide`."""
        self._advance(now)
        valid = self._valid(requests)
        if not valid:
            return []
        first = self._requests
        stamp = int(self._now_ms)
        fresh = [(InputRecord(first + i, stamp, None, None), request) for i, request in enumerate(valid)]
        version = f"{self._covered}+{self._updates}{self._origin}"
        fields = self._partition.learner.fields
        decisions, known = self._decider.decide_requests(0, fresh, fields, version, self._now_ms)
        self._requests = first + len(fresh)
        self._partition.acknowledged(known, self._partition.learner.end, stamp, b"")
        for record in self._partition.owed(self._now_ms):
            self._append(record.value)
        return decisions

    def _valid(self, requests: Iterable[Request | Mapping[str, Any]]) -> list[Request]:
        valid: list[Request] = []
        ids: set[str] = set()
        for index, event in enumerate(requests):
            request = request_of(event)
            if isinstance(request, Rejected):
                raise InputError(f"request {index} is not valid: {request.reason}")
            if request.request_id in ids or self._partition.learner.has_request(request.request_id):
                raise InputError(
                    f"request_id '{request.request_id}' already has an open decision: give each request its own id"
                )
            ids.add(request.request_id)
            valid.append(request)
        return valid

    def learn(self, feedback: Feedback | Mapping[str, Any], now: float | None = None) -> str:
        """Learn from one feedback event.

        Returns
        -------
        str
            What became of it: ``applied``, ``revised``, ``duplicate``, ``late``, ``foreign``, ``rejected``,
            ``elsewhere`` for a withdrawal by voter that finds no vote, or ``parked`` while its request is unknown.

        Raises
        ------
        InputError
            If the feedback is not valid or names a model that is not in the catalog.
        """
        self._advance(now)
        event = feedback_of(feedback)
        if isinstance(event, Rejected):
            raise InputError(f"feedback is not valid: {event.reason}")
        if event.model is not None and event.model not in self._catalog:
            raise InputError(f"feedback names model '{event.model}', which is not in the catalog")
        copied = Copied((0, self._feedback), event)
        self._feedback += 1
        return self._append(encode(copied)).outcome or ""

    def control(self, edit: Edit, now: float | None = None) -> None:
        """Apply a control edit, such as a price; it acts on the next decision.

        Raises
        ------
        InputError
            If a number is not valid or the model is not in the catalog.
        """
        self._advance(now)
        checked = edit_of(edit)
        if isinstance(checked, Rejected):
            raise InputError(f"the edit is not valid: {checked.reason}")
        if checked.model not in self._catalog:
            raise InputError(f"the edit names model '{checked.model}', which is not in the catalog")
        self._control(checked)

    def _control(self, edit: Edit) -> None:
        number, self._controls = self._controls, self._controls + 1
        self._append(encode(ControlRecord(number, edit)))

    def _advance(self, now: float | None) -> None:
        if now is not None:
            if not math.isfinite(now):
                raise InputError(f"now is {now}: expected Unix seconds")
            self._now_ms = max(self._now_ms, 1000.0 * now)
        feedback = self._config.feedback
        if len(self._partition.learner.pending) > feedback.max_open or now is not None:
            record = self._partition.expiry(self._now_ms, 1000.0 * feedback.join_window, feedback.max_open)
            if record is not None:
                self._append(record.value)

    def _append(self, value: bytes) -> Ready:
        learner = self._partition.learner
        ready = self._partition.apply(learner.j, int(self._now_ms), value)
        changed = []
        for key, x, vote, weight, kind, _ in ready.learned:
            if weight > 0.0:
                changed.append(
                    self._judge.vote(
                        self._policy, key, x, vote.quality, kind, learner.evidence, learner.fields.epochs
                    )
                )
            self._policy.observe(key, x, vote.quality, weight, kind)
        self._updates += len(ready.learned)
        self._pacer.paid(*settled_costs(ready.learned))
        for edit in changed:
            if edit is not None:
                self._control(edit)
        if not self._frozen and (ready.control or (ready.learned and self._policy.due)):
            self._policy.derive(learner.evidence)
            self._decider.exploration.rest(self._policy)
            self._covered, self._updates = learner.j, 0
        return ready
