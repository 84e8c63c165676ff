"""What the state topic holds: shown, written to a file, read from one, and recomputed from the logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from banditroute.bandit.evidence.evidence import Evidence, RowKey
from banditroute.config import Config
from banditroute.errors import BrokerError, StateError
from banditroute.flow.deciding.decider import InputRecord, OutputRecord
from banditroute.flow.records.snapshot import State, believable_state, encode_state
from banditroute.flow.records.warm_start import encode_warm_start
from banditroute.runtime.broker.ports import AppendFailed, Client
from banditroute.runtime.state.restore import restore
from banditroute.runtime.state.topics import Spec, check_topics


class Stored(NamedTuple):
    """The newest usable record of every spec, and a sentence per record that cannot be read."""

    newest: dict[str, tuple[State, InputRecord]]
    damaged: list[str]


async def stored(client: Client, config: Config, partition: int) -> Stored:
    """Read a partition of the state topic."""
    topic = config.kafka.topics.state
    begin, end = await client.bounds(topic, partition)
    found = Stored({}, [])
    async for records in client.read(topic, partition, begin, end):
        for record in records:
            try:
                state = believable_state(record.value)
            except StateError as error:
                found.damaged.append(f"{topic}-{partition} offset {record.offset}: {error}")
            else:
                there = found.newest.get(state.spec_id)
                if state.supersedes(there[0] if there else None):
                    found.newest[state.spec_id] = state, record
    return found


async def inspect(client: Client, config: Config, spec: Spec, now_ms: float) -> dict[str, Any]:
    """Tell what was learned, up to where, and how long ago it was published.

    Returns
    -------
    dict
        ``partitions``: one row each, of this spec; ``models``: sum of weights of quality votes; ``other_specs``,
        ``damaged``: what else is on the topic.
    """
    layout = await check_topics(client, config)
    rows, damaged, others = [], list[str](), set[str]()
    models: dict[str, float] = {}
    for number in range(layout.partitions):
        found = await stored(client, config, number)
        damaged += found.damaged
        others |= found.newest.keys() - {spec.spec_id}
        if spec.spec_id in found.newest:
            state, record = found.newest[spec.spec_id]
            _, end = await client.bounds(config.kafka.topics.journal, number)
            rows.append(_row(state, record, end, now_ms))
            for key, votes in state.evidence.votes().items():
                models[key.name] = models.get(key.name, 0.0) + votes
    return {
        "topic": config.kafka.topics.state,
        "spec_id": spec.spec_id,
        "models": models,
        "partitions": rows,
        "other_specs": sorted(others),
        "damaged": damaged,
    }


def _row(state: State, record: InputRecord, journal_end: int, now_ms: float) -> dict[str, Any]:
    ledger = state.ledger
    return {
        "partition": state.partition,
        "log_epoch": state.genesis.log_epoch,
        "covers": state.j,
        "journal_end": journal_end,
        "replay_from": state.replay_from,
        "decisions": state.at.D,
        "open": ledger["first"] - ledger["answered"] - ledger["expired"],
        "parked": state.parked,
        "votes": sum(state.evidence.votes().values()),
        "bytes": len(record.value or b""),
        "age_seconds": round(max(0.0, now_ms - record.timestamp) / 1000.0, 3),
    }


async def collect(client: Client, config: Config, spec: Spec) -> list[State]:
    """Return the newest record of every partition; raises StateError where there is none of this spec."""
    layout = await check_topics(client, config)
    states = []
    for number in range(layout.partitions):
        found = await stored(client, config, number)
        if spec.spec_id not in found.newest:
            why = found.damaged[-1] if found.damaged else f"it holds {sorted(found.newest) or 'nothing'}"
            raise StateError(
                f"partition {number} of '{config.kafka.topics.state}' holds no usable record of feature spec "
                f"{spec.spec_id}: {why}"
            )
        states.append(found.newest[spec.spec_id][0])
    return states


def as_prior(states: Sequence[State]) -> bytes:
    """Return a file for `learning.prior` with what all partitions know; all kinds of feedback count as one there."""
    total = Evidence(states[0].d)
    for state in states:
        # the newest records of all partitions are of about one moment: forgetting between them is left out
        for key in sorted(state.evidence.rows):
            total.row(RowKey(key.name, key.generation))[:] += state.evidence.rows[key]
        total.shared += state.evidence.shared
    votes = sum(total.votes().values())
    return encode_warm_start(total, states[0].spec_id, votes)


async def bring_in(
    client: Client, config: Config, spec: Spec, states: Iterable[State], *, force: bool
) -> dict[str, Any]:
    """Write records of a file to the state topic; all of them are checked against the logs before any is written.

    Raises
    ------
    StateError
        If one is of another spec or other settings, does not fit the logs, or is older than what is there and
        `force` is not set.
    """
    layout = await check_topics(client, config)
    by_partition = {state.partition: state for state in states}
    if by_partition.keys() != set(range(layout.partitions)):
        raise StateError(
            f"the file holds partitions {sorted(by_partition)}, but '{config.kafka.topics.state}' has "
            f"{layout.partitions} of them"
        )
    for number, state in sorted(by_partition.items()):
        there = (await stored(client, config, number)).newest.get(spec.spec_id)
        if there is not None and version(state) < version(there[0]) and not force:
            raise StateError(
                f"the file knows partition {number} up to journal offset {state.j}, the topic up to {there[0].j}: "
                "an import does not go backwards unless --force is given"
            )
        if there is not None and not state.supersedes(there[0]):
            genesis = msgspec.structs.replace(state.genesis, reign=there[0].genesis.reign + 1)
            by_partition[number] = msgspec.structs.replace(state, genesis=genesis)
        await restore(client, config, by_partition[number], spec)
    await publish(client, config, by_partition)
    return {
        "partitions": len(by_partition),
        "covers": {number: state.j for number, state in by_partition.items()},
    }


async def publish(client: Client, config: Config, states: Mapping[int, State]) -> None:
    """Append state records; raises BrokerError where one is not acknowledged."""
    topic = config.kafka.topics.state
    for number, state in sorted(states.items()):
        try:
            await client.append(topic, number, [OutputRecord(state.key, encode_state(state))])
        except AppendFailed as error:
            raise BrokerError(
                f"the state of partition {number} was not acknowledged ({error}): do it again"
            ) from error


def version(state: State) -> tuple[int, int]:
    """Return what tells which of two records is the newer one."""
    return state.genesis.log_epoch, state.j
