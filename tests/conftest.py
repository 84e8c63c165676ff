"""What every test shares: numba's cache, hypothesis' profile, the brokers of `tests.brokers`,
and the skips that CI allows."""

import hashlib
import os
import tempfile
from importlib import metadata
from pathlib import Path

from hypothesis import settings

pytest_plugins = ["tests.brokers", "tests.skips"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("banditroute", "features/banditroute_features", "sim/banditroute_sim")


def _numba_cache() -> Path:
    """Return a cache folder that belongs to exactly these kernels.

    numba does not notice that a kernel called from another file was edited, and would go on running the old one.
    A folder named by the digest of all kernel sources cannot be stale, and switching branches finds its own again.
    """
    digest = hashlib.sha256(metadata.version("numba").encode())
    for package in PACKAGES:
        sources = {*(ROOT / package).rglob("_kernels*.py"), *(ROOT / package).rglob("compile.py")}
        for source in sorted(sources):
            digest.update(source.relative_to(ROOT).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(base, "banditroute", "numba", digest.hexdigest()[:20])
    try:
        if not folder.is_absolute():
            raise FileNotFoundError(base)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home directory, or a read-only one
        folder = Path(tempfile.gettempdir(), f"banditroute-numba-{os.getuid()}", digest.hexdigest()[:20])
        folder.mkdir(parents=True, exist_ok=True)
    return folder


# Before anything imports numba, which reads it once; programs that the tests start inherit it.
os.environ["NUMBA_CACHE_DIR"] = str(_numba_cache())

# Seeded: a red run is red again, here and elsewhere. No deadline: the first example compiles kernels.
settings.register_profile("banditroute", derandomize=True, deadline=None)
settings.load_profile("banditroute")
