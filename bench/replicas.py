"""What it costs that replicas learn from each other late: cumulative regret by number of replicas and publish interval.

Every request goes to a replica by lot. A vote is learned at once by the replica that decided, and by the others with
its next publication, after `interval` requests of the whole deployment. `value` is the mean cumulative regret over
the seeds; `extra` is the mean of what it is above one replica in the same episode, with its standard error. Seeds are
1000 and up. Changes are not looked for, so that nothing but staleness differs.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from banditroute.bandit.evidence.evidence import Evidence
from banditroute_sim.policies.base import Bools, Context, Floats
from banditroute_sim.policies.ours import Banditroute
from banditroute_sim.scenarios import draw
from banditroute_sim.scenarios.episode import Episode
from banditroute_sim.simulate.single import run
from bench.harness import Report, Row, options, progress, progress_done

FIRST_SEED = 1000
WORLDS = ("contextual", "linear")
REPLICAS = (2, 4, 8)
INTERVALS = (100, 1000, 5000)
SEEDS, QUICK_SEEDS = 20, 2


class Replicas:
    """So many engines, each with the evidence of its own votes and what the others have published."""

    def __init__(self, episode: Episode, seed: int, count: int, interval: int) -> None:
        self._engines = [Banditroute(episode, seed, detect=False) for _ in range(count)]
        self._lot = np.random.default_rng([seed, count]).integers(count, size=len(episode))
        self._interval = interval
        self._published = [engine.session.evidence.copy() for engine in self._engines]
        for number, engine in enumerate(self._engines):
            policy: Any = engine.session.policy
            policy.derive = functools.partial(self._derive, number, policy.derive)

    def _derive(self, number: int, derive: Any, own: Evidence) -> Any:
        parts = [own if i == number else other for i, other in enumerate(self._published)]
        return derive(Evidence.merge(parts))

    def choose(self, t: int, x: Context, cost: Floats, available: Bools) -> int:
        count = len(self._engines)
        due = t % self._interval  # each at a moment of its own, as the jitter of engines has it
        for number in range(count):
            if count > 1 and due == number * self._interval // count:
                self._publish(number)
        return self._engines[self._lot[t]].choose(t, x, cost, available)

    def _publish(self, number: int) -> None:
        self._published[number] = self._engines[number].session.evidence.copy()
        for other, engine in enumerate(self._engines):
            if other != number:
                engine.session.policy.derive(engine.session.evidence)
                engine.session.exploration.rest(engine.session.policy)

    def learn(self, t: int, x: Context, model: int, quality: float) -> None:
        self._engines[self._lot[t]].learn(t, x, model, quality)


def regret(name: str, seed: int, count: int, interval: int) -> float:
    episode = draw(name, seed)
    return run(episode, Replicas(episode, seed, count, interval)).total  # type: ignore[arg-type]


def main() -> None:
    """Run all worlds."""
    parser = options(__doc__)
    parser.add_argument("--only", help="worlds, separated by commas")
    parser.add_argument("--seeds", type=int, help="episodes of every world")
    given = parser.parse_args()
    report = Report("replicas", ("banditroute", "numpy", "numba"))
    worlds = given.only.split(",") if given.only else list(WORLDS[:1] if given.quick else WORLDS)
    seeds = range(FIRST_SEED, FIRST_SEED + (given.seeds or (QUICK_SEEDS if given.quick else SEEDS)))
    settings = [(1, 1), *((count, interval) for count in REPLICAS for interval in INTERVALS)]
    for name in worlds:
        rounds = len(draw(name, FIRST_SEED))
        alone: np.ndarray | None = None
        for count, interval in settings:
            progress(f"{name}: {count} replicas, every {interval} requests")
            found = np.array([regret(name, seed, count, interval) for seed in seeds])
            alone = found if alone is None else alone
            extra = found - alone
            more: dict[str, Any] = {
                "se": float(found.std(ddof=1) / len(found) ** 0.5),
                "extra": float(extra.mean()),
                "extra_se": float(extra.std(ddof=1) / len(extra) ** 0.5),
                "seeds": len(found),
                "rounds": rounds,
            }
            case = name if count == 1 else f"{name}-{count}-every-{interval}"
            report.rows.append(Row(case, "banditroute", float(found.mean()), "regret", None, more))
    progress_done()
    report.show(given.json)


if __name__ == "__main__":
    main()
