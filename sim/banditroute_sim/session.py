"""The product's learning loop without its log: evidence, posterior, decision, pacing and verdicts in one process.

It is what `Router` does per request, minus events: contexts come ready-made and votes with their decision. Made for
episodes of many thousand rounds; that it learns exactly what `Router` learns is tested.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice.batch import LIMITS, Choices, DecideBatch
from banditroute.bandit.choice.policy import Policy
from banditroute.bandit.evidence.evidence import Evidence, Vote
from banditroute.bandit.objectives.exploration import SAMPLED, Exploration
from banditroute.bandit.objectives.pacing import Fixed, Pacer
from banditroute.bandit.posterior.posterior import ModelPrior, PriorConfig
from banditroute.bandit.posterior.prior import Block
from banditroute.flow.judge import Judge

Floats = NDArray[np.float64]
NAN = float("nan")
_INPUT, _ESTIMATED = LIMITS.index("input_tokens"), LIMITS.index("input_estimated")
_LATENCY = LIMITS.index("latency_weight")


class Session:
    """Decides and learns one request at a time.

    Parameters
    ----------
    models : sequence of ModelPrior
        The catalog.
    blocks : sequence of (start, stop)
        Blocks of the context.
    seed : int
        Of the random numbers.
    pacer : Pacer, optional
        Gives the cost weight; default: none.
    config : PriorConfig, optional
        Constants of the prior.
    detect : bool
        Whether changes are looked for.
    floor : float
        Exploration floor.
    warm : Evidence, optional
        What is known beforehand.
    latency_weight : float
        Quality per second.
    vote_weight : float
        What a vote counts.
    price_columns : int
        Numbers per model in the prices of a decision.

    Attributes
    ----------
    changes : list of (int, str)
        Round and model of every verdict.
    """

    def __init__(
        self,
        models: Sequence[ModelPrior],
        blocks: Sequence[Block],
        seed: int,
        *,
        pacer: Pacer | None = None,
        config: PriorConfig | None = None,
        detect: bool = True,
        floor: float = 0.0,
        warm: Evidence | None = None,
        latency_weight: float = 0.0,
        vote_weight: float = 1.0,
        price_columns: int = 2,
    ) -> None:
        self.policy = Policy(models, blocks, config, seed=seed, floor=floor, warm=warm)
        self.evidence = Evidence(self.policy.d)
        self.pacer = pacer or Fixed(0.0)
        self.exploration = Exploration()
        self.changes: list[tuple[int, str]] = []
        self._judge = Judge() if detect else None
        self._epochs: dict[str, int] = {}
        self._open: dict[int, tuple[NDArray[np.float32], Floats, float]] = {}
        self._paced = np.ones(1, np.bool_)
        self._vote_weight = vote_weight
        self._one = self.policy.single(np.zeros((len(models), price_columns)))
        self._one.limits[_LATENCY] = latency_weight

    def decide(
        self,
        t: int,
        x: NDArray[np.float32],
        prices: Floats,
        input_tokens: float,
        eligible: NDArray[np.bool_],
        *,
        estimated: bool = False,
        propensity: bool = True,
    ) -> Choices:
        """Decide request ``t``; ``prices`` is float64[K, price_columns], as `DecideBatch` has them.

        ``estimated`` says that the input tokens are an estimate, to be corrected by what models report. The next
        decision overwrites the result.
        """
        one = self._one
        one.limits[_INPUT], one.limits[_ESTIMATED] = input_tokens, estimated
        one.prices[:], one.eligible[:] = prices, eligible
        one.keys[0] = t
        self.pacer.pace(self.policy, one.batch(x), self._paced, 0.0)
        self.policy.choose(one, x, t, propensity=propensity)
        choices = one.choices()
        self.pacer.decided(choices, 0.0)
        if t % SAMPLED == 0:
            self.exploration.keep(one.batch(x), choices)
        # a decision logs its estimate as float32
        self._open[t] = (x, one.candidates.copy(), float(np.float32(input_tokens)) if estimated else NAN)
        return choices

    def last(self, x: NDArray[np.float32]) -> DecideBatch:
        """Return the columns of the last decision, whose context was ``x``, to be decided again."""
        return self._one.batch(x)

    def forget(self, t: int) -> None:
        """Give up waiting for what comes back for request ``t``."""
        del self._open[t]

    def learn(
        self,
        t: int,
        model: int,
        quality: float,
        output_tokens: float = NAN,
        cost_usd: float = NAN,
        input_tokens: float = NAN,
        kind: str = "score",
        latency_ms: float = NAN,
    ) -> None:
        """Learn what came back for request ``t``, which ``model`` served; NaN is unknown."""
        x, candidates, input_pred = self._open.pop(t)
        expected, sd, log_tokens, cost, _ = candidates[model].tolist()
        key = self.policy.models[model].key
        # fmt: off
        vote = Vote(
            quality=quality, quality_pred=expected, sd_pred=sd, output_tokens=output_tokens,
            log_tokens_pred=log_tokens, cost_usd=cost_usd, cost_pred=cost, input_tokens=input_tokens,
            input_pred=input_pred, latency_ms=latency_ms,
        )
        # fmt: on
        self.evidence.add(key, x, vote, self._vote_weight, kind=kind)
        edit = (
            self._judge.vote(self.policy, key, x, quality, kind, self.evidence, self._epochs)
            if self._judge
            else None
        )
        self.policy.observe(model, x, quality, self._vote_weight, kind)
        if cost_usd == cost_usd:  # not NaN
            self.pacer.paid(cost_usd, cost)
        if edit is not None:
            self.changes.append((t, edit.model))
            self._epochs[edit.model] = edit.epoch
            for one in list(self.evidence.rows):
                self.evidence.scale(one, edit.factors[one.name])
        if edit is not None or self.policy.due:
            self.policy.derive(self.evidence)
            self.exploration.rest(self.policy)
