"""banditroute: a streaming, contextual-bandit router for AI models.

Run it beside your services with `banditroute run`, rehearse with `banditroute demo`, or embed `Router`.
"""

from __future__ import annotations

from banditroute.catalog import Catalog, Model
from banditroute.config import Config, load
from banditroute.errors import (
    BanditrouteError,
    BrokerError,
    ConfigError,
    DataSetError,
    InputError,
    StateError,
)
from banditroute.events import Decision, Feedback, PauseEdit, PriceEdit, Request
from banditroute.router import Router

__all__ = [
    "BanditrouteError",
    "BrokerError",
    "Catalog",
    "Config",
    "ConfigError",
    "DataSetError",
    "Decision",
    "Feedback",
    "InputError",
    "Model",
    "PauseEdit",
    "PriceEdit",
    "Request",
    "Router",
    "StateError",
    "load",
]

__version__ = "0.1.0"
