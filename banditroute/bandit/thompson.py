"""Hierarchical Thompson sampling with a curiosity bonus: choosing a model for each request of a batch.

The score of model a on context x is

    xᵀμ_a − cost_weight · cost − latency_weight · seconds + 2σ · xᵀV_a x + ½σ · √q̄_a · z_a,   z_a ~ N(0, 1),

and the largest score is chosen. The bonus explores where the context is new, the noise explores models as a whole;
scores are independent Gaussians, so the propensity of the choice is one integral.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from banditroute.bandit import _kernels_evidence
from banditroute.bandit._kernels_decide import decide_batch, decide_one
from banditroute.bandit.batch import LIMITS, UNLIMITED, Choices, DecideBatch
from banditroute.bandit.chance import model_key
from banditroute.bandit.evidence import Evidence, ModelKey, RowKey
from banditroute.bandit.packing import covariance_of, explore, pack_state, tail_of, weights_of
from banditroute.bandit.posterior import Posterior, derive
from banditroute.bandit.prior import Block, ModelPrior, PriorConfig, check_blocks, check_models
from banditroute.bandit.single import Single

__all__ = ["LIMITS", "UNLIMITED", "Choices", "DecideBatch", "Policy", "Single"]

FLOAT32: Final = np.dtype(np.float32)
YARDSTICK: Final = (1.0, 0.0)  # weight and bias of a vote of a kind that nothing is known of


class Policy:
    """Chooses models; holds the current posterior and a working copy that follows feedback between two derives.

    Parameters
    ----------
    models : sequence of ModelPrior
        The catalog. Index k in every array means its k-th model.
    blocks : sequence of (start, stop)
        Blocks of the context; they tile 0..d and the first is (0, 1).
    config : PriorConfig, optional
        Constants of the prior.
    seed : int
        Of the random numbers, 0..2**64 - 1.
    greedy : bool
        Take the largest expected utility, without bonus and noise (propensity 1): the frozen mode.
    floor : float
        Probability of choosing among all models that may serve by lot: a lower bound on every propensity times their
        number.
    warm : Evidence, optional
        What is known beforehand: added to the evidence at every derive, never to be changed.

    Attributes
    ----------
    posterior : Posterior
        The last derived one; never changed.

    Raises
    ------
    ValueError
        If a model is listed twice, the blocks are not blocks, the floor is no probability or ``warm`` is for contexts
        of another length.

    Examples
    --------
    >>> import numpy as np
    >>> policy = Policy([ModelPrior(ModelKey("a")), ModelPrior(ModelKey("b"))], [(0, 1)], seed=7)
    >>> one = DecideBatch.of(
    ...     np.ones((1, 1)), np.array([3], dtype=np.uint64), [[0, 0], [0, 0]], eligible=[False, True]
    ... )
    >>> choices = policy.decide(one)
    >>> int(choices.chosen[0]), float(choices.propensity[0])
    (1, 1.0)
    """

    def __init__(
        self,
        models: Sequence[ModelPrior],
        blocks: Sequence[Block],
        config: PriorConfig | None = None,
        seed: int = 0,
        *,
        greedy: bool = False,
        floor: float = 0.0,
        warm: Evidence | None = None,
    ) -> None:
        if not 0.0 <= floor <= 1.0:
            raise ValueError(f"floor is a probability, got {floor}")
        self.floor = float(floor)
        self.config = config or PriorConfig()
        self.blocks = tuple((int(start), int(stop)) for start, stop in blocks)
        self.seed = np.uint64(seed)
        self.greedy = greedy
        self.d = self.blocks[-1][1] if self.blocks else 0
        check_blocks(self.blocks, self.d)
        self.posterior: Posterior
        self._warm = warm
        self.models: tuple[ModelPrior, ...] = ()
        self.index: dict[ModelKey, int] = {}
        self._names: list[int] = []
        self._install(derive(self._known(Evidence(self.d)), models, self.blocks, self.config))

    def _install(self, posterior: Posterior) -> None:
        """Make ``posterior`` the current one and start the working copy afresh."""
        self.posterior = posterior
        if posterior.models != self.models:
            self.models = posterior.models
            self.index = {model.key: k for k, model in enumerate(self.models)}
            self._rows: dict[str, list[RowKey]] = {}
            self._names = [model_key(*model.key) for model in self.models]
        self._state = pack_state(posterior, self._names, self.seed, self.floor, greedy=self.greedy)
        self._kinds = {kind.name: (kind.weight, kind.bias) for kind in posterior.kinds}
        self._new = 0
        self._needed = max(1.0, float(posterior.n.sum()) / 10.0)

    @property
    def working(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Copies of the working copy: (mu[K, d], V[K, d, d])."""
        return weights_of(self._state)[:-1].copy(), covariance_of(self._state)

    def derive(self, evidence: Evidence) -> Posterior:
        """Derive the posterior from merged evidence, make it the current one and return it."""
        self._install(self.derived(evidence))
        return self.posterior

    def derived(self, evidence: Evidence) -> Posterior:
        """Return the posterior of other evidence, for the same catalog; nothing changes."""
        return derive(self._known(evidence), self.models, self.blocks, self.config)

    def _known(self, evidence: Evidence) -> Evidence:
        return evidence if self._warm is None else Evidence.merge([self._warm, evidence])

    def surprise(
        self, key: ModelKey, x: NDArray[np.float32], quality: float, kind: str = "score"
    ) -> tuple[float, float, float] | None:
        """Return the weight of a vote, how far it is from what the working copy expects, and the variance of that.

        The last two are multiplied by the weight, and in units of the noise. None for a model that is not in the
        catalog, or a quality that is NaN.
        """
        k = self.index.get(key)
        if k is None or quality != quality:
            return None
        # The kernel speaks of a vote of the yardstick's kind.
        weight, bias = self._kinds.get(kind, YARDSTICK)
        residual, variance = _kernels_evidence.surprise(self._state, x, k, quality - bias)
        return weight, weight * residual, weight + weight * weight * (variance - 1.0)

    @property
    def due(self) -> bool:
        """Whether a tenth more feedback has come since the last derive, or the catalog has changed."""
        return self._new >= self._needed

    @property
    def state(self) -> NDArray[np.float64]:
        """What kernels work on until the next derive, working copy included; see `packing`.

        For loops that are compiled as a whole. What they fold into the working copy is told to `followed`.
        """
        return self._state

    @property
    def cadence(self) -> tuple[int, float]:
        """Votes since the last derive, and at how many of them the next one is due."""
        return self._new, self._needed

    def followed(self, votes: int) -> None:
        """Count votes that a compiled loop has folded into the working copy."""
        self._new += votes

    def set_models(self, models: Sequence[ModelPrior]) -> None:
        """Replace the catalog: models that stay keep what is known, new ones start at the pooled mean.

        Evidence of a model that comes back counts from the next derive, which is due at once.

        Raises
        ------
        ValueError
            If a model is listed twice; the catalog is unchanged then.
        """
        check_models(models)
        self._install(self.posterior.select(models))
        self._needed = 0.0

    def observe(
        self,
        model: int | ModelKey,
        x: NDArray[np.float32],
        quality: float,
        weight: float = 1.0,
        kind: str = "score",
    ) -> None:
        """Let the working copy follow one vote until the next derive; NaN quality (usage only) is just counted.

        A vote of a model that is not in the catalog is just counted, too.
        """
        self._new += 1
        k = self.index.get(model) if isinstance(model, tuple) else model
        if k is None or quality != quality:
            return
        worth, bias = self._kinds.get(kind, YARDSTICK)
        _kernels_evidence.follow(self._state, x, k, float(quality) - bias, float(weight) * worth)

    def rest(self, resting: NDArray[np.bool_]) -> None:
        """Explore all models but those in ``resting`` (bool[K]) until the next derive, which wakes them all.

        A model that rests has neither bonus nor noise: it is chosen where its expected utility is the largest.
        """
        columns, _ = tail_of(self._state)
        explore(columns, float(self._state[3]), ~resting)

    def learn(
        self,
        evidence: Evidence,
        model: int,
        x: NDArray[np.float32],
        quality: float,
        quality_pred: float = math.nan,
        sd_pred: float = math.nan,
        kind: str = "score",
    ) -> None:
        """Add a vote that is nothing but a quality to evidence, and observe it: both in one call.

        The same as ``evidence.add(key, x, Vote(quality, quality_pred, sd_pred), 1.0, kind=kind)`` and
        ``observe(model, x, quality, kind=kind)``, bit for bit.

        Raises
        ------
        ValueError
            If ``x`` is not float32[d] or a number is infinite; nothing is written then.
        """
        if not type(quality) is type(quality_pred) is type(sd_pred) is float:
            quality, quality_pred, sd_pred = float(quality), float(quality_pred), float(sd_pred)  # one type
        weight, bias = self._kinds.get(kind, YARDSTICK)
        key = self._row_key(model, kind)
        row = evidence.rows.get(key)
        # fmt: off
        if x.dtype != FLOAT32 or (quality == quality and not _kernels_evidence.learn_quality(
            evidence.row(key) if row is None else row,
            self._state, x, model, quality, quality_pred, sd_pred, weight, bias,
        )):
            self._refuse(evidence, None if row is not None else key, quality, x)
        # fmt: on
        self._new += 1

    def learn_served(
        self,
        evidence: Evidence,
        one: Single,
        model: int,
        x: NDArray[np.float32],
        quality: float,
        kind: str = "score",
    ) -> bool:
        """Learn a quality as `learn` does, with the prediction of the last choice on a desk; return whether `due`.

        Parameters
        ----------
        evidence : Evidence
            What the vote is added to.
        one : Single
            The desk; its ``candidates`` are what was expected.
        model : int
            The model that served.
        x : float32[d]
            Context of the choice.
        quality : float
            What came back.
        kind : str
            Kind of feedback.

        Returns
        -------
        bool
            Whether a derive is due.

        Raises
        ------
        ValueError
            If ``x`` is not float32[d] or a number is infinite; nothing is written then.
        """
        weight, bias = self._kinds.get(kind, YARDSTICK)
        key = self._row_key(model, kind)
        row = evidence.rows.get(key)
        # fmt: off
        if (x.dtype is not FLOAT32 and x.dtype != FLOAT32) or (
            quality == quality and not _kernels_evidence.learn_served(
                evidence.row(key) if row is None else row,
                self._state, x, model, one.expected, float(quality), weight, bias,
            )
        ):
            self._refuse(evidence, None if row is not None else key, quality, x)
        # fmt: on
        self._new += 1
        return self._new >= self._needed

    def _row_key(self, model: int, kind: str) -> RowKey:
        keys = self._rows.get(kind)
        if keys is None:
            keys = self._rows[kind] = [RowKey(*each.key, kind) for each in self.models]
        return keys[model]

    def _refuse(
        self, evidence: Evidence, key: RowKey | None, quality: float, x: NDArray[np.float32]
    ) -> NoReturn:
        """Raise what a bad vote is refused with; ``key`` is of a row that was made for it."""
        if key is not None:
            evidence.rows.pop(key, None)
        raise ValueError(f"a vote is finite numbers and a context float32[{self.d}], got {quality}, {x}")

    def single(self, prices: ArrayLike) -> Single:
        """Return the columns of one request that may choose any model, to be used again and again by `choose`."""
        return Single(len(self.models), self.d, prices)

    def choose(self, one: Single, x: NDArray[np.float32], key: int, *, propensity: bool = False) -> int:
        """Decide one request: the same, bit for bit, as `decide` does in a batch, in the least time.

        Parameters
        ----------
        one : Single
            Limits, prices and eligible models; it receives what was decided.
        x : float32[d]
            Context.
        key : int
            ``chance.request_key`` of the request.
        propensity : bool
            Whether to work out the propensity and the ranking, too.

        Returns
        -------
        int
            Index of the chosen model, -1 when none may serve.

        Raises
        ------
        ValueError
            If ``one`` was made for another number of models or ``x`` is not float32[d].
        """
        if x.dtype is not FLOAT32 and x.dtype != FLOAT32:  # the first comparison is the cheap one
            raise ValueError(f"a decision takes a context of float32, got {x.dtype}")
        one.key[0] = key
        chosen = decide_one(self._state, x, one.desk, 1 if propensity else 0)
        if chosen < -1:
            raise ValueError(
                f"a decision takes a desk for {len(self.models)} models and contexts of {self.d}, got another"
            )
        return chosen

    def decide(self, batch: DecideBatch, *, propensity: bool = True, every: bool = False) -> Choices:
        """Choose a model for every request of a batch.

        The result does not depend on how requests are split into batches, and permuting the catalog permutes it.

        Parameters
        ----------
        batch : DecideBatch
            Its columns.
        propensity : bool
            Whether to work out the propensity of the choice and the ranking. Otherwise it is NaN, and ``rank`` lists
            the other models that may serve as they stand in the catalog.
        every : bool
            Whether to work out the propensity of every model, too.

        Raises
        ------
        ValueError
            If a column's shape does not fit the catalog and the context length.
        """
        n, count = len(batch.keys), len(self.models)
        if (
            batch.x.shape != (n, self.d)
            or batch.eligible.shape != (n, count)
            or batch.prices.shape != (count, 2)
            or batch.limits.shape != (n, len(LIMITS))
        ):
            raise ValueError(f"a batch for {count} models and contexts of {self.d} has other shapes")
        info = np.empty((n, 3), np.int32)
        candidates = np.empty((n, count, 5))
        score = np.empty((n, count))
        rank = np.empty((n, count), np.int32)
        chance = np.empty((n, 2 + count if every else 2))
        if count == 0:
            info[:] = (-1, 1, 0)
            chance[:, 0], chance[:, 1:] = batch.limits[:, 2], np.nan
        else:
            # fmt: off
            decide_batch(
                self._state, np.ascontiguousarray(batch.x), batch.keys, batch.limits, batch.eligible,
                batch.prices.ravel(), 1 if propensity or every else 0,
                candidates.reshape(n, 5 * count), score, rank, info, chance,
            )
            # fmt: on
        return Choices(info, candidates, score, rank, chance)
