"""How fast a simulation is: steps, each a decision and what is learned from it, per second of one core.

`compiled` (1/s): the product's policy in the compiled path, K = 8 models, contexts of d = 32, votes at once, nothing
changes; posteriors at the shipped cadence. `compiled-flip`: the same on thumbs without context. `world` and
`world-flip` are the drawing of these worlds alone, shared by all policies that meet them. `router` (1/s): the same
world through the library face, events in and out, decisions and votes in polls of 256. `baseline-…`: the compiled
baselines.

The peers' simulators on the same world: `river` is `bandit.evaluate` with Thompson sampling, which knows nothing of
contexts, on an environment that looks up its rewards; `river-linucb` is its LinUCB, which `bandit.evaluate` cannot
drive, in a plain loop; `mabwiser` is its `Simulator` with LinTS, online in batches of 100. `ours-over-…` are medians of
the ratios within a round, `bar` what the product promises. All these are CPU time of the process.

`flip-1M-20-seeds` (s, without `--quick`): wall time of a million rounds, twenty seeds and six policies on two workers,
and the CPU time of it.
"""

from __future__ import annotations

import logging
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from banditroute_sim.policies import POLICIES
from banditroute_sim.scenarios import Episode, pieces
from banditroute_sim.simulate.compiled import BASELINES, CompiledBaseline, CompiledOurs
from banditroute_sim.simulate.options import SimulateOptions
from banditroute_sim.simulate.run import _contiguous, simulate
from bench.harness import Report, Row, interleave, one_thread, options, progress, progress_done

PACKAGES = ("banditroute", "numpy", "numba", "river", "mabwiser", "joblib")
SEED = 1000
ROUNDS, SUITE_ROUNDS = 500_000, 1_000_000
ROUTER, RIVER, LINUCB, MABWISER = 131_072, 5000, 1500, 600
POLL = 256
BARS = {"compiled": 500_000.0, "router": 100_000.0, "flip-1M-20-seeds": 180.0}
SUITE = ("banditroute", "uniform", "epsilon-greedy", "ucb1", "beta-ts", "linucb")
SETTINGS = {
    "river": "bandit.evaluate, ThompsonSampling on Gaussian rewards",
    "river-linucb": "LinUCBDisjoint(alpha=0.5), pull and update",
    "mabwiser": "Simulator, LinTS(alpha=0.3, l2_lambda=1.0), batch_size 100",
}


def draw(name: str, rounds: int) -> list[Episode]:
    return [_contiguous(piece) for piece in pieces(name, SEED, rounds)]


def timed(rounds: int, work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return rounds / (time.process_time() - start)


def play(make: Callable[[], Any], parts: list[Episode], rounds: int) -> float:
    player = make()

    def work() -> None:
        for part in parts:
            player.play(part)

    return timed(rounds, work)


class Router:
    """The library face, fed as a stream feeds it: a poll of requests, then their votes."""

    def __init__(self, world: list[Episode], rounds: int) -> None:
        self.policy: Any = POLICIES["router"](world[0], SEED)
        self.names = {name: k for k, name in enumerate(world[0].names)}
        contexts = [row for part in world for row in part.x[:, 1:].tolist()][:rounds]
        self.requests = [{"request_id": str(t), "context": row} for t, row in enumerate(contexts)]
        self.votes = [row for part in world for row in np.clip(part.quality, 0.0, 1.0).tolist()][:rounds]
        assert len(self.requests) == rounds

    def run(self) -> None:
        router = self.policy.router
        for start in range(0, len(self.requests), POLL):
            decisions = router.decide_many(self.requests[start : start + POLL])
            router.learn_many(
                {
                    "request_id": decision.request_id,
                    "kind": "score",
                    "value": self.votes[i][self.names[decision.model]],
                }
                for i, decision in enumerate(decisions, start)
            )


class RiverWorld:
    """What `river.bandit.evaluate` asks of an environment of gymnasium."""

    class Space:
        def __init__(self, n: int) -> None:
            self.n = n

        def seed(self, _seed: int) -> None:
            """Nothing is drawn from it."""

    def __init__(self, votes: list[list[float]]) -> None:
        self.votes, self.t, self.action_space = votes, 0, self.Space(len(votes[0]))

    def __deepcopy__(self, _memo: Any) -> RiverWorld:
        return RiverWorld(self.votes)

    def reset(self, seed: int) -> None:  # noqa: ARG002
        self.t = 0

    def step(self, arm: int) -> tuple[None, float, bool, bool, dict[str, Any]]:
        vote = self.votes[self.t][arm]
        self.t += 1
        return None, vote, self.t == len(self.votes), False, {}


def river_contenders(world: Episode) -> Mapping[str, Callable[[], float]]:
    from river import bandit, proba

    env = RiverWorld(world.quality[:RIVER].tolist())
    contexts = [dict(enumerate(row)) for row in world.x[:LINUCB].astype(float).tolist()]
    votes = world.quality[:LINUCB].tolist()

    def evaluate() -> float:
        policy = bandit.ThompsonSampling(reward_obj=proba.Gaussian(), seed=1)

        def work() -> None:
            for _ in bandit.evaluate([policy], env, n_episodes=1, seed=1):
                pass

        return timed(RIVER, work)

    def linucb() -> float:
        policy = bandit.LinUCBDisjoint(alpha=0.5, seed=1)
        arms = range(world.mean.shape[1])

        def work() -> None:
            for context, vote in zip(contexts, votes, strict=True):
                arm = policy.pull(arms, context=context)
                policy.update(arm, context, vote[arm])

        return timed(LINUCB, work)

    return {"river": evaluate, "river-linucb": linucb}


def mabwiser_contenders(world: Episode) -> Mapping[str, Callable[[], float]]:
    from mabwiser.mab import MAB, LearningPolicy
    from mabwiser.simulator import Simulator

    rows = np.arange(MABWISER)
    arms = rows % world.mean.shape[1]
    logged = world.quality[rows, arms]
    x = world.x[:MABWISER].astype(float)

    def run() -> float:
        mab = MAB(list(range(world.mean.shape[1])), LearningPolicy.LinTS(alpha=0.3, l2_lambda=1.0), seed=1)
        logging.disable(logging.CRITICAL)
        simulator = Simulator(
            [("lints", mab)], arms, logged, x, test_size=0.9, is_ordered=True, batch_size=100, is_quick=True
        )
        value = timed(int(0.9 * MABWISER), simulator.run)
        logging.disable(logging.NOTSET)
        return value

    return {"mabwiser": run}


def suite() -> Row:
    """Run the large job and return its wall time."""
    from joblib.externals.loky import get_reusable_executor

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    simulate(
        SimulateOptions(
            scenarios=("flip",), policies=SUITE, seeds=20, first_seed=SEED, horizon=SUITE_ROUNDS, workers=2
        ),
        lambda done: progress(f"flip: {done} of 20 seeds"),
    )
    wall = time.perf_counter() - start
    get_reusable_executor().shutdown(wait=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    more = {
        "bar": BARS["flip-1M-20-seeds"],
        "cpu_s": cpu,
        "workers": 2,
        "child_mib": after.ru_maxrss // 1024,
    }
    return Row("flip-1M-20-seeds", "banditroute", wall, "s", None, more)


def main() -> None:
    """Run it."""
    arguments = options(__doc__).parse_args()
    one_thread()
    report = Report("simulate", PACKAGES)
    rounds = ROUNDS
    linear, flip = draw("linear", rounds), draw("flip", rounds)
    head = linear[0]
    contenders: dict[str, Callable[[], float]] = {
        "compiled": lambda: play(lambda: CompiledOurs(head, SEED, rounds), linear, rounds),
        "router": lambda: timed(ROUTER, Router(linear, ROUTER).run),
    }
    for make in (river_contenders, mabwiser_contenders):
        try:
            contenders |= make(head)
        except ImportError as error:
            report.skip(make.__name__.partition("_")[0], f"{error.name} is not installed")
    contenders |= {
        "compiled-flip": lambda: play(lambda: CompiledOurs(flip[0], SEED, rounds), flip, rounds),
        "world": lambda: timed(rounds, lambda: draw("linear", rounds)),
        "world-flip": lambda: timed(rounds, lambda: draw("flip", rounds)),
    }
    for name in () if arguments.quick else ("uniform", "epsilon-greedy", "ucb1", "beta-ts", "linucb"):
        assert name in BASELINES
        contenders[f"baseline-{name}"] = lambda name=name: play(
            lambda: CompiledBaseline(name, head, SEED, rounds), linear, rounds
        )
    for part in (linear, flip):  # compile
        CompiledOurs(part[0], SEED, 64).play(part[0].upto(64))
        CompiledBaseline("uniform", part[0], SEED, 64).play(part[0].upto(64))
    Router(linear, POLL).run()
    found = interleave(contenders, 3, progress)
    progress_done()
    peers = [who for who in ("river", "river-linucb", "mabwiser") if who in found]
    for who, values in found.items():
        if who in peers:
            report.rows.append(Row.of("compiled", who, values, "1/s", settings=SETTINGS[who]))
            continue
        more: dict[str, Any] = {"bar": BARS[who]} if who in BARS else {}
        if who in ("compiled", "router"):
            for peer in peers:
                ratios = [ours / theirs for ours, theirs in zip(values, found[peer], strict=True)]
                more[f"ours_over_{peer}"] = statistics.median(ratios)
        report.rows.append(Row.of(who, "banditroute", values, "1/s", **more))
    if not arguments.quick:
        report.rows.append(suite())
    report.show(arguments.json)


if __name__ == "__main__":
    main()
