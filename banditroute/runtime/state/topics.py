"""Topics: creating them with their genesis records, checking them, and reading the state they hold."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from banditroute.bandit.evidence import row_layout as layout
from banditroute.config import Config
from banditroute.errors import StateError, TopicError
from banditroute.events import QUALITY_KINDS
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.partition import genesis_state
from banditroute.flow.records.position import LearnerSettings
from banditroute.flow.records.snapshot import MAX_STATE_BYTES, Genesis, State, believable_state, encode_state
from banditroute.runtime.broker.ports import AppendFailed, Client, TopicPartition, TopicSpec
from banditroute.runtime.state.topic_ids import ids_of

DAY_MS: Final = 86_400_000
AT_ONCE: Final = 64  # genesis records under way


class Layout(NamedTuple):
    """Partition counts: of requests, decisions, journal and state, and of feedback."""

    partitions: int
    feedback: int


class Spec(NamedTuple):
    """What contexts look like, and what evidence depends on beside the log."""

    d: int
    spec_id: str
    settings: LearnerSettings


def state_bytes(models: int, d: int, kinds: int = 1) -> int:
    """Return the size of a state record in bytes, offsets and names generously counted.

    Every model has a row per kind of quality vote and one for usage, which is short.
    """
    each = layout.Layout(d)
    row = kinds * each.row_size + len(each.written(whole=False))
    return 8 * (models * row + each.shared_size) + 1024 * models * (kinds + 1) + 65_536


def topic_specs(config: Config, d: int) -> list[TopicSpec]:
    """Return every topic the engine needs with its settings; see docs/OPERATIONS.md for the reasons."""
    names, partitions = config.kafka.topics, config.kafka.partitions
    size = state_bytes(len(config.models), d)
    if size > MAX_STATE_BYTES:
        raise TopicError(
            f"{len(config.models)} models with {d} feature columns need state records of {size} bytes, more than "
            f"{MAX_STATE_BYTES}: use fewer models or fewer columns"
        )
    most = min(state_bytes(len(config.models), d, len(QUALITY_KINDS)), MAX_STATE_BYTES)
    kept = str(int(max(7 * DAY_MS, 10_000 * config.feedback.join_window)))
    delete = {"cleanup.policy": "delete", "retention.ms": kept}
    specs = [
        TopicSpec(names.requests, partitions, {}),
        TopicSpec(names.feedback, partitions, {}),
        TopicSpec(names.decisions, partitions, delete),
        TopicSpec(names.journal, partitions, {**delete, "message.timestamp.type": "LogAppendTime"}),
        TopicSpec(
            names.state,
            partitions,
            {"cleanup.policy": "compact", "max.message.bytes": str(max(1_048_588, most))},
        ),
        TopicSpec(
            names.control, 1, {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
        ),
        TopicSpec(names.dead_letter, 1, {"cleanup.policy": "delete", "retention.ms": kept}),
        TopicSpec(names.alerts, 1, {"cleanup.policy": "delete", "retention.ms": kept}),
    ]
    if names.reply is not None:
        specs.append(TopicSpec(names.reply, partitions, {}))
    return specs


async def check_topics(client: Client, config: Config) -> Layout:
    """Check that every topic is there and that ours have equal partition counts; raises TopicError."""
    names = config.kafka.topics
    counts = {}
    every = [*names.partitioned, names.feedback, names.control, names.dead_letter, names.alerts]
    for name in every if names.reply is None else [*every, names.reply]:
        counts[name] = await client.partitions(name)
        if not counts[name]:
            raise TopicError(
                f"topic '{name}' does not exist: create it, or run `banditroute topics create -c FILE`"
            )
    expected = counts[names.requests]
    for name in names.partitioned:
        if counts[name] != expected:
            raise TopicError(
                f"topic '{name}' has {counts[name]} partitions, but '{names.requests}' has {expected}: "
                "requests, decisions, journal and state need the same number"
            )
    return Layout(expected, counts[names.feedback])


async def read_state(
    client: Client, config: Config, partition: int, spec: Spec
) -> tuple[State | None, int, list[str]]:
    """Read the newest usable state record of a partition.

    Returns
    -------
    State or None, int, list of str
        The record, the end of the state partition, and a sentence per damaged record.

    Raises
    ------
    StateError
        If there are records but none that this build and spec can use.
    """
    return (await read_states(client, config, [partition], spec))[partition]


async def read_states(
    client: Client, config: Config, partitions: Collection[int], spec: Spec
) -> dict[int, tuple[State | None, int, list[str]]]:
    """Read the newest usable state records of many partitions at once; see `read_state`."""
    topic = config.kafka.topics.state
    bounds = await client.all_bounds(topic, partitions)
    newest: dict[int, State] = {}
    damaged: dict[int, list[str]] = {partition: [] for partition in partitions}
    others: dict[int, set[str]] = {partition: set() for partition in partitions}
    ranges = {TopicPartition(topic, partition): bounds[partition] for partition in partitions}
    async for (_, partition), records in client.read_all(ranges):
        for record in records:
            try:
                state = believable_state(record.value)
            except StateError as error:
                damaged[partition].append(f"{topic}-{partition} offset {record.offset}: {error}")
                continue
            if state.spec_id != spec.spec_id:
                others[partition].add(state.spec_id)
            elif state.supersedes(newest.get(partition)):
                newest[partition] = state
    for partition in partitions:
        if partition not in newest:
            _refuse_unusable(partition, others[partition], damaged[partition], spec)
    return {
        partition: (newest.get(partition), bounds[partition][1], damaged[partition])
        for partition in partitions
    }


def _refuse_unusable(partition: int, others: Collection[str], damaged: Sequence[str], spec: Spec) -> None:
    """Refuse a partition whose records are all of another spec or damaged; one that is empty is none of these."""
    if others:
        raise StateError(
            f"the state of partition {partition} was learned with feature spec {', '.join(sorted(others))}, but "
            f"[features] says {spec.spec_id}: put the old [features] back, or name a new state topic and run "
            "`banditroute topics create`"
        )
    if damaged:
        raise StateError(
            f"no state record of partition {partition} can be used: {damaged[-1]}; write one anew from the logs with "
            "`banditroute state rebuild --publish`"
        )


async def create_topics(
    client: Client, config: Config, spec: Spec, now_ms: int, *, admin: bool = True
) -> list[str]:
    """Create missing topics and write a genesis record for every partition that has no state.

    Parameters
    ----------
    client : Client
        A started client.
    config : Config
        Names, counts and `kafka.start`.
    spec : Spec
        The feature spec and settings that learning begins with.
    now_ms : int
        The time, which becomes the log epoch.
    admin : bool
        Whether the broker can create topics; else they must exist or appear by themselves.

    Returns
    -------
    list of str
        What was done, in words.
    """
    done = []
    if admin:
        done += [f"created topic {name}" for name in await client.create(topic_specs(config, spec.d))]
    layout = await check_topics(client, config)
    names, latest = config.kafka.topics, config.kafka.start == "latest"
    log_epoch = now_ms << 20 | secrets.randbits(20)
    hash_key = secrets.token_hex(16)
    topic_ids = await ids_of(client, names)
    states = await read_states(client, config, range(layout.partitions), spec)
    missing = [partition for partition, (state, _, _) in states.items() if state is None]
    if not missing:
        return done
    feedback = await client.all_bounds(names.feedback, range(layout.feedback))
    feedback_start = {source: bounds[latest] for source, bounds in feedback.items()}
    requests, decisions, journal = [
        await client.all_bounds(topic, missing) for topic in (names.requests, names.decisions, names.journal)
    ]
    genesis = Genesis(
        log_epoch=log_epoch, hash_key=hash_key, feedback_start=feedback_start, topic_ids=topic_ids
    )

    async def write(partition: int) -> None:
        first = genesis_state(
            partition,
            spec.d,
            spec.spec_id,
            spec.settings,
            genesis,
            request_offset=requests[partition][latest],
            decisions_offset=decisions[partition][1],
            journal_offset=journal[partition][1],
        )
        try:
            await client.append(
                names.state, partition, [OutputRecord(first.genesis_key, encode_state(first))]
            )
        except AppendFailed as error:
            raise TopicError(
                f"the genesis record of partition {partition} could not be written: {error}"
            ) from error

    for at in range(0, len(missing), AT_ONCE):
        written = await asyncio.gather(
            *(write(partition) for partition in missing[at : at + AT_ONCE]), return_exceptions=True
        )
        for failure in written:
            if failure is not None:
                raise failure
    # Others may have written theirs at the same moment: the first one in the log counts for all.
    for partition, (winner, _, _) in (await read_states(client, config, missing, spec)).items():
        ours = winner is not None and winner.genesis.log_epoch == log_epoch
        done.append(
            f"wrote the genesis record of partition {partition}"
            + ("" if ours else ", which does not count: another one was there first")
        )
    return done


async def committed_or(client: Client, where: TopicPartition, fallback: int) -> tuple[int, int]:
    """Return where to read an input partition from, and how many records retention removed before they were read."""
    offset = await client.committed(where)
    begin, end = await client.bounds(*where)
    wanted = fallback if offset is None else offset
    if wanted > end:
        raise TopicError(
            f"the group's offset {wanted} of {where.topic}-{where.partition} is beyond the end of the log, {end}: "
            "the topic was recreated; name a new group and a new state topic"
        )
    return max(wanted, begin), max(0, begin - wanted)
