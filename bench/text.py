"""How fast a prompt becomes numbers: the text block beside scikit-learn's hashing, and the whole encoder.

`400B` and `4000B` (MB/s of UTF-8): all prompt statistics and scripts plus character 3- to 5-grams hashed into 64
columns, from a list of strings to a matrix. `sklearn-char` is HashingVectorizer(analyzer="char_wb", ngram_range=(3,
5), n_features=64), which hashes the same n-grams and computes no statistics; `sklearn-word` its word 1- to 2-grams;
`memcpy` copies the same bytes inside the cache. `ours-over-…` are medians of the ratios within a round. `400B-stats`
and `4000B-stats` leave the n-grams out. `encode-one` and `encode-batch` (requests per second) are the whole default
encoder on events with a 400-byte prompt, a tag and a tenant: `us` is microseconds per request, `least_us` that of the
quietest round. `import` is the time to import the package in a fresh process without compiling, `first-call` that of
the first encoding with the code in the cache. `allocated` is what tracemalloc sees per request in a batch. `bar` is
what the product promises.

All times are CPU time of one thread, so that other programs on the machine count as little as they can.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from banditroute.events import Request
from banditroute_features import Encoder, FeatureSpec
from bench import ROOT
from bench.harness import Report, Row, interleave, options, progress, progress_done

TEXT = FeatureSpec(tags=0, tenant=0, statistics=True, scripts=True, chars=64)
STATISTICS = FeatureSpec(tags=0, tenant=0, statistics=18, scripts=True)
PACKAGES = ("banditroute", "numpy", "numba", "llvmlite", "scikit-learn")
SECONDS = 0.04  # of one measurement
BARS = {
    "ours-over-sklearn-char": 300,
    "ours-over-sklearn-word": 50,
    "ours-over-memcpy": 0.012,
    "encode-one": 1e6 / 3,
    "encode-batch": 1e6 / 0.8,
    "import": 0.4,
}
TINY = (
    "import sys; from time import thread_time as t; sys.path[:0] = {paths!r}; start = t(); "
    "import banditroute_features as f; imported = t(); "
    "f.Encoder(f.FeatureSpec()).encode_prompts(['x'], __import__('numpy').empty((1, 32), 'f4')); "
    "print(imported - start, t() - imported)"
)


def prose(size: int, rng: random.Random) -> str:
    """Return English-like text with numbers, signs and lines."""
    letters, weights = "etaoinshrdlcumwfgypbvk", range(22, 0, -1)
    parts: list[str] = []
    length = 0
    while length < size:
        word = "".join(rng.choices(letters, weights, k=rng.choice((2, 3, 3, 4, 4, 5, 5, 6, 7, 9, 11))))
        chance = rng.random()
        if chance < 0.04:
            word = str(rng.randrange(2000))
        elif chance < 0.1:
            word = word.capitalize()
        parts.append(word + rng.choices((" ", ", ", ". ", "? ", "\n", " (", ") "), (70, 8, 8, 2, 4, 1, 1))[0])
        length += len(parts[-1])
    return "".join(parts)[:size]


def rate(work: Callable[[], Any], amount: float) -> float:
    """Return amount per second of CPU time, over a fixed while."""
    done, start = 0, time.thread_time()
    while True:
        work()
        done += 1
        elapsed = time.thread_time() - start
        if elapsed > SECONDS:
            return done * amount / elapsed


def encoding(spec: FeatureSpec, prompts: list[str], megabytes: float) -> Callable[[], float]:
    """Return what measures one encoder on a list of prompts."""
    encoder, out = Encoder(spec), np.empty((len(prompts), spec.d), np.float32)
    tokens = np.empty(len(prompts))
    encoder.encode_prompts(prompts, out, tokens)
    return lambda: rate(lambda: encoder.encode_prompts(prompts, out, tokens), megabytes)


def peers(report: Report, size: int, prompts: list[str]) -> dict[str, Callable[[], float]]:
    """Return what measures scikit-learn on some of the prompts."""
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError:
        for who in ("sklearn-char", "sklearn-word"):
            report.skip(f"{size}B {who}", "scikit-learn is not installed")
        return {}
    some = prompts[: max(4, 16_000 // size)]
    contenders = {}
    for who, arguments in (
        ("sklearn-char", {"analyzer": "char_wb", "ngram_range": (3, 5)}),
        ("sklearn-word", {"ngram_range": (1, 2)}),
    ):
        vectorizer = HashingVectorizer(n_features=64, dtype=np.float32, **arguments)
        contenders[who] = lambda v=vectorizer: rate(lambda: v.transform(some), len(some) * size / 1e6)
    return contenders


def text_rows(report: Report, size: int, rounds: int) -> None:
    """Measure the text block on prompts of one size."""
    rng = random.Random(size)
    prompts = [prose(size, rng) for _ in range(max(16, 128_000 // size))]
    megabytes = len(prompts) * size / 1e6
    source = np.frombuffer("".join(prompts).encode(), np.uint8)
    target = np.empty_like(source)
    contenders = {
        "banditroute": encoding(TEXT, prompts, megabytes),
        "stats": encoding(STATISTICS, prompts, megabytes),
        "memcpy": lambda: rate(lambda: np.copyto(target, source), megabytes),
    }
    found = interleave(contenders | peers(report, size, prompts), rounds, progress)
    stats = found.pop("stats")
    for who, values in found.items():
        report.rows.append(Row.of(f"{size}B", who, values, "MB/s"))
    report.rows.append(Row.of(f"{size}B-stats", "banditroute", stats, "MB/s"))
    for who in found:
        if who != "banditroute":
            ratios = [ours / theirs for ours, theirs in zip(found["banditroute"], found[who], strict=True)]
            over = f"ours-over-{who}"
            report.rows.append(Row.of(f"{size}B", over, ratios, "ratio", bar=BARS[over]))


def encoder_rows(report: Report, rounds: int) -> None:
    """Measure the whole default encoder on events."""
    rng = random.Random(1)
    tags = [f"task-{i}" for i in range(20)]
    requests = [
        Request(request_id=str(i), prompt=prose(400, rng), tags=(rng.choice(tags),), tenant=f"tenant-{i % 7}")
        for i in range(512)
    ]
    encoder = Encoder(FeatureSpec())
    out, tokens = np.empty((len(requests), encoder.spec.d), np.float32), np.empty(len(requests))

    def one() -> None:
        encode = encoder.encode
        for request in requests:
            encode(request)

    def batch() -> None:
        encoder.encode_batch(requests, out, tokens)

    one()
    batch()
    contenders = {
        "encode-one": lambda: rate(one, len(requests)),
        "encode-batch": lambda: rate(batch, len(requests)),
    }
    for case, values in interleave(contenders, rounds, progress).items():
        us, least = (round(1e6 / value, 3) for value in (median(values), max(values)))
        row = Row.of(case, "banditroute", values, "1/s", us=us, least_us=least, bar=round(BARS[case]))
        report.rows.append(row)
    many, peaks = requests * 8, []
    out, tokens = np.empty((len(many), encoder.spec.d), np.float32), np.empty(len(many))
    for n in (len(requests), len(many)):
        some, into, counts = many[:n], out[:n], tokens[:n]
        tracemalloc.start()
        encoder.encode_batch(some, into, counts)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    extra = (peaks[1] - peaks[0]) / (len(many) - len(requests))
    report.rows.append(Row("allocated", "banditroute", max(extra, 0.0), "bytes", more={"peak": peaks[1]}))


def start_rows(report: Report, rounds: int) -> None:
    """Measure a fresh process, byte code and machine code being there already."""
    code = TINY.format(paths=[str(ROOT), str(ROOT / "features")])
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for _ in range(rounds + 1):
        progress("start of a fresh process")
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        times.append([float(part) for part in done.stdout.split()])
    for i, case in enumerate(("import", "first-call")):
        more = {"bar": BARS[case]} if case in BARS else {}
        report.rows.append(Row.of(case, "banditroute", [pair[i] for pair in times[1:]], "s", **more))


def main() -> None:
    """Measure everything."""
    arguments = options(__doc__).parse_args()
    report = Report("text", PACKAGES)
    rounds = 9 if arguments.quick else 25
    for size in (400, 4000):
        text_rows(report, size, rounds)
    encoder_rows(report, rounds)
    start_rows(report, 7)
    progress_done()
    report.show(arguments.json)


if __name__ == "__main__":
    main()
