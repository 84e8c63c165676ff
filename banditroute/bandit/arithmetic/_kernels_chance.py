"""Compiled kernels of random numbers: a normal and a uniform number as a function of seed, request and model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from banditroute_features.compile import njit_cached

# No references are counted in a kernel that allocates nothing; those of slices took a third of a decision. Nor is a
# division checked: the branch would keep the compiler from doing several at once.
kernel = njit_cached(_nrt=False, error_model="numpy")
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX1, MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S11, S12, S27, S30, S31 = np.uint64(11), np.uint64(12), np.uint64(27), np.uint64(30), np.uint64(31)
# Coefficients of AS 241, highest power first: |p − ½| <= 0.425, then by r = sqrt(−log(tail)) up to 5 and beyond.
# fmt: off
CENTRE = (
    2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
    1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0,
)
CENTRE_BELOW = (
    5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
    5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0,
)
SIDE = (
    7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
    3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0,
)
SIDE_BELOW = (
    1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
    6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0,
)
FAR = (
    2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
    2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0,
)
FAR_BELOW = (
    2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
    1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0,
)
# fmt: on


@kernel
def _mix(z: Any) -> Any:
    z = (z ^ (z >> S30)) * MIX1
    z = (z ^ (z >> S27)) * MIX2
    return z ^ (z >> S31)


@kernel
def _horner(c: Any, r: float) -> float:
    return ((((((c[0] * r + c[1]) * r + c[2]) * r + c[3]) * r + c[4]) * r + c[5]) * r + c[6]) * r + c[7]


@kernel
def _central(q: float) -> float:
    """Return the normal quantile of q + ½ for |q| <= 0.425: algorithm AS 241, PPND16 (Wichura, 1988)."""
    r = 0.180625 - q * q
    return q * _horner(CENTRE, r) / _horner(CENTRE_BELOW, r)


@kernel
def outer(p: float) -> float:
    """Return the normal quantile of p farther than 0.425 from ½, by the same algorithm; relative error about 1e-16."""
    r = math.sqrt(-math.log(p if p < 0.5 else 1.0 - p))
    if r <= 5.0:
        z = _horner(SIDE, r - 1.6) / _horner(SIDE_BELOW, r - 1.6)
    else:
        z = _horner(FAR, r - 5.0) / _horner(FAR_BELOW, r - 5.0)
    return -z if p < 0.5 else z


@kernel
def _quantile(p: float) -> float:
    return _central(p - 0.5) if abs(p - 0.5) <= 0.425 else outer(p)


@kernel
def stream_of(seed: Any, request_key: Any) -> Any:
    """Return the hash that all normal numbers of a request share."""
    return _mix((_mix(seed + GOLDEN) ^ request_key) + GOLDEN)


@kernel
def probability(stream: Any, model_key: Any) -> float:
    # 52 bits and a half: the probability is exact, symmetric, and neither 0 nor 1.
    return (np.float64(_mix((stream ^ model_key) + GOLDEN) >> S12) + 0.5) * 2.0**-52


@kernel
def normal(seed: Any, request_key: Any, model_key: Any) -> float:
    """Return the standard normal number of (seed, request, model): splitmix64 as a hash, then the normal quantile."""
    return _quantile(probability(stream_of(seed, request_key), model_key))


@kernel
def uniform(seed: Any, request_key: Any, salt: Any) -> float:
    """Return the number in [0, 1) of (seed, request, salt), independent of every normal one."""
    h = _mix(seed + GOLDEN)
    h = _mix((h ^ request_key) + GOLDEN)
    h = _mix((h ^ salt) + GOLDEN)
    return np.float64(_mix(h + GOLDEN + GOLDEN + GOLDEN) >> S11) * 2.0**-53
