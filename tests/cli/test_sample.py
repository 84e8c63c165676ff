"""`check --sample` shows what records become, without a broker."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from banditroute.cli.entry import app

CONFIG = """
[[models]]
name = "gpt-4o"
input_usd_per_mtok = 1.0
output_usd_per_mtok = 1.0
[feedback.value_map]
stars = [1, 5]
"""


def test_a_sample_says_what_records_become_or_why_not(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text(CONFIG, encoding="utf-8")
    votes = tmp_path / "votes.jsonl"
    rows = [
        {"request_id": "a", "kind": "score", "stars": 4, "model": "gpt-4o-2024-08-06"},
        {"request_id": "b", "kind": "score", "stars": 9},
    ]
    votes.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ["check", "-c", str(tmp_path / "b.toml"), "--sample", str(votes), "--kind", "feedback"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["refused"] == 1
    assert found["records"][0]["becomes"] == {
        "request_id": "a",
        "kind": "score",
        "value": 0.75,
        "model": "gpt-4o",
    }
    assert "$.stars" in found["records"][1]["refused"]
    assert "line 2: refused" in CliRunner().invoke(app, arguments).stdout


def test_a_sample_quotes_no_prompt(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text(CONFIG, encoding="utf-8")
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"request_id":"r","prompt":"plum"}\n', encoding="utf-8")
    done = CliRunner().invoke(app, ["check", "-c", str(tmp_path / "b.toml"), "--sample", str(requests)])
    assert done.exit_code == 0
    assert "plum" not in done.stdout
