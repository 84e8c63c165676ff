"""What each ingredient of the bandit buys: mean cumulative regret with one of them taken out, on every world.

Every variant meets the same episodes, on seeds below 1000. The ingredients are taken out from outside, by constants of
the prior or of a kernel, so that the product needs no switches; a variant runs in a process of its own, because a
kernel's constants are compiled in. `ratio` is the geometric mean over worlds of regret relative to the full algorithm
(regret below 1 counts as 1).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from banditroute.bandit.choice import state_layout as packing
from banditroute.bandit.evidence import _kernels_add as _kernels_evidence
from banditroute.bandit.posterior.prior import PriorConfig
from banditroute_sim.policies.ours import Banditroute
from banditroute_sim.scenarios import draw
from banditroute_sim.simulate.single import run
from bench import ROOT
from bench.harness import Report, Row, figure, options, progress, progress_done, table
from bench.regret import WORLDS

SEEDS, QUICK_SEEDS = 4, 1
QUICK_WORLDS = ("stationary", "flip", "linear", "new-model")
FIXED = 1e12  # pseudo-observations or a precision that no evidence moves


@dataclass(frozen=True)
class Variant:
    """What is different: constants of the prior, constants of the decision kernels, the search for changes."""

    prior: Mapping[str, float] = field(default_factory=dict)
    kernel: Mapping[str, float] = field(default_factory=dict)
    detect: bool = True


VARIANTS = {
    "full": Variant(),
    "no bonus": Variant(kernel={"CURIOSITY": 0.0}),
    "no model noise": Variant(kernel={"NOISE": 0.0}),
    "no empirical Bayes": Variant(prior={"scale_count": FIXED}),
    "no pooled mean": Variant(prior={"pool_precision_intercept": FIXED, "pool_precision": FIXED}),
    "fixed noise variance": Variant(prior={"noise_count": FIXED}),
    "no detector": Variant(detect=False),
}


def child(name: str, worlds: list[str], seeds: int) -> None:
    """Run one variant in this process and print a JSON line per episode."""
    variant = VARIANTS[name]
    for constant, value in variant.kernel.items():
        getattr(packing, constant)  # a constant that is gone must not be set in vain
        for module in (packing, _kernels_evidence):
            if hasattr(module, constant):
                setattr(module, constant, value)
    config = PriorConfig(**variant.prior)
    for world in worlds:
        for seed in range(seeds):
            episode = draw(world, seed)
            policy = Banditroute(episode, seed, config, detect=variant.detect)
            print(json.dumps([world, seed, run(episode, policy).total]), flush=True)


def spawn(name: str, worlds: list[str], seeds: int) -> dict[str, list[float]]:
    """Run one variant in a process with a cache of compiled kernels of its own; return the regrets by world."""
    found: dict[str, list[float]] = {world: [] for world in worlds}
    with tempfile.TemporaryDirectory() as cache:
        environment = dict(os.environ)
        if VARIANTS[name].kernel:
            environment["NUMBA_CACHE_DIR"] = cache
        given = ["--variant", name, "--only", ",".join(worlds), "--seeds", str(seeds)]
        with subprocess.Popen(
            [sys.executable, "-m", "bench.ablation", *given],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                world, seed, regret = json.loads(line)
                found[world].append(regret)
                progress(f"{name}: {world}, seed {seed}")
        if process.returncode:
            raise SystemExit(f"variant {name} ended with status {process.returncode}")
    return found


def main() -> None:
    """Run all variants."""
    parser = options(__doc__)
    parser.add_argument("--only", help="worlds, separated by commas")
    parser.add_argument("--seeds", type=int, help="seeds per world")
    parser.add_argument(
        "--variant", choices=list(VARIANTS), help="run this one alone, a JSON line per episode"
    )
    given = parser.parse_args()
    worlds = given.only.split(",") if given.only else list(QUICK_WORLDS if given.quick else WORLDS)
    seeds = given.seeds or (QUICK_SEEDS if given.quick else SEEDS)
    if given.variant:
        child(given.variant, worlds, seeds)
        return
    found = {name: spawn(name, worlds, seeds) for name in VARIANTS}
    progress_done()
    report = Report("ablation", ("banditroute", "numpy", "numba"))
    ratios = {}
    for name, regrets in found.items():
        logs = []
        for world, values in regrets.items():
            array, full = np.array(values), np.array(found["full"][world])
            logs.append(math.log(max(array.mean(), 1.0) / max(full.mean(), 1.0)))
            more: dict[str, Any] = {"se": float(array.std(ddof=1) / seeds**0.5) if seeds > 1 else 0.0}
            report.rows.append(Row(world, name, float(array.mean()), "regret", None, more | {"seeds": seeds}))
        ratios[name] = math.exp(sum(logs) / len(logs))
        report.rows.append(Row("ratio", name, ratios[name], "regret / full"))
    if given.json:
        report.show(as_json=True)
        return
    cells = [
        [name, f"{ratios[name]:.2f}", *(figure(float(np.mean(found[name][world]))) for world in worlds)]
        for name in VARIANTS
    ]
    print(table(["variant", "ratio", *worlds], cells))


if __name__ == "__main__":
    main()
