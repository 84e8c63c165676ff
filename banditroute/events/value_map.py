"""Reads a vote that is not a number in [0, 1]: words, stars, numbers as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from banditroute.events.second_reading import plain

MINUS_ONE_TO_ONE: Final = "minus_one_to_one"
_KINDS: Final = frozenset({"thumb", "score", "judge", "outcome"})
# What can mean one thing only is read without being configured.
_WORDS: Final[dict[str, dict[str, float]]] = {
    "thumb": {"up": 1.0, "down": 0.0, "👍": 1.0, "👎": 0.0, "true": 1.0, "false": 0.0},
    "outcome": {"success": 1.0, "failure": 0.0, "true": 1.0, "false": 0.0},
}
_SKIN_TONES: Final = dict.fromkeys((*range(127995, 128000), 65039))

Meaning = float | bool | Sequence[float] | str


class Unmapped(Exception):
    """A vote is outside of its scale; the only argument is the reason."""


class ValueMap:
    """Turns what people send as a vote into a number in [0, 1].

    Parameters
    ----------
    entries : mapping, optional
        ``[feedback.value_map]``. A number says what a value stands for (``up = 1``, ``"-1" = 0``). A pair is a scale,
        worst and best (``stars = [1, 5]``), and ``"minus_one_to_one"`` is the pair -1 and 1: for votes whose `kind`,
        or else `source`, is the key, or that stand in a field of that name instead of in `value`. ``minus_one_to_one
        = true`` is the scale of all other numbers.

    Examples
    --------
    >>> ValueMap({"good": 1, "stars": (1, 5)}).read({"kind": "score", "value": "good"})
    {'kind': 'score', 'value': 1.0}
    >>> ValueMap({"stars": (1, 5)}).read({"kind": "score", "stars": 4})
    {'kind': 'score', 'stars': 4, 'value': 0.75}
    >>> ValueMap().read({"kind": "thumb", "value": "👎"})
    {'kind': 'thumb', 'value': 0.0}
    """

    def __init__(self, entries: Mapping[str, Meaning] | None = None) -> None:
        self._words: dict[str, float] = {}
        self._scales: dict[str, tuple[float, float]] = {}
        self._scale: tuple[float, float] | None = None
        for key, meaning in (entries or {}).items():
            if key == MINUS_ONE_TO_ONE and isinstance(meaning, bool):
                self._scale = (-1.0, 1.0) if meaning else None
            elif isinstance(meaning, str):
                self._scales[key] = (-1.0, 1.0)
            elif isinstance(meaning, Sequence):
                self._scales[key] = (float(meaning[0]), float(meaning[1]))
            else:
                self._words[_folded(key)] = float(meaning)

    def read(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return feedback whose `value`, if it has a meaning, is a number in [0, 1].

        Raises
        ------
        Unmapped
            If a vote is outside of its scale.
        """
        event = dict(payload)
        kind, source = event.get("kind"), event.get("source")
        value, name = _known(event.get("value")), None
        for each in (kind, source):
            if isinstance(each, str) and each in self._scales:
                name = each
                break
        if value is None:
            for field in self._scales:
                value, name = _known(event.get(field)), field
                if value is not None:
                    break
        if value is None:
            return event
        if isinstance(kind, str) and kind in self._scales and kind not in (*_KINDS, "usage", "withdraw"):
            event["kind"] = kind = "score"  # a kind of the user's own
        event["value"] = self._meaning(value, kind if isinstance(kind, str) else "", name)
        return event

    def _meaning(self, value: Any, kind: str, name: str | None) -> Any:
        if isinstance(value, bool):
            return self._words.get("true" if value else "false", value)
        if isinstance(value, str):
            text = _folded(value)
            word = self._words.get(text, _WORDS.get(kind, {}).get(text))
            if word is not None:
                return word
            number = _number(text)
            if number is None:
                return value
            value = number
        if not isinstance(value, int | float) or not math.isfinite(value):
            return value
        word = self._words.get(f"{value:g}")
        if word is not None:
            return word
        scale = self._scale if name is None else self._scales[name]
        if scale is None:
            return value
        worst, best = scale
        if not min(scale) <= value <= max(scale):
            raise Unmapped(f"Expected a number from {worst:g} to {best:g}, its scale - at `$.{_place(name)}`")
        return (value - worst) / (best - worst)


def _known(value: Any) -> Any:
    value = plain(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _place(name: str | None) -> str:
    return "value" if name is None or name in _KINDS else name


def _folded(text: str) -> str:
    return text.strip().translate(_SKIN_TONES).casefold()


def _number(text: str) -> float | None:
    if len(text) > 64 or "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None
