"""Which model of the catalog a name means that a provider has answered with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

_PROVIDER: Final = re.compile(r"(?:.*/)?([^/]+)/([^/]+)")
# 2024-08-06, 20240806, 0613 (month and day), 2407 (year and month); behind -, @ or :
_SNAPSHOT: Final = re.compile(
    r"(.+?)[-@:](latest|20\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])"
    r"|(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])|2[3-9](?:0[1-9]|1[0-2]))"
)


class ModelName(NamedTuple):
    """A name taken apart, in lower case: provider and snapshot are None where they are not given."""

    base: str
    provider: str | None
    snapshot: str | None


def take_apart(name: str) -> ModelName:
    """Take a name apart.

    Examples
    --------
    >>> take_apart("OpenAI/gpt-4o-2024-08-06")
    ModelName(base='gpt-4o', provider='openai', snapshot='20240806')
    """
    text = name.strip().casefold()
    provider = None
    if found := _PROVIDER.fullmatch(text):
        provider, text = found[1], found[2]
    snapshot = None
    if found := _SNAPSHOT.fullmatch(text):
        text, snapshot = found[1], found[2].replace("-", "")
    return ModelName(text, provider, None if snapshot == "latest" else snapshot)


_of_catalog: Final = lru_cache(4096)(take_apart)  # names of the catalog are asked for with every unknown name


def candidates(name: str, names: Mapping[str, str]) -> list[str]:
    """Return the models that a name may mean: one if it is clear.

    A provider or a snapshot that only one side gives is no difference; two different ones are. Of several models
    those are returned that share most of what is given.

    Parameters
    ----------
    name : str
        As reported.
    names : mapping of str to str
        Names and aliases of the catalog -> name of the model.
    """
    if name in names:
        return [names[name]]
    wanted = take_apart(name)
    best: dict[str, int] = {}
    for known, model in names.items():
        each = _of_catalog(known)
        shared = 0
        for ours, theirs in ((each.provider, wanted.provider), (each.snapshot, wanted.snapshot)):
            if ours == theirs:
                shared += 1
            elif ours is not None and theirs is not None:
                break
        else:
            if each.base == wanted.base:
                best[model] = max(shared, best.get(model, 0))
    most = max(best.values(), default=0)
    return [model for model, shared in best.items() if shared == most]
