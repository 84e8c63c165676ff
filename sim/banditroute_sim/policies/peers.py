"""Thin adapters of other libraries: river comes with the extra `sim`, Vowpal Wabbit and MABWiser with `bench`."""

from __future__ import annotations

from typing import Any

import numpy as np

from banditroute.errors import MissingExtraError
from banditroute_sim.policies.base import Bools, Chooser, Context, Floats, Opaque
from banditroute_sim.policies.baselines import EpsilonGreedy
from banditroute_sim.scenarios.episode import Episode

_LARGEST = 1e3


def _tame(x: Context) -> Floats:
    """Return a context within bounds that other libraries stand: they square numbers, some of them in float32."""
    return np.clip(x.astype(np.float64), -_LARGEST, _LARGEST)


def _tame_vote(quality: float) -> float:
    return min(max(quality, -_LARGEST), _LARGEST)


def _river(policy: str) -> Any:
    """Return `river.bandit`, which is slow to import and an extra."""
    try:
        from river import bandit  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(f"The policy '{policy}'", "sim") from error
    return bandit


class RiverThompson(Opaque):
    """`river.bandit.ThompsonSampling` on Beta distributions; it knows nothing of contexts and costs."""

    def __init__(self, episode: Episode, seed: int) -> None:
        bandit = _river("river")
        from river import proba  # noqa: PLC0415

        self._policy: Any = bandit.ThompsonSampling(reward_obj=proba.Beta(), seed=seed)
        self._arms = range(episode.mean.shape[1])
        self._rng = np.random.default_rng([seed, 19])

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        return int(self._policy.pull([arm for arm in self._arms if available[arm]]))

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        # Beta takes successes and failures: a quality in between is one of them by lot, with the same mean.
        self._policy.update(model, bool(self._rng.random() < quality))


class RiverLinUcb(Opaque):
    """`river.bandit.LinUCBDisjoint`."""

    def __init__(self, episode: Episode, seed: int) -> None:
        self._policy: Any = _river("river-linucb").LinUCBDisjoint(alpha=0.5, seed=seed)
        self._arms = range(episode.mean.shape[1])

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        arms = [arm for arm in self._arms if available[arm]]
        return int(self._policy.pull(arms, context=dict(enumerate(_tame(x).tolist()))))

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        self._policy.update(model, dict(enumerate(_tame(x).tolist())), _tame_vote(quality))


class _RiverArms(Opaque):
    """A policy of `river.bandit` that knows nothing of contexts and costs."""

    def __init__(self, episode: Episode, policy: Any) -> None:
        self._policy = policy
        self._arms = range(episode.mean.shape[1])

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        return int(self._policy.pull([arm for arm in self._arms if available[arm]]))

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        self._policy.update(model, _tame_vote(quality))


def river_epsilon_greedy(episode: Episode, seed: int) -> Chooser:
    """Return `river.bandit.EpsilonGreedy` with the epsilon of our own baseline."""
    return _RiverArms(
        episode, _river("river-epsilon-greedy").EpsilonGreedy(epsilon=EpsilonGreedy.EPSILON, seed=seed)
    )


def river_ucb(episode: Episode, seed: int) -> Chooser:
    """Return `river.bandit.UCB`, whose delta of 1 makes it UCB1."""
    return _RiverArms(episode, _river("river-ucb").UCB(delta=1, seed=seed))


def river_bayes_ucb(episode: Episode, seed: int) -> Chooser:
    """Return `river.bandit.BayesUCB`."""
    return _RiverArms(episode, _river("river-bayes-ucb").BayesUCB(seed=seed))


class VowpalWabbit(Opaque):
    """Vowpal Wabbit's `cb_explore_adf`, every context column times every model.

    The price of a model is a feature of its own, so that a new price needs no new votes. What Vowpal Wabbit calls the
    cost of a choice is 1 + price - quality, in 0..1 where quality is, as its explorers expect it.

    The default was picked by mean log regret, on seed 0. First, in six worlds of `bench.regret`: epsilon 0.02,
    squarecb with gamma_scale 10, 100 and 1000, regcb, softmax with lambda 20, cover 4 and bag 5, each with a
    learning rate of 0.5, and of 0.05 with power_t 0, all with costs of price - quality; then most of these, and
    regcbopt, with the costs of today, which served better; then regcbopt with mellowness 0.001, 0.01 and 0.1,
    softmax with lambda 20, 40 and 80, and squarecb with 100, with learning rates of 0.5 and 2. Last, in all worlds
    but `many-models`: regcbopt with mellowness 0.01, 0.03 and 0.1, and softmax. `bench._peers` has the grids.
    """

    ARGUMENTS = "--regcbopt --mellowness 0.01 -l 0.5"
    SHIFT = 1.0

    def __init__(self, episode: Episode, seed: int, arguments: str = ARGUMENTS, shift: float = SHIFT) -> None:
        try:
            import vowpalwabbit  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError("The policy 'vw'", "bench") from error
        self._vw: Any = vowpalwabbit.Workspace(
            f"--cb_explore_adf {arguments} -q xa --quiet --random_seed {seed}"
        )
        self._rng = np.random.default_rng([seed, 23])
        self._names = episode.names
        self._shift = shift
        self._open: dict[int, tuple[list[int], Floats, Floats]] = {}

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:
        """See `Chooser.choose`."""
        chances = self.probabilities(t, x, cost, available)
        self._open[t] = (np.flatnonzero(available).tolist(), chances, cost.copy())
        return int(self._rng.choice(len(chances), p=chances))

    def probabilities(self, t: int, x: Context, cost: Floats, available: Bools) -> Floats:  # noqa: ARG002
        """See `Chooser.probabilities`."""
        arms = np.flatnonzero(available)
        told = np.array(self._vw.predict(self._example(x, arms.tolist(), cost)))
        chances = np.zeros(len(available))
        chances[arms] = told / told.sum()
        return chances

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:
        """See `Chooser.learn`."""
        arms, chances, cost = self._open.pop(t)
        # an explorer that gave the model no chance cannot weigh its vote: it counts once, as if chosen for certain
        label = f"0:{self._shift + cost[model] - _tame_vote(quality)}:{chances[model] or 1.0} "
        self._vw.learn(self._example(x, arms, cost, {model: label}))

    def _example(
        self, x: Context, arms: list[int], cost: Floats, labels: dict[int, str] | None = None
    ) -> str:
        columns = " ".join(f"{i}:{value:.6g}" for i, value in enumerate(_tame(x).tolist()))
        lines = [f"shared |x {columns}"]
        for arm in arms:
            price = f" |p c:{cost[arm]:.6g}" if cost[arm] else ""
            lines.append(f"{(labels or {}).get(arm, '')}|a {self._names[arm]}{price}")
        return "\n".join(lines)


class MabWiser(Opaque):
    """MABWiser's `LinTS`."""

    def __init__(self, episode: Episode, seed: int) -> None:
        try:
            from mabwiser.mab import MAB, LearningPolicy  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError("The policy 'mabwiser'", "bench") from error
        self._arms = list(range(episode.mean.shape[1]))
        self._mab: Any = MAB(self._arms, LearningPolicy.LinTS(alpha=0.3, l2_lambda=1.0), seed=seed)
        d = episode.x.shape[1]
        self._mab.fit(self._arms, [0.5] * len(self._arms), np.zeros((len(self._arms), d)))

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        expected = self._mab.predict_expectations(_tame(x)[None])
        score = np.array([expected[arm] for arm in self._arms]) - cost
        return int(np.where(available, score, -np.inf).argmax())

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        self._mab.partial_fit([model], [_tame_vote(quality)], _tame(x)[None])
