"""Which blocks a context has, how wide they are, and the digest that names the choice."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from .columns import ALGORITHM_VERSION, STATISTICS_TABLE

__all__ = ["Block", "FeatureSpec"]

_MAX_COLUMNS: Final = 256
_MAX_SEED: Final = 2**63 - 1  # what TOML and JSON readers agree on
_EXPECTED: Final = {
    "tags": f"an integer from 0 to {_MAX_COLUMNS}",
    "tenant": f"an integer from 0 to {_MAX_COLUMNS}",
    "statistics": f"true, false or an integer from 0 to {len(STATISTICS_TABLE)}",
    "seed": f"an integer from 0 to {_MAX_SEED}",
}
_LIMITS: Final = {
    "tags": _MAX_COLUMNS,
    "tenant": _MAX_COLUMNS,
    "statistics": len(STATISTICS_TABLE),
    "seed": _MAX_SEED,
}


class Block(NamedTuple):
    """A run of columns ``start <= i < stop`` that share one prior scale.

    Examples
    --------
    >>> FeatureSpec().blocks[1]
    Block(name='tag', start=1, stop=13)
    """

    name: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """The blocks of a context and their widths; two equal specs give bit-equal contexts.

    Parameters
    ----------
    tags : int
        Columns for the hashed, signed tags; 0 switches the block off.
    tenant : int
        Columns for the hashed, signed tenant; 0 switches the block off.
    statistics : int or bool
        The first so many prompt statistics; True is all of them, False is none.
    seed : int
        Seeds the hashes of tags and tenant: another seed, other collisions.

    Raises
    ------
    ValueError
        If a value is not of the expected form, or there are more than 256 columns in all.

    Examples
    --------
    >>> spec = FeatureSpec(statistics=False, tags=8)
    >>> spec.d, [block.name for block in spec.blocks]
    (12, ['intercept', 'tag', 'tenant'])
    >>> FeatureSpec().d
    32
    >>> FeatureSpec.from_dict({"tags": -1})
    Traceback (most recent call last):
        ...
    ValueError: features.tags: expected an integer from 0 to 256, got -1
    """

    tags: int = 12
    tenant: int = 3
    statistics: int = len(STATISTICS_TABLE)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field and store what was meant by a boolean."""
        for key, limit in _LIMITS.items():
            value = getattr(self, key)
            if key == "statistics" and isinstance(value, bool):
                value = limit if value else 0
                object.__setattr__(self, key, value)
            if type(value) is not int or not 0 <= value <= limit:
                raise ValueError(f"features.{key}: expected {_EXPECTED[key]}, got {value!r:.80}")
        if self.d > _MAX_COLUMNS:
            raise ValueError(f"features: expected at most {_MAX_COLUMNS} columns in all, got {self.d}")

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> FeatureSpec:
        """Read a spec from a table of a configuration file; missing keys keep their defaults.

        Parameters
        ----------
        mapping
            Field names to values, as `to_dict` writes them.

        Returns
        -------
        FeatureSpec

        Raises
        ------
        ValueError
            One sentence that names the key, the expected form and, for an unknown key, the nearest one.
        """
        names = [field.name for field in fields(cls)]
        for key in mapping:
            if key not in names:
                nearest = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)[0]
                expected = ", ".join(map(repr, names))
                raise ValueError(
                    f"features: unknown key {key!r:.80}; expected one of {expected} (nearest: {nearest!r})"
                )
        return cls(**mapping)

    def to_dict(self) -> dict[str, int]:
        """Return the fields as plain numbers.

        Examples
        --------
        >>> FeatureSpec(statistics=True).to_dict()
        {'tags': 12, 'tenant': 3, 'statistics': 16, 'seed': 0}
        """
        return asdict(self)

    @property
    def spec_id(self) -> str:
        """16 hex digits that name this spec under this version of the algorithm."""
        named = {"algorithm": ALGORITHM_VERSION, **self.to_dict()}
        canonical = json.dumps(named, sort_keys=True, separators=(",", ":"))
        return blake2b(canonical.encode(), digest_size=8).hexdigest()

    @property
    def d(self) -> int:
        """Number of columns, the intercept included."""
        return 1 + self.tags + self.tenant + self.statistics

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that have columns, in the order of the columns."""
        blocks, start = [], 0
        for name, width in self._widths():
            if width:
                blocks.append(Block(name, start, start + width))
            start += width
        return tuple(blocks)

    @property
    def columns(self) -> tuple[str, ...]:
        """One name per column.

        Examples
        --------
        >>> FeatureSpec(tags=2, tenant=0, statistics=1).columns
        ('intercept', 'tag.0', 'tag.1', 'stat.log_bytes')
        """
        names = ["intercept"]
        for name, width in self._widths()[1:]:
            labels = [row[0] for row in STATISTICS_TABLE] if name == "stat" else map(str, range(width))
            names += [f"{name}.{label}" for label, _ in zip(labels, range(width), strict=False)]
        return tuple(names)

    def _widths(self) -> tuple[tuple[str, int], ...]:
        return (("intercept", 1), ("tag", self.tags), ("tenant", self.tenant), ("stat", self.statistics))
