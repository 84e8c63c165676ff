"""Fuzz the encoder with atheris: any bytes give a finite, bounded context that equals the naive oracle.

    python -m bench.fuzz.features -max_total_time=600 [-fork=1] [corpus folder]

The bytes become a request: some as text in one of four internal forms of a string, some as messages, names and
numbers. The oracle is plain Python, so its branches are the coverage that the fuzzer follows; the compiled kernel has
to give the same bits. Needs `atheris`.
"""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

import bench  # noqa: F401  puts the source roots on the path
from banditroute_features import Encoder, FeatureSpec

CODECS = ("latin-1", "utf-8", "utf-16-le", "utf-32-le")
ROLES = ("user", "assistant", "system", "developer", "tool", "")
SPECS = (
    FeatureSpec(),
    FeatureSpec(
        tags=5,
        tenant=2,
        session=2,
        language=2,
        hour=2,
        cross=3,
        numeric=2,
        statistics=True,
        scripts=True,
        chat=True,
        chars=40,
        words=12,
        embedding=3,
        context=2,
        seed=3,
    ),
)
LARGEST_NORM = 16.0


def request_of(provider: Any) -> SimpleNamespace:
    """Build a request from bytes."""

    def text() -> str:
        codec = CODECS[provider.ConsumeIntInRange(0, 3)]
        data = provider.ConsumeBytes(provider.ConsumeIntInRange(0, 600))
        string = data.decode(
            codec, "surrogatepass" if codec == "utf-8" and provider.ConsumeBool() else "replace"
        )
        return string * provider.ConsumeIntInRange(1, 12) if provider.ConsumeBool() else string

    def lossy_text() -> str:
        try:
            return text()
        except UnicodeDecodeError:
            return "\ud800"

    def maybe(make: Any) -> Any:
        return make() if provider.ConsumeBool() else None

    def several(make: Any, most: int) -> tuple[Any, ...]:
        return tuple(make() for _ in range(provider.ConsumeIntInRange(0, most)))

    def message() -> SimpleNamespace:
        return SimpleNamespace(role=ROLES[provider.ConsumeIntInRange(0, 5)], content=lossy_text())

    return SimpleNamespace(
        prompt=maybe(lossy_text),
        messages=maybe(lambda: several(message, 3)),
        tags=several(lossy_text, 3),
        tenant=maybe(lossy_text),
        input_tokens=maybe(lambda: provider.ConsumeInt(9)),
        session_id=maybe(lossy_text),
        language=maybe(lossy_text),
        hour=maybe(lambda: provider.ConsumeInt(1)),
        max_output_tokens=maybe(lambda: provider.ConsumeInt(4)),
        embedding=maybe(lambda: several(provider.ConsumeFloat, 6)),
        context=maybe(lambda: several(provider.ConsumeFloat, 4)),
    )


def main() -> None:
    """Run the fuzzer with its own options."""
    import atheris

    with atheris.instrument_imports(include=["tests.naive_features"]):
        from tests import naive_features as naive
    encoders = [Encoder(spec) for spec in SPECS]

    def one(data: bytes) -> None:
        request = request_of(atheris.FuzzedDataProvider(data))
        for encoder in encoders:
            out, tokens = np.full((1, encoder.spec.d), np.nan, np.float32), np.full(1, np.nan)
            encoder.encode_batch([request], out, tokens)
            x = out[0].tolist()
            expected, expected_tokens = naive.encode(encoder.spec, request)
            if x != expected or tokens[0] != expected_tokens:
                raise AssertionError(f"{request!r}: {x} is not {expected}")
            if not (all(map(math.isfinite, x)) and math.fsum(v * v for v in x) <= LARGEST_NORM):
                raise AssertionError(f"{request!r}: not bounded: {x}")
            if encoder.encode(request).tolist() != x:
                raise AssertionError(f"{request!r}: alone and in a batch differ")

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
