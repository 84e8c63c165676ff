"""What people send as a vote becomes a number in [0, 1], or is refused with its scale."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from banditroute import Router, config, errors, events
from banditroute.events import Feedback, Rejected, ValueMap

STARS = ValueMap(
    {"up": 1, "down": 0, "👍": 1, "meh": 0.5, "-1": 0, "stars": (1, 5), "judge": "minus_one_to_one"}
)


def both(event: dict[str, Any], value_map: ValueMap | None = None) -> Feedback | Rejected:
    """Read an event on the wire and in the library; both say the same."""
    event = {"request_id": "r", **event}
    wire = events.decode_feedback(json.dumps(event).encode(), None, value_map)
    assert events.feedback_of(event, value_map) == wire
    return wire


@pytest.mark.parametrize(
    ("kind", "value", "quality"),
    [
        ("thumb", True, 1.0),
        ("thumb", 0, 0.0),
        ("thumb", 1.0, 1.0),
        ("thumb", "up", 1.0),
        ("thumb", " Down ", 0.0),
        ("thumb", "👍", 1.0),
        ("thumb", "👍🏽", 1.0),
        ("thumb", "👎", 0.0),
        ("thumb", "1", 1.0),
        ("thumb", "false", 0.0),
        ("outcome", "success", 1.0),
        ("outcome", "failure", 0.0),
        ("score", "0.8", 0.8),
        ("judge", "1e-1", 0.1),
    ],
)
def test_a_vote_with_one_meaning_needs_no_map(kind: str, value: Any, quality: float) -> None:
    feedback = both({"kind": kind, "value": value})
    assert isinstance(feedback, Feedback)
    assert feedback.quality == quality


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("thumb", "good"),
        ("thumb", -1),
        ("score", "up"),
        ("score", "4"),
        ("score", "nan"),
        ("score", "1_0"),
        ("score", ""),
    ],
)
def test_a_vote_that_could_mean_anything_is_refused(kind: str, value: Any) -> None:
    feedback = both({"kind": kind, "value": value})
    assert isinstance(feedback, Rejected)
    assert "`$.value`" in feedback.reason


@pytest.mark.parametrize(
    ("event", "quality"),
    [
        ({"kind": "score", "value": "UP"}, 1.0),
        ({"kind": "score", "value": "meh"}, 0.5),
        ({"kind": "thumb", "value": -1}, 0.0),
        ({"kind": "thumb", "value": "-1"}, 0.0),
        ({"kind": "thumb", "value": "👎"}, 0.0),
        ({"kind": "score", "value": 0.25}, 0.25),
        ({"kind": "score", "stars": 4}, 0.75),
        ({"kind": "score", "stars": "5"}, 1.0),
        ({"kind": "stars", "value": 2}, 0.25),
        ({"kind": "score", "source": "stars", "value": 3}, 0.5),
        ({"kind": "judge", "value": 0}, 0.5),
        ({"kind": "judge", "value": 1.0}, 1.0),
    ],
)
def test_a_map_gives_words_and_scales(event: dict[str, Any], quality: float) -> None:
    feedback = both(event, STARS)
    assert isinstance(feedback, Feedback)
    assert feedback.quality == quality


def test_a_vote_outside_of_its_scale_is_refused_with_the_scale() -> None:
    for value in (0, 5.5, "6"):
        feedback = both({"kind": "score", "stars": value}, STARS)
        assert feedback == Rejected("Expected a number from 1 to 5, its scale - at `$.stars`")


def test_one_scale_may_hold_for_all_numbers() -> None:
    feedback = both({"kind": "thumb", "value": -1}, ValueMap({"minus_one_to_one": True}))
    assert isinstance(feedback, Feedback)
    assert feedback.quality == 0.0


def test_a_number_of_numpy_is_mapped_like_any_other() -> None:
    event = {"request_id": "r", "kind": "score", "stars": np.int64(4)}
    feedback = events.feedback_of(event, STARS)
    assert isinstance(feedback, Feedback)
    assert feedback.quality == 0.75


def document(**feedback: Any) -> dict[str, Any]:
    """A configuration with one model."""
    model = {"name": "m", "input_usd_per_mtok": 1.0, "output_usd_per_mtok": 1.0}
    return {"models": [model], "feedback": feedback}


def test_a_router_learns_mapped_votes_one_by_one_and_together() -> None:
    router = Router.from_dict(document(value_map={"great": 1, "stars": [1, 5]}))
    for name in "abc":
        router.decide({"request_id": name, "prompt": "x"})
    assert router.learn({"request_id": "a", "kind": "score", "value": "great"}) == "applied"
    assert router.learn_many(
        [
            {"request_id": "b", "kind": "score", "stars": 3},
            {"request_id": "c", "kind": "thumb", "value": "up"},
        ]
    ) == ["applied", "applied"]
    assert sum(float(row[3]) for row in router.evidence.rows.values()) == 1.0 + 0.5 + 1.0


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ({"up": 2}, "feedback.value_map.up"),
        ({"up": True}, "feedback.value_map.up"),
        ({"stars": [5, 5]}, "feedback.value_map.stars"),
        ({"stars": [1, 2, 3]}, "feedback.value_map"),
        ({"stars": "zero_to_ten"}, "feedback.value_map"),
    ],
)
def test_a_map_that_makes_no_sense_is_an_error_of_the_configuration(entries: Any, where: str) -> None:
    with pytest.raises(errors.ConfigError, match=where):
        config.from_dict(document(value_map=entries))
