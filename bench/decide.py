"""How fast a decision is, and learning from it, at K models and contexts of d numbers, beside three libraries.

`KxD-one` (1/s): contexts one at a time from Python to the index of a model, random draws, costs and limits included.
`KxD-batch256`: 256 at once. `KxD-online`: decide and learn one at a time over an episode that starts without evidence,
posteriors derived at the shipped cadence (`derives` of them). `8-propensity` (microseconds): what the propensity of the
chosen model and the ranking of the others add at K = 8. `KxD-derive` (microseconds): one derive of the posterior.
`mib` is the memory of a policy.

The peers get their contexts in the form that is fastest for them, made before the clock starts: Vowpal Wabbit parsed
examples (`vw`; `vw-text` parses the text, as a service has to), river dictionaries, MABWiser float64 rows and for a
batch all rows at once. Vowpal Wabbit and river have no batches: ours is compared with their rate one by one. Drawing
from Vowpal Wabbit's probabilities is not on its clock. `limit` is what float32 multiplications and additions of half of
each covariance would cost at the measured rate of one core, and nothing else. `ours-over-…` are medians of the
ratios within a round, `bar` what the product promises.

`--quick` takes three sizes and fewer rounds. All times are CPU time of the process, on one thread.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from banditroute.bandit.choice.policy import DecideBatch, Policy
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, Vote
from banditroute.bandit.posterior.posterior import ModelPrior
from bench.harness import Report, Row, interleave, one_thread, options, progress, progress_done

PACKAGES = ("banditroute", "numpy", "numba", "llvmlite", "vowpalwabbit", "mabwiser", "river")
SIZES = ((4, 16), (8, 32), (8, 64), (16, 64), (16, 128))
QUICK_SIZES = ((4, 16), (8, 64), (16, 64))
MORE_SIZES = ((2, 16), (50, 64), (100, 64), (8, 256), (100, 256))  # ours alone: how cost and memory grow
MAIN = (8, 64)  # the bars are set there
BARS = {
    ("one", "vw"): 10.0,
    ("batch256", "vw"): 20.0,
    ("online", "vw"): 10.0,
    ("online", "river"): 60.0,
    ("online", "mabwiser"): 170.0,
}
SECONDS = 0.04  # of one measurement, at least
CONTEXTS = 256
PASS = 16  # contexts that one call of what is measured takes one after the other
EPISODE = 100_000
VW = "--cb_explore_adf --squarecb --gamma_scale 100 -q xa --power_t 0 -l 0.05 --quiet --random_seed 1"
ALPHA = 0.5
SETTINGS = {
    "vw": VW,
    "vw-text": VW,
    "river": f"LinUCBDisjoint(alpha={ALPHA})",
    "mabwiser": "LinTS(alpha=0.3, l2_lambda=1.0)",
}
Measure = Callable[[], float]


def rate(work: Callable[[int], Any], amount: int = 1) -> float:
    """Return amount per second of CPU time, over a fixed while; ``work`` gets the number of the call."""
    work(0)
    done, start = 0, time.process_time()
    while True:
        work(done)
        done += 1
        elapsed = time.process_time() - start
        if elapsed > SECONDS:
            return done * amount / elapsed


def each(act: Callable[[Any], Any], items: Sequence[Any]) -> Measure:
    """Return what measures how often ``act`` is done per second, with one item after the other."""
    parts = [items[i : i + PASS] for i in range(0, CONTEXTS, PASS)]

    def work(number: int) -> None:
        for item in parts[number % len(parts)]:
            act(item)

    return lambda: rate(work, PASS)


class World:
    """Contexts, prices and linear qualities of K models."""

    def __init__(self, models: int, d: int) -> None:
        rng = np.random.default_rng([models, d])
        x = rng.normal(size=(CONTEXTS, d)) / math.sqrt(max(d - 1, 1))
        x[:, 0] = 1.0
        self.models, self.d = models, d
        self.x = x.astype(np.float32)
        mean = self.x @ np.vstack([rng.normal(0.5, 0.1, (1, models)), rng.normal(0, 0.25, (d - 1, models))])
        self.quality: list[list[float]] = np.clip(rng.normal(mean, 0.3), 0.0, 1.0).tolist()
        self.prices = rng.uniform(0.1, 10.0, (models, 2))
        self.rows = list(self.x)

    def policy(self, votes: int = 0) -> tuple[Policy, Evidence]:
        """Return a policy that has learned a number of votes per model."""
        keys = [ModelKey(f"model-{k:03d}") for k in range(self.models)]
        policy = Policy([ModelPrior(key) for key in keys], [(0, 1), (1, self.d)], seed=1)
        evidence = Evidence(self.d)
        for i in range(votes):
            for k, key in enumerate(keys):
                row = (i * self.models + k) % CONTEXTS
                evidence.add(key, self.rows[row], Vote(quality=self.quality[row][k]), 1.0)
        if votes:
            policy.derive(evidence)
        return policy, evidence


def ours(world: World) -> dict[str, Measure]:
    """Return what measures the product."""
    policy, evidence = world.policy(50)
    rows, keys = world.rows, itertools.count()
    one = policy.single(world.prices)
    one.limits[:3] = 400.0, 1000.0, 1.0  # input tokens, most output tokens, cost weight
    batch = DecideBatch.of(
        world.x,
        np.arange(CONTEXTS),
        world.prices,
        input_tokens=400.0,
        max_output_tokens=1000.0,
        cost_weight=1.0,
    )

    decide = policy.choose
    parts = [rows[i : i + PASS] for i in range(0, CONTEXTS, PASS)]

    def choose(number: int) -> None:
        for x in parts[number % len(parts)]:
            decide(one, x, next(keys))

    def weigh(number: int) -> None:
        for x in parts[number % len(parts)]:
            decide(one, x, next(keys), propensity=True)

    return {
        "one": lambda: rate(choose, PASS),
        "one-propensity": lambda: rate(weigh, PASS),
        "batch256": lambda: rate(lambda _: policy.decide(batch, propensity=False), CONTEXTS),
        "derive": lambda: rate(lambda _: policy.derive(evidence)),
    }


def online(world: World, count: int) -> tuple[float, int]:
    """Return rounds per second of a whole episode, and how often a posterior was derived."""
    policy, evidence = world.policy()
    one = policy.single(world.prices)
    one.limits[:3] = 400.0, 1000.0, 1.0
    rows, quality, derives = world.rows, world.quality, 0
    start = time.process_time()
    for t in range(count):
        i = t % CONTEXTS
        x = rows[i]
        k = policy.choose(one, x, t)
        if policy.learn_served(evidence, one, k, x, quality[i][k]):
            policy.derive(evidence)
            derives += 1
    return count / (time.process_time() - start), derives


def vw(world: World, text: bool) -> dict[str, Measure]:
    """Return what measures Vowpal Wabbit; costs are what it minimises."""
    import vowpalwabbit

    workspace = vowpalwabbit.Workspace(VW)

    def example(row: int, label: int | None) -> str:
        columns = " ".join(f"{i}:{value:.6g}" for i, value in enumerate(world.x[row].tolist()))
        cost = "" if label is None else f"0:{-world.quality[row][label]:.6g}:{1 / world.models:.6g} "
        lines = [f"{cost if k == label else ''}|a m{k}" for k in range(world.models)]
        return "\n".join([f"shared |x {columns}", *lines])

    asked: list[Any] = [example(row, None) for row in range(CONTEXTS)]
    told: list[Any] = [example(row, row % world.models) for row in range(CONTEXTS)]
    if not text:
        asked, told = [workspace.parse(a) for a in asked], [workspace.parse(a) for a in told]

    def both(pair: tuple[Any, Any]) -> None:
        workspace.predict(pair[0])
        workspace.learn(pair[1])

    pairs = list(zip(asked, told, strict=True))
    for pair in pairs:
        both(pair)
    return {"one": each(workspace.predict, asked), "online": each(both, pairs)}


def river(world: World) -> dict[str, Measure]:
    """Return what measures river."""
    from river import bandit

    policy: Any = bandit.LinUCBDisjoint(alpha=ALPHA, seed=1)
    arms, contexts = list(range(world.models)), [dict(enumerate(x.tolist())) for x in world.x]

    def both(i: int) -> None:
        arm = policy.pull(arms, context=contexts[i])
        policy.update(arm, contexts[i], world.quality[i][arm])

    for i in range(CONTEXTS):
        policy.update(i % world.models, contexts[i], world.quality[i][i % world.models])
    return {
        "one": lambda: rate(lambda i: policy.pull(arms, context=contexts[i % CONTEXTS])),
        "online": lambda: rate(lambda i: both(i % CONTEXTS)),
    }


def mabwiser(world: World) -> dict[str, Measure]:
    """Return what measures MABWiser."""
    from mabwiser.mab import MAB, LearningPolicy

    arms = list(range(world.models))
    mab: Any = MAB(arms, LearningPolicy.LinTS(alpha=0.3, l2_lambda=1.0), seed=1)
    x = world.x.astype(np.float64)
    rows = [x[i : i + 1] for i in range(CONTEXTS)]
    mab.fit(
        [i % world.models for i in range(CONTEXTS)],
        [world.quality[i][i % world.models] for i in range(CONTEXTS)],
        x,
    )

    def both(i: int) -> None:
        arm = mab.predict(rows[i])
        mab.partial_fit([arm], [world.quality[i][arm]], rows[i])

    return {
        "one": lambda: rate(lambda i: mab.predict(rows[i % CONTEXTS])),
        "batch256": lambda: rate(lambda _: mab.predict(x), CONTEXTS),
        "online": lambda: rate(lambda i: both(i % CONTEXTS)),
    }


@numba.njit(fastmath={"contract"}, cache=True)
def multiply_add(values: Any, repeats: int) -> None:
    """16 dependent multiply-adds on every value in a register; many values keep the units busy."""
    a, b = np.float32(0.999), np.float32(0.001)
    for _ in range(repeats):
        for i in range(values.shape[0]):
            v = values[i]
            for _ in range(16):
                v = v * a + b
            values[i] = v


def flops() -> float:
    """Return the float32 operations per second of one core."""
    values = np.ones(512, np.float32)
    return rate(lambda _: multiply_add(values, 40), 40 * 512 * 16 * 2)


def memory(world: World) -> float:
    """Return the MiB that a policy, its posterior and the evidence hold."""
    policy, evidence = world.policy(1)
    arrays = [a for part in (vars(policy), evidence.rows) for a in part.values() if isinstance(a, np.ndarray)]
    posterior = policy.posterior
    arrays += [evidence.shared, posterior.V, posterior.mu]
    return sum(a.nbytes for a in arrays) / 2**20


def size_rows(report: Report, world: World, rounds: int, episode: int) -> None:
    """Measure one size: ours, the peers and the limit in interleaved rounds."""
    name = f"{world.models}x{world.d}"
    derives = [0]

    def play() -> float:
        value, derives[0] = online(world, episode)
        return value

    online(world, 100)  # what is compiled is not measured
    contenders: dict[tuple[str, str], Measure] = {
        (case, "banditroute"): measure for case, measure in ours(world).items()
    }
    contenders["online", "banditroute"] = play
    peers = {
        "vw": lambda: vw(world, text=False),
        "vw-text": lambda: vw(world, text=True),
        "river": lambda: river(world),
        "mabwiser": lambda: mabwiser(world),
    }
    for who, make in peers.items():
        try:
            contenders |= {(case, who): measure for case, measure in make().items()}
        except ImportError:
            report.skip(f"{name} {who}", f"{who.partition('-')[0]} is not installed")
    contenders["one", "limit"] = flops
    found = interleave(
        {f"{case} {who}": measure for (case, who), measure in contenders.items()}, rounds, progress
    )
    values = {key: found[" ".join(key)] for key in contenders}
    add_rows(report, world, values, {"online": {"rounds_played": episode, "derives": derives[0]}})


def add_rows(
    report: Report, world: World, values: dict[tuple[str, str], list[float]], extra: dict[str, dict[str, Any]]
) -> None:
    """Add the rows of one size and the ratios within a round."""
    name = f"{world.models}x{world.d}"
    work = world.models * world.d * (world.d + 1)
    for (case, who), rates in values.items():
        if case == "derive":
            report.rows.append(Row.of(f"{name}-derive", who, [1e6 / value for value in rates], "us"))
        elif case == "one-propensity":
            added = [1e6 / p - 1e6 / plain for p, plain in zip(rates, values["one", who], strict=True)]
            if (world.models, world.d) == MAIN:
                report.rows.append(Row.of("8-propensity", who, added, "us", bar=1.5))
        elif who == "limit":
            for column in ("one", "batch256"):
                report.rows.append(
                    Row.of(f"{name}-{column}", who, [v / work for v in rates], "1/s", gflops=max(rates) / 1e9)
                )
        else:
            more = extra.get(case, {}) if who == "banditroute" else {}
            more = more | ({"mib": memory(world)} if (case, who) == ("one", "banditroute") else {})
            more = more | ({"settings": SETTINGS[who]} if who in SETTINGS and case == "one" else {})
            report.rows.append(Row.of(f"{name}-{case}", who, rates, "1/s", **more))
    for case in ("one", "batch256", "online"):
        for who in ("vw", "vw-text", "river", "mabwiser", "limit"):
            alone = who in ("vw", "vw-text", "river", "limit") and case == "batch256"
            theirs = values.get(("one", who) if alone else (case, who))
            if theirs is None:
                continue
            if who == "limit":
                theirs = [value / work for value in theirs]
            ratios = [a / b for a, b in zip(values[case, "banditroute"], theirs, strict=True)]
            bar = BARS.get((case, who)) if (world.models, world.d) == MAIN else None
            more = {} if bar is None else {"bar": bar}
            report.rows.append(Row.of(f"{name}-{case}", f"ours-over-{who}", ratios, "ratio", **more))


def growth_rows(report: Report, rounds: int) -> None:
    """Measure ours alone at more sizes."""
    for models, d in MORE_SIZES:
        world = World(models, d)
        found = interleave(ours(world), rounds, progress)
        add_rows(report, world, {(case, "banditroute"): rates for case, rates in found.items()}, {})


def main() -> None:
    """Measure everything."""
    arguments = options(__doc__).parse_args()
    one_thread()
    report = Report("decide", PACKAGES)
    quick = arguments.quick
    for models, d in QUICK_SIZES if quick else SIZES:
        main_size = (models, d) == MAIN
        rounds = (5 if main_size else 2) if quick else (15 if main_size else 7)
        size_rows(report, World(models, d), rounds, EPISODE)
    if not quick:
        growth_rows(report, 5)
    progress_done()
    report.show(arguments.json)


if __name__ == "__main__":
    main()
