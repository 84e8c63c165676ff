"""Sends an event through everything once, so that nothing is compiled while requests wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from banditroute.config import Config
from banditroute.events import Decided, Expire, Feedback, Request, encode
from banditroute.flow.board import Board
from banditroute.flow.copying.copier import Copier
from banditroute.flow.copying.partitioner import PartitionerWatch
from banditroute.flow.deciding.decider import Decider, InputRecord
from banditroute.flow.judge import Judge, follow
from banditroute.flow.partition import Partition, genesis_state
from banditroute.flow.records.snapshot import Genesis, decode_state, encode_state
from banditroute.flow.settling.chunk import Chunk
from banditroute.router import learner_settings, make_encoder, make_pacer, make_policy

_REQUESTS: Final = 40  # enough for a sample of them to be judged on


def warm_up(config: Config) -> None:
    """Compile every kernel that an engine of a configuration uses, on a partition of its own."""
    # our own events, not shaped as the users' are, and none of them too old
    plain = replace(config.requests, field_map={}, max_request_age=None)
    config = replace(config, requests=plain)
    encoder = make_encoder(config)
    policy = make_policy(config, encoder.spec)
    decider = Decider(config, config.catalog, encoder, policy, make_pacer(config))
    d, spec_id, settings = encoder.spec.d, encoder.spec.spec_id, learner_settings(config)
    watch = PartitionerWatch("auto", 2)
    copier = Copier(config.catalog, watch, {}, lambda _id, _tenant: 0)
    state = genesis_state(0, d, spec_id, settings, Genesis(log_epoch=0, hash_key="00"))
    partition = Partition(state, d, spec_id, settings)
    partition.begin()
    partition.finish()
    learner = partition.learner

    requests = [
        Request(request_id=f"warm-up-{i}", prompt="?", tags=("t",), tenant="t") for i in range(_REQUESTS)
    ]
    batch = decider.decide_records(0, _records(requests), learner, learner.fields, "0+0", 0.0)
    assert batch.known is not None
    watch.check(batch.keys, 0)
    partition.acknowledged(batch.known, 0, 0, batch.records[-1].value)

    names = config.catalog.names
    feedback = [
        Feedback(
            request_id=request.request_id, kind="score", value=0.5, voter=f"v{i % 2}", model=names[i % len(names)],
            output_tokens=1, input_tokens=1, cost_usd=0.0, latency_ms=1.0,
        )
        for i, request in enumerate(requests)
    ]  # fmt: skip
    feedback += [Feedback(request_id="warm-up-1", kind="score", value=0.25, voter="v1")]
    feedback += [
        Feedback(request_id="warm-up-2", kind="withdraw", voter="v1"),
        Feedback(kind="withdraw", voter="v1"),
    ]
    copies = copier.copy(0, _records(feedback)).targets
    chunk = Chunk.of(
        _numbered(
            [encode(Decided(_REQUESTS)), *(copy.value for copy in copies.get(0, ())), encode(Expire(1, 0))]
        )
    )
    partition.apply_many(chunk)
    follow(policy, chunk.learned)
    policy.derive(learner.evidence)
    decider.exploration.rest(policy)
    board, judge = Board(d, spec_id, settings), Judge()
    for published in (state, decode_state(encode_state(partition.snapshot()))):
        board.put(published)
        judge.look(board.sight({}), policy.derived, {})


def _records(events: Sequence[Request | Feedback]) -> list[InputRecord]:
    return _numbered([encode(event) for event in events])


def _numbered(values: Sequence[bytes]) -> list[InputRecord]:
    return [InputRecord(offset, 0, None, value) for offset, value in enumerate(values)]
