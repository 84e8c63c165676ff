"""One throw-away Apache Kafka broker in KRaft mode, run straight from its Maven jars.

>>> with KafkaBroker() as broker:  # doctest: +SKIP
...     connect(broker.bootstrap)
...     broker.kill()  # SIGKILL: no goodbye, no flush
...     broker.restart()  # same data, same port

Standard library only.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from kafka_jars import DEFAULT_VERSION, KafkaError, cache_folder, fetch, find_java, java_problem, signal_group

READY_SECONDS = 90.0
STOP_SECONDS = 15.0
HOST = "127.0.0.1"

_LOG4J_2 = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""
_LOG4J_1 = """\
log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %c{1}: %m%n
"""

# Chosen for a quick start and quick recovery on a small machine. Sizes that users meet (message.max.bytes
# above all) are left at Kafka's defaults, so that a test sees what a real cluster would answer.
_PROPERTIES: dict[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "log.message.timestamp.type": "LogAppendTime",
    # One broker can hold one replica; the defaults ask for three.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    # Groups form at once, and a killed member may be noticed quickly when a test asks for that.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    # A killed broker comes back under its own id as soon as its old session is over.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # Compaction must be observable within a test; the default buffer alone is 128 MiB.
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.cleaner.backoff.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
}


def _exchange(connection: socket.socket, api: int, version: int, body: bytes) -> bytes:
    """Send one request of the Kafka protocol (header v1) and return the response after its header."""
    client = b"probe"
    message = struct.pack(">hhih", api, version, 1, len(client)) + client + body
    connection.sendall(struct.pack(">i", len(message)) + message)
    with connection.makefile("rb") as stream:
        size = stream.read(4)
        response = stream.read(struct.unpack(">i", size)[0]) if len(size) == 4 else b""
    if len(response) < 8 or struct.unpack_from(">i", response)[0] != 1:
        raise OSError("the answer is not one of the Kafka protocol")
    return response[4:]


def is_ready(host: str, port: int, timeout: float = 2.0) -> bool:
    """Tell by a round trip of the protocol whether a broker serves clients.

    Parameters
    ----------
    host, port : str, int
        Where the broker listens.
    timeout : float
        Seconds to wait for the connection and for each answer.

    Returns
    -------
    bool
        True once ApiVersions is answered without an error and Metadata names a live broker. A broker that has
        opened its port but is still fenced answers the first and fails the second, and would refuse to
        create a topic.
    """
    try:
        with socket.create_connection((host, port), timeout) as connection:
            versions = _exchange(connection, 18, 0, b"")  # ApiVersions
            metadata = _exchange(connection, 3, 1, struct.pack(">i", 0))  # Metadata, of no topics
            (error,) = struct.unpack_from(">h", versions)
            (brokers,) = struct.unpack_from(">i", metadata)
    except (OSError, struct.error):
        return False
    return bool(error == 0 and brokers > 0)


def is_taken(port: int) -> bool:
    """Tell whether something listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # what a broker left behind does not count
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _free_ports(count: int) -> list[int]:
    """Pick free ports below the range for outgoing connections, so that a restart finds its port still free."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        for _ in range(1000):
            port = random.SystemRandom().randrange(20000, 32000)
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise KafkaError("no free port between 20000 and 32000 was found")


def _tail(path: Path, lines: int = 25) -> str:
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


class KafkaBroker:
    """One Apache Kafka broker on 127.0.0.1, with its own data folder and port.

    Parameters
    ----------
    version : str
        The release of Apache Kafka.
    port : int
        Port for clients; 0 picks a free one, which later restarts keep.
    data : Path, optional
        Folder for configuration, logs and data. Without it, a temporary one that `stop` removes.
    properties : mapping, optional
        Server properties that replace or extend the default ones.
    heap : str
        The JVM's maximum heap.
    owned : bool
        Whether the broker must not outlive this process. The command ``start`` says False.

    Raises
    ------
    KafkaError
        From `start` and `restart`: one sentence, followed by the tail of the broker's log where there is one.
    """

    def __init__(
        self,
        version: str = DEFAULT_VERSION,
        *,
        port: int = 0,
        data: Path | None = None,
        properties: Mapping[str, str] | None = None,
        heap: str = "512m",
        owned: bool = True,
    ) -> None:
        self.version = version
        self.port = port
        self._controller_port = 0
        self._given_data = data
        self._data: Path | None = data
        self._properties = dict(properties or {})
        self._heap = heap
        self._owned = owned
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients; the same before and after a restart."""
        return f"{HOST}:{self.port}"

    @property
    def data(self) -> Path:
        """The folder with configuration, data and ``broker.log``."""
        if self._data is None:
            self._data = Path(tempfile.mkdtemp(prefix="banditroute-kafka-"))
        return self._data

    @property
    def pid(self) -> int | None:
        """Process id of the broker, which leads its own process group; None while it is down."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the broker and return once it serves clients; does nothing if it already runs."""
        if self.pid is not None:
            return self
        problem = java_problem()
        if problem is not None:
            raise KafkaError(problem)
        fetch(self.version)
        self.data.mkdir(parents=True, exist_ok=True)
        picked = self.port == 0
        for attempt in range(3):
            try:
                self._launch()
                break
            except KafkaError:
                # Between picking a port and binding it, someone else may have taken it.
                if not picked or attempt == 2 or not (is_taken(self.port) or is_taken(self._controller_port)):
                    self.stop()
                    raise
                self.port = self._controller_port = 0
            except BaseException:
                self.stop()
                raise
        if self._owned:
            atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Stop the broker in an orderly way, by force after `STOP_SECONDS`; removes a temporary data folder."""
        atexit.unregister(self.stop)
        self._end(signal.SIGTERM)
        if self._given_data is None and self._data is not None:
            shutil.rmtree(self._data, ignore_errors=True)
            self._data = None

    def kill(self) -> None:
        """Kill the broker with SIGKILL and wait until it is gone; its data and port stay."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Start again on the same data and port, after an orderly stop if it still runs."""
        self._end(signal.SIGTERM)
        return self.start()

    def _end(self, number: int) -> None:
        process = self._process
        if process is None:
            return
        signal_group(process.pid, number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            signal_group(process.pid, signal.SIGKILL)
            process.wait()
        self._process = None

    def _launch(self) -> None:
        self._write_properties()
        if is_taken(self.port):  # whoever listens there would be taken for the broker that was started
            raise KafkaError(
                f"something listens on {self.bootstrap} already: choose another port, or stop it"
            )
        config = self.data / "server.properties"
        log = self.data / "broker.log"
        if not (self.data / "log" / "meta.properties").is_file():
            self._format(config, log)
        command = self._java("kafka.Kafka", str(config))
        # The kernel ends the broker if this process dies without a chance to clean up. It watches the *thread*
        # that started it, so this is for the main thread only.
        guard = shutil.which("setpriv") if sys.platform == "linux" else None
        if guard and self._owned and threading.current_thread() is threading.main_thread():
            command = [guard, "--pdeathsig", "KILL", "--", *command]
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.data,
                start_new_session=True,
            )
        self._wait_ready(self._process, log)

    def _wait_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        until = time.monotonic() + READY_SECONDS
        while not is_ready(HOST, self.port):
            if process.poll() is not None:
                self._process = None
                raise KafkaError(
                    f"Apache Kafka {self.version} ended with status {process.returncode} while starting; "
                    f"the end of its log:\n{_tail(log)}"
                )
            if time.monotonic() > until:
                self._end(signal.SIGKILL)
                raise KafkaError(
                    f"Apache Kafka {self.version} did not answer on {self.bootstrap} within {READY_SECONDS:.0f} s; "
                    f"the end of its log:\n{_tail(log)}"
                )
            time.sleep(0.05)
        if process.poll() is not None:
            self._process = None
            raise KafkaError(
                f"what answers on {self.bootstrap} is not the broker that was started: it has ended"
            )

    def _java(self, main: str, *arguments: str) -> list[str]:
        java = find_java()
        assert java is not None, "start() has checked that there is one"
        if self.version < "4":
            logging = f"-Dlog4j.configuration=file:{self.data / 'log4j.properties'}"
        else:
            logging = f"-Dlog4j2.configurationFile={self.data / 'log4j.properties'}"
        lib = cache_folder(self.version) / "lib"
        flags = [f"-Xmx{self._heap}", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
        return [java, *flags, logging, "-cp", f"{lib}/*", main, *arguments]

    def _write_properties(self) -> None:
        if self._controller_port == 0:
            if self.port == 0:
                self.port, self._controller_port = _free_ports(2)
            else:
                (self._controller_port,) = _free_ports(1)
        properties = {
            **_PROPERTIES,
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "controller.quorum.voters": f"1@{HOST}:{self._controller_port}",
            "log.dirs": str(self.data / "log"),
        }
        if self.version < "4":  # share groups came with Kafka 4
            properties = {key: value for key, value in properties.items() if not key.startswith("share.")}
        properties.update(self._properties)
        text = "".join(f"{key}={value}\n" for key, value in properties.items())
        (self.data / "server.properties").write_text(text, encoding="utf-8")
        log4j = _LOG4J_1 if self.version < "4" else _LOG4J_2
        (self.data / "log4j.properties").write_text(log4j, encoding="utf-8")

    def _format(self, config: Path, log: Path) -> None:
        # A leading "-" would look like an option to the tool.
        cluster = "b" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        command = self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(config))
        done = subprocess.run(
            [*command, "--ignore-formatted"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=READY_SECONDS,
            check=False,
        )
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode != 0:
            raise KafkaError(f"the storage of Apache Kafka cannot be formatted:\n{_tail(log)}")
