"""Alerts of drift name model, segment, size and time, and keep quiet where nothing has moved."""

from __future__ import annotations

import numpy as np
import pytest

from banditroute.runtime.tasks import drift
from banditroute.runtime.tasks.drift import DriftWatch, Shift

NOON = 1_767_268_800_000


def told(
    watch: DriftWatch, votes: np.ndarray, model: str = "small", segment: str | None = "code"
) -> list[Shift]:
    return [
        found for vote in votes if (found := watch.observe(model, segment, float(vote), NOON)) is not None
    ]


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_steady_votes_are_no_drift(share: float) -> None:
    rng = np.random.default_rng(7)
    assert [told(DriftWatch(), rng.random(3000) < share) for _ in range(20)] == [[]] * 20


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.5), (0.5, 0.9)])
def test_a_large_shift_is_told_once_with_its_size(before: float, after: float) -> None:
    rng = np.random.default_rng(8)
    for _ in range(20):
        watch = DriftWatch()
        votes = np.concatenate([rng.random(500) < before, rng.random(500) < after])
        (found,) = told(watch, votes)
        assert (found.model, found.segment, found.timestamp) == ("small", "code", NOON)
        assert found.now - found.before == pytest.approx(after - before, abs=0.2)


def test_segments_and_models_are_watched_apart() -> None:
    watch = DriftWatch()
    for _ in range(300):
        assert watch.observe("small", "code", 1.0, NOON) is None
        assert watch.observe("small", None, 0.0, NOON) is None
        assert watch.observe("large", "code", 0.0, NOON) is None
    (found,) = told(watch, np.ones(300), segment=None)
    assert (found.segment, found.before < 0.2) == (None, True)
    assert str(found).startswith("the quality of model 'small' on requests without a tag rose by ")
    assert str(found).endswith("noticed at 2026-01-01T12:00:00+00:00")


def test_the_number_of_segments_watched_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "MOST_STREAMS", 3)
    watch = DriftWatch()
    for number in range(10):
        watch.observe("small", f"tag-{number}", 1.0, NOON)
    watch.observe("small", "tag-8", 1.0, NOON)
    assert [segment for _, segment in watch._streams] == ["tag-7", "tag-9", "tag-8"]
