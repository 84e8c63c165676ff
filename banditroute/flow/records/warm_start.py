"""What is known before the first vote: a file of discounted evidence that `banditroute fit-prior` writes.

It is added to the evidence of the log whenever a posterior is derived and is never part of it: state records, merging
and taking votes back know nothing of it, and another file, or none, can be named at any time.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec
import numpy as np

from banditroute.bandit.evidence.evidence import Evidence, ModelKey, RowKey
from banditroute.errors import ConfigError

VERSION: Final = 1


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    generation: int
    sums: list[float]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    spec_id: str
    d: int
    votes: float
    models: list[_Row]
    shared: list[float]
    digest: str = ""


class WarmStart(NamedTuple):
    """Evidence to start from.

    `cold` are the models of the catalog that it does not know, `ignored` the models that the catalog does not.
    """

    evidence: Evidence
    digest: str
    cold: list[str]
    ignored: list[str]


def _digest(content: _File) -> str:
    bare = msgspec.structs.replace(content, digest="")
    return blake2b(msgspec.json.encode(bare), digest_size=8).hexdigest()


def encode_warm_start(evidence: Evidence, spec_id: str, votes: float) -> bytes:
    """Return the bytes of a file; the same evidence gives the same bytes."""
    rows = [_Row(key.name, key.generation, evidence.rows[key].tolist()) for key in sorted(evidence.rows)]
    content = _File(VERSION, spec_id, evidence.layout.d, votes, rows, evidence.shared.tolist())
    return msgspec.json.encode(msgspec.structs.replace(content, digest=_digest(content))) + b"\n"


def decode_warm_start(data: bytes, path: str, spec_id: str, d: int, catalog: Iterable[ModelKey]) -> WarmStart:
    """Read the bytes of a file.

    Raises
    ------
    ConfigError
        One sentence: it is damaged, of another version, or of another feature spec.
    """
    where = f"learning.prior: '{path}'"
    try:
        content = msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{where} was not written by `banditroute fit-prior`: {error}") from error
    if content.version != VERSION:
        raise ConfigError(f"{where} has version {content.version}; this build reads {VERSION}: fit it again")
    if content.digest != _digest(content):
        raise ConfigError(f"{where} does not match its digest: it was edited or damaged; fit it again")
    if (content.spec_id, content.d) != (spec_id, d):
        raise ConfigError(
            f"{where} was fitted under the feature spec {content.spec_id}, and this configuration has {spec_id}: "
            "run `banditroute fit-prior` again with it"
        )
    known = Evidence(d)
    rows = {RowKey(row.name, row.generation): np.array(row.sums) for row in content.models}
    sizes = {len(row) for row in rows.values()} | {known.layout.row_size}
    numbers = [*rows.values(), np.array(content.shared)]
    finite = all(bool(np.isfinite(row).all()) for row in numbers)
    if len(sizes) > 1 or len(content.shared) != known.layout.shared_size or not finite:
        raise ConfigError(f"{where} holds another number of statistics than its spec has: fit it again")
    wanted = list(catalog)
    known.rows = {key: row for key, row in rows.items() if key.model in wanted}
    known.shared[:] = content.shared
    there = [key.model for key in rows]
    cold = [key.name for key in wanted if key not in there]
    return WarmStart(known, content.digest, cold, [key.name for key in there if key not in wanted])
