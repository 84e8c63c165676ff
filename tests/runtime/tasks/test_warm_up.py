"""An engine that has joined its group compiles nothing more: a member that compiles sends no heartbeats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from banditroute.config import from_dict
from banditroute.runtime.tasks.warm_up import warm_up

ROOT = Path(__file__).parents[3]


MODELS = [
    {"name": "small", "input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4},
    {"name": "large", "input_usd_per_mtok": 2.0, "output_usd_per_mtok": 8.0, "like": "small"},
]
TABLES: list[dict[str, Any]] = [
    {},
    {
        "requests": {"field_map": {"request_id": "id", "prompt": "body.text"}},
        "feedback": {"field_map": {"value": "x"}},
    },
    {"requests": {"max_request_age": "1s", "default_model": "small", "header_pass_through": ["trace"]}},
    {"engine": {"mode": "shadow"}},
    {"engine": {"mode": "frozen"}},
    {"features": {"context": 3, "embedding": 8}},
    {"features": {"tags": 64, "chars": 64}},
    {"objective": {"budget_usd_per_request": 0.001}},
    {"objective": {"quality_floor": 0.9, "reference": "large"}},
    {"objective": {"latency_weight": 0.1}, "learning": {"half_life": "1h", "exploration_floor": 0.1}},
    {"models": [MODELS[0]]},
    {"models": [{**model, "paused": True} for model in MODELS]},
]


@pytest.mark.parametrize("tables", TABLES, ids=str)
def test_whatever_is_configured_an_event_can_be_sent_through_everything(tables: dict[str, Any]) -> None:
    warm_up(from_dict({"models": MODELS, "kafka": {"bootstrap_servers": "none:1"}, **tables}))


def test_nothing_is_compiled_once_the_group_is_joined() -> None:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("", "features", "sim", "scripts"))
    result = subprocess.run(
        [sys.executable, "-m", "tests.runtime.tasks.warm_script"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads(result.stdout.splitlines()[-1]) == {}
