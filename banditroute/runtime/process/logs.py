"""Structured logs on standard error; never with prompt text."""

from __future__ import annotations

import logging
import sys

import orjson

from banditroute.config import Logging

_QUIET = ("aiokafka", "asyncio", "numba", "kafka")
# Also said of a topic that was created a moment ago; a topic that stays missing is named by `check_topics`.
_EARLY = "Topic %s not found in cluster metadata"
REPEAT_SECONDS = 10.0


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class Sparing(logging.Filter):
    """Passes a library's message once in ten seconds: without a broker it comes dozens of times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write a record."""
        if record.name.partition(".")[0] not in _QUIET:
            return True
        if record.msg == _EARLY:
            return False
        message = record.getMessage()
        if record.created - self._passed.get(message, 0.0) < REPEAT_SECONDS:
            return False
        if len(self._passed) >= 1000:
            self._passed.clear()
        self._passed[message] = record.created
        return True


def set_up_logging(settings: Logging) -> None:
    """Log to standard error as configured; libraries only speak up when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    human = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    handler.setFormatter(JsonFormatter() if settings.format == "json" else human)
    handler.addFilter(Sparing())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
