"""Find Java and Maven, and keep the jars of an Apache Kafka release outside the source tree.

The jars live in ``$BANDITROUTE_KAFKA_CACHE`` or, without it, in
``${XDG_CACHE_HOME:-~/.cache}/banditroute``, one folder ``kafka-VERSION`` per release. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

DEFAULT_VERSION = "4.1.0"
MIN_JAVA = 17
FETCH_SECONDS = 900.0

# Pinned, so that the version that happens to be Maven's default on a machine does not matter.
_COPY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"

# Kafka 4 logs through log4j 2, Kafka 3 through log4j 1; neither binding comes with the broker's own jar.
_LOGGING_4 = [
    ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.1"),
    ("org.apache.logging.log4j", "log4j-core", "2.25.1"),
]
_LOGGING_3 = [("org.slf4j", "slf4j-reload4j", "1.7.36")]


class KafkaError(Exception):
    """A broker could not be fetched, started or stopped; the message is a sentence for the user."""


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group, which may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def find_java() -> str | None:
    """Return the path of ``java``: that of JAVA_HOME first, then that of PATH."""
    home = os.environ.get("JAVA_HOME")
    if home and os.access(Path(home, "bin", "java"), os.X_OK):
        return str(Path(home, "bin", "java"))
    return shutil.which("java")


@functools.lru_cache(maxsize=4)
def _java_major(java: str) -> int | None:
    """Return the feature release of a ``java``, or None where it does not run (a stub, a broken link)."""
    try:
        done = subprocess.run(
            [java, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if done.returncode == 0 and found else None


def java_problem() -> str | None:
    """Return the sentence that says why there is no usable Java, or None."""
    java = find_java()
    if java is None:
        return (
            f"Java {MIN_JAVA} or newer is needed to run Apache Kafka, and no java is on PATH or in JAVA_HOME"
        )
    major = _java_major(java)
    if major is None:
        return f"Java {MIN_JAVA} or newer is needed to run Apache Kafka, and {java} does not run"
    if major < MIN_JAVA:
        return f"Java {MIN_JAVA} or newer is needed to run Apache Kafka, and {java} is Java {major}"
    return None


def unavailable_reason(version: str = DEFAULT_VERSION, *, fetch_jars: bool = True) -> str | None:
    """Say why this machine cannot run Apache Kafka.

    Parameters
    ----------
    version : str
        The release of Apache Kafka.
    fetch_jars : bool
        Download the jars if they are not there yet, since only then it is known whether that works.

    Returns
    -------
    str or None
        One sentence, or None where a `KafkaBroker` can start.
    """
    problem = java_problem()
    if problem is not None or is_fetched(version):
        return problem
    if shutil.which("mvn") is None:
        return "Maven is needed once to fetch the jars of Apache Kafka, and no mvn is on PATH"
    if fetch_jars:
        try:
            fetch(version)
        except KafkaError as error:
            return str(error)
    return None


def cache_folder(version: str = DEFAULT_VERSION) -> Path:
    """Return the folder, outside the source tree, that keeps the jars of one Kafka release."""
    chosen = os.environ.get("BANDITROUTE_KAFKA_CACHE")
    if chosen:
        return Path(chosen).resolve() / f"kafka-{version}"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if base.startswith("~"):  # no HOME and no passwd entry
        base = f"{tempfile.gettempdir()}/cache-{os.getuid()}"
    return Path(base) / "banditroute" / f"kafka-{version}"


def is_fetched(version: str = DEFAULT_VERSION) -> bool:
    """Tell whether a complete set of jars is in the cache (half a download does not count)."""
    return (cache_folder(version) / "complete").is_file()


def _pom(version: str) -> str:
    jars = [("org.apache.kafka", "kafka_2.13", version), *(_LOGGING_3 if version < "4" else _LOGGING_4)]
    dependencies = "\n".join(
        f"    <dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>"
        f"<version>{number}</version></dependency>"
        for group, name, number in jars
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0">\n  <modelVersion>4.0.0</modelVersion>\n'
        "  <groupId>banditroute</groupId>\n  <artifactId>kafka-jars</artifactId>\n  <version>1</version>\n"
        "  <packaging>pom</packaging>\n"
        f"  <dependencies>\n{dependencies}\n  </dependencies>\n</project>\n"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock that the kernel lets go of even if this process is killed."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fetch(version: str = DEFAULT_VERSION) -> Path:
    """Download the jars of one Kafka release into the cache, once.

    Parameters
    ----------
    version : str
        The release of Apache Kafka.

    Returns
    -------
    Path
        The folder that holds the jars.

    Raises
    ------
    KafkaError
        If Maven is missing, fails, or takes longer than `FETCH_SECONDS`.
    """
    folder = cache_folder(version)
    lib = folder / "lib"
    if is_fetched(version):
        return lib
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaError("Maven is needed once to fetch the jars of Apache Kafka, and no mvn is on PATH")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KafkaError(f"the jars of Apache Kafka cannot be kept in {folder}: {error.strerror}") from error
    with _locked(folder / "lock"):
        if is_fetched(version):  # someone else fetched while this process waited
            return lib
        partial = folder / "lib.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(lib, ignore_errors=True)
        pom = folder / "pom.xml"
        pom.write_text(_pom(version), encoding="utf-8")
        goal = [f"{_COPY_PLUGIN}:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={partial}"]
        print(
            f"kafka: fetching the jars of Apache Kafka {version} into {folder}", file=sys.stderr, flush=True
        )
        _run_maven([maven, "-q", "-B", "-f", str(pom), *goal], version)
        if not any(partial.glob("kafka_2.13-*.jar")):
            raise KafkaError(f"the jars of Apache Kafka {version} cannot be fetched: Maven copied none")
        partial.rename(lib)
        (folder / "complete").write_text(version + "\n", encoding="utf-8")
    return lib


def _run_maven(command: list[str], version: str) -> None:
    # Its own session: on a time-out the JVM behind the mvn shell script has to go as well.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        raise KafkaError(
            f"the jars of Apache Kafka {version} cannot be fetched: Maven was not done after {FETCH_SECONDS:.0f} s"
        ) from None
    finally:
        if process.poll() is None:
            signal_group(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", output).strip().splitlines()  # colours, in spite of -B
        errors = [line.removeprefix("[ERROR]").strip() for line in lines if line.startswith("[ERROR]")]
        errors = [line for line in errors if line]
        why = (errors or lines or [f"mvn ended with status {process.returncode}"])[0]
        raise KafkaError(f"the jars of Apache Kafka {version} cannot be fetched: {why[:400]}")
