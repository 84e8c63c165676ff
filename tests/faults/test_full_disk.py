"""Local files on a full disk: the engine needs none, and a command that writes one says so in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from banditroute.cli import main

ROOT = Path(__file__).resolve().parents[2]

# A file size limit of nothing is what a process can see of a full disk without one.
FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from banditroute.flow.copying.partitioner import partitions_of
print(partitions_of([b"21", b"foobar"], 1000).tolist())
"""


def test_kernels_are_compiled_and_run_although_their_cache_cannot_be_written(tmp_path: Path) -> None:
    path = os.pathsep.join(str(ROOT / folder) for folder in (".", "features", "sim"))
    environment = {**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FULL], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    from banditroute.flow.copying.partitioner import partitions_of

    assert done.stdout == f"{partitions_of([b'21', b'foobar'], 1000).tolist()}\n"
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.nb*")) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("verb", ["fit-prior", "features fit"])
def test_a_command_that_finds_the_disk_full_says_so_in_one_sentence(
    verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    prompts = [f"prompt number {k} about {'cats' if k % 2 else 'dogs'}" for k in range(40)]
    parquet.write_table(
        pa.table({"id": [str(k) for k in range(40)], "prompt": prompts}), tmp_path / "prompts.parquet"
    )
    rows = [(str(k), name) for k in range(40) for name in ("small", "large")]
    outcomes = {
        "id": [row for row, _ in rows],
        "model": [name for _, name in rows],
        "quality": [0.5 + 0.4 * (int(row) % 2) for row, _ in rows],
        "cost_usd": [0.001] * len(rows),
    }
    parquet.write_table(pa.table(outcomes), tmp_path / "outcomes.parquet")
    config = tmp_path / "banditroute.toml"
    models = "".join(
        f'[[models]]\nname = "{name}"\ninput_usd_per_mtok = 1.0\noutput_usd_per_mtok = 2.0\n'
        for name in ("small", "large")
    )
    config.write_text(models, encoding="utf-8")
    words = [*verb.split(), str(tmp_path), "-c", str(config), "-o", "/dev/full"]
    monkeypatch.setattr(sys, "argv", ["banditroute", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert "/dev/full" in err
    assert "No space left" in err
