"""Whether a rehearsal keeps its word: predicted on one half of a data set, realised on the other.

A data set is cut in two at random. `banditroute rehearse` is given the first half and predicts, with a 95 % interval,
what share of the cost is saved and how the quality changes against always the model of best quality (of the first half)
on as many requests as the second half has; then the router runs over the second half, once, cold, in random order.
`SET@OBJECTIVE` is the share of the cuts whose realised saving lies in the interval, `-quality` that of the change
in quality; `bar` is 0.9. `width` is the mean width of the interval, `error` the root of the mean squared
difference between prediction and realisation, `bias` its mean. Cuts share their prompts, so that the misses
of one row are not independent.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np

from banditroute.config import Config, from_dict
from banditroute_features import Encoder, FeatureSpec
from banditroute_sim.data.listing import load_prices
from banditroute_sim.data.outcomes import Outcomes, load_outcomes
from banditroute_sim.rehearse.run import RehearsalOptions, rehearse
from banditroute_sim.rehearse.world import RecordedWorld
from banditroute_sim.replay.passes import Course, answers, make_session, play
from bench.harness import Report, Row, options, progress, progress_done
from bench.realdata import SETS, folder

CUTS, QUICK_CUTS, FIRST_SEED = 50, 4, 1000
RUNS, QUICK_RUNS = 24, 8
BAR = 0.9
OBJECTIVES = ("a=0.1", "a=0.3", "budget")


class Case(NamedTuple):
    """One cut of a data set."""

    name: str
    objective: str
    seed: int
    runs: int


class Cut(NamedTuple):
    """Of a number: predicted, the ends of its interval, realised."""

    predicted: float
    low: float
    high: float
    realised: float

    @property
    def inside(self) -> bool:
        """Whether the interval contains what was realised."""
        return self.low <= self.realised <= self.high


@cache
def loaded(name: str) -> Outcomes:
    """Read and encode a data set, once per process."""
    return load_outcomes(folder() / name, Encoder(FeatureSpec()))


def configured(name: str, objective: str, seed: int) -> Config:
    """Return a configuration: quality - a x cost / (mean cost of the dearest model), or a budget in the middle."""
    mean = loaded(name).means()[1]
    table = (
        {"budget_usd_per_request": float(np.sqrt(mean.min() * mean.max()))}
        if objective == "budget"
        else {"cost_weight": float(objective.removeprefix("a=")) / float(mean.max())}
    )
    models = [
        {"name": model, "input_usd_per_mtok": given, "output_usd_per_mtok": written}
        for model, (given, written) in load_prices(folder() / name).items()
    ]
    return from_dict({"models": models, "objective": table, "learning": {"seed": seed}})


def one(case: Case) -> tuple[Cut, Cut]:
    """Predict and realise one cut; return its saving and its change in quality."""
    outcomes, config = loaded(case.name), configured(case.name, case.objective, case.seed)
    rows = np.random.default_rng([case.seed, 5]).permutation(outcomes.rows)
    first, second = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    present = int(outcomes.means(first)[0].argmax())
    world = RecordedWorld(outcomes, outcomes.models[present], rows=first)
    asked = RehearsalOptions(requests=len(second), runs=case.runs, scenarios=False, seed=case.seed)
    expected = rehearse(world, config, asked).result["expected"]
    seed = case.seed + 500_000_000
    session = make_session(config, outcomes.blocks, seed)
    everyone = np.ones((1, len(outcomes.models)), np.bool_)
    delay = answers(len(second), 1.0, 0, seed)
    course = Course(second, outcomes.keys[second], (0,), outcomes.prices[None], everyone, delay)
    chosen = play(session, outcomes, course).chosen
    saved = 1.0 - outcomes.cost[second, chosen].mean() / outcomes.cost[second, present].mean()
    better = (outcomes.quality[second, chosen] - outcomes.quality[second, present]).mean()
    cuts = []
    for number, realised in (("saving", saved), ("quality_change", better)):
        told = expected[number]
        cuts.append(Cut(told["value"], told["low"], told["high"], float(realised)))
    return cuts[0], cuts[1]


def row_of(case: str, cuts: Iterable[Cut], unit: str) -> Row:
    """Sum up the cuts of a row."""
    table = np.array([tuple(cut) for cut in cuts])
    inside = (table[:, 1] <= table[:, 3]) & (table[:, 3] <= table[:, 2])
    off = table[:, 0] - table[:, 3]
    more = {
        "cuts": len(table),
        "bar": BAR,
        "predicted": float(table[:, 0].mean()),
        "realised": float(table[:, 3].mean()),
        "width": float((table[:, 2] - table[:, 1]).mean()),
        "error": float((off**2).mean() ** 0.5),
        "bias": float(off.mean()),
        "of": unit,
    }
    return Row(case, "banditroute", float(inside.mean()), "share", None, more)


def main() -> None:
    """Run all cuts."""
    parser = options(__doc__)
    parser.add_argument("--cuts", type=int, help="cuts of every row")
    parser.add_argument("--runs", type=int, help="resampled runs of a prediction")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="seeds below 1000 are for tuning")
    parser.add_argument("--sets", default=",".join(SETS), help="data sets, separated by commas")
    parser.add_argument("--objectives", default=",".join(OBJECTIVES), help="separated by commas")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    given = parser.parse_args()
    report = Report("rehearse", ("banditroute", "numpy", "numba", "scipy"))
    cuts = given.cuts or (QUICK_CUTS if given.quick else CUTS)
    runs = given.runs or (QUICK_RUNS if given.quick else RUNS)
    sets = given.sets.split(",") if not given.quick else ["paretobandit", "zeroeval"]
    cases = []
    for name in sets:
        if not (folder() / name).is_dir():
            report.skip(name, f"no data set at {folder() / name}: set BANDITROUTE_DATA")
            continue
        for objective in given.objectives.split(","):
            cases += [Case(name, objective, given.first_seed + i, runs) for i in range(cuts)]
    found: dict[tuple[str, str], list[tuple[Cut, Cut]]] = {}
    with ProcessPoolExecutor(given.workers) as pool:
        for number, (case, result) in enumerate(zip(cases, pool.map(one, cases), strict=True), 1):
            found.setdefault((case.name, case.objective), []).append(result)
            progress(f"{number} of {len(cases)} cuts")
    progress_done()
    for (name, objective), pairs in found.items():
        report.rows.append(row_of(f"{name}@{objective}", [pair[0] for pair in pairs], "saving"))
        report.rows.append(row_of(f"{name}@{objective}-quality", [pair[1] for pair in pairs], "quality"))
    report.show(given.json)


if __name__ == "__main__":
    main()
