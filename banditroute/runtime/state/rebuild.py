"""Evidence recomputed from the topics: the same it must be, or the same votes under another feature spec."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from banditroute.config import Config
from banditroute.errors import StateError
from banditroute.events import FieldMap, Rejected, decode_request
from banditroute.flow.deciding.decider import InputRecord
from banditroute.flow.partition import genesis_state
from banditroute.flow.records.header import HEADER_NAME, replace_context, request_offset_of
from banditroute.flow.records.respec import context_free, on_intercept
from banditroute.flow.records.snapshot import Genesis, Start, State, settings_digest
from banditroute.router import make_encoder
from banditroute.runtime.broker.ports import Client
from banditroute.runtime.state.restore import restore
from banditroute.runtime.state.stored import publish, stored
from banditroute.runtime.state.topics import Spec, check_topics
from banditroute_features import Encoder, RequestLike

Contexts = Mapping[int, NDArray[np.float32]]  # by request offset


class Rebuilt(NamedTuple):
    """A state that was recomputed.

    ``differs`` says whether the record on the topic leads elsewhere, None where there is none of this spec;
    ``from_logs`` is false where only the context-free part could be kept.
    """

    state: State
    differs: bool | None
    from_logs: bool
    without_context: float


async def rebuild(
    client: Client, config: Config, spec: Spec, now_ms: int, *, other_spec: bool, write: bool
) -> dict[str, Any]:
    """Recompute every partition from its logs, compare with what is published, and publish if asked to.

    Parameters
    ----------
    client : Client
        A started client; engines should be stopped.
    config : Config
        Topics, and the features that contexts are encoded with.
    spec : Spec
        Of `config`.
    now_ms : int
        Becomes the log epoch where no genesis is left.
    other_spec : bool
        The topics were written under another spec: requests still retained are encoded anew.
    write : bool
        Publish the result.

    Raises
    ------
    StateError
        If the logs no longer reach back to their beginning (and the spec is the same).
    """
    layout = await check_topics(client, config)
    done: dict[int, Rebuilt] = {}
    for number in range(layout.partitions):
        if other_spec:
            done[number] = await _under_other_spec(client, config, spec, number)
        else:
            done[number] = await _again(client, config, spec, number, now_ms)
    if write:
        await publish(client, config, {number: each.state for number, each in done.items()})
    return {
        "spec_id": spec.spec_id,
        "published": write,
        "differs": [number for number, each in done.items() if each.differs],
        "partitions": [
            {
                "partition": number,
                "covers": each.state.j,
                "votes": sum(each.state.evidence.votes().values()),
                "without_context": each.without_context,
                "from_logs": each.from_logs,
                "differs": each.differs,
            }
            for number, each in done.items()
        ],
    }


async def _again(client: Client, config: Config, spec: Spec, number: int, now_ms: int) -> Rebuilt:
    found = await stored(client, config, number)
    any_state = next((state for state, _ in found.newest.values()), None)
    if any_state is None:
        start = Start(0, 0, 0)  # a log that was cut since is refused below
        genesis = Genesis(log_epoch=now_ms << 20 | secrets.randbits(20), hash_key=secrets.token_hex(16))
    else:
        genesis = any_state.genesis
        start = _start(any_state)
    state = (await restore(client, config, _genesis_state(number, spec, genesis, start), spec)).snapshot()
    differs = None
    if spec.spec_id in found.newest:
        there = (await restore(client, config, found.newest[spec.spec_id][0], spec)).snapshot()
        if there.j > state.j:  # an engine went on meanwhile
            raise StateError(f"the journal of partition {number} grew meanwhile: stop the engines first")
        differs = (there.evidence, there.ledger, there.at) != (state.evidence, state.ledger, state.at)
    return Rebuilt(state, differs, True, 0.0)


def _start(state: State) -> Start:
    if isinstance(state.genesis.start, Start):
        return state.genesis.start
    raise StateError(
        f"the state of partition {state.partition} was begun by a build that did not write down where its logs began: "
        "it cannot be rebuilt"
    )


def _genesis_state(number: int, spec: Spec, genesis: Genesis, start: Start) -> State:
    return genesis_state(
        number,
        spec.d,
        spec.spec_id,
        spec.settings,
        genesis,
        request_offset=start.requests,
        decisions_offset=start.decisions,
        journal_offset=start.journal,
    )


async def _under_other_spec(client: Client, config: Config, spec: Spec, number: int) -> Rebuilt:
    found = await stored(client, config, number)
    others = [state for state, _ in found.newest.values() if state.spec_id != spec.spec_id]
    if not others:
        raise StateError(
            f"partition {number} of '{config.kafka.topics.state}' holds no record of another feature spec than "
            f"{spec.spec_id}: there is nothing to take over; leave --spec out"
        )
    newest = max(others, key=lambda state: state.j)
    if newest.digest != settings_digest(spec.settings):
        raise StateError(
            f"the state of partition {number} was learned with other settings of [learning] or feedback.max_parked: "
            "change them apart from [features]"
        )
    names = config.kafka.topics
    reach = await _reaches_back(client, config, newest)
    if not reach:
        evidence = context_free(newest.evidence, spec.d)
        moved = sum(evidence.votes().values())
        state = msgspec.structs.replace(newest, spec_id=spec.spec_id, d=spec.d, evidence=evidence)
        return Rebuilt(state, None, False, moved)
    contexts = await _contexts(client, config, number)
    reader = cast("Client", _EncodedAnew(client, names.decisions, spec.spec_id, contexts))
    start = _genesis_state(number, spec, newest.genesis, _start(newest))
    state = (await restore(reader, config, start, spec)).snapshot()
    moved = on_intercept(state.evidence)
    return Rebuilt(state, None, True, moved)


async def _reaches_back(client: Client, config: Config, state: State) -> bool:
    """Tell whether both logs still hold everything since genesis."""
    start, names = state.genesis.start, config.kafka.topics
    if not isinstance(start, Start):
        return False
    journal, _ = await client.bounds(names.journal, state.partition)
    decisions, _ = await client.bounds(names.decisions, state.partition)
    return journal <= start.journal and decisions <= start.decisions


async def _contexts(client: Client, config: Config, number: int) -> dict[int, NDArray[np.float32]]:
    """Encode the requests that are still there."""
    encoder: Encoder = make_encoder(config)
    field_map = FieldMap(config.requests.field_map) if config.requests.field_map else None
    topic = config.kafka.topics.requests
    begin, end = await client.bounds(topic, number)
    contexts = {}
    async for records in client.read(topic, number, begin, end):
        decoded = [(record.offset, decode_request(record.value, field_map)) for record in records]
        requests = [(offset, request) for offset, request in decoded if not isinstance(request, Rejected)]
        if not requests:
            continue
        x = np.empty((len(requests), encoder.spec.d), np.float32)
        encoder.encode_batch(
            cast("list[RequestLike]", [request for _, request in requests]), x, np.empty(len(requests))
        )
        contexts.update({offset: row for (offset, _), row in zip(requests, x, strict=True)})
    return contexts


class _EncodedAnew:
    """A client whose decisions have the contexts of another spec, where the request is still known."""

    def __init__(self, client: Client, decisions: str, spec_id: str, contexts: Contexts) -> None:
        self._client = client
        self._decisions = decisions
        self._spec_id = spec_id
        self._contexts = contexts
        self.bounds = client.bounds

    async def read(
        self, topic: str, partition: int, start: int, stop: int
    ) -> AsyncIterator[list[InputRecord]]:
        async for records in self._client.read(topic, partition, start, stop):
            yield records if topic != self._decisions else [self._anew(record) for record in records]

    def _anew(self, record: InputRecord) -> InputRecord:
        header = next((content for name, content in record.headers if name == HEADER_NAME), b"")
        x = self._contexts.get(request_offset_of(header))
        if x is None:
            return record
        headers = [(HEADER_NAME, replace_context(header, self._spec_id, x))]
        return replace(record, headers=headers)
