"""Make ``.venv`` and install banditroute into it, once; called by the Makefile before everything else.

    python3 scripts/bootstrap.py EXTRA [--chosen] [--for GOAL]

Any Python 3.6 or newer can parse this file, so that an interpreter too old for banditroute gets a sentence
and not a syntax error. All output goes to stderr: stdout belongs to the command that follows
(``make demo ARGS=--json``). A stamp in ``.venv`` remembers what was installed from which ``pyproject.toml`` and
lock files; while it matches, this script returns at once. The versions are those of ``locks/EXTRA.txt``, and their
hashes are checked.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from typing import List, Optional, Tuple

OLDEST = (3, 11)
# Interpreters worth naming in a remedy; which of them suit numba is known to pip alone, and it is asked.
CANDIDATES = ["python3.13", "python3.12", "python3.11", "python3.14"]
# What an extra brings along, so that `make demo` after `make test` has nothing to install.
INCLUDES = {"test": ["all"], "bench": ["all", "test"]}
# Compiled from source these need an LLVM of just the right version: better a sentence at once.
WHEELS_ONLY = "numba,llvmlite"

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
LOCKS = os.path.join(ROOT, "locks")
STAMP = os.path.join(VENV, "banditroute-stamp.json")


def say(text: str) -> None:
    """Print one line of progress to stderr."""
    sys.stderr.write("banditroute: " + text + "\n")
    sys.stderr.flush()


def fail(text: str) -> None:
    """Print one sentence to stderr and end with exit status 2."""
    say(text)
    sys.exit(2)


def name_of(version: Tuple[int, ...]) -> str:
    """Write a version tuple with dots."""
    return ".".join(str(part) for part in version)


def usable_interpreter() -> Optional[str]:
    """Return a ``python3.N`` on PATH that runs, is new enough and can make environments."""
    test = "import sys, venv, ensurepip; sys.exit(sys.version_info < %r)" % (OLDEST,)
    for name in CANDIDATES:
        path = shutil.which(name)
        if path is None or os.path.realpath(path) == os.path.realpath(sys.executable):
            continue
        # A name on PATH may be a shim whose Python is not there: only a run tells.
        if subprocess.call([path, "-c", test], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            return name
    return None


def remedy(goal: str) -> str:
    """Tell how to choose another interpreter, naming one that is there if there is one."""
    found = usable_interpreter()
    if found is not None:
        return "%s is installed, so run: make PYTHON=%s %s" % (found, found, goal)
    return "install another one and name it, for example: make PYTHON=python3.12 %s" % goal


def check_interpreter(goal: str) -> None:
    """Refuse an interpreter that is too old or cannot make virtual environments."""
    version = sys.version_info[:2]
    if version < OLDEST:
        fail(
            "Python %s or newer is needed, and %s is Python %s; %s"
            % (name_of(OLDEST), sys.executable, name_of(sys.version_info[:3]), remedy(goal))
        )
    try:
        import ensurepip  # noqa: F401, PLC0415 - only asked whether it is there
        import venv  # noqa: F401, PLC0415 - as above
    except ImportError:
        fail(
            "%s (Python %s) cannot make virtual environments because its module ensurepip is missing; install it "
            "(Debian, Ubuntu: apt-get install python3-venv, or python%s-venv for just this version) and run: make %s"
            % (sys.executable, name_of(sys.version_info[:3]), name_of(version), goal)
        )


def digest() -> str:
    """Digest everything that an installation depends on: pyproject.toml, the locks and where the tree is."""
    found = hashlib.sha256(ROOT.encode("utf-8"))
    locks = (
        sorted(name for name in os.listdir(LOCKS) if name.endswith(".txt")) if os.path.isdir(LOCKS) else []
    )
    for path in [os.path.join(ROOT, "pyproject.toml")] + [os.path.join(LOCKS, name) for name in locks]:
        with open(path, "rb") as handle:
            found.update(b"\0" + handle.read())
    return found.hexdigest()


def read_stamp() -> Tuple[str, List[str], str]:
    """Return (digest, extras, Python version) of what was installed; empty if nothing was, or only half."""
    try:
        with open(STAMP) as handle:
            stamp = json.load(handle)
        return str(stamp["digest"]), [str(extra) for extra in stamp["extras"]], str(stamp["python"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", [], ""


def write_stamp(extras: List[str]) -> None:
    """Write the stamp in one step, after everything else."""
    version = subprocess.check_output(
        [VENV_PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    )
    partial = STAMP + ".partial"
    with open(partial, "w") as handle:
        json.dump({"digest": digest(), "extras": extras, "python": version.decode().strip()}, handle)
    os.replace(partial, STAMP)


def is_current(extra: str, chosen: bool) -> bool:
    """Tell whether ``.venv`` already holds what is asked for."""
    stamped, extras, python = read_stamp()
    if chosen and python != name_of(sys.version_info[:2]):
        return False
    there = set(extras)
    for name in extras:
        there.update(INCLUDES.get(name, []))
    return stamped == digest() and extra in there and os.access(VENV_PYTHON, os.X_OK)


def venv_works(chosen: bool) -> bool:
    """Tell whether ``.venv`` has a Python that is new enough (the chosen one, if one was) and a pip that runs."""
    wanted = "== %r" % (tuple(sys.version_info[:2]),) if chosen else ">= %r" % (OLDEST,)
    test = "import sys, pip; sys.exit(not sys.version_info[:2] %s)" % wanted
    try:
        return subprocess.call([VENV_PYTHON, "-c", test], stdout=2, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def make_venv(goal: str) -> None:
    """Make ``.venv`` afresh."""
    check_interpreter(goal)
    say("making .venv with Python %s" % name_of(sys.version_info[:3]))
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", VENV],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        output = done.stdout.decode("utf-8", "replace").strip()
        fail("the virtual environment .venv cannot be made by %s:\n%s" % (sys.executable, output))


def install(extra: str, goal: str) -> None:
    """Install the locked versions of one extra, showing what pip downloads, and then the tree in editable mode."""
    lock = os.path.join(LOCKS, extra + ".txt")
    if not os.path.isfile(lock):
        fail("there are no locked versions for '%s': expected %s, which `make lock` writes" % (extra, lock))
    say("installing banditroute[%s] (some minutes the first time)" % extra)
    # Where a lock is given with hashes pip insists on one for everything, also for what is needed to build the tree.
    run_pip(["--only-binary", WHEELS_ONLY, "--require-hashes", "--requirement", lock], goal)
    run_pip(["--no-deps", "--no-index", "--no-build-isolation", "--editable", ROOT], goal)


def run_pip(arguments: List[str], goal: str) -> None:
    """Run ``pip install`` and tell what takes long; end with a sentence if it fails."""
    base = [
        VENV_PYTHON,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar",
        "off",
    ]
    process = subprocess.Popen(
        [*base, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = []
    for raw in process.stdout:
        line = raw.decode("utf-8", "replace").rstrip()
        output.append(line)
        wheel = re.match(r"\s*Downloading ([^-/ ]+)-\S* (\([0-9.]+ MB\))", line)
        if wheel is not None:  # the small ones are not worth a line
            say("downloading %s %s" % wheel.groups())
        elif line.startswith(("Installing collected", "WARNING: Retrying")):
            say(line.split(":")[0] if line.startswith("Inst") else line[:110])
    if process.wait() != 0:
        fail(why_pip_failed("\n".join(output), goal))


def why_pip_failed(output: str, goal: str) -> str:
    """Turn pip's output into a sentence with a remedy where the cause is a known one."""
    if re.search(r"WARNING: Retrying|ConnectionError|Temporary failure in name resolution", output):
        return (
            "the packages cannot be downloaded; check the network and pip's configuration, then run: make %s\n%s"
            % (
                goal,
                "\n".join(output.splitlines()[-3:]),
            )
        )
    if re.search(
        r"(?i)no matching distribution found for (numba|llvmlite)|cannot install .*(numba|llvmlite)", output
    ):
        version = subprocess.check_output(
            [VENV_PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        )
        return "numba has no wheel for Python %s on this machine; %s" % (
            version.decode().strip(),
            remedy(goal),
        )
    if "DO NOT MATCH THE HASHES" in output:
        return (
            "a downloaded package is not the one that locks/ names (its hash differs), and was not installed; if the "
            "package index mixes in files of its own, take it out of pip's configuration, then run: make %s\n%s"
            % (goal, "\n".join(output.splitlines()[-6:]))
        )
    return "pip could not install banditroute:\n" + "\n".join(output.splitlines()[-15:])


def main() -> int:
    """Bring ``.venv`` up to date and return the exit status."""
    parser = argparse.ArgumentParser(description="Make .venv and install banditroute into it, once.")
    parser.add_argument("extra", help="the extra of pyproject.toml to install")
    parser.add_argument(
        "--chosen", action="store_true", help="the interpreter was named by the user: insist on it"
    )
    parser.add_argument(
        "--for", dest="goal", default="", help="the make target, for the remedies in messages"
    )
    options = parser.parse_args()
    if is_current(options.extra, options.chosen):
        return 0
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # two makes at once: the second waits and finds it done
    if is_current(options.extra, options.chosen):
        return 0
    stamped, extras, _ = read_stamp()
    if not venv_works(options.chosen):
        make_venv(options.goal)
        extras = []
    elif stamped != digest():
        extras = []
    install(options.extra, options.goal)
    write_stamp(sorted(set(extras) | {options.extra}))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
