"""What `banditroute features fit` learned from a data set: scales of columns and a projection of embeddings.

A fitted file is JSON. It is part of the spec: its digest enters ``spec_id``, and nothing in it changes while
serving.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from banditroute_features.reading import read_bounded

__all__ = ["Fitted"]

_VERSION: Final = 1
_MAX_DIMENSION: Final = 8192
_MAX_COLUMNS: Final = 256
_LARGEST: Final = 1e6
_KEYS: Final = frozenset({"version", "scales", "mean", "components"})


@dataclass(frozen=True)
class Fitted:
    """Scales and a projection, read from a file once and never changed.

    Parameters
    ----------
    scales : mapping of str to pair of float
        Centre and gain by the name of a column, such as ``stat.log_bytes`` or ``context.0``. They replace the
        fixed ones of the algorithm version.
    mean : tuple of float
        Mean of the unit embeddings, of their dimension D; empty without a projection.
    components : tuple of tuple of float
        One row of D weights per column of the embedding block, the most important first.
    path : str, optional
        Where it was read from; two specs with the same numbers are equal wherever they lie.

    Raises
    ------
    ValueError
        If a number is not finite or too large, or the rows differ in length.
    """

    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    components: tuple[tuple[float, ...], ...] = ()
    path: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Refuse what could make a context infinite."""
        _check_sizes(len(self.mean), [len(row) for row in self.components])
        for name, pair in self.scales.items():
            if [_is_moderate(value) for value in pair] != [True, True]:
                raise ValueError(
                    f"fitted scales: expected centre and gain for {name!r:.80}, got {pair!r:.80}"
                )
        if not all(map(_is_moderate, [*self.mean, *(w for row in self.components for w in row)])):
            raise ValueError(f"fitted projection: expected finite numbers up to {_LARGEST:g}")

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """16 hex digits that name the content."""
        return blake2b(self._canonical(), digest_size=8).hexdigest()

    def _canonical(self) -> bytes:
        content = {
            "version": _VERSION,
            "scales": {name: list(map(float, pair)) for name, pair in sorted(self.scales.items())},
            "mean": list(self.mean),
            "components": [list(row) for row in self.components],
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    def save(self, path: str | Path) -> None:
        """Write the file; the same content gives the same bytes."""
        Path(path).write_bytes(self._canonical() + b"\n")

    @classmethod
    def load(cls, path: str | Path) -> Fitted:
        """Read a file that `save` wrote.

        Raises
        ------
        ValueError
            One sentence that names the file and says what is wrong with it.
        """
        try:
            document = json.loads(read_bounded(path))
        except OSError as error:
            raise ValueError(f"features.fitted: cannot read {str(path)!r}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"features.fitted: cannot read {str(path)!r}: it is not JSON") from error
        if not isinstance(document, dict) or set(document) != _KEYS or document["version"] != _VERSION:
            raise ValueError(f"features.fitted: {str(path)!r} was not written by `banditroute features fit`")
        try:
            return cls(
                scales={str(name): _pair(pair) for name, pair in document["scales"].items()},
                mean=_floats(document["mean"]),
                components=tuple(_floats(row) for row in document["components"]),
                path=str(path),
            )
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"features.fitted: {str(path)!r}: {error}") from error


def _is_moderate(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= _LARGEST


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _pair(values: Any) -> tuple[float, float]:
    centre, gain = _floats(values)
    return centre, gain


def _check_sizes(dimension: int, rows: list[int]) -> None:
    if dimension > _MAX_DIMENSION or len(rows) > _MAX_COLUMNS or any(row != dimension for row in rows):
        raise ValueError(
            f"fitted projection: expected at most {_MAX_COLUMNS} rows of one length up to {_MAX_DIMENSION}"
        )
