"""Where everything has to run, a skip that is not allowed is red, whoever runs the test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SUITE = """\
import pytest

def test_runs():
    pass

def test_may_be_skipped():
    pytest.skip("no data set /nowhere: set BANDITROUTE_DATA to the folder that holds it")

def test_may_not():
    pytest.skip("no Chromium is installed")

@pytest.mark.skipif(True, reason="something that is not here")
def test_may_not_either():
    pass

@pytest.mark.xfail(strict=True)
def test_is_expected_to_fail():
    raise AssertionError
"""


def outcomes(folder, *flags, **environment):
    """Run a suite of its own with the plugin; return the counts of pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", folder, "-p", "tests.skips", *flags, folder]
    settings = {
        name: value for name, value in os.environ.items() if not name.startswith(("BANDITROUTE_", "PYTEST_"))
    }
    settings |= {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True)
    (*_, last) = done.stdout.strip().splitlines()
    return {
        name.rstrip("s"): int(count)
        for count, name in re.findall(r"(\d+) ([a-z]+)", last.partition(" in ")[0])
    }


@pytest.mark.parametrize("flags", [(), ("-n", "2")], ids=["alone", "in workers"])
def test_a_skip_that_is_not_listed_fails_where_all_tests_are_required(tmp_path, flags):
    (tmp_path / "test_suite.py").write_text(SUITE)
    loose = outcomes(tmp_path, *flags)
    strict = outcomes(tmp_path, *flags, BANDITROUTE_REQUIRE_ALL="1")
    assert loose == {"passed": 1, "skipped": 3, "xfailed": 1}
    assert strict == {"passed": 1, "skipped": 1, "xfailed": 1, "failed": 1, "error": 1}


def test_a_file_that_is_skipped_as_a_whole_fails_where_all_tests_are_required(tmp_path):
    (tmp_path / "test_suite.py").write_text(
        'import pytest\npytest.importorskip("a_library_that_is_not_here")\n'
    )
    assert outcomes(tmp_path) == {"skipped": 1}
    assert outcomes(tmp_path, BANDITROUTE_REQUIRE_ALL="1") == {"error": 1}
