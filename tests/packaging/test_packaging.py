"""The wheel as a user gets it: installed outside of the clone, read-only, without a home, by nobody in particular."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"banditroute", "banditroute_features", "banditroute_sim"}

CONFIG = """\
[[models]]
name = "small"
input_usd_per_mtok = 0.15
output_usd_per_mtok = 0.6

[[models]]
name = "large"
input_usd_per_mtok = 2.5
output_usd_per_mtok = 10.0
"""

DECIDE = """\
import os, sys
import banditroute, banditroute_features, banditroute_sim

tree, config = sys.argv[1:]
for package in (banditroute, banditroute_features, banditroute_sim):
    assert package.__file__.startswith(tree), package.__file__
    try:
        open(os.path.join(os.path.dirname(package.__file__), "probe"), "w")
    except OSError:
        continue
    sys.exit("the tree is writable: the test shows nothing")
from banditroute import Router

router = Router.from_config(config)
print(router.decide({"v": 1, "request_id": "a", "prompt": "hello"}).model)
"""

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
# Root without its privileges: still the owner of its files, but bound by their permissions.
POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]


def run(command, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    # By way of the source distribution, so that this one is known to be complete as well.
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT])
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel):
    """A fresh environment with the wheel, in a folder that any user can read and none can write."""
    base = Path(tempfile.mkdtemp(prefix="banditroute-packaging-"))
    base.chmod(0o755)
    venv.create(base / "venv", symlinks=True, with_pip=False)
    python = base / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index"]
    run([*pip, "--no-compile", wheel])
    (packages,) = (base / "venv").glob("lib/python*/site-packages")
    # The dependencies come from the environment of the tests. Its own .pth files, and with them the clone, are
    # not read there.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (base / "banditroute.toml").write_text(CONFIG)
    (base / "empty").mkdir()
    set_writable(base, False)
    yield base
    set_writable(base, True)
    shutil.rmtree(base)


def set_writable(base, writable):
    for path in [base, *base.rglob("*")]:
        if not path.is_symlink():
            bits = path.stat().st_mode
            path.chmod(bits | 0o200 if writable else bits & ~0o222)


def unprivileged(python):
    """Return the words to put before a command so that file permissions count, or skip."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and there is no setpriv to give that up")
    same = f"import sys, numpy; sys.exit(sys.version != {sys.version!r})"
    for prefix in (NOBODY, POWERLESS):
        # The interpreter may be in a folder that only root can enter. Then it may start all the same, with the
        # library of another Python, which would show nothing.
        words = [*prefix, python, "-c", same]
        done = subprocess.run(words, cwd="/", env={}, capture_output=True, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            return prefix
    pytest.skip("root may write anywhere, and this machine does not let it give that up")


def test_wheel_has_no_generic_names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".pyc", ".nbi", ".nbc"))]


@pytest.mark.slow
@pytest.mark.timeout(900)  # everything is compiled, and nothing kept
@pytest.mark.parametrize("home", ["none", "missing"])
def test_decides_read_only_without_home(installed, home):
    python = installed / "venv" / "bin" / "python"
    environment = {"PATH": os.defpath, "PYTHONWARNINGS": "error::ResourceWarning"}
    if home == "missing":
        environment["HOME"] = str(installed / "home")  # where nobody may make one
    script = [python, "-c", DECIDE, installed / "venv", installed / "banditroute.toml"]
    answer = run([*unprivileged(python), *script], cwd=installed / "empty", env=environment)
    assert answer.strip() in {"small", "large"}
    assert not list((installed / "empty").iterdir())
