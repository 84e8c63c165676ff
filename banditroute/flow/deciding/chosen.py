"""What was chosen for a batch of requests, in columns: what decisions are made from, and what becomes pending."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice.policy import LIMITS, Choices, DecideBatch
from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.events import Request
from banditroute.flow.pending.open_decision import KnownBatch
from banditroute.flow.records.kafka_records import InputRecord

_INPUT, _ESTIMATED = LIMITS.index("input_tokens"), LIMITS.index("input_estimated")


class Chosen(NamedTuple):
    """The columns of n decided requests.

    `chosen` is int64[n], -1 for none, and has the default model where a request is `stale`; `predictions` are
    float64[n, 5] for it, NaN where there is none; `tokens` are float32[n], `counted` says whether the caller did;
    `segments` are the first tags.
    """

    partition: int
    fresh: Sequence[tuple[InputRecord, Request]]
    ids: list[bytes]
    offsets: NDArray[np.int64]
    batch: DecideBatch
    choices: Choices
    chosen: NDArray[np.int64]
    predictions: NDArray[np.float64]
    tokens: NDArray[np.float32]
    counted: NDArray[np.bool_]
    tenants: list[str | None]
    segments: list[str | None]
    stale: Sequence[int]
    version: str

    @classmethod
    def of(
        cls,
        partition: int,
        fresh: Sequence[tuple[InputRecord, Request]],
        ids: list[bytes],
        batch: DecideBatch,
        choices: Choices,
        stale: Sequence[int],
        default: int | None,
        version: str,
    ) -> Chosen:
        """Gather the columns; `stale` requests get the default model, which nobody chose."""
        chosen = choices.chosen.astype(np.int64)
        if stale and default is not None:
            chosen[stale] = default
        predictions = choices.candidates[np.arange(len(fresh)), chosen]
        predictions[chosen < 0] = np.nan
        offsets = np.fromiter((record.offset for record, _ in fresh), np.int64, len(fresh))
        tokens = batch.limits[:, _INPUT].astype(np.float32)
        counted = batch.limits[:, _ESTIMATED] == 0.0
        tenants = [request.tenant for _, request in fresh]
        segments = [request.tags[0] if request.tags else None for _, request in fresh]
        return cls(
            partition, fresh, ids, offsets, batch, choices, chosen, predictions, tokens, counted, tenants, segments,
            stale, version,
        )  # fmt: skip

    def known(self, headers: Sequence[bytes], keys: tuple[ModelKey, ...], *, shadow: bool) -> KnownBatch:
        """Return what becomes pending once the decisions are in the log."""
        return KnownBatch(
            self.offsets, self.ids, self.batch.x, self.chosen, self.predictions, self.tokens, self.counted,
            self.tenants, self.segments, headers, keys, shadow,
        )  # fmt: skip
