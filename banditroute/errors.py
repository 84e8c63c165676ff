"""Every exception banditroute raises on purpose.

::

    BanditrouteError
    ├── ConfigError            a configuration file or value is wrong
    ├── InputError             an event given to the library face is wrong
    ├── DataSetError           a data set on disk is wrong
    ├── MissingExtraError      an optional dependency is not installed
    ├── BrokerError            the broker cannot do what is needed
    │   ├── BrokerUnavailable  it cannot be reached
    │   └── TopicError         topics are missing, unequal or without genesis
    └── StateError             what is stored cannot be trusted: refuse, never guess

Each carries one sentence: what is wrong, where, what was expected and what to do. The command line
prints it and exits with status 2. Poison records on the stream are never exceptions: they are values
(`banditroute.events.Rejected`).
"""

from __future__ import annotations

__all__ = [
    "BanditrouteError",
    "BrokerError",
    "BrokerUnavailable",
    "ConfigError",
    "DataSetError",
    "InputError",
    "MissingExtraError",
    "StateError",
    "TopicError",
]


class BanditrouteError(Exception):
    """The base of every deliberate error; `str(error)` is one sentence for a person."""


class ConfigError(BanditrouteError):
    """A configuration file, key or value is wrong."""


class InputError(BanditrouteError, ValueError):
    """An event handed to `Router` is not a valid request or feedback."""


class DataSetError(BanditrouteError):
    """A data set folder lacks files, columns, models or usable numbers."""


class MissingExtraError(BanditrouteError):
    """A feature needs an optional dependency.

    Parameters
    ----------
    feature : str
        What was asked for, as the start of a sentence.
    extra : str
        The extra that brings the dependency.

    Examples
    --------
    >>> str(MissingExtraError("The demo", "demo"))
    "The demo needs an optional dependency: pip install 'banditroute[demo]'."
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency: pip install 'banditroute[{extra}]'.")


class BrokerError(BanditrouteError):
    """The broker refused, or lacks something the engine needs."""


class BrokerUnavailable(BrokerError):
    """No broker answered within the start-up bound."""


class TopicError(BrokerError):
    """Topics are missing, have unequal partition counts, or hold no genesis record."""


class StateError(BanditrouteError):
    """Stored state is damaged, foreign or does not match the log; the engine refuses to guess."""
