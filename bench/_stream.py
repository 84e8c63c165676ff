"""A data set in memory as a stream: one pass of a session, with any objective and any prior."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.evidence.evidence import Evidence, ModelKey
from banditroute.bandit.objectives.pacing import Fixed, Pacer
from banditroute.bandit.posterior.posterior import ModelPrior
from banditroute.bandit.posterior.prior import PriorConfig, quality_offsets
from banditroute_sim.data.dataset import DataSet
from banditroute_sim.data.encoding import Encoded
from banditroute_sim.session import NAN, Session

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was chosen.

    Attributes
    ----------
    rows : int64[T]
        The prompt of every round.
    chosen : int64[T]
        The model of every round.
    propensity, cost_weight, expected : float64[T]
        Of the choice; ``expected`` is the quality that was expected of it.
    """

    rows: Rows
    chosen: Rows
    propensity: Floats
    cost_weight: Floats
    expected: Floats

    def mean(self, matrix: Floats, start: int = 0) -> float:
        """Return the mean of float64[n, K] over the choices from round ``start`` on."""
        return float(matrix[self.rows[start:], self.chosen[start:]].mean())


def replay(
    data: DataSet,
    encoded: Encoded,
    order: Rows,
    seed: int,
    *,
    pacer: Pacer | None = None,
    declared: Sequence[float] | None = None,
    learn_from: Floats | None = None,
    feedback_share: float = 1.0,
    feedback_delay: int = 0,
    config: PriorConfig | None = None,
    warm_up: Callable[[Session], None] | None = None,
) -> Replayed:
    """Send the prompts through a session.

    Parameters
    ----------
    data : DataSet
        What every model makes of every prompt.
    encoded : Encoded
        Its contexts.
    order : int64[T]
        Rows of the data set, in the order of the stream.
    seed : int
        Of the decisions, and of which of them are answered.
    pacer : Pacer, optional
        The objective; default: quality alone.
    declared : sequence of float, optional
        Declared quality of every model; default: what prices say.
    learn_from : float64[n, K], optional
        The quality that feedback reports, if it is not that of the data set.
    feedback_share : float
        Share of the decisions that are answered.
    feedback_delay : int
        Rounds until an answer arrives.
    config : PriorConfig, optional
        Constants of the prior.
    warm_up : callable, optional
        Called with the session before the first round.
    """
    session = make_session(data, encoded, seed, pacer=pacer, declared=declared, config=config)
    if warm_up is not None:
        warm_up(session)
    return stream(session, data, encoded, order, seed, learn_from, feedback_share, feedback_delay)


def make_session(
    data: DataSet,
    encoded: Encoded,
    seed: int,
    *,
    pacer: Pacer | None = None,
    declared: Sequence[float] | None = None,
    config: PriorConfig | None = None,
    warm: Evidence | None = None,
    floor: float = 0.0,
) -> Session:
    """Return a session for the models of a data set; it starts from ``warm`` and explores at least ``floor``."""
    offsets = quality_offsets(list(data.prices().values()), declared)
    models = [
        ModelPrior(ModelKey(name), float(offset)) for name, offset in zip(data.models, offsets, strict=True)
    ]
    return Session(
        models, encoded.blocks, seed, pacer=pacer or Fixed(0.0), config=config, warm=warm, floor=floor
    )


def stream(
    session: Session,
    data: DataSet,
    encoded: Encoded,
    order: Rows,
    seed: int,
    learn_from: Floats | None = None,
    feedback_share: float = 1.0,
    feedback_delay: int = 0,
    first: int = 0,
) -> Replayed:
    """Decide the rows of ``order`` with a session and answer; rounds are numbered from ``first``."""
    quality = data.quality if learn_from is None else learn_from
    prices = np.array(list(data.prices().values()))
    rng = np.random.default_rng([seed, 7])
    answered = rng.random(len(order)) < feedback_share
    everyone = np.ones(len(data.models), np.bool_)
    chosen = np.empty(len(order), np.int64)
    propensity, weight, expected = np.empty((3, len(order)))
    waiting: list[tuple[int, int]] = []
    for t, row in enumerate(order):
        while waiting and waiting[0][0] <= t:
            asked = heapq.heappop(waiting)[1]
            _answer(session, data, quality, first + asked, int(order[asked]), int(chosen[asked]))
        choices = session.decide(first + t, encoded.x[row], prices, encoded.tokens[row], everyone)
        chosen[t], propensity[t], weight[t] = choices.info[0, 0], choices.chance[0, 1], choices.chance[0, 0]
        expected[t] = choices.candidates[0, chosen[t], 0]
        if answered[t]:
            heapq.heappush(waiting, (t + 1 + feedback_delay, t))
    return Replayed(np.asarray(order), chosen, propensity, weight, expected)


def _answer(session: Session, data: DataSet, quality: Floats, t: int, row: int, model: int) -> None:
    tokens = data.output_tokens[row, model]
    cost = data.cost[row, model]
    session.learn(t, model, float(quality[row, model]), float(tokens), float(cost) if cost == cost else NAN)
