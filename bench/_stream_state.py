"""How much state an engine publishes: record sizes against models, columns and kinds of feedback."""

from __future__ import annotations

import numpy as np

from banditroute.bandit.evidence.evidence import Evidence, RowKey
from banditroute.flow.partition import genesis_state
from banditroute.flow.records.position import LearnerSettings
from banditroute.flow.records.snapshot import Genesis, encode_state
from bench.harness import Row

SHAPES = ((4, 8, 32), (64, 8, 32), (64, 8, 64), (64, 50, 64))  # partitions, models, columns


def state_sizes() -> list[Row]:
    """Return MB/s of state topic traffic with every partition dirty and `publish_interval` of a second."""
    from aiokafka.codec import zstd_encode

    rows = []
    draw = np.random.default_rng(1)
    for partitions, models, d in SHAPES:
        state = genesis_state(0, d, "0" * 16, LearnerSettings(), Genesis(log_epoch=1, hash_key="0" * 32))
        state.evidence = Evidence(d)
        state.evidence.shared[:] = draw.standard_normal(state.evidence.layout.shared_size)
        for model in range(models):
            for kind in ("score", "usage"):
                row = state.evidence.row(RowKey(f"model-{model}", 0, kind))
                written = state.evidence.layout.written(whole=kind == "score")
                row[written] = draw.standard_normal(len(written))
        value = encode_state(state)
        packed = len(zstd_encode(value))
        more = {"record-bytes": len(value), "compressed": packed}
        rows.append(
            Row(
                f"state-{partitions}x{models}x{d}",
                "banditroute",
                partitions * packed / 1e6,
                "MB/s",
                None,
                more,
            )
        )
    return rows
