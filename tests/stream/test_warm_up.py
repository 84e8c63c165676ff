"""An engine that has joined its group compiles nothing more: a member that compiles sends no heartbeats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_nothing_is_compiled_once_the_group_is_joined() -> None:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("", "features", "sim", "scripts"))
    result = subprocess.run(
        [sys.executable, "-m", "tests.stream.warm_script"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout.splitlines()[-1]) == {}
