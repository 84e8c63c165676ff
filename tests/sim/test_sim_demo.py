"""The demo from end to end: embedded broker, engine and traffic in one process."""

import asyncio
import io
import json

import pytest
from rich.console import Console

from banditroute_sim import DemoOptions, run_demo

pytestmark = [pytest.mark.embedded, pytest.mark.slow]


def test_the_demo_decides_every_request_and_applies_all_feedback():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    summary = asyncio.run(run_demo(DemoOptions(requests=300, rate=0.0, view=True), console))
    assert summary["requests"] == summary["decisions"] == 300
    assert summary["feedback_sent"] == summary["feedback_applied"] == 300
    assert (summary["duplicates"], summary["undecided"]) == (0, 0)
    assert json.loads(json.dumps(summary)) == summary
    assert summary["cheapest"]["model"] == "nano"
    assert summary["oracle_utility"] >= summary["best_fixed"]["mean_utility"]
    assert "always large" in out.getvalue()


def test_without_a_terminal_nothing_is_drawn():
    out = io.StringIO()
    summary = asyncio.run(run_demo(DemoOptions(requests=20, rate=0.0), Console(file=out)))
    assert summary["decisions"] == 20
    assert not out.getvalue()
