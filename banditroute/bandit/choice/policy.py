"""Hierarchical Thompson sampling with a curiosity bonus: choosing a model for each request of a batch.

The score of model a on context x is

    xᵀμ_a − cost_weight · cost − latency_weight · seconds + 2σ · xᵀV_a x + ½σ · √q̄_a · z_a,   z_a ~ N(0, 1),

and the largest score is chosen. The bonus explores where the context is new, the noise explores models as a whole;
scores are independent Gaussians, so the propensity of the choice is one integral.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from banditroute.bandit.arithmetic.chance import model_key
from banditroute.bandit.choice._kernels_decide import decide_batch, decide_one
from banditroute.bandit.choice.batch import LIMITS, UNLIMITED, Choices, DecideBatch
from banditroute.bandit.choice.single import Single
from banditroute.bandit.choice.state_layout import explore, pack_state, tail_of
from banditroute.bandit.choice.working import FLOAT32, Working
from banditroute.bandit.evidence.evidence import Evidence, ModelKey
from banditroute.bandit.posterior.posterior import Posterior, derive
from banditroute.bandit.posterior.prior import Block, ModelPrior, PriorConfig, check_blocks, check_models

__all__ = ["LIMITS", "UNLIMITED", "Choices", "DecideBatch", "Policy", "Single"]


class Policy(Working):
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
            self._enter(posterior.models)
            self._names = [model_key(*model.key) for model in self.models]
        self._begin(
            pack_state(posterior, self._names, self.seed, self.floor, greedy=self.greedy),
            {kind.name: (kind.weight, kind.bias) for kind in posterior.kinds},
            max(1.0, float(posterior.n.sum()) / 10.0),
        )

    def derive(self, evidence: Evidence) -> Posterior:
        """Derive the posterior from merged evidence, make it the current one and return it."""
        self._install(self.derived(evidence))
        return self.posterior

    def derived(self, evidence: Evidence) -> Posterior:
        """Return the posterior of other evidence, for the same catalog; nothing changes."""
        return derive(self._known(evidence), self.models, self.blocks, self.config)

    def _known(self, evidence: Evidence) -> Evidence:
        return evidence if self._warm is None else Evidence.merge([self._warm, evidence])

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

    def rest(self, resting: NDArray[np.bool_]) -> None:
        """Explore all models but those in ``resting`` (bool[K]) until the next derive, which wakes them all.

        A model that rests has neither bonus nor noise: it is chosen where its expected utility is the largest.

        Raises
        ------
        ValueError
            If ``resting`` is not bool[K].
        """
        if np.shape(resting) != (len(self.models),) or np.asarray(resting).dtype != np.bool_:
            raise ValueError(f"which models rest is bool[{len(self.models)}]")
        columns, _ = tail_of(self._state)
        explore(columns, float(self._state[3]), ~resting)

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
            or batch.prices.ndim != 2
            or len(batch.prices) != count
            or not (batch.prices.shape[1] == 2 or batch.prices.shape[1] % 3 == 0 < batch.prices.shape[1])
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
