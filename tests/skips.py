"""What may be skipped where everything has to run, as in CI (BANDITROUTE_REQUIRE_ALL=1): only what is listed here.

A test that cannot run on a tier of broker by nature is not collected there (`tests.brokers`); one that is skipped
could have run if the machine had what it needs, and in CI the machine has it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

#: Beginnings of reasons, and why CI may lack what they name.
ALLOWED = {
    r"no data set ": "data sets are large, belong to others, and are not part of the repository",
    r"an x86 processor is compiled for": "the machine is another one",
    r"needs to become an unprivileged user": "the run is unprivileged already, and file permissions count as they are",
    r"this Python cannot be run by an unprivileged user": "the interpreter may lie in a folder of root's",
    r"root may write anywhere, and this machine does not let it give that up": "a container may forbid it",
}


def all_required() -> bool:
    """Tell whether a skip that is not allowed is a failure."""
    return os.environ.get("BANDITROUTE_REQUIRE_ALL", "") not in ("", "0")


def is_allowed(reason: str) -> bool:
    """Tell whether a test may be skipped for this reason."""
    return any(re.match(pattern, reason.removeprefix("Skipped: ")) for pattern in ALLOWED)


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not all_required() or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if not is_allowed(reason):
        report.outcome = "failed"
        report.longrepr = (
            f"{reason}\nBANDITROUTE_REQUIRE_ALL is set, and tests/skips.py does not list this reason"
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Turn a skip into a failure where it is not allowed."""
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """As above, for a file that is skipped as a whole."""
    report = yield
    _refuse(report)
    return report
