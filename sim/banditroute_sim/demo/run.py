"""The demo: a broker, the engine and its traffic in one process, with nothing to configure."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.live import Live

from banditroute.config import Config, Kafka, Learning, Logging, Objective
from banditroute_sim.data.dataset import DataSet
from banditroute_sim.demo.view import render
from banditroute_sim.demo.world import DemoWorld
from banditroute_sim.traffic.options import TrafficOptions
from banditroute_sim.traffic.run import run_traffic
from banditroute_sim.traffic.tally import Tally, TrafficSummary

if TYPE_CHECKING:
    from banditroute.runtime.tasks.engine import Engine

_SECONDS: Final = 20.0
_ROWS: Final = 50_000  # prompts drawn at most; longer runs go through them again
_FASTEST: Final = 50_000.0  # requests per second that a run without a rate will not exceed
_MOST: Final = 2_000_000  # requests in one run at most, whatever the clock says
_DELAY: Final = (0.1, 2.0)  # seconds until feedback comes
_IN_FLIGHT: Final = 512  # keeps every reader within what the embedded broker remembers
_FETCH_WAIT_MS: Final = 5  # the embedded broker does not wake a waiting fetch
_SETTLE_SECONDS: Final = 15.0
_STALL_SECONDS: Final = 15.0
# What can become of a feedback record; `applied` is what learning took.
_CLASSES: Final = (
    "applied", "revised", "duplicate", "late", "orphan", "elsewhere", "foreign", "rejected", "withdrawn",
    "copied_twice",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """How long and how fast.

    Parameters
    ----------
    requests : int, optional
        Stop after this many requests.
    seconds : float, optional
        Stop sending after this long; default: 20 unless `requests` is given.
    seed : int
        Seed of the world, of the delays and of the engine.
    rate : float
        Requests per second, 0 = as fast as decisions come back.
    view : bool, optional
        Whether to draw the live view; default: on a terminal.
    """

    requests: int | None = None
    seconds: float | None = None
    seed: int = 0
    rate: float = 500.0
    view: bool | None = None

    def __post_init__(self) -> None:
        self.traffic()  # refuses what is out of range

    def traffic(self) -> TrafficOptions:
        """Return the traffic that this asks for."""
        seconds = _SECONDS if self.seconds is None and self.requests is None else self.seconds
        wanted = (seconds or 0.0) * (self.rate or _FASTEST)
        return TrafficOptions(
            requests=math.ceil(min(max(wanted, 1.0), _MOST)) if self.requests is None else self.requests,
            seconds=seconds,
            rate=self.rate,
            feedback_delay=_DELAY,
            run_id="demo",
            seed=self.seed,
            source="demo",
            max_in_flight=_IN_FLIGHT,
            fetch_wait_ms=_FETCH_WAIT_MS,
            stall_timeout=_STALL_SECONDS,
        )


async def run_demo(options: DemoOptions, console: Console | None = None) -> dict[str, Any]:
    """Run the engine on the embedded broker against simulated models whose feedback comes late.

    Nothing but the live view is printed; the caller prints the summary.

    Parameters
    ----------
    options : DemoOptions
        How long and how fast.
    console : rich.console.Console, optional
        Where the live view is drawn; default: standard output.

    Returns
    -------
    dict
        `TrafficSummary.to_dict()` and `feedback_applied`, from the engine's ledger once all feedback is settled.

    Raises
    ------
    MissingExtraError
        If confluent-kafka, which holds the embedded broker, is not installed.
    """
    # The shell is imported when it is needed: `import banditroute_sim` stays cheap.
    from banditroute.runtime.broker.embedded import EmbeddedBroker  # noqa: PLC0415
    from banditroute.runtime.broker.kafka import KafkaClient  # noqa: PLC0415
    from banditroute.runtime.tasks.engine import Engine  # noqa: PLC0415

    world, traffic = DemoWorld(options.seed), options.traffic()
    with EmbeddedBroker() as broker:
        config = demo_config(world, broker.bootstrap)
        client = KafkaClient(config, fetch_wait_ms=_FETCH_WAIT_MS)
        engine = Engine(config, init=True, client=client, admin=False)
        await engine.start()
        try:
            with _live(options, console or Console()) as progress:
                data = demo_data(options, world)
                summary = await _unless_failed(engine, run_traffic(config, data, traffic, progress))
            applied = await _settle(engine, summary.feedback_sent)
        finally:
            await engine.stop()
        return summary.to_dict() | {"feedback_applied": applied}


def demo_data(options: DemoOptions, world: DemoWorld) -> DataSet:
    """Return the prompts and outcomes that a demo with these options sends, again and again if they are few."""
    return world.draw(min(options.traffic().requests, _ROWS))


def demo_config(world: DemoWorld, bootstrap: str) -> Config:
    """Return the configuration of the demo's engine: the world's models, on that broker."""
    return Config(
        models=world.models,
        kafka=Kafka(bootstrap_servers=bootstrap, partitions=4),
        objective=Objective(cost_weight=world.cost_weight),
        learning=Learning(seed=world.seed, drift_alerts=False),
        logging=Logging(level="warning"),
    )


@contextmanager
def _live(options: DemoOptions, console: Console) -> Iterator[Callable[[Tally], None] | None]:
    """Yield what draws the live view, or None where there is none to draw."""
    if not (console.is_terminal if options.view is None else options.view):
        yield None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda tally: live.update(render(tally, time.monotonic()), refresh=True)


async def _unless_failed(engine: Engine, work: Coroutine[Any, Any, TrafficSummary]) -> TrafficSummary:
    """Do the work, but give it up when the engine fails: nobody would ever answer."""
    job, end = asyncio.ensure_future(work), asyncio.ensure_future(engine.stopped.wait())
    try:
        await asyncio.wait({job, end}, return_when=asyncio.FIRST_COMPLETED)
        if engine.failure is not None:
            raise engine.failure
        return await job
    finally:
        job.cancel()
        end.cancel()
        await asyncio.gather(job, end, return_exceptions=True)


async def _settle(engine: Engine, sent: int) -> int:
    """Wait, within a bound, until the ledger accounts for all feedback sent; return how much was applied."""
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        ledger = engine.report()["ledger"]
        settled = sum(int(ledger.get(name, 0)) for name in _CLASSES)
        if settled >= sent or time.monotonic() > until or engine.failure is not None:
            return int(ledger.get("applied", 0)) + int(ledger.get("revised", 0))
        await asyncio.sleep(0.02)
