"""Fetch, start and stop a throw-away Apache Kafka for tests and benchmarks.

One broker in KRaft mode, run straight from its Maven jars: no container, no archive to unpack. It needs
Java 17 or newer, and Maven the first time. Standard library only::

    python scripts/kafka.py fetch                     # download the jars, once
    python scripts/kafka.py run -- pytest tests       # BANDITROUTE_KAFKA=host:port for one command
    python scripts/kafka.py start --port 9092         # in the background, prints host:port
    python scripts/kafka.py stop
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from kafka_broker import STOP_SECONDS, KafkaBroker
from kafka_jars import DEFAULT_VERSION, KafkaError, cache_folder, fetch, signal_group, unavailable_reason

__all__ = ["KafkaBroker", "KafkaError", "main", "unavailable_reason"]


class _Interrupted(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise _Interrupted(number)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _run(options: argparse.Namespace) -> int:
    environment = dict(os.environ)
    broker = KafkaBroker(options.version, port=options.port, data=options.data)
    for number in _ENDING:
        signal.signal(number, _interrupt)
    try:
        given = os.environ.get("BANDITROUTE_KAFKA")
        reason = None if given else unavailable_reason(options.version)
        if reason is not None:
            if not options.optional:
                raise KafkaError(reason)
            # Told to the tests, which then skip at once with this sentence instead of trying again.
            environment["BANDITROUTE_KAFKA_UNAVAILABLE"] = reason
            print(f"kafka: no broker: {reason}", file=sys.stderr, flush=True)
        elif not given:
            environment["BANDITROUTE_KAFKA"] = broker.start().bootstrap
            print(f"kafka: Apache Kafka {broker.version} on {broker.bootstrap}", file=sys.stderr, flush=True)
        return _command(options.command, environment)
    except _Interrupted as interrupted:
        return 128 + interrupted.number
    finally:
        for number in _ENDING:  # a second ^C must not leave the broker behind
            signal.signal(number, signal.SIG_IGN)
        broker.stop()


def _command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    # At a terminal the command stays in the foreground group, so that it may read keys (a debugger) and gets
    # ^C from the terminal itself. Otherwise it leads a group of its own, which can be ended as a whole.
    own_group = not sys.stdin.isatty()
    try:
        process = subprocess.Popen(command, env=environment, start_new_session=own_group)
    except OSError as error:
        raise KafkaError(f"{command[0]} cannot be run: {error.strerror}") from error
    try:
        status = process.wait()
        return status if status >= 0 else 128 - status
    except _Interrupted as interrupted:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        if own_group:
            signal_group(process.pid, interrupted.number)
        elif interrupted.number != signal.SIGINT:
            process.send_signal(interrupted.number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        if process.poll() is None:
            process.kill()
        raise
    finally:
        if own_group:
            signal_group(process.pid, signal.SIGKILL)  # what the command may have left running
        process.wait()


def _is_broker(pid: int, data: Path) -> bool:
    """Tell whether a process is the broker of this data folder (process ids are used again)."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        try:
            asked = ["ps", "-o", "command=", "-p", str(pid)]
            line = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
        except OSError:
            return False
    return "kafka.Kafka" in line and str(data / "server.properties") in line


def _running(data: Path) -> int | None:
    try:
        pid = int((data / "broker.pid").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return pid if _is_broker(pid, data) else None


def _start(options: argparse.Namespace) -> int:
    data = _default_data(options)
    pid = _running(data)
    if pid is not None:
        raise KafkaError(f"a broker with the data of {data} already runs (process {pid}); stop it first")
    broker = KafkaBroker(options.version, port=options.port, data=data, owned=False).start()
    (data / "broker.pid").write_text(f"{broker.pid}\n", encoding="utf-8")
    if options.ready_file is not None:
        partial = options.ready_file.with_name(options.ready_file.name + ".partial")
        partial.write_text(broker.bootstrap + "\n", encoding="utf-8")
        partial.replace(options.ready_file)  # a reader never sees half a line
    print(broker.bootstrap)
    return 0


def _stop(options: argparse.Namespace) -> int:
    data = _default_data(options)
    pid = _running(data)
    if pid is None:
        print(f"kafka: no broker with the data of {data} is running", file=sys.stderr)
        return 0
    signal_group(pid, signal.SIGTERM)
    until = time.monotonic() + STOP_SECONDS
    while _is_broker(pid, data):
        if time.monotonic() > until:
            signal_group(pid, signal.SIGKILL)
        time.sleep(0.05)
    (data / "broker.pid").unlink(missing_ok=True)
    return 0


def _fetch(options: argparse.Namespace) -> int:
    print(fetch(options.version))
    return 0


def _default_data(options: argparse.Namespace) -> Path:
    data: Path | None = options.data
    return (data or cache_folder(options.version).with_name(f"kafka-{options.version}-data")).resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kafka.py", description="A throw-away Apache Kafka from Maven jars."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, action: object, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(action=action)
        added.add_argument("--version", default=DEFAULT_VERSION, help="release of Apache Kafka (%(default)s)")
        return added

    verb("fetch", _fetch, "download the jars")
    starting = verb("start", _start, "start a broker in the background and print host:port")
    running = verb("run", _run, "run a command with BANDITROUTE_KAFKA=host:port, then stop the broker")
    stopping = verb("stop", _stop, "stop what `start` started")
    for part in (starting, running):
        part.add_argument("--port", type=int, default=0, help="port for clients (0: a free one)")
    for part in (starting, running, stopping):
        part.add_argument("--data", type=Path, help="folder for configuration, log and data")
    starting.add_argument(
        "--ready-file", type=Path, help="write host:port to this file once clients are served"
    )
    running.add_argument(
        "--optional", action="store_true", help="without Java or jars, say why and run it anyway"
    )
    running.add_argument(
        "command", nargs="+", metavar="COMMAND", help="after --, the command and its arguments"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: COMMAND's for `run`, else 0, or 2 after one sentence."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.action(options)
    except KafkaError as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
