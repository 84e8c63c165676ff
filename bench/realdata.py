"""What the router gets from real data, cold: one pass, bandit feedback, against the best fixed model in hindsight.

`SET@a`: mean utility minus that of the best fixed model, times 100, over the whole stream; `SET@a-last` over its last
third. Utility is quality - cost x a / (mean cost of the dearest model). Contexts are the default features with the task
as tag. Ours has to learn what an answer costs from its tokens; the peers are told every model's mean cost. `bar` is a
prototype's figure minus 0.15 points.

`paretobandit-judge-A-B@a`: feedback is judge A's score, and judge B's scores the utility, over the prompts whose
answers all three judges scored; the best fixed model is B's. What A = B gains over A != B is
that judge's own noise.

`apgr-1500`: the average performance gap recovered along the cost curve of a two-model set after 1,500 votes of bandit
feedback, on the prompts that are not voted on.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from banditroute.bandit.objectives.pacing import Fixed
from banditroute_features import Encoder, FeatureSpec
from banditroute_sim.data.dataset import DataSet
from banditroute_sim.data.encoding import Encoded, encode
from banditroute_sim.policies import POLICIES
from banditroute_sim.scenarios.episode import episode
from banditroute_sim.simulate.single import run
from bench import ROOT
from bench._stream import make_session, replay, stream
from bench.harness import Report, Row, options, progress, progress_done

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

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
APGR_VOTES, APGR_BAR, APGR_PASSED = 1500, 0.60, 0.603
NOT_MMLU = {"gsm8k", "writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}
APGR_COST = 0.2  # of the dearer model, in quality: about what it is better by, so that the policy asks both
APGR_STEPS = (250, 250, 250, 250, 250, 250, 500, 500, 1000)  # votes between two looks
APGR_POINTS = 101
JUDGES = ("r1", "claude", "gpt_mini")
JUDGED, JUDGE_COST = "paretobandit", 0.1


def folder() -> Path:
    """Return where the data sets are: BANDITROUTE_DATA, or shared/data beside the clone."""
    return Path(os.environ.get("BANDITROUTE_DATA") or ROOT.parent / "shared" / "data")


@cache
def judged() -> tuple[DataSet, Encoded, dict[str, Floats]]:
    """Return the prompts whose answers all judges scored, and each judge's scores, float64[n, K].

    Tokens are not recorded there: those of the input are estimated, those of the output follow from cost and prices.
    """
    listed = loaded(JUDGED)[0]
    prices = np.array([listed.prices()[name] for name in listed.models])
    columns = {name: k for k, name in enumerate(listed.models)}
    found: dict[tuple[str, str], Floats] = {}
    for line in pq.read_table(folder() / JUDGED / "judges.parquet").to_pylist():
        table = found.setdefault(
            (line["prompt"], line["task"]), np.full((len(columns), 1 + len(JUDGES)), np.nan)
        )
        numbers = [line[name] for name in ("cost_usd", *JUDGES)]
        table[columns[line["model"]]] = [np.nan if number is None else number for number in numbers]
    found = {prompt: table for prompt, table in found.items() if not np.isnan(table).any()}
    cube = np.array(list(found.values()))
    cost, n = cube[:, :, 0], len(found)
    unknown = np.full(cost.shape, np.nan)
    ids, prompts, tasks = tuple(map(str, range(n))), *zip(*found, strict=True)
    # fmt: off
    data = replace(
        listed, ids=ids, prompts=prompts, tasks=tasks, quality=cube[:, :, 1], cost=cost, input_tokens=unknown,
        output_tokens=unknown, latency_s=unknown,
    )
    # fmt: on
    encoded = encode(data, Encoder(FeatureSpec()))
    output = (1e6 * cost - prices[:, 0] * encoded.tokens[:, None]) / prices[:, 1]
    data = replace(data, output_tokens=np.maximum(output, 1.0))
    return data, encoded, {name: cube[:, :, 1 + j] for j, name in enumerate(JUDGES)}


def judge(case: tuple[str, int]) -> list[tuple[float, float]]:
    """Learn from one judge; return the points of one pass as every judge scores them, in the order of JUDGES."""
    teacher, seed = case
    data, encoded, scores = judged()
    weight = JUDGE_COST / float(data.cost.mean(axis=0).max())
    order = np.random.default_rng([seed, 4]).permutation(len(data))
    pacer = Fixed(weight)
    chosen = replay(data, encoded, order, seed, pacer=pacer, learn_from=scores[teacher]).chosen
    return [points(scores[scorer] - weight * data.cost, order, chosen) for scorer in JUDGES]


def points(utility: Floats, order: Rows, chosen: Rows) -> tuple[float, float]:
    """Return the gain over the best fixed model, times 100: whole stream, last third."""
    best = int(utility.mean(axis=0).argmax())
    gain = 100.0 * (utility[order, chosen] - utility[order, best])
    return float(gain.mean()), float(gain[2 * len(gain) // 3 :].mean())


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
    return points(utility, order, chosen)


def apgr(case: tuple[str, int]) -> tuple[float, float]:
    """Return the APGR on held-out prompts after 1,500 votes, and how many votes it took to pass .603 (inf: never).

    The votes are those of the policy at a price where both models are worth their money, or, ``by lot``, of
    models drawn by lot: what the same learning makes of votes that no policy chose.
    """
    who, seed = case
    data, encoded = loaded("routellm")
    mmlu = np.array([i for i, task in enumerate(data.tasks) if task not in NOT_MMLU])
    votes, held = np.split(np.random.default_rng([seed, 2]).permutation(mmlu), 2)
    weight = APGR_COST / float(data.cost[mmlu].mean(axis=0).max())
    session = make_session(data, encoded, seed, pacer=Fixed(weight), floor=1.0 if who == "by lot" else 0.0)
    passed, at_bar = float("inf"), 0.0
    done = 0
    for size in APGR_STEPS:
        part = votes[done : done + size]
        if len(part) < size:
            break
        stream(session, data, encoded, part, seed + done, first=done)
        done += size
        mu = session.policy.derive(session.evidence).mu
        value = apgr_of(data, held, encoded.x[held].astype(float) @ mu.T)
        passed = min(passed, done) if value > APGR_PASSED else passed
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


def row(case: str, who: str, values: Sequence[float], unit: str, **more: Any) -> Row:
    """Return the mean of the shuffles with its standard error."""
    array = np.array(values)
    error = float(array.std(ddof=1) / len(array) ** 0.5) if len(array) > 1 else 0.0
    return Row(case, who, float(array.mean()), unit, None, {"se": error, "shuffles": len(array), **more})


def main() -> None:
    """Run all sets."""
    parser = options(__doc__)
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--shuffles", type=int, help="orders of every set")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="seeds below 1000 are for tuning")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    given = parser.parse_args()
    report = Report("realdata", ("banditroute", "numpy", "numba"))
    sets = [name for name in SETS if (folder() / name).is_dir()]
    for name in SETS:
        if name not in sets:
            report.skip(name, f"no data set at {folder() / name}: set BANDITROUTE_DATA")
    shuffles = given.shuffles or (QUICK_SHUFFLES if given.quick else SHUFFLES)
    peers = () if given.no_peers else PEERS
    seeds = range(given.first_seed, given.first_seed + shuffles)
    cases = []
    for name in sets:
        for a in COST:
            cases += [(name, a, "banditroute", seed) for seed in seeds]
            cases += [(name, a, who, seed) for who in (*peers, "oracle") for seed in seeds[:PEER_SHUFFLES]]
    with ProcessPoolExecutor(given.workers) as pool:
        found: dict[tuple[str, float, str], list[tuple[float, float]]] = {}
        for number, (case, result) in enumerate(zip(cases, pool.map(one, cases), strict=True), 1):
            found.setdefault(case[:3], []).append(result)
            progress(f"{number} of {len(cases)} passes")
        report.rows += rows_of_sets(found)
        if JUDGED in sets:
            progress("judges")
            for teacher in JUDGES:
                passes = list(pool.map(judge, [(teacher, seed) for seed in seeds]))
                report.rows += rows_of_judge(teacher, passes)
        if "routellm" in sets:
            progress("the cost curve of two models")
            for who in ("banditroute", "by lot"):
                report.rows.append(row_of_curves(who, list(pool.map(apgr, [(who, seed) for seed in seeds]))))
    progress_done()
    report.show(given.json)


def rows_of_sets(found: Mapping[tuple[str, float, str], list[tuple[float, float]]]) -> list[Row]:
    """Sum up the passes of every set, cost and contender."""
    rows = []
    for (name, a, who), passes in found.items():
        for index, suffix in enumerate(("", "-last")):
            bar = {"bar": PROTOTYPE[name][COST.index(a)][index] - ALLOWANCE} if who == "banditroute" else {}
            values = [each[index] for each in passes]
            rows.append(row(f"{name}@{a:g}{suffix}", who, values, "points", **bar))
    return rows


def rows_of_judge(teacher: str, passes: list[list[tuple[float, float]]]) -> list[Row]:
    """Sum up the passes that learned from one judge, by the judge that scores."""
    rows = []
    for j, scorer in enumerate(JUDGES):
        for index, suffix in enumerate(("", "-last")):
            case = f"{JUDGED}-judge-{teacher}-{scorer}@{JUDGE_COST:g}{suffix}"
            rows.append(row(case, "banditroute", [each[j][index] for each in passes], "points"))
    return rows


def row_of_curves(who: str, curves: list[tuple[float, float]]) -> Row:
    """Sum up the cost curves; `votes_to_603` is the median, -1 when half of them do not get there."""
    passed = float(np.median([each[1] for each in curves]))
    passed = passed if np.isfinite(passed) else -1.0
    values = [each[0] for each in curves]
    return row(f"apgr-{APGR_VOTES}", who, values, "share", bar=APGR_BAR, votes_to_603=passed)


if __name__ == "__main__":
    main()
