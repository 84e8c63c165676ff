"""Running coroutines of this package from the command line, and an engine until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from banditroute.config import Config, warnings
from banditroute.errors import BrokerError, TopicError
from banditroute.events import Edit, encode
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.records.snapshot import MAX_STATE_BYTES
from banditroute.flow.records.warm_start import WarmStart
from banditroute.router import learner_settings, make_encoder, make_warm_start
from banditroute.runtime.broker.kafka import KafkaClient
from banditroute.runtime.broker.ports import AppendFailed, Client
from banditroute.runtime.process import collector
from banditroute.runtime.state.topics import Spec, check_topics, create_topics, read_state, state_bytes
from banditroute.runtime.tasks.engine import Engine

T = TypeVar("T")

GRACE_SECONDS: Final = 2.5  # beyond the time for draining: publishing, committing and leaving the group
log = logging.getLogger("banditroute.serve")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on uvloop where it exists."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def serve(config: Config, *, init: bool) -> None:
    """Run an engine until SIGTERM or SIGINT, then drain it; raises what stopped it otherwise."""
    for text in warnings(config):
        log.warning("%s", text)
    engine = Engine(config, init=init)
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, asked.set)
    starting = asyncio.ensure_future(engine.start())
    waiting = asyncio.ensure_future(asked.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        _end_within(GRACE_SECONDS)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    await starting
    collector.settle()
    failing = asyncio.ensure_future(engine.stopped.wait())
    await asyncio.wait({failing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if asked.is_set():
        _end_within(config.engine.drain_timeout + GRACE_SECONDS)
    for future in (failing, waiting):
        future.cancel()
    await engine.stop()
    if engine.failure is not None:
        raise engine.failure


def _end_within(seconds: float) -> None:
    """Let the process end after so many seconds, whatever it waits for.

    A client in the midst of a rebalance may not yield to being cancelled. Nothing is lost by not waiting for it:
    what the logs do not hold yet is done again by the next owner, as after a crash.
    """

    def end() -> None:
        log.warning("ended without leaving the consumer group: its client did not stop in time")
        logging.shutdown()
        os._exit(0)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _spec(config: Config) -> Spec:
    spec = make_encoder(config).spec
    return Spec(spec.d, spec.spec_id, learner_settings(config))


async def with_client(config: Config, work: Callable[[Client, Config, Spec], Awaitable[T]]) -> T:
    """Do something with a started client and the feature spec of a configuration."""
    client = KafkaClient(config)
    await client.start()
    try:
        return await work(client, config, _spec(config))
    finally:
        await client.stop()


async def create(config: Config, now_ms: int) -> list[str]:
    """Create topics and genesis records; see `banditroute.runtime.state.topics.create_topics`."""
    client = KafkaClient(config)
    await client.start()
    try:
        return await create_topics(client, config, _spec(config), now_ms)
    finally:
        await client.stop()


async def check(config: Config) -> dict[str, Any]:
    """Check everything an engine needs before it starts; raises the error that it would meet."""
    spec = _spec(config)
    warm = make_warm_start(config, make_encoder(config).spec)
    size = state_bytes(len(config.models), spec.d)
    if size > MAX_STATE_BYTES:
        raise TopicError(
            f"state records would need {size} bytes, more than {MAX_STATE_BYTES}: use fewer models or columns"
        )
    client = KafkaClient(config)
    await client.start()
    try:
        layout = await check_topics(client, config)
        for number in range(layout.partitions):
            state, _, _ = await read_state(client, config, number, spec)
            if state is None:
                raise TopicError(
                    f"partition {number} of '{config.kafka.topics.state}' holds no genesis record: run "
                    "`banditroute topics create -c FILE` once"
                )
    finally:
        await client.stop()
    return {
        "models": [model.name for model in config.models],
        "columns": spec.d,
        "spec_id": spec.spec_id,
        "state_record_bytes": size,
        "partitions": layout.partitions,
        "feedback_partitions": layout.feedback,
        "mode": config.engine.mode,
        **_told(warm),
    }


def _told(warm: WarmStart | None) -> dict[str, Any]:
    if warm is None:
        return {}
    return {"prior_digest": warm.digest, "prior_cold": warm.cold, "prior_ignored": warm.ignored}


async def control(config: Config, edit: Edit) -> int:
    """Append a control edit and return its number."""
    client = KafkaClient(config)
    await client.start()
    try:
        if not await client.partitions(config.kafka.topics.control):
            raise TopicError(
                f"topic '{config.kafka.topics.control}' does not exist: run `banditroute topics create -c FILE`"
            )
        acks = await client.append(config.kafka.topics.control, 0, [OutputRecord(None, encode(edit))])
    except AppendFailed as error:
        raise BrokerError(f"the control record was not acknowledged: {error}") from error
    finally:
        await client.stop()
    return acks[0].base
