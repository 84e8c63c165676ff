"""Contexts of a data set: its prompts as the encoder of the engine sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.posterior.prior import Block
from banditroute_features import Encoder, RequestLike
from banditroute_sim.data.dataset import DataSet

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A row of a data set as the encoder sees it."""

    prompt: str
    tags: tuple[str, ...]
    input_tokens: int | None
    messages: None = None
    tenant: None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """The contexts of a data set.

    Attributes
    ----------
    x : float32[n, d]
    tokens : float64[n]
        Input tokens: counted where the data set counts them, else estimated.
    blocks : sequence of (start, stop)
    """

    x: NDArray[np.float32]
    tokens: Floats
    blocks: Sequence[Block]


def encode(data: DataSet, encoder: Encoder, *, tags: bool = True) -> Encoded:
    """Encode the prompts of a data set, with the task as their tag."""
    tokens = data.request_tokens
    requests: list[RequestLike] = [
        Prompt(prompt, (task,) if tags and task else (), None if count != count else int(count))
        for prompt, task, count in zip(data.prompts, data.tasks, tokens, strict=True)
    ]
    x = np.empty((len(requests), encoder.spec.d), np.float32)
    estimated = np.empty(len(requests))
    encoder.encode_batch(requests, x, estimated)
    return Encoded(x, estimated, [(block.start, block.stop) for block in encoder.spec.blocks])
