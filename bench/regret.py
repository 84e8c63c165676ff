"""What learning costs: cumulative regret of one default configuration on seventeen worlds, beside peers.

`value` is the mean cumulative regret over the seeds: expected utility of the best model of every round minus that of
the chosen one. `…-recovery` is the median number of rounds after a change until the last 100 rounds hold 80 % best
picks. The seeds are 1000 and up: none was used for tuning. Every policy meets the same episodes; where a peer has fewer
seeds, `ours` is our mean on the same ones, and `lead` the mean of its regret minus ours, seed by seed. Peers have one
setting for all worlds, as ours has, picked on seeds below 1000 (`bench._peers`) and given with every row; `best-fixed`
is the best single model in hindsight.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from banditroute_sim.policies import POLICIES
from banditroute_sim.policies.baselines import EpsilonGreedy
from banditroute_sim.policies.peers import VowpalWabbit
from banditroute_sim.policies.regressions import LinTs, LinUcb
from banditroute_sim.scenarios import draw
from banditroute_sim.simulate.single import recovery, run
from bench.harness import Report, Row, options, progress, progress_done

FIRST_SEED = 1000
BERNOULLI = ("stationary", "close-models", "warm-prior", "contextual", "flip", "gradual")
LINEAR = ("linear", "logistic", "abrupt", "walk", "delay", "new-model", "price-change")
UNKIND = ("delay-sparse", "mnar", "poisoned", "many-models")
WORLDS = (*BERNOULLI, *LINEAR, *UNKIND)
SEEDS = {name: 60 if name in BERNOULLI else 20 for name in WORLDS}
PEERS = ("best-fixed", "epsilon-greedy", "linucb", "lints", "ucb1", "beta-ts", "river", "vw")
PEER_SEEDS = 10
QUICK_SEEDS = 3
SETTINGS = {
    "banditroute": "defaults",
    "best-fixed": "told the means of the whole episode",
    "epsilon-greedy": f"epsilon {EpsilonGreedy.EPSILON}",
    "linucb": f"alpha {LinUcb.ALPHA}, precision {LinUcb.PRECISION}",
    "lints": f"noise {LinTs.NOISE}, precision {LinTs.PRECISION}",
    "ucb1": "nothing to set",
    "beta-ts": "prior Beta(1, 1)",
    "river": "ThompsonSampling on Beta(1, 1)",
    "vw": f"--cb_explore_adf {VowpalWabbit.ARGUMENTS} -q xa, cost {VowpalWabbit.SHIFT:g} + price - quality",
}
# What the product promises: a bound on the mean, and for some worlds on other numbers.
BARS: Mapping[str, Mapping[str, float]] = {
    "stationary": {"mean": 5.0},
    "close-models": {"mean": 150.0},
    "warm-prior": {"mean": 2.0},
    "contextual": {"median": 12.0, "p95": 60.0},
    "flip": {"mean": 20.0, "recovery": 110.0},
    "gradual": {"mean": 200.0},
    "linear": {"mean": 1.06 * 287.0},
    "logistic": {"mean": 1.06 * 479.0},
    "abrupt": {"mean": 450.0},
    "walk": {"mean": 1.16 * 1195.0},
    "delay": {"mean": 1.06 * 2200.0},
    "new-model": {"mean": 1.06 * 252.0},
    "price-change": {"mean": 1.06 * 295.0},
}


class Episode(NamedTuple):
    """What one policy did in one episode: its regret, rounds to recover, CPU seconds and rounds."""

    world: str
    who: str
    seed: int
    regret: float
    recovery: int | None
    seconds: float
    rounds: int
    settings: str


def one(case: tuple[str, str, int]) -> Episode:
    """Run one policy through one episode."""
    name, who, seed = case
    episode = draw(name, seed)
    start = time.process_time()
    result = run(episode, POLICIES[who](episode, seed))
    seconds = time.process_time() - start
    back = recovery(episode, result, episode.changes[0]) if episode.changes else None
    return Episode(name, who, seed, result.total, back, seconds, len(episode), SETTINGS[who])


def episodes(cases: Sequence[tuple[str, str, int]], workers: int, kept: Path | None) -> list[Episode]:
    """Run all cases but those that were kept with the same settings; what is new is kept, too."""
    known = {}
    if kept is not None and kept.exists():
        for line in kept.read_text(encoding="utf-8").splitlines():
            episode = Episode(*json.loads(line))
            known[episode[:3]] = episode
    missing = [case for case in cases if case not in known or known[case].settings != SETTINGS[case[1]]]
    with ProcessPoolExecutor(workers) as pool:
        for number, episode in enumerate(pool.map(one, missing), 1):
            known[episode[:3]] = episode
            if kept is not None:
                with kept.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(episode) + "\n")
            progress(f"{number} of {len(missing)} episodes")
    progress_done()
    return [known[case] for case in cases]


def rows_of(name: str, who: str, found: Sequence[Episode], ours: Sequence[Episode]) -> list[Row]:
    """Sum up the episodes of one policy in one world; those of ours begin with the same seeds."""
    regret = np.array([each.regret for each in found])
    error = float(regret.std(ddof=1) / len(regret) ** 0.5) if len(regret) > 1 else 0.0
    more: dict[str, Any] = {"se": error, "seeds": len(regret), "median": float(np.median(regret))}
    more["p95"] = float(np.quantile(regret, 0.95))
    more["rounds_per_s"] = round(sum(each.rounds for each in found) / sum(each.seconds for each in found))
    if who != "banditroute":
        same = np.array([each.regret for each in ours[: len(found)]])
        lead = regret - same
        more |= {"ours": float(same.mean()), "lead": float(lead.mean())}
        more["lead_se"] = float(lead.std(ddof=1) / len(lead) ** 0.5) if len(lead) > 1 else 0.0
    bars = BARS.get(name, {}) if who == "banditroute" else {}
    more |= {f"bar_{key}": value for key, value in bars.items() if key != "recovery"}
    more["settings"] = SETTINGS[who]
    rows = [Row(name, who, float(regret.mean()), "regret", None, more)]
    backs = [each.recovery for each in found if each.recovery is not None]
    if backs:
        bar = {"bar": bars["recovery"]} if "recovery" in bars else {}
        rows.append(Row(f"{name}-recovery", who, float(np.median(backs)), "rounds", None, bar))
    return rows


def main() -> None:
    """Run all worlds."""
    parser = options(__doc__)
    parser.add_argument("--only", help="worlds, separated by commas")
    parser.add_argument("--seeds", type=int, help="seeds of ours in every world")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--keep", type=Path, help="a file of finished episodes to go on from, of the same product"
    )
    given = parser.parse_args()
    report = Report("regret", ("banditroute", "numpy", "numba", "river", "vowpalwabbit"))
    worlds = given.only.split(",") if given.only else list(WORLDS)
    peers = () if given.no_peers else PEERS
    if "vw" in peers:
        try:
            import vowpalwabbit  # noqa: F401
        except ImportError:
            peers = tuple(who for who in peers if who != "vw")
            report.skip("vw", "vowpalwabbit is not installed: pip install 'banditroute[bench]'")
    if given.quick:
        peers = tuple(who for who in peers if who not in ("vw", "river"))
        for who in ("vw", "river"):
            report.skip(who, "too slow for --quick")
    cases = []
    for name in worlds:
        seeds = given.seeds or (QUICK_SEEDS if given.quick else SEEDS[name])
        cases += [(name, "banditroute", FIRST_SEED + seed) for seed in range(seeds)]
        for who in peers:
            cases += [(name, who, FIRST_SEED + seed) for seed in range(min(seeds, PEER_SEEDS))]
    found: dict[tuple[str, str], list[Episode]] = {}
    for episode in episodes(cases, given.workers, given.keep):
        found.setdefault(episode[:2], []).append(episode)
    for name in worlds:
        for who in ("banditroute", *peers):
            report.rows += rows_of(name, who, found[name, who], found[name, "banditroute"])
    report.show(given.json)


if __name__ == "__main__":
    main()
