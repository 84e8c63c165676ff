"""Benchmarks: one claim each, ours beside the peers and the limit in one run; see `bench.harness`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The source roots of this very clone, whatever is installed, and the broker script.
sys.path[:0] = [str(ROOT / folder) for folder in (".", "features", "sim", "scripts")]
