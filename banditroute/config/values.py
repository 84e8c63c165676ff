"""Values of the file that TOML has no type for: durations and secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w)\s*$")
_SHORTEST, _LONGEST = 0.001, 36500 * 86400.0


class Duration(float):
    """Seconds, written in the file as a number with a unit.

    Examples
    --------
    >>> Duration.parse("15m"), Duration.parse("3d")
    (900.0, 259200.0)
    """

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Parse ``"250ms"``, ``"15m"``, ``"3d"``; raises ValueError otherwise, and outside of 1 ms to 100 years."""
        match = _DURATION.match(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(
                f'Expected a duration such as "250ms", "30s", "15m", "6h" or "3d", got {text!r:.60}'
            )
        seconds = float(match[1]) * _UNITS[match[2]]
        if not _SHORTEST <= seconds <= _LONGEST:
            raise ValueError(f'Expected a duration from "1ms" to "36500d", got {text!r:.60}')
        return cls(seconds)


class Secret:
    """A secret taken from the environment: however it is printed, it is not shown; `reveal` gives it away.

    Examples
    --------
    >>> secret = Secret("hunter2")
    >>> print(secret, secret.reveal() == "hunter2")
    Secret(***) True
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself, for the client that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def parse(cls, reference: object) -> Secret:
        """Read ``{ env = "NAME" }``; raises ValueError for a literal secret or an unset variable."""
        if (
            not isinstance(reference, Mapping)
            or set(reference) != {"env"}
            or not isinstance(reference["env"], str)
        ):
            raise ValueError(
                'Expected { env = "NAME" }: secrets come from the environment, never from the file'
            )
        name = reference["env"]
        if not os.environ.get(name):
            raise ValueError(f"Expected the environment variable {name} to be set and not empty")
        return cls(os.environ[name])
