"""The engines of `bench.soak`: programs that are started, hurt, and watched."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from bench import ROOT

PAGE = os.sysconf("SC_PAGE_SIZE")
SAMPLE_SECONDS = 0.5
STOP_SECONDS = 60.0
START_SECONDS = 12.0
REFUSED = 2  # status of an engine that cannot go on
PROGRAM = "from banditroute.cli import main; main()"


class Engines:
    """`banditroute run`, as often as wanted, under names.

    Parameters
    ----------
    config : Path
        The configuration, the same for all. Each program writes its log beside it.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.endings: list[float] = []  # seconds from SIGTERM to the end
        self.ended: list[str] = []  # last words of those that ended by themselves
        self._born: dict[str, float] = {}

    def start(self, name: str, *options: str) -> None:
        """Start a program; it says in its log when it is ready."""
        roots = os.pathsep.join(str(ROOT / folder) for folder in (".", "features", "sim"))
        path = os.pathsep.join(filter(None, [roots, os.environ.get("PYTHONPATH")]))
        self._born[name] = time.monotonic()
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "run", "-c", str(self._config), *options],
                env={**os.environ, "PYTHONPATH": path},
                stdout=log,
                stderr=log,
            )

    def grown(self) -> list[str]:
        """Return the names of those that have had the time to start and to join."""
        return [name for name in self.running if time.monotonic() - self._born[name] > START_SECONDS]

    def log(self, name: str) -> Path:
        """Where a program writes."""
        return self._config.with_name(f"{name}.log")

    def kill(self, *names: str) -> None:
        """End programs with SIGKILL, all at the same moment."""
        for name in names:
            self.running[name].kill()
        for name in names:
            self.running.pop(name).wait()

    def freeze(self, name: str, seconds: float) -> None:
        """Stop a program in its tracks, and let it go on."""
        process = self.running[name]
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    def stop(self, name: str) -> None:
        """End a program in order."""
        process = self.running[name]
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        status = process.wait(STOP_SECONDS)
        self.endings.append(time.monotonic() - begin)
        del self.running[name]
        if status == REFUSED:
            self.ended.append(self.tail(name).splitlines()[-1])
        elif status not in (0, -signal.SIGTERM):  # the latter: it was still starting
            raise SystemExit(f"bench.soak: {name} ended with status {status}:\n{self.tail(name)}")

    def check(self) -> None:
        """Start again those that said that they cannot go on, as their supervisor would; nothing else may end them."""
        for name, process in list(self.running.items()):
            if process.poll() is not None:
                text = self.tail(name)
                if process.returncode != REFUSED:
                    raise SystemExit(f"bench.soak: {name} ended with status {process.returncode}:\n{text}")
                self.ended.append(text.splitlines()[-1])
                self.start(name)

    def tail(self, name: str) -> str:
        """Return the end of a program's log."""
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-20:])

    def end(self) -> None:
        """Leave nothing behind."""
        for process in self.running.values():
            process.kill()
            process.wait()
        self.running.clear()


class Memory(threading.Thread):
    """A thread that takes note of the resident memory of every program.

    Attributes
    ----------
    samples : dict
        (name, process id) → list of (seconds since the start, MB of 10^6 bytes).
    """

    def __init__(self, engines: Engines) -> None:
        super().__init__(name="memory", daemon=True)
        self.samples: dict[tuple[str, int], list[tuple[float, float]]] = {}
        self._engines = engines
        self._told = threading.Event()

    def run(self) -> None:
        """Look every half second."""
        begin = time.monotonic()
        while not self._told.wait(SAMPLE_SECONDS):
            for name, process in list(self._engines.running.items()):
                try:
                    pages = int(Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()[1])
                except (OSError, IndexError):
                    continue
                sample = time.monotonic() - begin, pages * PAGE / 1e6
                self.samples.setdefault((name, process.pid), []).append(sample)

    def finish(self) -> None:
        """Stop looking."""
        self._told.set()
        self.join()

    def rise(self, name: str) -> tuple[float, dict[str, float]]:
        """Return by how much the highest of the last third is above that of the middle third, and more figures."""
        lives = [samples for (who, _), samples in self.samples.items() if who == name]
        values = [mb for _, mb in max(lives, key=len)]
        third = len(values) // 3
        middle, last = values[third : 2 * third], values[-third:]
        more = {
            "highest": max(values), "median_middle": statistics.median(middle), "median_last": statistics.median(last),
            "last": values[-1],
        }  # fmt: skip
        return max(last) - max(middle), more
