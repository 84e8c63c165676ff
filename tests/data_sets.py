"""Recorded data sets, read in place: from $BANDITROUTE_DATA, or from shared/data beside the clone."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("BANDITROUTE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def data_set(name: str) -> Path:
    """Return the folder of a data set; skip the test where there is none."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"no data set {folder}: set BANDITROUTE_DATA to the folder that holds it")
    return folder
