"""The library face: one partition in memory, no Kafka, no files, no threads of its own.

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

import functools
import itertools
import math
import numbers
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import RLock
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from banditroute.bandit.evidence.evidence import Evidence, ModelKey
from banditroute.bandit.objectives.exploration import Exploration
from banditroute.bandit.posterior.posterior import Posterior
from banditroute.bandit.uncopied import Uncopied
from banditroute.config import Config, from_dict, load
from banditroute.errors import InputError
from banditroute.events import Control as ControlRecord
from banditroute.events import (
    Copied,
    Decision,
    Edit,
    Expire,
    Feedback,
    JournalRecord,
    Rejected,
    Request,
    ValueMap,
    decode_journal,
    edit_of,
    feedback_each,
    feedback_of,
    request_of,
    requests_of,
)
from banditroute.flow.assembly import (
    learner_settings,
    make_encoder,
    make_pacer,
    make_policy,
    make_warm_start,
    model_priors,
    origin,
    settled_costs,
)
from banditroute.flow.deciding.decider import MAX_NAMESAKES, Decider, InputRecord
from banditroute.flow.judge import Judge
from banditroute.flow.partition import Partition, genesis_state
from banditroute.flow.records.snapshot import Genesis
from banditroute.flow.settling.chunk import Chunk
from banditroute.flow.settling.effects import LearnedRun, Ready

__all__ = [
    "Router",
    "learner_settings",
    "make_encoder",
    "make_pacer",
    "make_policy",
    "make_warm_start",
    "model_priors",
    "origin",
    "settled_costs",
]

REMEMBERED: Final = 1024  # newest decisions that are given again to whoever sends the very same request again

P = ParamSpec("P")
T = TypeVar("T")

LAST_SECOND: Final = (
    253_402_300_799  # of the year 9999: more is no Unix seconds, but milliseconds or nanoseconds
)


def _one_at_a_time(
    method: Callable[Concatenate[Router, P], T],
) -> Callable[Concatenate[Router, P], T]:
    """Let threads wait for each other, and refuse a call from within a call."""

    @functools.wraps(method)
    def alone(self: Router, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            if self._busy:
                raise RuntimeError(
                    "a Router was called from within one of its own calls (a signal handler, or a mapping or iterator "
                    "with code of its own): call it when the other call has returned"
                )
            self._busy = True
            try:
                return method(self, *args, **kwargs)
            finally:
                self._busy = False

    return alone


def _milliseconds(now: object) -> float | None:
    """Return Unix seconds in milliseconds, before anything is done with them."""
    if now is None:
        return None
    told = f"of type {type(now).__name__}"
    if not isinstance(now, bool) and isinstance(now, numbers.Real):
        try:
            seconds = float(now)
        except OverflowError:
            seconds = math.inf
        if 0.0 <= seconds <= LAST_SECOND:
            return 1000.0 * seconds
        told = str(seconds)
    raise InputError(f"now is {told}: expected Unix seconds, from 0 to {LAST_SECOND}")


class Router(Uncopied):
    """Decides and learns in memory, with the code that the engine runs.

    Parameters
    ----------
    config : Config
        Models, features, objective and learning are read; `kafka` and `engine` are not needed.

    Notes
    -----
    The router has no clock: time is what `now` says, in Unix seconds, and stands still when it is not given. The
    join window, forgetting and `max_request_age` go by it.

    Threads may share a router: one call is carried out at a time, and others wait. A call from within a call raises
    RuntimeError. What is refused changes nothing. A router can neither be copied nor pickled.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._catalog = config.catalog
        self._value_map = ValueMap(config.feedback.value_map) if config.feedback.value_map else None
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
        self._changed: ModelKey | None = None
        self._newest: dict[tuple[str, str | None], tuple[Request, Decision]] = {}
        self._lock = RLock()
        self._busy = False

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
    @_one_at_a_time
    def evidence(self) -> Evidence:
        """What was learned, as a copy."""
        return self._partition.learner.evidence.copy()

    @property
    @_one_at_a_time
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
            If the request is not valid, ``now`` is no Unix seconds, or its request_id already has an open decision of
            its tenant on another request. The very same request gets its decision again, as long as that is among the
            newest 1,024.
        """
        return self.decide_many([request], now)[0]

    def decide_many(
        self, requests: Iterable[Request | Mapping[str, Any]], now: float | None = None
    ) -> list[Decision]:
        """Decide many requests at once, with one posterior; see `decide`."""
        now_ms = _milliseconds(now)
        requests = list(requests)  # which may be code of the caller's, and so are the mappings
        valid = requests_of(requests)
        return self._answer(now_ms, list(map(request_of, requests)) if valid is None else valid)

    @_one_at_a_time
    def _answer(self, now_ms: float | None, requests: Sequence[Request | Rejected]) -> list[Decision]:
        fresh, answers = self._fresh(now_ms, requests)
        self._advance(now_ms)
        decisions = self._decide(fresh) if fresh else []
        return (
            decisions
            if answers is None
            else [decisions[answer] if isinstance(answer, int) else answer for answer in answers]
        )

    def _decide(self, requests: list[Request]) -> list[Decision]:
        first = self._requests
        stamp = int(self._now_ms)
        fresh = [(InputRecord(first + i, stamp, None, None), request) for i, request in enumerate(requests)]
        version = f"{self._covered}+{self._updates}{self._origin}"
        fields = self._partition.learner.fields
        decisions, known = self._decider.decide_requests(0, fresh, fields, version, self._now_ms)
        self._requests = first + len(fresh)
        self._partition.acknowledged(known, self._partition.learner.end, stamp, b"")
        for record in self._partition.owed(self._now_ms):
            self._append(decode_journal(record.value))
        newest = self._newest
        for request, decision in zip(requests[-REMEMBERED:], decisions[-REMEMBERED:], strict=True):
            key = request.request_id, request.tenant
            newest.pop(key, None)
            newest[key] = request, decision
        for key in list(itertools.islice(newest, max(0, len(newest) - REMEMBERED))):
            del newest[key]
        return decisions

    def _fresh(
        self, now_ms: float | None, requests: Sequence[Request | Rejected]
    ) -> tuple[list[Request], list[int | Decision] | None]:
        """Return the requests to decide and, if some were sent again, whose place or which decision answers each."""
        valid = [request for request in requests if isinstance(request, Request)]
        if len(valid) == len(requests):
            keys = [request.request_id.encode() for request in valid]
            if len(set(keys)) == len(keys) and not self._partition.learner.has_each(keys):
                return valid, None
        return self._fresh_one_by_one(now_ms, requests)

    def _fresh_one_by_one(
        self, now_ms: float | None, requests: Sequence[Request | Rejected]
    ) -> tuple[list[Request], list[int | Decision]]:
        """Look for the first that is not valid, and for those that were sent again."""
        expire = self._expiry(now_ms)
        closed = 0 if expire is None else expire.upto  # by this very call, once it is valid
        fresh: list[Request] = []
        answers: list[int | Decision] = []
        mine: dict[tuple[str, str | None], int] = {}
        tenants: Counter[str] = Counter()
        for index, request in enumerate(requests):
            if isinstance(request, Rejected):
                raise InputError(f"request {index} is not valid: {request.reason}")
            id_ = request.request_id
            key = id_, request.tenant
            there, others = self._partition.learner.first_of(*key, closed)
            if key not in mine and there is None:
                if others + tenants[id_] >= MAX_NAMESAKES:
                    raise InputError(
                        f"request_id '{id_}' already has open decisions of {MAX_NAMESAKES} tenants: give each request "
                        "its own id"
                    )
                tenants[id_] += 1
                mine[key] = len(fresh)
                answers.append(len(fresh))
                fresh.append(request)
            elif key in mine and fresh[mine[key]] == request:
                answers.append(mine[key])
            elif key not in mine and key in self._newest and self._newest[key][0] == request:
                answers.append(self._newest[key][1])
            else:
                raise InputError(
                    f"request_id '{id_}' already has an open decision: give each request its own id (the very same "
                    f"request sent again gets its decision again, as long as it is among the newest {REMEMBERED})"
                )
        return fresh, answers

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
            If the feedback is not valid, names a model that is not in the catalog, or ``now`` is no Unix seconds.
        """
        now_ms = _milliseconds(now)
        return self._learn(now_ms, self._valid_feedback(feedback, "feedback"))

    @_one_at_a_time
    def _learn(self, now_ms: float | None, event: Feedback) -> str:
        self._advance(now_ms)
        copied = Copied((0, self._feedback), event)
        self._feedback += 1
        return self._append(copied).outcome or ""

    def learn_many(
        self, feedback: Iterable[Feedback | Mapping[str, Any]], now: float | None = None
    ) -> list[str]:
        """Learn from many feedback events: the same as `learn` of each in order, in less time.

        Returns
        -------
        list of str
            What became of each; see `learn`.

        Raises
        ------
        InputError
            If one of them is not valid or names a model that is not in the catalog, or ``now`` is no Unix seconds;
            nothing is learned then.
        """
        now_ms = _milliseconds(now)
        feedback = list(feedback)
        events = None if self._value_map is not None else feedback_each(feedback)
        reported = [self._catalog.reported(event) for event in events or ()]
        valid = [event for event in reported if not isinstance(event, Rejected)]
        if len(valid) < len(feedback):
            valid = [self._valid_feedback(event, f"feedback {index}") for index, event in enumerate(feedback)]
        return self._learn_many(now_ms, valid)

    @_one_at_a_time
    def _learn_many(self, now_ms: float | None, valid: Sequence[Feedback]) -> list[str]:
        if valid:
            self._advance(now_ms)
        first, stamp = self._feedback, int(self._now_ms)
        self._feedback += len(valid)
        copied = [Copied((0, number), event) for number, event in enumerate(valid, first)]
        outcomes: list[str] = []
        while copied:
            start, count = self._partition.learner.j, len(copied)
            chunk = Chunk(range(start, start + count), [stamp] * count, [None] * count, copied)
            controls = self._controls
            # a verdict takes an offset of the journal, and what follows moves on by one
            while chunk.at < count and self._controls == controls:
                self._act(self._partition.apply_some(chunk, self._watch))
            outcomes += [outcome or "" for outcome in chunk.outcomes]
            copied = copied[chunk.at :]
        return outcomes

    def _valid_feedback(self, feedback: Feedback | Mapping[str, Any], what: str) -> Feedback:
        event = feedback_of(feedback, self._value_map)
        if isinstance(event, Rejected):
            raise InputError(f"{what} is not valid: {event.reason}")
        event = self._catalog.reported(event)
        if isinstance(event, Rejected):
            raise InputError(f"{what} is not valid: {event.reason}")
        return event

    def control(self, edit: Edit, now: float | None = None) -> None:
        """Apply a control edit, such as a price; it acts on the next decision.

        Raises
        ------
        InputError
            If a number is not valid, the model is not in the catalog, or ``now`` is no Unix seconds.
        """
        now_ms = _milliseconds(now)
        checked = edit_of(edit)
        if isinstance(checked, Rejected):
            raise InputError(f"the edit is not valid: {checked.reason}")
        if checked.model not in self._catalog:
            raise InputError(f"the edit names model '{checked.model}', which is not in the catalog")
        self._edit(now_ms, checked)

    @_one_at_a_time
    def _edit(self, now_ms: float | None, edit: Edit) -> None:
        self._advance(now_ms)
        self._control(edit)

    def _control(self, edit: Edit) -> None:
        number, self._controls = self._controls, self._controls + 1
        self._append(ControlRecord(number, edit))

    def _expiry(self, now_ms: float | None) -> Expire | None:
        """Return what is to be closed at a time; nothing changes."""
        feedback = self._config.feedback
        if now_ms is None and len(self._partition.learner.pending) <= feedback.max_open:
            return None
        now_ms = max(self._now_ms, now_ms or 0.0)
        record = self._partition.expiry(now_ms, 1000.0 * feedback.join_window, feedback.max_open)
        expire = None if record is None else decode_journal(record.value)
        return expire if isinstance(expire, Expire) else None

    def _advance(self, now_ms: float | None) -> None:
        expire = self._expiry(now_ms)
        self._now_ms = max(self._now_ms, now_ms or 0.0)
        if expire is not None:
            self._append(expire)

    def _append(self, record: JournalRecord) -> Ready:
        ready = self._partition.apply_decoded(self._partition.learner.j, int(self._now_ms), record)
        self._act(ready)
        return ready

    def _watch(self, run: LearnedRun) -> int:
        """Let the working copy follow votes until a model has changed or a derive is due; return how many."""
        most = len(run) if self._frozen else self._policy.until_due
        count, self._changed = self._judge.run(self._policy, run.upto(most))
        return count

    def _act(self, ready: Ready) -> None:
        """Do what follows from what was learned."""
        learner, policy, judge = self._partition.learner, self._policy, self._judge
        edits = []
        for key, x, vote, weight, kind, _ in ready.learned:
            if weight > 0.0:
                epochs = learner.fields.epochs
                edits.append(judge.vote(policy, key, x, vote.quality, kind, learner.evidence, epochs))
            policy.observe(key, x, vote.quality, weight, kind)
        self._updates += len(ready.learned)
        self._pacer.paid(*settled_costs(ready.learned))
        if ready.run is not None:
            self._updates += len(ready.run)
            for cost, expected in ready.run.costs().tolist():
                self._pacer.paid(cost, expected)
            if self._changed is not None:
                edits.append(judge.changed(self._changed, learner.evidence, learner.fields.epochs))
                self._changed = None
        for edit in edits:
            if edit is not None:
                self._control(edit)
        learned = bool(ready.learned) or ready.run is not None
        if not self._frozen and (ready.control or (learned and policy.due)):
            policy.derive(learner.evidence)
            self._decider.exploration.rest(policy)
            self._covered, self._updates = learner.j, 0
