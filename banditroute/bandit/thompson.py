"""Hierarchical Thompson sampling with a curiosity bonus: choosing a model for each request of a batch.

The score of model a on context x is

    xᵀμ_a − cost_weight · cost − latency_weight · seconds + 2σ · xᵀV_a x + ½σ · √q̄_a · z_a,   z_a ~ N(0, 1),

and the largest score is chosen. The bonus explores where the context is new, the noise explores models as a whole;
scores are independent Gaussians, so the propensity of the choice is one integral.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit import _kernels, _kernels_decide
from banditroute.bandit.batch import LIMITS, UNLIMITED, Choices, DecideBatch
from banditroute.bandit.chance import model_key
from banditroute.bandit.evidence import Evidence, ModelKey
from banditroute.bandit.posterior import Posterior, derive
from banditroute.bandit.prior import Block, ModelPrior, PriorConfig, check_blocks, check_models

__all__ = ["LIMITS", "UNLIMITED", "Choices", "DecideBatch", "Policy"]


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
        self.models = tuple(models)
        self._install(self.derived(Evidence(self.d)))

    def _install(self, posterior: Posterior) -> None:
        """Make ``posterior`` the current one and start the working copy afresh."""
        self.posterior = posterior
        self.models = posterior.models
        self.index = {model.key: k for k, model in enumerate(self.models)}
        count, d = len(self.models), self.d
        names = [model_key(*model.key) for model in self.models]
        self._names = np.array(names, dtype=np.uint64)
        self._v = posterior.V.copy()
        self._mu = posterior.mu.copy()
        self._qbar = posterior.qbar.copy()
        wide = -(-d // 8) * 8  # padded with zeros, so that the kernel needs no remainder loops
        self._v32 = np.zeros((count, wide, wide), dtype=np.float32)
        self._v32[:, :d, :d] = self._v
        self._x = np.empty(d)
        self._vx = np.empty(d)
        sigma = posterior.sigma2**0.5
        self._state = np.zeros((d + 6, count + 1))
        self._state[:d, :count] = self._mu.T
        self._state[:d, count] = posterior.token_beta
        tail = self._state[d:]
        tail[0, :count] = _kernels_decide.NOISE * sigma * np.sqrt(posterior.qbar)
        tail[0, count] = sigma
        tail[1, :count], tail[1, count] = posterior.token_offset, posterior.latency_pool
        tail[2, :count] = posterior.token_ratio
        tail[3, :count], tail[4, :count] = posterior.latency_intercept, posterior.latency_slope
        tail[5, :count] = posterior.input_ratio
        self._new = 0
        self._needed = max(1.0, float(posterior.n.sum()) / 10.0)

    def derive(self, evidence: Evidence) -> Posterior:
        """Derive the posterior from merged evidence, make it the current one and return it."""
        self._install(self.derived(evidence))
        return self.posterior

    def derived(self, evidence: Evidence) -> Posterior:
        """Return the posterior of other evidence, for the same catalog; nothing changes."""
        known = evidence if self._warm is None else Evidence.merge([self._warm, evidence])
        return derive(known, self.models, self.blocks, self.config)

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
        wide = x.astype(np.float64)
        _, weight, bias = self.posterior.kind(kind)
        residual = (quality - bias - float(wide @ self._mu[k])) / self.posterior.sigma2**0.5
        spread = max(float(wide @ self._v[k] @ wide), 0.0)
        return weight, weight * residual, weight + weight * weight * spread

    @property
    def due(self) -> bool:
        """Whether a tenth more feedback has come since the last derive, or the catalog has changed."""
        return self._new >= self._needed

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
        _, worth, bias = self.posterior.kind(kind)
        quality, weight = quality - bias, weight * worth
        self._x[:] = x
        v, mu, vx = self._v[k], self._mu[k], self._vx
        bottom = _kernels.sherman_morrison(v, mu, self._x, quality, weight, vx)
        if bottom == 0.0:
            return
        d = self.d
        self._v32[k, :d, :d] = v
        self._state[:d, k] = mu
        project = float(self.posterior.xbar @ vx)
        self._qbar[k] = max(self._qbar[k] - weight * project * project / bottom, 0.0)
        self._state[d, k] = _kernels_decide.NOISE * self._state[d, -1] * self._qbar[k] ** 0.5

    def decide(self, batch: DecideBatch, *, every: bool = False) -> Choices:
        """Choose a model for every request of a batch.

        The result does not depend on how requests are split into batches, and permuting the catalog permutes it.

        Parameters
        ----------
        batch : DecideBatch
            Its columns.
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
            _kernels_decide.decide_batch(
                self.seed, self.greedy, self.floor, batch.x, batch.keys, batch.limits, batch.eligible, batch.prices,
                self._state, self._v32, self._names, candidates, score, rank, info, chance,
            )
            # fmt: on
        return Choices(info, candidates, score, rank, chance)
