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
                raise RuntimeError("cannot cache function 'f': no locator available for file 'f.py'")
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
