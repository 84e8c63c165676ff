"""Rules of compiling: cache where it is possible, start where it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import pytest

import banditroute_features
from banditroute_features import _kernels
from banditroute_features import compile as compiling
from banditroute_features.compile import njit_cached

PACKAGE = Path(banditroute_features.__file__).parent
KERNEL = """
from banditroute_features.compile import njit_cached
@njit_cached()
def thrice(x):
    return x + x + x
"""


def test_a_kernel_is_cached_in_the_folder_that_numba_is_told_to_use(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text(KERNEL)
    run = "import kernel; print(kernel.thrice(2), sum(kernel.thrice.stats.cache_hits.values()))"
    env = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{PACKAGE.parent}",
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }
    outputs = [
        subprocess.run(
            [sys.executable, "-c", run], env=env, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    ]
    assert outputs == ["6 0\n", "6 1\n"]
    assert list((tmp_path / "cache").rglob("*.nbi"))


def test_without_a_cache_folder_a_function_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def decorate(**options: object) -> Callable[[object], object]:
        def compiled(function: object) -> object:
            if options.get("cache"):
                raise RuntimeError("whatever numba says where it finds no folder")
            return function

        return compiled

    monkeypatch.setattr(numba, "njit", decorate)
    assert njit_cached()(len)("ab") == 2


def test_other_errors_of_the_compiler_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: object) -> object:
        raise RuntimeError("something else")

    monkeypatch.setattr(numba, "njit", lambda **options: fail)
    with pytest.raises(RuntimeError, match="something else"):
        njit_cached()(len)


@pytest.mark.parametrize("option", ["cache", "fastmath"])
def test_options_that_would_break_a_promise_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"'{option}' is not an option here"):
        njit_cached(**{option: True})


def test_a_home_that_is_not_a_path_is_not_searched_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert not compiling._may_cache()
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/somewhere")
    assert compiling._may_cache()


IMPORTED = """
import sys
from time import thread_time
import numba
start = thread_time()
import banditroute_features
seconds = thread_time() - start
from banditroute_features import Encoder, FeatureSpec, _kernels
compiled = len(_kernels.encode_all.signatures)
import numpy
Encoder(FeatureSpec()).encode_prompts(["x"], numpy.empty((1, 32), "f4"))
print(seconds, compiled, sum(_kernels.encode_all.stats.cache_hits.values()))
"""


def test_an_import_compiles_nothing_and_takes_little_longer_than_that_of_numba() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(PACKAGE.parent)
    runs = []
    for _ in range(4):  # the first one may write byte code and machine code
        done = subprocess.run(
            [sys.executable, "-c", IMPORTED], env=environment, capture_output=True, text=True, check=True
        )
        runs.append([float(part) for part in done.stdout.split()])
    assert [run[1] for run in runs] == [0] * 4
    assert [run[2] for run in runs[1:]] == [1] * 3
    assert min(run[0] for run in runs) < 0.1


def test_a_cached_kernel_notices_an_edited_kernel_and_constant_of_another_file(tmp_path: Path) -> None:
    kernel = "from banditroute_features.compile import njit_cached\nkernel = njit_cached()\n"
    (tmp_path / "_kernels_caller.py").write_text(
        f"{kernel}from _kernels_middle import scaled\n@kernel\ndef f(x):\n    return scaled(x)\n"
    )
    (tmp_path / "_kernels_middle.py").write_text(
        f"{kernel}from constants import SHIFT\nfrom _kernels_callee import factor\n"
        "@kernel\ndef scaled(x):\n    return factor(x) + SHIFT\n"
    )
    env = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{PACKAGE.parent}",
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }
    run = "from _kernels_caller import f; print(f(2), sum(f.stats.cache_hits.values()))"
    outputs = []
    for factor, shift in ((3, 0), (3, 0), (5, 0), (5, 0), (5, 1), (5, 1)):
        (tmp_path / "_kernels_callee.py").write_text(
            f"{kernel}@kernel\ndef factor(x):\n    return {factor} * x\n"
        )
        (tmp_path / "constants.py").write_text(f"SHIFT = {shift}\n")
        command = [sys.executable, "-B", "-c", run]
        outputs.append(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert outputs == ["6 0\n", "6 1\n", "10 0\n", "10 1\n", "11 0\n", "11 1\n"]


CALLER = """
from banditroute_features.compile import njit_cached
from callee import factor
def compiled(sources):
    @njit_cached()
    def times(x):
        return x if sources < 0 else factor(x)
    return times
"""


def test_numba_notices_an_edited_callee_by_the_checksum_that_its_caller_encloses(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    env = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{PACKAGE.parent}",
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }
    outputs = []
    for checksum, factor in ((1, 3), (1, 3), (2, 5)):
        (tmp_path / "callee.py").write_text(f"import numba\nfactor = numba.njit(lambda x: {factor} * x)\n")
        run = f"import caller; f = caller.compiled({checksum}); print(f(2), sum(f.stats.cache_hits.values()))"
        command = [sys.executable, "-c", run]
        outputs.append(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert outputs == ["6 0\n", "6 1\n", "10 0\n"]


def test_the_checksum_of_the_kernels_changes_with_every_file_of_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in PACKAGE.glob("_kernels*.py"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(_kernels, "__file__", str(tmp_path / "_kernels.py"))
    found = {_kernels._sources()}
    names = sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        with (tmp_path / name).open("a") as file:
            file.write("# edited\n")
        found.add(_kernels._sources())
    assert len(names) == 6
    assert len(found) == 1 + len(names)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike the ones of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to become an unprivileged user"
)
@pytest.mark.parametrize("uid", [65534, 54321], ids=["nobody", "a user without an entry"])
def test_a_read_only_install_without_a_home_starts_and_encodes(open_folder: Path, uid: int) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    site, where = open_folder / "site", open_folder / "cwd"
    copy = site / "banditroute_features"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [copy, *copy.iterdir()]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    where.mkdir()
    where.chmod(0o777)
    code = (
        "from types import SimpleNamespace as R\n"
        "from banditroute_features import Encoder, FeatureSpec\n"
        "r = R(prompt='x', messages=None, tenant=None, tags=[], context=None, input_tokens=None)\n"
        "print(Encoder(FeatureSpec()).encode(r).shape)\n"
    )
    command = [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        "--clear-groups",
        sys.executable,
        "-W",
        "error",
        "-c",
        code,
    ]
    probe = subprocess.run([*command[:5], "-c", "import numba"], env={}, cwd=where, capture_output=True)
    if probe.returncode:
        pytest.skip("this Python cannot be run by an unprivileged user")
    done = subprocess.run(command, env={"PYTHONPATH": str(site)}, cwd=where, capture_output=True, text=True)
    assert done.stdout == "(32,)\n", done.stderr
    assert not list(where.iterdir())
