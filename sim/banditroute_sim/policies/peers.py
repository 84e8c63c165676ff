"""Thin adapters of other libraries: river comes with the base install, Vowpal Wabbit and MABWiser with `bench`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from banditroute.errors import MissingExtraError
from banditroute_sim.policies.base import Floats
from banditroute_sim.scenarios.episode import Episode

Bools = NDArray[np.bool_]
Context = NDArray[np.float32]


class RiverThompson:
    """`river.bandit.ThompsonSampling` on Beta distributions; it knows nothing of contexts and costs."""

    def __init__(self, episode: Episode, seed: int) -> None:
        from river import bandit, proba  # noqa: PLC0415 - slow to import

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


class RiverLinUcb:
    """`river.bandit.LinUCBDisjoint`."""

    def __init__(self, episode: Episode, seed: int) -> None:
        from river import bandit  # noqa: PLC0415

        self._policy: Any = bandit.LinUCBDisjoint(alpha=0.5, seed=seed)
        self._arms = range(episode.mean.shape[1])

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:  # noqa: ARG002
        """See `Chooser.choose`."""
        arms = [arm for arm in self._arms if available[arm]]
        return int(self._policy.pull(arms, context=dict(enumerate(x.tolist()))))

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        self._policy.update(model, dict(enumerate(x.tolist())), quality)


class VowpalWabbit:
    """Vowpal Wabbit's `cb_explore_adf` with SquareCB, every context column times every model."""

    ARGUMENTS = "--cb_explore_adf --squarecb --gamma_scale 100 -q xa --quiet --power_t 0 -l 0.05"

    def __init__(self, episode: Episode, seed: int) -> None:
        try:
            import vowpalwabbit  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtraError("The policy 'vw'", "bench") from error
        self._vw: Any = vowpalwabbit.Workspace(f"{self.ARGUMENTS} --random_seed {seed}")
        self._rng = np.random.default_rng([seed, 23])
        self._open: dict[int, tuple[list[int], list[float], Floats]] = {}
        self._models = episode.mean.shape[1]

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:
        """See `Chooser.choose`."""
        arms = np.flatnonzero(available).tolist()
        chances = np.array(self._vw.predict(self._example(x, arms)))
        chances /= chances.sum()
        place = int(self._rng.choice(len(arms), p=chances))
        self._open[t] = (arms, chances.tolist(), cost)
        return int(arms[place])

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:
        """See `Chooser.learn`."""
        arms, chances, cost = self._open.pop(t)
        place = arms.index(model)
        label = f"0:{cost[model] - quality}:{chances[place]} "
        self._vw.learn(self._example(x, arms, {model: label}))

    def _example(self, x: Context, arms: list[int], labels: dict[int, str] | None = None) -> str:
        columns = " ".join(f"{i}:{value:.6g}" for i, value in enumerate(x.tolist()))
        lines = [f"shared |x {columns}"]
        lines += [f"{(labels or {}).get(arm, '')}|a m{arm}" for arm in arms]
        return "\n".join(lines)


class MabWiser:
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
        expected = self._mab.predict_expectations(x[None].astype(np.float64))
        score = np.array([expected[arm] for arm in self._arms]) - cost
        return int(np.where(available, score, -np.inf).argmax())

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:  # noqa: ARG002
        """See `Chooser.learn`."""
        self._mab.partial_fit([model], [quality], x[None].astype(np.float64))
