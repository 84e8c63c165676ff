"""Whether what a decision says of itself is true: expected quality against votes, propensities against frequencies.

`SET-quality-N`: the decisions of cold passes whose expected quality for the chosen model falls into a bin; `value` is
the mean vote on them, `expected` the mean expectation, `n` how many they are. The first 200 decisions of a pass, when
little is known, are left out. `SET-propensity-N`: contexts decided again with many keys by one posterior; `value` is
how often models were chosen whose propensity falls into a bin, `expected` the mean propensity, `n` the draws behind it.
`…-error` is the mean distance of the two.
"""

from __future__ import annotations

import numpy as np

from banditroute.bandit.choice.batch import DecideBatch
from banditroute.bandit.objectives.pacing import Fixed
from bench._stream import make_session, stream
from bench.harness import Report, Row, options
from bench.realdata import FIRST_SEED, SETS, folder, loaded

BINS, START = 10, 200
CONTEXTS, KEYS = 60, 2000
A = 0.1  # cost weight, over the mean cost of the dearest model


def quality_rows(name: str, seeds: int) -> list[Row]:
    """Return a row per bin of expected quality."""
    data, encoded = loaded(name)
    weight = A / float(data.cost.mean(axis=0).max())
    expected, votes = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        order = np.random.default_rng([seed, 1]).permutation(len(data))
        session = make_session(data, encoded, seed, pacer=Fixed(weight))
        done = stream(session, data, encoded, order, seed)
        expected.append(done.expected[START:])
        votes.append(data.quality[order, done.chosen][START:])
    return _binned(f"{name}-quality", np.concatenate(expected), np.concatenate(votes), None)


def propensity_rows(name: str) -> list[Row]:
    """Return a row per bin of propensity, of the posterior after half a pass."""
    data, encoded = loaded(name)
    weight = A / float(data.cost.mean(axis=0).max())
    order = np.random.default_rng([FIRST_SEED, 1]).permutation(len(data))
    half = len(order) // 2
    session = make_session(data, encoded, FIRST_SEED, pacer=Fixed(weight))
    stream(session, data, encoded, order[:half], FIRST_SEED)
    prices = np.array(list(data.prices().values()))
    told, seen = [], []
    for i, row in enumerate(order[half : half + CONTEXTS]):
        keys = np.arange(i * KEYS, (i + 1) * KEYS, dtype=np.uint64) + np.uint64(1 << 40)
        batch = DecideBatch.of(
            np.repeat(encoded.x[row][None], KEYS, axis=0), keys, prices,
            input_tokens=encoded.tokens[row], cost_weight=weight,
        )  # fmt: skip
        choices = session.policy.decide(batch, every=True)
        told.append(choices.propensities[0])
        seen.append(np.bincount(choices.chosen, minlength=len(data.models)) / KEYS)
    return _binned(f"{name}-propensity", np.concatenate(told), np.concatenate(seen), KEYS)


def _binned(case: str, expected: np.ndarray, found: np.ndarray, draws: int | None) -> list[Row]:
    bins = np.clip((expected * BINS).astype(int), 0, BINS - 1)
    rows = []
    for index in range(BINS):
        inside = bins == index
        if inside.any():
            more = {"expected": float(expected[inside].mean()), "n": int(inside.sum()) * (draws or 1)}
            rows.append(
                Row(f"{case}-{index}", "banditroute", float(found[inside].mean()), "share", None, more)
            )
    error = float(
        np.abs([row.value - row.more["expected"] for row in rows]) @ [row.more["n"] for row in rows]
    )
    total = sum(row.more["n"] for row in rows)
    return [*rows, Row(f"{case}-error", "banditroute", error / total, "share", None, {"n": total})]


def main() -> None:
    """Run all sets."""
    given = options(__doc__).parse_args()
    report = Report("calibration", ("banditroute", "numpy", "numba"))
    for name in SETS:
        if not (folder() / name).is_dir():
            report.skip(name, f"no data set at {folder() / name}: set BANDITROUTE_DATA")
            continue
        report.rows += quality_rows(name, 1 if given.quick else 4)
        report.rows += propensity_rows(name)
    report.show(given.json)


if __name__ == "__main__":
    main()
