"""`evaluate`, `rehearse` and `export-log` on the topics of a broker."""

import asyncio
import json
import sys

import pytest
from typer.testing import CliRunner

from banditroute.cli import app, main
from banditroute.config import load
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.runtime.broker.kafka import KafkaClient
from banditroute.runtime.broker.ports import TopicSpec
from tests.sim import exported
from tests.sim.exported import DOCUMENT, MODELS, cost_of

VERBS = {
    "evaluate": ("evaluate", "--policy", "fixed:large"),
    "rehearse": ("rehearse", "--runs", "4", "--requests", "200"),
}
# A command connects by the network.
pytestmark = pytest.mark.needs("network")
PARTITIONS = 4  # what the embedded broker gives every topic


@pytest.fixture(scope="module")
def records():
    """Decision records, and feedback as records."""
    decisions, events = exported.records(400)
    return decisions, [OutputRecord(None, json.dumps(event).encode()) for event in events]


@pytest.fixture
def deployed(broker, tmp_path):
    """A configuration file with topics of its own on a broker that a command can connect to."""
    text = "".join(
        f'[[models]]\nname = "{one["name"]}"\ninput_usd_per_mtok = {one["input_usd_per_mtok"]}\n'
        f"output_usd_per_mtok = {one['output_usd_per_mtok']}\n"
        for one in MODELS
    )
    path = tmp_path / "c.toml"
    path.write_text(
        f'{text}[kafka]\nbootstrap_servers = "{broker.bootstrap}"\n'
        f'[kafka.topics]\ndecisions = "{broker.prefix}decisions"\nfeedback = "{broker.prefix}feedback"\n'
        f"[objective]\ncost_weight = {DOCUMENT['objective']['cost_weight']}\n"
        f"[learning]\nexploration_floor = {DOCUMENT['learning']['exploration_floor']}\n"
    )
    return path


def put(broker, path, decisions, feedback):
    """Create both topics and write records."""
    asyncio.run(_put(broker, load(path), decisions, feedback))


async def _put(broker, config, decisions, feedback):
    topics = config.kafka.topics
    client = KafkaClient(config)
    await client.start()
    try:
        if broker.admin:
            await client.create(
                [TopicSpec(one, PARTITIONS, {}) for one in (topics.decisions, topics.feedback)]
            )
        if decisions:  # all are of one partition, as their ids say
            await client.append(topics.decisions, 0, decisions)
        for partition in range(PARTITIONS):
            if feedback[partition::PARTITIONS]:
                await client.append(topics.feedback, partition, feedback[partition::PARTITIONS])
    finally:
        await client.stop()


def run(path, verb, *flags):
    return CliRunner().invoke(app, [*VERBS[verb], "-c", str(path), "--log", "topic", *flags])


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a command that has to end with exit status 2 and one sentence; returns the sentence."""

    def refuse(path, verb):
        flags = (*VERBS[verb], "-c", str(path), "--log", "topic")
        monkeypatch.setattr(sys, "argv", ["banditroute", *flags])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        said = capsys.readouterr()
        assert said.out == ""
        name, _, text = said.err.removesuffix("\n").partition(": ")
        assert name == "banditroute"
        assert "\n" not in text
        assert "/tmp" not in text  # where it was exported to is nobody's business
        assert ".parquet" not in text
        return text

    return refuse


def test_evaluate_reads_the_topics_as_it_reads_their_export(broker, deployed, records, tmp_path):
    put(broker, deployed, *records)
    result = run(deployed, "evaluate", "--json")
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    assert found["log"]["decisions"] == found["log"]["with_quality"] == 400
    assert found["estimates"]["cost_usd"]["snips"]["value"] == pytest.approx(cost_of("large"))
    folder = tmp_path / "log"
    done = CliRunner().invoke(app, ["export-log", "-c", str(deployed), "-o", str(folder), "--json"])
    assert json.loads(done.stdout) == {
        "folder": str(folder), "decisions": 400, "feedback": 400, "rejected": 0,
        "dropped": {"read": 400, "dropped": 0, "reasons": {}},
    }  # fmt: skip
    again = CliRunner().invoke(app, [*VERBS["evaluate"], "-c", str(deployed), "--log", str(folder), "--json"])
    assert json.loads(again.stdout) == found


def test_rehearse_reads_the_topics(broker, deployed, records, tmp_path):
    put(broker, deployed, *records)
    page = tmp_path / "r.html"
    result = run(deployed, "rehearse", "--json", "--report", str(page))
    assert result.exit_code in {0, 1}, result.exception
    found = json.loads(result.stdout)
    assert found["world"] == "the log"
    assert found["fitted_to"] == 400
    assert found["present_policy"] == "the models that served in the log"
    assert "<svg" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", VERBS)
def test_topics_without_records_are_one_sentence(broker, deployed, records, refused, verb):
    decisions, _ = records
    put(broker, deployed, [], [])
    assert refused(deployed, verb) == f"topic '{broker.prefix}decisions' is empty: nothing was decided yet"
    put(broker, deployed, decisions[:20], [])
    assert refused(deployed, verb) == f"topic '{broker.prefix}feedback' holds no feedback: it is empty"
    put(broker, deployed, [], [OutputRecord(None, b"{")] * 3)
    assert refused(deployed, verb) == (
        f"topic '{broker.prefix}feedback' holds no feedback: none of its 3 records is valid"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_topics_that_are_not_there_are_one_sentence(broker, deployed, refused, verb):
    """A broker that makes a topic when it is asked about one has an empty topic instead."""
    name = f"topic '{broker.prefix}decisions'"
    assert refused(deployed, verb) in {
        f"{name} does not exist: nothing was ever logged there",
        f"{name} is empty: nothing was decided yet",
    }


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_wrong_in_a_topic_is_told_of_the_topic(broker, deployed, records, refused, verb):
    _, feedback = records
    put(broker, deployed, [OutputRecord(None, b"no decision")], feedback)
    assert refused(deployed, verb).startswith(
        f"topic '{broker.prefix}decisions' holds a row that is not a decision"
    )


def test_too_short_a_log_is_told_as_the_log(broker, deployed, records, refused):
    decisions, feedback = records
    put(broker, deployed, decisions[:50], feedback[:50])
    assert refused(deployed, "rehearse").startswith(
        "the log has 50 decisions with a quality: a rehearsal needs"
    )
