"""Tunes the peers of `bench.regret`: one setting per peer for all worlds, as ours has one.

`python -m bench._peers [NAME ...]` runs every setting of a grid in every world, on seeds below 1000, which score
nothing, and prints them by `loss`: the mean over worlds of log(regret / least regret of the grid in that world). Regret
below 1 counts as 1. The picks are the defaults of the policies, whose docstrings name the grids.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from banditroute_sim.policies.base import Chooser
from banditroute_sim.policies.baselines import EpsilonGreedy
from banditroute_sim.policies.peers import VowpalWabbit
from banditroute_sim.policies.regressions import LinTs, LinUcb
from banditroute_sim.scenarios import draw
from banditroute_sim.simulate.single import run
from bench.harness import table
from bench.regret import WORLDS

EXPLORERS = (
    "--epsilon 0.02", "--squarecb --gamma_scale 10", "--squarecb --gamma_scale 100", "--squarecb --gamma_scale 1000",
    "--regcb --mellowness 0.01", "--softmax --lambda 20", "--cover 4", "--bag 5",
)  # fmt: skip
RATES = ("-l 0.5", "-l 0.05 --power_t 0")
SHIFTED = (
    "--epsilon 0.02", "--squarecb --gamma_scale 10", "--squarecb --gamma_scale 100", "--softmax --lambda 20", "--bag 5",
    "--regcb --mellowness 0.01", "--regcbopt --mellowness 0.01",
)  # fmt: skip
# What a slow library is tuned on first.
FEW = ("stationary", "contextual", "flip", "linear", "price-change", "mnar")
FINE = (
    "--regcbopt --mellowness 0.01 -l 0.5", "--regcbopt --mellowness 0.01 -l 0.5 --power_t 0",
    "--regcbopt --mellowness 0.01 -l 2", "--regcbopt --mellowness 0.1 -l 0.5", "--regcbopt --mellowness 0.001 -l 0.5",
    "--softmax --lambda 20 -l 0.5", "--softmax --lambda 20 -l 2", "--softmax --lambda 40 -l 0.5",
    "--softmax --lambda 40 -l 2", "--softmax --lambda 80 -l 2", "--squarecb --gamma_scale 100 -l 2",
)  # fmt: skip
FINALS = (
    "--regcbopt --mellowness 0.1 -l 0.5", "--regcbopt --mellowness 0.03 -l 0.5", "--regcbopt --mellowness 0.01 -l 0.5",
    "--softmax --lambda 20 -l 0.5",
)  # fmt: skip
MOST = [world for world in WORLDS if world != "many-models"]

Setting = tuple[str, Callable[..., Chooser]]


def _grid(policy: Callable[..., Chooser], **values: Iterable[Any]) -> list[Setting]:
    return [
        (
            ", ".join(f"{key} {value}" for key, value in zip(values, point, strict=True)),
            partial(policy, **dict(zip(values, point, strict=True))),
        )
        for point in product(*values.values())
    ]


ALPHAS, NOISES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0), (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
PRECISIONS = (0.3, 1.0, 3.0, 10.0)
BROAD = [f"{explorer} {rate}" for explorer, rate in product(EXPLORERS, RATES)]
GRIDS: Mapping[str, tuple[int, Sequence[str], list[Setting]]] = {
    "epsilon-greedy": (3, WORLDS, _grid(EpsilonGreedy, epsilon=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1))),
    "linucb": (3, WORLDS, _grid(LinUcb, alpha=ALPHAS, precision=PRECISIONS)),
    "linucb-fine": (3, WORLDS, _grid(LinUcb, alpha=(0.7, 1.0, 1.5), precision=(0.1, 0.3, 1.0))),
    "lints": (3, WORLDS, _grid(LinTs, noise=NOISES, precision=PRECISIONS)),
    "vw": (1, FEW, _grid(VowpalWabbit, arguments=BROAD, shift=(0.0,))),
    "vw-shift": (1, FEW, _grid(VowpalWabbit, arguments=[f"{e} -l 0.5" for e in SHIFTED], shift=(1.0,))),
    "vw-fine": (1, FEW, _grid(VowpalWabbit, arguments=FINE, shift=(1.0,))),
    "vw-finals": (1, MOST, _grid(VowpalWabbit, arguments=FINALS, shift=(1.0,))),
}


def main() -> None:
    """Run the grids."""
    parser = argparse.ArgumentParser(description="tunes the peers of bench.regret")
    parser.add_argument("names", nargs="*", default=list(GRIDS), help="which peers")
    for name in parser.parse_args().names:
        seeds, worlds, settings = GRIDS[name]
        regret = np.empty((len(settings), len(worlds)))
        for i, (label, make) in enumerate(settings):
            for j, world in enumerate(worlds):
                episodes = [draw(world, seed) for seed in range(seeds)]
                totals = [run(each, make(each, seed)).total for seed, each in enumerate(episodes)]
                regret[i, j] = max(1.0, float(np.mean(totals)))
            print(f"{name}: {label}: {math.exp(float(np.log(regret[i]).mean())):.1f}", flush=True)
        loss = np.log(regret / regret.min(axis=0)).mean(axis=1)
        rows = [
            [settings[i][0], f"{loss[i]:.3f}", *(f"{value:.0f}" for value in regret[i])]
            for i in np.argsort(loss, kind="stable")
        ]
        print(table([name, "loss", *worlds], rows), flush=True)


if __name__ == "__main__":
    main()
