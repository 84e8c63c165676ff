"""Whether off-policy intervals hold: how often they cover the truth on logs of worlds that we know.

Every log is 2,000 decisions of the engine's policy, from nothing, in a world of its own. `floor` explores by lot one
time in five, `plain` never does, `budget` solves for the cost weight, `budget-floor` does both. Targets: `uniform`;
`soft`, a fixed policy that takes better models more often; `near`, the logged objective with noise reckoned from the
log. The truth is that of the world, not of the requests that happened to come: for `near`, the mean over kinds of
requests of what its choices in the log are worth. `value` is the share of logs whose 95 % interval holds the truth, of
those that are not refused; `logs` says how many these are. `frequency` compares sampled choices with logged
propensities: the standard deviation of z = Σ (chosen − p) / √(Σ p (1 − p)) over logs and models is 1 if they agree.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from banditroute.bandit.objectives.pacing import BudgetPacer
from banditroute_sim.evaluate.known import KnownLog, KnownWorld, known_log
from banditroute_sim.evaluate.run import EvaluationOptions, evaluate
from banditroute_sim.evaluate.targets import ByCell, Objective, Target, Uniform
from bench.harness import Report, Row, options, progress, progress_done

LOGS, QUICK_LOGS, FIRST_SEED = 1000, 20, 1000
WITH_FREQUENCIES = 100
DECISIONS = 2000
FLOOR, BUDGET = 0.2, 0.003
CASES: dict[str, tuple[float, bool, tuple[str, ...]]] = {
    "floor": (FLOOR, False, ("uniform", "soft")),
    "budget-floor": (FLOOR, True, ("soft",)),
    "plain": (0.0, False, ("near",)),
    "budget": (0.0, True, ("near",)),
}


Covered = dict[tuple[str, str, str], list[bool]]


def target_of(
    name: str, world: KnownWorld, log: KnownLog, floor: float
) -> tuple[Target, tuple[float, float]]:
    """Return a target and its true mean quality and cost."""
    if name == "near":
        near = Objective(sampled=True, floor=floor)
        return near, log.truth(near.plan(log.batch).probabilities)
    even = np.full(world.quality.shape, 1.0 / world.quality.shape[1])
    known = ByCell("uniform", dict(enumerate(even))) if name == "uniform" else world.softmax(20.0, 0.1)
    return Uniform() if name == "uniform" else known, world.worth(known.table)


def one_world(
    seed: int, covered: Covered, refused: defaultdict[str, int], z: defaultdict[str, list[float]]
) -> None:
    """Add what one world of each case gives."""
    world = KnownWorld.draw(np.random.default_rng([seed, 1]))
    for case, (floor, budget, names) in CASES.items():
        every = seed < FIRST_SEED + WITH_FREQUENCIES
        pacer = BudgetPacer(per_request=BUDGET) if budget else None
        log = known_log(world, seed, DECISIONS, floor=floor, pacer=pacer, every=every)
        if every:
            chosen = np.eye(log.every.shape[1])[log.batch.chosen]
            spread = np.sqrt((log.every * (1.0 - log.every)).sum(axis=0))
            z[case] += ((chosen - log.every).sum(axis=0) / spread)[spread > 1.0].tolist()
        for name in names:
            target, truth = target_of(name, world, log, floor)
            asked = EvaluationOptions(replicates=1000, seed=seed, logged_floor=floor)
            result = evaluate(log, target, asked)
            label = f"{case}/{name}"
            if result["refused"]:
                refused[label] += 1
                continue
            _cover(covered, label, result, truth)


def _cover(covered: Covered, label: str, result: dict[str, Any], truth: tuple[float, float]) -> None:
    utility = truth[0] - result["cost_weight"] * truth[1]
    for outcome, right in (("quality", truth[0]), ("cost_usd", truth[1]), ("utility", utility)):
        for estimator in ("ips", "snips", "dr"):
            for kind in ("bootstrap", "empirical_bernstein"):
                ends = result["estimates"][outcome][estimator][kind]
                if ends is not None:
                    hit = ends[0] <= right <= ends[1]
                    covered.setdefault((label, f"{outcome}-{estimator}", kind), []).append(hit)


def main() -> None:
    """Run it."""
    arguments = options(__doc__).parse_args()
    logs = QUICK_LOGS if arguments.quick else LOGS
    covered: Covered = {}
    refused: defaultdict[str, int] = defaultdict(int)
    z: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(logs):
        progress(f"log {number + 1} of {logs}")
        one_world(FIRST_SEED + number, covered, refused, z)
    progress_done()
    report = Report("offpolicy", ["banditroute", "numpy", "scipy"])
    for (label, what, kind), hits in covered.items():
        more = {"logs": len(hits), "refused": refused[label]}
        report.rows.append(Row(f"{label}/{what}", kind, float(np.mean(hits)), "share", more=more))
    for case, values in z.items():
        report.rows.append(
            Row(f"frequency/{case}", "banditroute", float(np.std(values)), "sd of z", more={"n": len(values)})
        )
    report.show(arguments.json)


if __name__ == "__main__":
    main()
