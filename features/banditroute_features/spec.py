"""Which blocks a context has, how wide they are, and the digest that names the choice."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from .columns import (
    ALGORITHM_VERSION,
    BLOCK_FIELDS,
    CHAT_TABLE,
    NUMERIC_TABLE,
    SCRIPT_TABLE,
    STATISTICS_TABLE,
)
from .fitted import Fitted

__all__ = ["Block", "FeatureSpec"]

_MAX_COLUMNS: Final = 256
_MAX_HASHED: Final = 64  # columns that n-grams are counted in: one bit each of a machine word
_MAX_SEED: Final = 2**63 - 1  # what TOML and JSON readers agree on
_CROSSABLE: Final = ("tag", "tenant", "session", "language", "hour")
_LIMITS: Final = {
    "tags": _MAX_COLUMNS,
    "tenant": _MAX_COLUMNS,
    "session": _MAX_COLUMNS,
    "language": _MAX_COLUMNS,
    "hour": 2,
    "cross": _MAX_COLUMNS,
    "numeric": len(NUMERIC_TABLE),
    "statistics": len(STATISTICS_TABLE),
    "scripts": len(SCRIPT_TABLE),
    "chat": len(CHAT_TABLE),
    "chars": _MAX_HASHED,
    "words": _MAX_HASHED,
    "embedding": _MAX_COLUMNS,
    "context": _MAX_COLUMNS,
    "seed": _MAX_SEED,
}
_SWITCHES: Final = ("hour", "numeric", "statistics", "scripts", "chat")  # True is all of their columns
_LABELS: Final = {
    "hour": ("cos", "sin"),
    "numeric": tuple(row[0] for row in NUMERIC_TABLE),
    "stat": tuple(row[0] for row in STATISTICS_TABLE),
    "script": tuple(row[0] for row in SCRIPT_TABLE),
    "chat": tuple(row[0] for row in CHAT_TABLE),
}


class Block(NamedTuple):
    """A run of columns ``start <= i < stop`` that share one prior scale.

    Examples
    --------
    >>> FeatureSpec(tags=12).blocks[1]
    Block(name='tag', start=1, stop=13)
    """

    name: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """The blocks of a context and their widths; two equal specs give bit-equal contexts.

    A width of 0 switches a block off. `statistics`, `scripts`, `chat`, `numeric` and `hour` take the first so
    many of their named columns; True is all of them, False none.

    Parameters
    ----------
    tags, tenant, session, language : int
        Columns for the hashed, signed names of that field.
    hour : int or bool
        0 or 2: cosine and sine of the hour of the day.
    cross : int
        Columns for the hashed pairs of the fields in `crosses`.
    crosses : tuple of pairs of str
        Which fields are crossed, of ``tag`` (the first), ``tenant``, ``session``, ``language``, ``hour``.
    numeric : int or bool
        Logarithms of the input tokens and of the maximal output tokens.
    statistics : int or bool
        Prompt statistics.
    scripts : int or bool
        Shares of the scripts of the text.
    chat : int or bool
        Shape of the chat, for requests with messages.
    chars : int
        Columns for the hashed, signed character 3- to 5-grams, at most 64.
    words : int
        Columns for the hashed, signed words and pairs of neighbouring words, at most 64.
    embedding : int
        Columns that the embedding of a request is reduced to.
    context : int
        Columns for the caller's own numbers; further numbers are left out.
    seed : int
        Seeds all hashes: another seed, other collisions.
    fitted : Fitted, optional
        Scales and projection from `banditroute features fit`; in a configuration file the path of that file.

    Raises
    ------
    ValueError
        If a value is not of the expected form, or there are more than 256 columns in all.

    Examples
    --------
    >>> spec = FeatureSpec(statistics=False, scripts=0, tags=8, tenant=3)
    >>> spec.d, [block.name for block in spec.blocks]
    (12, ['intercept', 'tag', 'tenant'])
    >>> FeatureSpec().d
    32
    >>> FeatureSpec.from_dict({"tags": -1})
    Traceback (most recent call last):
        ...
    ValueError: features.tags: expected an integer from 0 to 256, got -1
    """

    tags: int = 20
    tenant: int = 2
    session: int = 0
    language: int = 0
    hour: int = 0
    cross: int = 0
    crosses: tuple[tuple[str, str], ...] = (("tag", "tenant"),)
    numeric: int = 0
    statistics: int = 8
    scripts: int = 1
    chat: int = 0
    chars: int = 0
    words: int = 0
    embedding: int = 0
    context: int = 0
    seed: int = 0
    fitted: Fitted | None = None

    def __post_init__(self) -> None:
        """Check every field and store what was meant by a boolean or a list."""
        for key, limit in _LIMITS.items():
            value = getattr(self, key)
            if key in _SWITCHES and isinstance(value, bool):
                value = limit if value else 0
                object.__setattr__(self, key, value)
            if type(value) is not int or not 0 <= value <= limit or (key == "hour" and value == 1):
                raise ValueError(f"features.{key}: expected {_expected(key)}, got {value!r:.80}")
        object.__setattr__(self, "crosses", _pairs(self.crosses))
        given: Any = self.fitted
        if isinstance(given, str):
            object.__setattr__(self, "fitted", Fitted.load(given))
        elif given is not None and type(given) is not Fitted:
            raise ValueError(f"features.fitted: expected the path of a file, got {self.fitted!r:.80}")
        if (
            self.fitted is not None
            and self.fitted.components
            and len(self.fitted.components) < self.embedding
        ):
            raise ValueError(
                f"features.embedding: expected at most the {len(self.fitted.components)} components of the "
                f"fitted file, got {self.embedding}"
            )
        if self.d > _MAX_COLUMNS:
            raise ValueError(f"features: expected at most {_MAX_COLUMNS} columns in all, got {self.d}")

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> FeatureSpec:
        """Read a spec from a table of a configuration file; missing keys keep their defaults.

        Parameters
        ----------
        mapping
            Field names to values, as `to_dict` writes them. With a key ``d`` the columns that the others leave are
            shared out as `of_size` does it.

        Returns
        -------
        FeatureSpec

        Raises
        ------
        ValueError
            One sentence that names the key, the expected form and, for an unknown key, the nearest one.
        """
        names = ["d", *(field.name for field in fields(cls))]
        for key in mapping:
            if key not in names:
                nearest = difflib.get_close_matches(str(key), names, n=1, cutoff=0.0)[0]
                expected = ", ".join(map(repr, names))
                raise ValueError(
                    f"features: unknown key {key!r:.80}; expected one of {expected} (nearest: {nearest!r})"
                )
        given = dict(mapping)
        if "d" not in given:
            return cls(**given)
        d = given.pop("d")
        if type(d) is not int:
            raise ValueError(f"features.d: expected an integer from 8 to {_MAX_COLUMNS}, got {d!r:.80}")
        return cls.of_size(d, **given)

    @classmethod
    def of_size(cls, d: int, **fixed: Any) -> FeatureSpec:
        """Return a spec of `d` columns, shared out as in the default, with n-grams where there is room.

        Parameters
        ----------
        d : int
            Columns in all, intercept included, from 8 to 256.
        **fixed
            Fields that are to have these values; the rest is shared out between the others.

        Raises
        ------
        ValueError
            If `d` is out of range or too small for what is fixed.

        Examples
        --------
        >>> FeatureSpec.of_size(32) == FeatureSpec()
        True
        >>> [FeatureSpec.of_size(d).d for d in (8, 100, 256)]
        [8, 100, 256]
        """
        if not 8 <= d <= _MAX_COLUMNS:
            raise ValueError(f"features.d: expected an integer from 8 to {_MAX_COLUMNS}, got {d}")
        if d == cls(**fixed).d:
            return cls(**fixed)
        chosen = {"tags": 0, "tenant": 0, "statistics": 0, "scripts": 0, **fixed}
        left = d - cls(**chosen).d
        most = {
            "tags": d // 2,
            "tenant": d // 16,
            "statistics": d // 4,
            "scripts": min(d // 32, 7),
            "chars": d // 4,
        }
        most |= {"statistics+": len(STATISTICS_TABLE), "tags+": _MAX_COLUMNS}
        for key, limit in most.items():
            name = key.rstrip("+")
            if name not in fixed:
                more = min(max(left, 0), limit - chosen.get(name, 0))
                chosen[name] = chosen.get(name, 0) + more
                left -= more
        if left:
            raise ValueError(f"features: {d} columns cannot hold exactly what is fixed: {fixed!r:.200}")
        return cls(**chosen)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields in the form of a configuration file.

        Examples
        --------
        >>> spec = FeatureSpec(statistics=True)
        >>> spec.to_dict()["statistics"], FeatureSpec.from_dict(spec.to_dict()) == spec
        (23, True)
        """
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        named["crosses"] = [list(pair) for pair in self.crosses]
        if self.fitted is None:
            del named["fitted"]
        elif self.fitted.path:
            named["fitted"] = self.fitted.path
        return named

    @property
    def spec_id(self) -> str:
        """16 hex digits that name this spec under this version of the algorithm."""
        named = {"algorithm": ALGORITHM_VERSION, **self.to_dict()}
        named["fitted"] = self.fitted.digest if self.fitted else None
        canonical = json.dumps(named, sort_keys=True, separators=(",", ":"))
        return blake2b(canonical.encode(), digest_size=8).hexdigest()

    @property
    def d(self) -> int:
        """Number of columns, the intercept included."""
        return 1 + sum(map(self.width, BLOCK_FIELDS))

    def width(self, block: str) -> int:
        """Return the number of columns of a block, 0 if it is switched off.

        Examples
        --------
        >>> FeatureSpec(tags=5).width("tag")
        5
        """
        width: int = getattr(self, BLOCK_FIELDS[block][0])
        return width

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that have columns, in the order of the columns."""
        blocks, start = [Block("intercept", 0, 1)], 1
        for name in BLOCK_FIELDS:
            stop = start + self.width(name)
            if stop > start:
                blocks.append(Block(name, start, stop))
            start = stop
        return tuple(blocks)

    @property
    def columns(self) -> tuple[str, ...]:
        """One name per column.

        Examples
        --------
        >>> FeatureSpec(tags=2, tenant=0, statistics=1, scripts=0).columns
        ('intercept', 'tag.0', 'tag.1', 'stat.log_tokens')
        """
        names = ["intercept"]
        for block in BLOCK_FIELDS:
            width = self.width(block)
            names += [f"{block}.{label}" for label in _LABELS.get(block, range(width))[:width]]
        return tuple(names)


def _expected(key: str) -> str:
    """Say what form a field has."""
    if key == "hour":
        return "true, false, 0 or 2"
    switch = "true, false or " if key in _SWITCHES else ""
    return f"{switch}an integer from 0 to {_LIMITS[key]}"


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    """Return crosses as tuples, or refuse them."""
    if isinstance(value, (list, tuple)):
        pairs = [tuple(pair) for pair in value if isinstance(pair, (list, tuple))]
        if len(pairs) == len(value) and all(
            len(pair) == 2 and set(pair) <= set(_CROSSABLE) for pair in pairs
        ):
            return tuple((str(a), str(b)) for a, b in pairs)
    expected = ", ".join(map(repr, _CROSSABLE))
    raise ValueError(f"features.crosses: expected pairs of {expected}, got {value!r:.80}")
