"""`banditroute check --sample`: what the first records of a file become, or why not."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from banditroute.config import Config
from banditroute.errors import DataSetError
from banditroute.events import (
    MAX_BYTES_WITH_DATA,
    FieldMap,
    Rejected,
    ValueMap,
    decode_feedback,
    decode_request,
    unmeasured,
)

MOST_RECORDS = 10
_WITHHELD = ("prompt", "messages", "context", "embedding")


def sample(config: Config, path: Path, kind: str) -> list[dict[str, Any]]:
    """Read the first records of a file of JSON lines with the maps of the configuration.

    Parameters
    ----------
    config : Config
        Its field maps, value map and models.
    path : Path
        JSON lines, as they would be on the topic.
    kind : str
        ``requests`` or ``feedback``.

    Returns
    -------
    list of dict
        Per record ``line`` and either ``becomes`` or ``refused``; of texts and vectors their length alone.
        ``unmeasured`` names the numbers that no answer has and that are not learned from.

    Raises
    ------
    DataSetError
        If the file cannot be read or is empty.
    """
    try:
        with path.open("rb") as lines:
            found = [
                (number, line.strip().removeprefix(b"\xef\xbb\xbf"))
                for number in range(1, MOST_RECORDS + 1)
                for line in islice(iter(lambda: lines.readline(MAX_BYTES_WITH_DATA + 2), b""), 1)
            ]
    except OSError as error:
        raise DataSetError(f"cannot read '{path}': {error.strerror}") from error
    rows = [_read(config, line, kind) | {"line": number} for number, line in found if line]
    if not rows:
        raise DataSetError(f"{path} holds no records: expected JSON lines")
    return rows


def _read(config: Config, line: bytes, kind: str) -> dict[str, Any]:
    event: Any
    left_out: tuple[str, ...] = ()
    if kind == "requests":
        fields = config.requests.field_map
        event = decode_request(line, FieldMap(fields) if fields else None)
    else:
        fields, values = config.feedback.field_map, config.feedback.value_map
        event = decode_feedback(
            line, FieldMap(fields) if fields else None, ValueMap(values) if values else None
        )
        if not isinstance(event, Rejected):
            left_out = unmeasured(event)
            event = config.catalog.reported(event)
    if isinstance(event, Rejected):
        return {"refused": event.reason}
    built = msgspec.to_builtins(event)
    becomes = {key: len(each) if key in _WITHHELD else each for key, each in built.items()}
    return {"becomes": becomes} | ({"unmeasured": list(left_out)} if left_out else {})
