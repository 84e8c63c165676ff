"""Faults come quickly: nobody waits seconds for a retry."""

from __future__ import annotations

import pytest

from banditroute.runtime.tasks import engine as engine_module
from banditroute.runtime.tasks import partition_task


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries and commits within milliseconds."""
    monkeypatch.setattr(engine_module, "RETRY_SECONDS", 0.002)
    monkeypatch.setattr(engine_module, "MAX_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(engine_module, "COMMIT_SECONDS", 0.005)
    monkeypatch.setattr(partition_task, "RETRY_SECONDS", 0.002)
    monkeypatch.setattr(partition_task, "MAX_RETRY_SECONDS", 0.01)
    monkeypatch.setattr("banditroute.flow.partition.RESEND_MS", 50.0)
    monkeypatch.setattr("banditroute.flow.partition.CHECKPOINT_EVERY", 7)
