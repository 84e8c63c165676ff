"""What a budget buys on real data: quality at seven budgets, beside the best random mix of fixed models.

Budgets per request run geometrically from the mean cost of the cheapest model to that of the dearest. Prompts are split
in two by a hash of their id: the router warms up on one half, cold and from what it chose alone, is let off what it
owes, and is scored on the other half while it goes on learning. `value` is the mean quality on that half, `utilisation`
its mean cost over the budget, `worst_window` the mean cost over the budget of its dearest 512 requests in a row (the
mean over the seeds, and `worst_of_all` the largest). `best-mix` tosses a coin between the two fixed models that, in
hindsight on the scored half, give the highest quality for the whole budget; `gain` is measured against it,
`gain_at_spend` against the best mix for what was spent. `-late` is the same with 30 % of the decisions answered, 200
requests later.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.objectives.pacing import BudgetPacer
from banditroute_features import Encoder, FeatureSpec
from banditroute_sim.data.dataset import DataSet
from banditroute_sim.data.encoding import Encoded, encode
from bench import ROOT
from bench._stream import make_session, stream
from bench.harness import Report, Row, options, progress, progress_done

SET = "paretobandit"
BUDGETS = 7
SEEDS, QUICK_SEEDS, FIRST_SEED = 20, 1, 1000
WINDOW = 512
LATE_SHARE, LATE_DELAY = 0.3, 200
MOST_UTILISATION = 1.005
LEAST_GAIN = {1: 0.010, 2: 0.020}  # of the second and third budget
LEAST_GAIN_ELSEWHERE = -0.002

Floats = NDArray[np.float64]


class Case(NamedTuple):
    """One pass."""

    index: int
    late: bool
    seed: int


class Pass(NamedTuple):
    """What one pass gave on the scored half: mean quality, mean cost, mean cost of the dearest window."""

    quality: float
    cost: float
    worst: float


def folder() -> Path:
    """Return where the data set is: in BANDITROUTE_DATA, or in shared/data beside the clone."""
    return Path(os.environ.get("BANDITROUTE_DATA") or ROOT.parent / "shared" / "data") / SET


@cache
def loaded() -> tuple[DataSet, Encoded]:
    """Read and encode the data set, once per process."""
    data = DataSet.load(folder())
    return data, encode(data, Encoder(FeatureSpec()))


def halves(data: DataSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to warm up on and those that score."""
    odd = np.array([zlib.crc32(name.encode()) & 1 for name in data.ids], np.bool_)
    return np.flatnonzero(~odd), np.flatnonzero(odd)


def budgets(data: DataSet) -> Floats:
    """Return the seven budgets in USD per request."""
    mean = data.cost.mean(axis=0)
    return np.geomspace(mean.min(), mean.max(), BUDGETS)


def best_mix(quality: Floats, cost: Floats, spend: float) -> float:
    """Return the highest mean quality of a coin toss between two fixed models that costs at most ``spend``.

    With nothing that cheap, that of the cheapest model.
    """
    best = float(quality[cost.argmin()])
    for cheap in range(len(cost)):
        if cost[cheap] > spend:
            continue
        best = max(best, float(quality[cheap]))
        for dear in np.flatnonzero(cost > spend):
            share = (spend - cost[cheap]) / (cost[dear] - cost[cheap])
            best = max(best, float(quality[cheap] + share * (quality[dear] - quality[cheap])))
    return best


def one(case: Case) -> Pass:
    """Run one pass."""
    data, encoded = loaded()
    warm, scored = halves(data)
    pacer = BudgetPacer(float(budgets(data)[case.index]))
    session = make_session(data, encoded, case.seed, pacer=pacer)
    rng = np.random.default_rng([case.seed, 3])
    answers = (LATE_SHARE, LATE_DELAY) if case.late else (1.0, 0)
    stream(session, data, encoded, rng.permutation(warm), case.seed, None, *answers)
    pacer.settle()
    order = rng.permutation(scored)
    found = stream(session, data, encoded, order, case.seed + 1_000_000, None, *answers, first=len(warm))
    cost = data.cost[found.rows, found.chosen]
    sums = np.concatenate([[0.0], cost.cumsum()])
    size = min(WINDOW, len(cost))
    worst = float((sums[size:] - sums[:-size]).max()) / size
    return Pass(found.mean(data.quality), float(cost.mean()), worst)


def rows_of(index: int, late: bool, passes: Iterable[Pass]) -> list[Row]:
    """Sum up the passes of one budget."""
    data, _ = loaded()
    budget = float(budgets(data)[index])
    _, scored = halves(data)
    means = data.quality[scored].mean(axis=0), data.cost[scored].mean(axis=0)
    quality, cost, worst = np.array(list(passes)).T
    mix = best_mix(*means, budget)
    at_spend = np.array([best_mix(*means, each) for each in cost])
    count = len(quality)
    more: dict[str, Any] = {
        "se": float(quality.std(ddof=1) / count**0.5) if count > 1 else 0.0,
        "seeds": count,
        "budget_usd": budget,
        "utilisation": float(cost.mean()) / budget,
        "most_utilisation": float(cost.max()) / budget,
        "worst_window": float(worst.mean()) / budget,
        "worst_of_all": float(worst.max()) / budget,
        "gain": float(quality.mean()) - mix,
        "gain_at_spend": float((quality - at_spend).mean()),
    }
    if not late:
        more["bar_utilisation"] = MOST_UTILISATION
        more["bar_gain"] = LEAST_GAIN.get(index, LEAST_GAIN_ELSEWHERE)
    case = f"budget-{index + 1}{'-late' if late else ''}"
    return [
        Row(case, "banditroute", float(quality.mean()), "quality", None, more),
        Row(case, "best-mix", mix, "quality", None, {"utilisation": 1.0}),
    ]


def main() -> None:
    """Run all budgets."""
    parser = options(__doc__)
    parser.add_argument("--seeds", type=int, help="seeds of every budget")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="seeds below 1000 are for tuning")
    parser.add_argument("--only", help="budgets, 1 to 7, separated by commas")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--no-late", action="store_true", help="leave the late feedback out")
    given = parser.parse_args()
    report = Report("budget", ("banditroute", "numpy", "numba"))
    if not folder().is_dir():
        report.skip(SET, f"no data set at {folder()}: set BANDITROUTE_DATA")
        report.show(given.json)
        return
    seeds = given.seeds or (QUICK_SEEDS if given.quick else SEEDS)
    chosen = [int(number) - 1 for number in given.only.split(",")] if given.only else range(BUDGETS)
    groups = [(index, late) for late in (False, True)[: 1 if given.no_late else 2] for index in chosen]
    cases = [Case(index, late, given.first_seed + s) for index, late in groups for s in range(seeds)]
    found: dict[tuple[int, bool], list[Pass]] = {}
    with ProcessPoolExecutor(given.workers) as pool:
        for number, (case, result) in enumerate(zip(cases, pool.map(one, cases), strict=True), 1):
            found.setdefault((case.index, case.late), []).append(result)
            progress(f"{number} of {len(cases)} passes")
    progress_done()
    for (index, late), passes in found.items():
        report.rows += rows_of(index, late, passes)
    report.show(given.json)


if __name__ == "__main__":
    main()
