"""Brokers for tests: in memory, librdkafka's mock cluster, and a real Apache Kafka.

``broker`` runs a test on all three. A test that needs more than a tier can do says so, and is not collected there::

    @pytest.mark.needs("groups")
    def test_group(broker):

The real tier is ``$BANDITROUTE_KAFKA`` (host:port) where that is set, else an Apache Kafka that this session
starts and stops. Where neither is possible its tests skip with the reason; under ``BANDITROUTE_REQUIRE_KAFKA=1``
they fail instead, and so does a session in which none of them passed.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
from kafka_broker import KafkaBroker
from kafka_jars import KafkaError, unavailable_reason

_numbers = itertools.count()
_passed_on_kafka: list[str] = []


@dataclass(frozen=True)
class Broker:
    """What a test may know of the broker it runs on."""

    #: "memory", "embedded" or "kafka".
    kind: str
    #: host:port for clients; empty in memory.
    bootstrap: str
    #: The `banditroute.testing.memory_broker.MemoryBroker` of the memory tier.
    log: Any = None
    #: Begins every topic and group name of a test: tests of a session share the real broker.
    prefix: str = field(default_factory=lambda: f"t{os.getpid()}-{next(_numbers)}-")

    @property
    def admin(self) -> bool:
        """Whether it takes admin requests: creating topics, reading and changing their configuration."""
        return "admin" in CAPABILITIES[self.kind]


#: What a tier can do; the names are those that the mark `needs` takes. Groups have more than one member, and
#: rebalances; log_append_time is set by the broker; validation looks into the batches that it is sent.
CAPABILITIES = {
    "memory": {"admin", "groups", "log_append_time"},
    "embedded": {"network"},
    "kafka": {"admin", "groups", "log_append_time", "compaction", "network", "validation"},
}


def required() -> bool:
    """Tell whether tests that need a real Apache Kafka have to run."""
    return os.environ.get("BANDITROUTE_REQUIRE_KAFKA", "") not in ("", "0")


def no_kafka(reason: str) -> NoReturn:
    """Skip for want of a real Apache Kafka, or fail where one is required."""
    if required():
        pytest.fail(f"no Apache Kafka, and BANDITROUTE_REQUIRE_KAFKA is set: {reason}", pytrace=False)
    pytest.skip(f"no Apache Kafka: {reason}")


def kafka_problem() -> str | None:
    """Say why no real Apache Kafka can be started here; None where one can."""
    # `scripts/kafka.py run` has tried already and leaves word, so that nothing is downloaded twice in vain.
    return os.environ.get("BANDITROUTE_KAFKA_UNAVAILABLE") or unavailable_reason()


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """host:port of a real Apache Kafka that the whole session shares."""
    given = os.environ.get("BANDITROUTE_KAFKA")
    if given:
        yield given
        return
    reason = kafka_problem()
    if reason is not None:
        no_kafka(reason)
    broker = KafkaBroker()
    try:
        broker.start()
    except KafkaError as error:
        no_kafka(str(error))
    yield broker.bootstrap
    broker.stop()


@pytest.fixture
def own_kafka() -> Iterator[KafkaBroker]:
    """A real Apache Kafka of the test's own, to be killed and restarted; running at the start."""
    reason = kafka_problem()
    if reason is not None:
        no_kafka(reason)
    with KafkaBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def embedded_bootstrap() -> Iterator[str]:
    """host:port of librdkafka's mock cluster, shared by the whole session."""
    pytest.importorskip(
        "confluent_kafka", reason="confluent-kafka is not installed: pip install 'banditroute[demo]'"
    )
    from banditroute.runtime.broker.embedded import EmbeddedBroker

    with EmbeddedBroker() as broker:
        _without_rebalance_delay(broker)
        yield broker.bootstrap


def _without_rebalance_delay(broker: Any) -> None:
    """Let a group begin as soon as its one member is there: the mock cluster waits three seconds for more of them."""
    import confluent_kafka

    folder = Path(confluent_kafka.__file__).resolve().parent.parent
    for path in folder.glob("confluent_kafka.libs/librdkafka*"):  # elsewhere it is only slower
        library: Any = ctypes.CDLL(str(path))
        library.rd_kafka_handle_mock_cluster.restype = ctypes.c_void_p
        library.rd_kafka_handle_mock_cluster.argtypes = [ctypes.c_void_p]
        # the first field of confluent-kafka's handle, behind the two of every Python object
        handle = ctypes.c_void_p.from_address(id(broker._owner) + 16).value
        cluster = ctypes.c_void_p(library.rd_kafka_handle_mock_cluster(handle))
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, ctypes.c_int32(0))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give `broker` every tier that can do what the test needs."""
    if "broker" not in metafunc.fixturenames:
        return
    needed = {name for mark in metafunc.definition.iter_markers("needs") for name in mark.args}
    unknown = needed - set.union(*CAPABILITIES.values())
    if unknown:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: no broker has {', '.join(sorted(unknown))}")
    marks = {"memory": (), "embedded": pytest.mark.embedded, "kafka": pytest.mark.kafka}
    tiers = [
        pytest.param(tier, marks=marks[tier], id=tier)
        for tier, able in CAPABILITIES.items()
        if needed <= able
    ]
    metafunc.parametrize("broker", tiers, indirect=True)


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Broker:
    """A broker of each tier in turn."""
    if request.param == "memory":
        from banditroute.testing.memory_broker import MemoryBroker

        return Broker("memory", "", log=MemoryBroker())
    return Broker(request.param, request.getfixturevalue(f"{request.param}_bootstrap"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for a tier by its fixture, so that `-m kafka` finds all of it."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "kafka_bootstrap" in names or "own_kafka" in names:
            item.add_marker(pytest.mark.kafka)
        if "embedded_bootstrap" in names:
            item.add_marker(pytest.mark.embedded)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count the tests that passed on a real Apache Kafka."""
    if report.when == "call" and report.passed and "kafka" in report.keywords:
        _passed_on_kafka.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Turn a green run red where a real Apache Kafka is required and no test met it."""
    if hasattr(session.config, "workerinput"):
        return  # a worker of pytest-xdist: the session that it reports to counts for all of them
    if required() and exitstatus == 0 and not _passed_on_kafka and not session.config.option.collectonly:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why, above pytest's own last line."""
    if required() and not terminalreporter.config.option.collectonly:
        text = f"{len(_passed_on_kafka)} tests passed on a real Apache Kafka"
        if not _passed_on_kafka:
            terminalreporter.write_line(f"FAILED: {text}, and BANDITROUTE_REQUIRE_KAFKA is set", red=True)
        else:
            terminalreporter.write_line(text)
