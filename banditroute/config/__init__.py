"""`banditroute.toml`: tables with their defaults, one loader, and errors that name the key."""

from __future__ import annotations

from banditroute.config.loading import from_dict, load, parse
from banditroute.config.suspicious import unusual_price, warnings
from banditroute.config.tables import (
    Config,
    Engine,
    FeedbackTable,
    Kafka,
    Learning,
    Logging,
    Objective,
    Requests,
    Topics,
)
from banditroute.config.values import Duration, Secret

__all__ = [
    "Config",
    "Duration",
    "Engine",
    "FeedbackTable",
    "Kafka",
    "Learning",
    "Logging",
    "Objective",
    "Requests",
    "Secret",
    "Topics",
    "from_dict",
    "load",
    "parse",
    "unusual_price",
    "warnings",
]
