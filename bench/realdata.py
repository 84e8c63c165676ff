"""What the router gets from real data, cold: one pass, bandit feedback, against the best fixed model in hindsight.

`SET@a`: mean utility minus that of the best fixed model, times 100, over the whole stream; `SET@a-last` over its last
third. Utility is quality - cost x a / (mean cost of the dearest model). Contexts are the default features with the task
as tag. Ours has to learn what an answer costs from its tokens; the peers are told every model's mean cost. `apgr-1500`:
the average performance gap recovered along the cost curve of a two-model set after 1,500 votes of bandit feedback, on
the prompts that were not voted on. `bar` is a prototype's figure minus 0.15 points.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from banditroute.bandit.pacing import Fixed
from banditroute_features import Encoder, FeatureSpec
from banditroute_sim.dataset import DataSet
from banditroute_sim.policies import POLICIES
from banditroute_sim.replay import Encoded, encode, make_session, replay, stream
from banditroute_sim.scenarios.episode import episode
from banditroute_sim.simulation import run
from bench import ROOT
from bench.harness import Report, Row, options, progress, progress_done

SETS = ("routellm", "paretobandit", "zeroeval")
COST = (0.0, 0.1, 0.3)
SHUFFLES, PEER_SHUFFLES, QUICK_SHUFFLES = 16, 8, 2
PEERS = ("linucb", "lints")
FIRST_SEED = 1000
# A prototype's figures (whole stream, last third) in points of utility x 100.
PROTOTYPE = {
    "routellm": ((-0.5, -0.3), (0.7, 1.0), (0.75, 1.2)),
    "paretobandit": ((-0.35, 0.0), (-0.7, -0.3), (-0.5, -0.2)),
    "zeroeval": ((-2.6, -0.7), (-1.9, 0.2), (-2.7, -0.85)),
}
ALLOWANCE = 0.15
APGR_VOTES, APGR_BAR = 1500, 0.60
APGR_POINTS = 101


def folder() -> Path:
    """Return where the data sets are: BANDITROUTE_DATA, or shared/data beside the clone."""
    return Path(os.environ.get("BANDITROUTE_DATA") or ROOT.parent / "shared" / "data")


@cache
def loaded(name: str) -> tuple[DataSet, Encoded]:
    """Read and encode a data set, once per process."""
    data = DataSet.load(folder() / name)
    return data, encode(data, Encoder(FeatureSpec()))


def one(case: tuple[str, float, str, int]) -> tuple[float, float]:
    """Return the points of one pass: whole stream, last third."""
    name, a, who, seed = case
    data, encoded = loaded(name)
    weight = a / float(data.cost.mean(axis=0).max())
    utility = data.utility(weight)
    order = np.random.default_rng([seed, 1]).permutation(len(data))
    if who == "banditroute":
        chosen = replay(data, encoded, order, seed, pacer=Fixed(weight)).chosen
    elif who == "oracle":
        chosen = utility[order].argmax(axis=1)
    else:
        told = np.tile(weight * data.cost.mean(axis=0), (len(order), 1))
        quality = data.quality[order]
        world = episode(name, encoded.x[order], quality, quality, cost=told)
        chosen = run(world, POLICIES[who](world, seed)).chosen
    best = int(utility.mean(axis=0).argmax())
    gain = utility[order, chosen] - utility[order, best]
    return 100.0 * float(gain.mean()), 100.0 * float(gain[2 * len(gain) // 3 :].mean())


def apgr(seed: int) -> tuple[float, float]:
    """Return the APGR on held-out prompts after 1,500 votes, and how many votes it took to pass .603 (inf: never)."""
    data, encoded = loaded("routellm")
    mmlu = np.array([i for i, task in enumerate(data.tasks) if task and task.startswith("mmlu")])
    order = np.random.default_rng([seed, 2]).permutation(mmlu if len(mmlu) else len(data))
    votes, held = order[:6000], order[6000:] if len(order) > 7000 else order[len(order) // 2 :]
    votes = order[: len(order) - len(held)]
    weight = 0.1 / float(data.cost.mean(axis=0).max())
    session = make_session(data, encoded, seed, pacer=Fixed(weight))
    passed, at_bar, done = float("inf"), 0.0, 0
    for size in (250, 250, 250, 250, 250, 250, 500, 500, 1000):
        part = votes[done : done + size]
        if len(part) < size:
            break
        stream(session, data, encoded, part, seed + done, first=done)
        done += size
        mu = session.policy.derive(session.evidence).mu
        value = apgr_of(data, held, encoded.x[held].astype(float) @ mu.T)
        passed = min(passed, done) if value > 0.603 else passed
        at_bar = value if done == APGR_VOTES else at_bar
    return at_bar, passed


def apgr_of(data: DataSet, rows: np.ndarray, predicted: np.ndarray) -> float:
    """Return the area between the weak model and the curve over the share of calls to the strong one, relative to 1."""
    quality = data.quality[rows]
    strong = int(quality.mean(axis=0).argmax())
    weak = 1 - strong
    order = np.argsort(-(predicted[:, strong] - predicted[:, weak]), kind="stable")
    gain = np.concatenate([[0.0], np.cumsum((quality[:, strong] - quality[:, weak])[order])]) / len(rows)
    share = np.linspace(0.0, 1.0, len(gain))
    points = np.interp(np.linspace(0.0, 1.0, APGR_POINTS), share, gain)
    return float(points.mean() / gain[-1])


def main() -> None:
    """Run all sets."""
    parser = options(__doc__)
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--shuffles", type=int, help="orders of every set")
    given = parser.parse_args()
    report = Report("realdata", ("banditroute", "numpy", "numba"))
    sets = [name for name in SETS if (folder() / name).is_dir()]
    for name in SETS:
        if name not in sets:
            report.skip(name, f"no data set at {folder() / name}: set BANDITROUTE_DATA")
    shuffles = given.shuffles or (QUICK_SHUFFLES if given.quick else SHUFFLES)
    peers = () if given.no_peers else PEERS
    cases = []
    for name in sets:
        for a in COST:
            cases += [(name, a, "banditroute", FIRST_SEED + s) for s in range(shuffles)]
            for who in (*peers, "oracle"):
                cases += [(name, a, who, FIRST_SEED + s) for s in range(min(shuffles, PEER_SHUFFLES))]
    found: dict[tuple[str, float, str], list[tuple[float, float]]] = {}
    with ProcessPoolExecutor(2) as pool:
        for number, (case, points) in enumerate(zip(cases, pool.map(one, cases), strict=True), 1):
            found.setdefault(case[:3], []).append(points)
            progress(f"{number} of {len(cases)} passes")
        if "routellm" in sets:
            curves = list(pool.map(apgr, range(FIRST_SEED, FIRST_SEED + shuffles)))
    progress_done()
    for (name, a, who), points in found.items():
        for index, suffix in enumerate(("", "-last")):
            values = np.array([point[index] for point in points])
            more = {"se": float(values.std(ddof=1) / len(values) ** 0.5), "shuffles": len(values)}
            if who == "banditroute":
                more["bar"] = PROTOTYPE[name][COST.index(a)][index] - ALLOWANCE
            report.rows.append(Row(f"{name}@{a:g}{suffix}", who, float(values.mean()), "points", None, more))
    if "routellm" in sets:
        values = np.array([each[0] for each in curves])
        passed = float(np.median([each[1] for each in curves]))
        more = {"se": float(values.std(ddof=1) / len(values) ** 0.5), "bar": APGR_BAR}
        more["votes_to_603"] = passed if np.isfinite(passed) else -1.0
        report.rows.append(
            Row(f"apgr-{APGR_VOTES}", "banditroute", float(values.mean()), "share", None, more)
        )
    report.show(given.json)


if __name__ == "__main__":
    main()
