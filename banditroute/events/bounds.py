"""How large anything on the wire may be: every size from outside is bounded."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

WIRE_VERSION: Final = 1

MAX_REQUEST_BYTES: Final = 1 << 20
MAX_BYTES_WITH_DATA: Final = 1 << 24  # of a request with pictures and files as base64, which are not counted
MAX_FEEDBACK_BYTES: Final = 1 << 16
MAX_ID_BYTES: Final = 256
MAX_TAGS: Final = 64
MAX_MESSAGES: Final = 1024
MAX_NAMES: Final = 256
MAX_CONTEXT: Final = 256
MAX_EMBEDDING: Final = 8192
MAX_TOKENS: Final = 100_000_000

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]
Names = Annotated[tuple[Name, ...], Meta(max_length=MAX_NAMES)]
Tokens = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
NonNegative = Annotated[float, Meta(ge=0.0, le=1e12)]
Positive = Annotated[float, Meta(gt=0.0, le=1e12)]
