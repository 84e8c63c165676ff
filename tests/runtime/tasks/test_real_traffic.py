"""Real prompts and recorded outcomes through the command line and a real Apache Kafka, also with the engine killed.

Nothing is believed: decisions, feedback and state are read back from the topics, the outcomes come straight from
the parquet files, and learning is recomputed by `tests.naive`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import naive
from tests.brokers import Broker
from tests.data_sets import data_set
from tests.runtime.harness import PARTITIONS, Stream, compile_kernels, counts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

REQUESTS = 20_000
RATE = 2000
SHARE = 0.8
COMMAND = [sys.executable, "-c", "from banditroute.cli import main; main()"]
WEIGHTS = {"zeroeval": 50.0, "paretobandit": 20.0}  # of cost; at 0 the strongest model wins every time


@dataclass(frozen=True)
class Recorded:
    """A data set as its files say, read without the product's reader."""

    folder: Path
    models: list[dict[str, Any]]
    id_of: dict[str, str]  # prompt -> id
    outcome: dict[tuple[str, str], tuple[float, float]]  # (id, model) -> quality, cost in USD


def read(name: str) -> Recorded:
    """Read a data set in place; skips where there is none."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    folder = data_set(name)
    meta = json.loads((folder / "meta.json").read_text())
    prompts = parquet.read_table(folder / "prompts.parquet").to_pylist()
    id_of = {row["prompt"]: row["id"] for row in prompts}
    assert len(id_of) == len(prompts), "a prompt names its row"
    outcomes = parquet.read_table(folder / "outcomes.parquet").to_pylist()
    prices = {name: meta["prices_per_m"][name] for name in meta["default_arms"]}
    return Recorded(
        folder,
        [
            {"name": name, "input_usd_per_mtok": float(price[0]), "output_usd_per_mtok": float(price[1])}
            for name, price in prices.items()
        ],
        id_of,
        {
            (row["id"], row["model"]): (row["quality"], row["cost_usd"])
            for row in outcomes
            if row["model"] in prices
        },
    )


class Deployment:
    """Topics of its own on the real broker, and the commands that a user would type."""

    def __init__(self, bootstrap: str, recorded: Recorded, folder: Path) -> None:
        self.folder = folder
        self.weight = WEIGHTS[recorded.folder.name]
        broker = Broker("kafka", bootstrap)
        self.stream = Stream(
            broker,
            models=recorded.models,
            kafka={"session_timeout": "6s"},
            engine={"publish_interval": "500ms"},
            objective={"cost_weight": self.weight},
        )
        self.file = folder / "banditroute.toml"
        self.file.write_text("\n".join(toml(self.stream.document)))
        self.engines = 0

    @contextmanager
    def command(self, name: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command beside us; it does not outlive the block. What it prints is in files."""
        words = [*COMMAND, *map(str, arguments), "-c", str(self.file)]
        with (self.folder / f"{name}.out").open("w") as out, (self.folder / f"{name}.err").open("w") as err:
            process = subprocess.Popen(words, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def said(self, name: str) -> str:
        """The standard error of a command so far."""
        return (self.folder / f"{name}.err").read_text()

    async def answer(self, name: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Wait for a command and return the object it prints."""
        assert await asyncio.to_thread(process.wait) == 0, self.said(name)
        found: dict[str, Any] = json.loads((self.folder / f"{name}.out").read_text())
        return found

    async def ask(self, name: str, *arguments: object) -> dict[str, Any]:
        """Run a command to its end and return the object it prints."""
        with self.command(name, *arguments, "--json") as process:
            return await self.answer(name, process)

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[subprocess.Popen[bytes]]:
        """An engine in a process of its own, once it owns its partitions."""
        await asyncio.to_thread(compile_kernels)
        self.engines += 1
        name = f"engine-{self.engines}"
        with self.command(name, "run") as process:

            def assigned() -> bool:
                assert process.poll() is None, self.said(name)
                return "assignment" in self.said(name)

            await self.stream.until(assigned)
            yield process

    async def terminate(self, engine: subprocess.Popen[bytes]) -> float:
        """SIGTERM; return the seconds until it was gone, with status 0."""
        start = time.monotonic()
        engine.terminate()
        status = await asyncio.to_thread(engine.wait)
        assert status == 0, [self.said(f"engine-{number + 1}") for number in range(self.engines)]
        return time.monotonic() - start

    async def decided(self, count: int) -> None:
        """Wait for so many decisions."""

        async def enough() -> bool:
            return await self.length(self.stream.names.decisions) >= count

        await self.stream.until(enough)

    async def length(self, topic: str) -> int:
        """The records of a topic that nothing was deleted from."""
        return sum([(await self.stream.user.bounds(topic, number))[1] for number in range(PARTITIONS)])

    async def everything(self, topic: str) -> list[naive.Record]:
        """All records of a topic, partition by partition."""
        found = []
        for number in range(PARTITIONS):
            found += await self.stream.records(topic, number)
        return found

    async def applied(self) -> int:
        """How much feedback the published states say has been applied."""
        total = 0
        for number in range(PARTITIONS):
            newest = (await self.stream.records(self.stream.names.state, number))[-1]
            total += naive.parse_state(newest.value or b"").meta["ledger"].get("applied", 0)
        return total


def toml(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The lines of a TOML document; what JSON says of a number or a text, TOML says too."""
    for key, value in table.items():
        if not isinstance(value, Mapping) and key != "models":
            yield f"{key} = {json.dumps(value)}"
    for key, value in table.items():
        if key == "models":
            for model in value:
                yield from ("[[models]]", *toml(model))
        elif isinstance(value, Mapping):
            yield from (f"[{path}{key}]", *toml(value, f"{path}{key}."))


# Feedback that names the request alone, written by another client library than the requests.
ALONE = ("--no-decision-ids", "--partitioner", "crc32")


@pytest.mark.parametrize(
    ("name", "disturbance", "options"),
    [
        pytest.param("zeroeval", None, (), id="zeroeval"),
        pytest.param("paretobandit", None, (), id="paretobandit"),
        pytest.param("zeroeval", "killed", (), id="zeroeval-killed"),
        pytest.param("paretobandit", "killed", ALONE, id="paretobandit-killed"),
        pytest.param("paretobandit", "frozen", (), id="paretobandit-frozen"),
    ],
)
def test_real_traffic_is_decided_once_and_learned_exactly(
    kafka_bootstrap: str, tmp_path: Path, name: str, disturbance: str | None, options: tuple[str, ...]
) -> None:
    recorded = read(name)
    asyncio.run(scenario(Deployment(kafka_bootstrap, recorded, tmp_path), recorded, disturbance, options))


async def scenario(
    here: Deployment, recorded: Recorded, disturbance: str | None, options: tuple[str, ...]
) -> None:
    names, told = here.stream.names, dict[str, Any]()
    traffic = (
        *("traffic", "--dataset", recorded.folder, "--requests", REQUESTS, "--rate", RATE),
        *("--feedback-share", SHARE, "--feedback-delay", 0.5, "--run-id", "real", "--json", *options),
    )
    async with here.stream.users():
        created = await here.ask("create", "topics", "create")
        assert len(created["done"]) == 8 + PARTITIONS
        checked = await here.ask("check", "check")
        assert checked["ok"] is True
        assert checked["partitions"] == PARTITIONS
        start = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            engine = await stack.enter_async_context(here.engine())
            told["start"] = time.monotonic() - start
            process = stack.enter_context(here.command("traffic", *traffic))
            if disturbance is not None:
                await here.decided(REQUESTS // 2)
                told["disturbed at"] = await here.length(names.decisions)
                start = time.monotonic()
                first = engine
                first.send_signal(signal.SIGKILL if disturbance == "killed" else signal.SIGSTOP)
                engine = await stack.enter_async_context(here.engine())
                told["taken over after"] = time.monotonic() - start
                if disturbance == "frozen":  # it wakes up, believes that all is still its own, and goes on
                    await here.decided(REQUESTS * 6 // 10)
                    first.send_signal(signal.SIGCONT)
            summary = await here.answer("traffic", process)
            start = time.monotonic()

            async def learned() -> bool:
                return await here.applied() >= summary["feedback_sent"]

            await here.stream.until(learned)
            told["learned after"] = time.monotonic() - start
            for process in (first, engine) if disturbance == "frozen" else (engine,):
                assert await here.terminate(process) < 10.0
        start = time.monotonic()
        ids = [f"real-{number:06d}" for number in range(1, REQUESTS + 1)]
        later = await here.stream.prove_one_decision_each(ids)
        ledger = counts(await here.stream.prove())
        told["proof"] = time.monotonic() - start
        requests, decisions, feedback = [
            await here.everything(topic) for topic in (names.requests, names.decisions, names.feedback)
        ]
        dead, alerts = await here.stream.dead_letters(), await here.stream.alerts()
    (here.folder / "proof.json").write_text(  # for people, under --basetemp
        json.dumps({"later": later, "ledger": ledger, "alerts": alerts, **told}, indent=1)
    )
    assert ledger["first"] == REQUESTS
    assert ledger.get("later", 0) == later == len(decisions) - REQUESTS
    assert disturbance == "frozen" or later == 0  # nobody else was there to decide again
    assert ledger["applied"] == summary["feedback_sent"] == len(feedback)
    assert not set(ledger) & {"rejected", "late", "orphan", "foreign", "revised", "duplicate"}
    assert dead == []
    # The verdict that a model has changed is statistics and may be wrong; it is learned from exactly all the same.
    assert [alert for alert in alerts if alert["kind"] != "change"] == []
    check_summary(summary, here, recorded, requests, decisions, feedback)


def check_summary(
    summary: Mapping[str, Any],
    here: Deployment,
    recorded: Recorded,
    requests: list[naive.Record],
    decisions: list[naive.Record],
    feedback: list[naive.Record],
) -> None:
    """Do the sums again, from the topics and the files of the data set."""
    prompt_of = {}
    for record in requests:
        event = json.loads(record.value)
        prompt_of[event["request_id"]] = recorded.id_of[event["prompt"]]
    assert len(prompt_of) == len(requests) == REQUESTS
    assert set(prompt_of.values()) == set(recorded.id_of.values()), "every prompt was sent"
    chosen: dict[str, str] = {}
    for record in decisions:  # the first one of a request is in the partition of all of them
        decision = json.loads(record.value)
        chosen.setdefault(decision["request_id"], decision["model"])
    names = [model["name"] for model in recorded.models]
    rows = list(prompt_of.values())
    quality, cost = (
        np.array([[recorded.outcome[row, name][which] for name in names] for row in rows]) for which in (0, 1)
    )
    at = np.arange(REQUESTS), np.array([names.index(chosen[request_id]) for request_id in prompt_of])
    utility = quality - here.weight * cost

    def close(value: float) -> Any:
        return pytest.approx(float(value), rel=1e-9)

    def means(column: Any) -> dict[str, Any]:
        return {
            "mean_quality": close(quality[column].mean()),
            "mean_cost_usd": close(cost[column].mean()),
            "mean_utility": close(utility[column].mean()),
        }

    assert {key: summary[key] for key in means(at)} == means(at)
    best, cheap = utility.mean(axis=0).argmax(), cost.mean(axis=0).argmin()
    assert summary["best_fixed"] == {"model": names[best], **means(np.s_[:, best])}
    assert summary["cheapest"] == {"model": names[cheap], **means(np.s_[:, cheap])}
    assert summary["uniform"] == means(np.s_[:])
    assert summary["oracle_utility"] == close(utility.max(axis=1).mean())
    expected = {name: close((at[1] == column).mean()) for column, name in enumerate(names)}
    assert summary["share"] == expected
    assert (summary["requests"], summary["decisions"], summary["undecided"]) == (REQUESTS, REQUESTS, 0)
    assert (summary["duplicates"], summary["unknown_outcomes"]) == (len(decisions) - REQUESTS, 0)
    assert summary["decisions_per_second"] <= 1.05 * RATE
    assert 0.0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    # It has learned: better than not looking, and than looking at the price alone.
    assert summary["mean_utility"] > max(
        summary["uniform"]["mean_utility"], summary["cheapest"]["mean_utility"]
    )

    answered = {}
    for record in feedback:
        vote = json.loads(record.value)
        answered[vote["request_id"]] = (vote["value"], vote["cost_usd"])
    assert len(answered) == len(feedback)
    assert len(answered) == pytest.approx(SHARE * REQUESTS, rel=0.03)
    for request_id, outcome in answered.items():
        assert outcome == recorded.outcome[prompt_of[request_id], chosen[request_id]]
