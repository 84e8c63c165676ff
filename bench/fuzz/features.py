"""Fuzz the encoder with atheris: any bytes give a finite, bounded context that equals the naive oracle.

    python -m bench.fuzz.features -max_total_time=600 [-fork=1] [corpus folder]

The bytes become a request: some as text in one of four internal forms of a string, some as messages, names and
numbers. The oracle is plain Python, so its branches are the coverage that the fuzzer follows, beside those of the
encoder; the compiled kernel has to give the same bits. Some requests are mappings with values of wrong types: they have
to give something finite, and never raise. Needs `atheris`.
"""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

import bench  # noqa: F401  puts the source roots on the path

CODECS = ("latin-1", "utf-8", "utf-16-le", "utf-32-le")
ROLES = ("user", "assistant", "system", "developer", "tool", "")
EVERYTHING = {
    "tags": 5,
    "tenant": 2,
    "session": 2,
    "language": 2,
    "hour": 2,
    "cross": 3,
    "numeric": 2,
    "seed": 3,
    "statistics": True,
    "scripts": True,
    "chat": True,
    "chars": 40,
    "words": 12,
    "embedding": 3,
    "context": 2,
}
LARGEST_NORM = 16.0
WRONG = (
    None,
    7,
    -1,
    2.5,
    math.nan,
    10**30,
    True,
    b"x",
    "x",
    [],
    (),
    [None],
    {"a": 1},
    object(),
    [[1.0]],
    "\ud800",
)


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


def made_wrong(provider: Any, request: SimpleNamespace) -> dict[str, Any]:
    """Return a mapping in which some values are of a wrong type and some are not there."""
    fields = dict(vars(request))
    if fields["messages"]:
        fields["messages"] = [
            dict(vars(message)) | ({"role": WRONG[i % len(WRONG)]} if provider.ConsumeBool() else {})
            for i, message in enumerate(fields["messages"])
        ]
    for name in sorted(fields):
        if provider.ConsumeBool():
            fields[name] = WRONG[provider.ConsumeIntInRange(0, len(WRONG) - 1)]
        elif provider.ConsumeBool():
            del fields[name]
    return fields


def check(encoder: Any, request: Any, oracle: Any) -> None:
    """Raise AssertionError where an encoder breaks a promise."""
    out, tokens = np.full((1, encoder.spec.d), np.nan, np.float32), np.full(1, np.nan)
    encoder.encode_batch([request], out, tokens)
    x = out[0].tolist()
    if oracle is not None and (x, tokens[0]) != oracle(encoder.spec, request):
        raise AssertionError(f"{request!r}: {x} is not {oracle(encoder.spec, request)}")
    if not (all(map(math.isfinite, x)) and math.fsum(v * v for v in x) <= LARGEST_NORM):
        raise AssertionError(f"{request!r}: not bounded: {x}")
    if not (math.isfinite(tokens[0]) and tokens[0] >= 0):
        raise AssertionError(f"{request!r}: tokens {tokens[0]}")
    if encoder.encode(request).tolist() != x:
        raise AssertionError(f"{request!r}: alone and in a batch differ")


def main() -> None:
    """Run the fuzzer with its own options."""
    try:
        import atheris
    except ImportError:
        sys.exit("bench.fuzz.features: atheris is not installed; `pip install atheris`")
    from banditroute_features import Encoder, FeatureSpec, tame
    from banditroute_features import encoder as encoding

    with atheris.instrument_imports(include=["tests.naive_features", "tests.naive_text"]):
        from tests import naive_features as naive
    gathering = (Encoder._gather, Encoder._gather_more, encoding._chat)  # what is not compiled
    for function in (*gathering, tame.tame, tame.names_of, tame.numbers_of, tame._messages, tame._parts):
        atheris.instrument_func(function)
    encoders = [Encoder(FeatureSpec()), Encoder(FeatureSpec(**EVERYTHING))]

    def one(data: bytes) -> None:
        provider = atheris.FuzzedDataProvider(data)
        wrong = provider.ConsumeBool()
        request = request_of(provider)
        for encoder in encoders:
            if wrong:
                check(encoder, made_wrong(provider, request), None)
            else:
                check(encoder, request, naive.encode)

    # Long inputs from the start: what crosses blocks of 64 bytes is where mistakes would be.
    atheris.Setup([sys.argv[0], "-len_control=0", "-max_len=2000", *sys.argv[1:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
