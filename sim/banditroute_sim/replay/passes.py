"""One pass of a session through recorded or drawn outcomes: the loop that `replay` and `rehearse` share."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import Evidence
from banditroute.bandit.posterior.prior import Block
from banditroute.config import Config
from banditroute.router import make_pacer, model_priors
from banditroute_sim.session import NAN, Session

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.int64]

NEVER: Final = -1  # a delay: no feedback ever comes


class Table(Protocol):
    """What a pass reads, by row and model: `Outcomes`, or a world that was drawn."""

    @property
    def x(self) -> NDArray[np.float32]:
        """Contexts; float32[n, d]."""

    @property
    def tokens(self) -> Floats:
        """Input tokens; float64[n]."""

    @property
    def estimated(self) -> Bools:
        """Where they are estimated; bool[n]."""

    @property
    def feedback(self) -> Floats:
        """The quality that is reported; float64[n, K]."""

    @property
    def cost(self) -> Floats:
        """USD; float64[n, K]."""

    @property
    def input_tokens(self) -> Floats:
        """As reported; float64[n, K]."""

    @property
    def output_tokens(self) -> Floats:
        """As reported; float64[n, K]."""

    @property
    def latency_s(self) -> Floats:
        """Seconds; float64[n, K]."""


@dataclass(frozen=True, slots=True)
class Course:
    """The order of a pass, and what changes on its way.

    Attributes
    ----------
    rows : int64[T]
        The row of every round.
    keys : uint64[T]
        `request_key` of every round, all different.
    starts : tuple of int
        The rounds at which prices or models change; the first is 0.
    prices : float64[S, K, 2] or float64[S, K, 3 + 3T]
        As `DecideBatch` has them, from each start on.
    eligible : bool[S, K]
        Which models may serve, from each start on.
    delay : int64[T]
        Rounds until the answer (0: before the next decision), or NEVER.
    """

    rows: Rows
    keys: NDArray[np.uint64]
    starts: tuple[int, ...]
    prices: Floats
    eligible: Bools
    delay: Rows


@dataclass(frozen=True, slots=True)
class Played:
    """What a pass did.

    Attributes
    ----------
    chosen : int32[T]
        The model of every round.
    propensity, cost_weight, expected : float64[T]
        Of the choice; ``expected`` is the quality that was expected of it.
    margin : float64[T]
        Of two models, expected quality of the second minus that of the first; empty otherwise.
    seconds : float
        How long it took.
    """

    chosen: NDArray[np.int32]
    propensity: Floats
    cost_weight: Floats
    expected: Floats
    margin: Floats
    seconds: float


def make_session(
    config: Config,
    blocks: Sequence[Block],
    seed: int,
    warm: Evidence | None = None,
    models: int | None = None,
) -> Session:
    """Return the session of a configuration: its models, objective and learning.

    Parameters
    ----------
    config : Config
        What would run.
    blocks : sequence of (start, stop)
        Blocks of its contexts.
    seed : int
        Of the decisions.
    warm : Evidence, optional
        What is known beforehand.
    models : int, optional
        So many of the catalog's models, from the first; default: all.
    """
    learning = config.learning
    return Session(
        model_priors(config.catalog, learning.price_prior)[:models],
        blocks,
        seed,
        pacer=make_pacer(config),
        floor=learning.exploration_floor,
        warm=warm,
        latency_weight=config.objective.latency_weight,
        vote_weight=learning.score_weight,
        price_columns=len(config.catalog.price_table()[0]),
    )


NOBODY: Final = -1  # in the place of a model


def windows(config: Config) -> Floats:
    """Return the largest request of each model in tokens; float64[K]."""
    return np.array([model.context_window or np.inf for model in config.catalog])


def answers(rounds: int, share: float, delay: int, seed: int) -> Rows:
    """Return the delays of a pass of which a share is answered, so many rounds later."""
    heard = np.random.default_rng([seed, 7]).random(rounds) < share
    return np.where(heard, delay, NEVER)


def play(
    session: Session,
    table: Table,
    course: Course,
    window: Floats | None = None,
    look: Callable[[int, float], None] | None = None,
    looks: Sequence[int] = (),
) -> Played:
    """Decide every round of a course, and learn from the answers; an answer comes before the decision of its round.

    Parameters
    ----------
    session : Session
        Decides and learns.
    table : Table
        Contexts and outcomes.
    course : Course
        Which of them, when.
    window : float64[K], optional
        The largest request of each model, in tokens.
    look : callable, optional
        Called with a round and the cost weight in force, after the decision of each round of ``looks``.
    looks : sequence of int
        Rounds, in rising order.
    """
    rounds, keys, rows, delays = (
        len(course.rows),
        course.keys.tolist(),
        course.rows.tolist(),
        course.delay.tolist(),
    )
    two = course.eligible.shape[1] == 2
    chosen = np.empty(rounds, np.int32)
    propensity, weight, expected = np.empty((3, rounds))
    margin = np.empty(rounds if two else 0)
    waiting: list[tuple[int, int]] = []
    segment, nexts = -1, [*course.starts, rounds]
    prices, eligible = course.prices[0], course.eligible[0]
    seen = iter((*looks, rounds))
    next_look = next(seen)
    begun = time.perf_counter()
    for t, row in enumerate(rows):
        while waiting and waiting[0][0] <= t:
            asked = heapq.heappop(waiting)[1]
            _answer(session, table, keys[asked], rows[asked], int(chosen[asked]))
        while t >= nexts[segment + 1]:
            segment += 1
            prices, eligible = course.prices[segment], course.eligible[segment]
        tokens = float(table.tokens[row])
        allowed = eligible if window is None else eligible & (tokens <= window)
        if not allowed.any():  # as the router decides: nobody serves it
            chosen[t], propensity[t], weight[t], expected[t] = NOBODY, NAN, weight[t - 1] if t else 0.0, NAN
            if two:
                margin[t] = 0.0
            continue
        choices = session.decide(
            keys[t], table.x[row], prices, tokens, allowed, estimated=bool(table.estimated[row])
        )
        model = int(choices.info[0, 0])
        chosen[t], propensity[t], weight[t] = model, choices.chance[0, 1], choices.chance[0, 0]
        quality = choices.candidates[0, :, 0]
        expected[t] = quality[model]
        if two:
            margin[t] = quality[1] - quality[0]
        if delays[t] == NEVER:
            session.forget(keys[t])
        else:
            heapq.heappush(waiting, (t + 1 + delays[t], t))
        if t == next_look:
            next_look = next(seen)
            if look is not None:
                look(t, float(weight[t]))
    return Played(chosen, propensity, weight, expected, margin, time.perf_counter() - begun)


def got(outcomes: Floats, rows: Rows, chosen: NDArray[np.signedinteger[Any]]) -> Floats:
    """Return what the chosen models got, 0 where nobody could serve; float64[rounds] of float64[n, K]."""
    served: Floats = np.where(chosen >= 0, outcomes[rows, np.maximum(chosen, 0)], 0.0)
    return served


def _answer(session: Session, table: Table, key: int, row: int, model: int) -> None:
    latency = float(table.latency_s[row, model])
    session.learn(
        key,
        model,
        float(table.feedback[row, model]),
        float(table.output_tokens[row, model]),
        float(table.cost[row, model]),
        float(table.input_tokens[row, model]),
        latency_ms=1000.0 * latency if latency == latency else NAN,
    )
