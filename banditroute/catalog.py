"""The catalog: the models a request can be sent to, with prices, limits, capabilities and tags."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from banditroute.aliases import candidates
from banditroute.errors import ConfigError
from banditroute.events import MAX_ID_BYTES, Feedback, Rejected, Request, measured

MAX_MODELS = 256
MAX_USD_PER_MTOK = 1e6
LEAST_USD_PER_MTOK = 0.001  # cheaper, but not free: a price per token or per thousand
USUAL_USD_PER_MTOK = 1000.0  # dearer: another unit or currency
_VISION = "vision"  # what a picture needs, where some model declares it
_MOST_RESOLVED = 4096  # reported names remembered

Price = Annotated[float, Meta(ge=0.0, le=MAX_USD_PER_MTOK)]


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model: a name, prices in USD per million tokens, and what is known of it beforehand.

    `generation` tells two models of one name apart: raise it when a provider swaps what is behind the
    name, and learning starts afresh. `like` names the model that it starts from, until votes of its own tell.
    `aliases` are other names under which feedback may report it.
    """

    name: Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]
    input_usd_per_mtok: Price
    output_usd_per_mtok: Price
    generation: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    context_window: Annotated[int, Meta(gt=0)] | None = None
    capabilities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    aliases: tuple[Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)], ...] = ()
    like: Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)] | None = None
    prior_quality: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    prior_latency_ms: Annotated[float, Meta(gt=0.0, le=1e9)] | None = None
    paused: bool = False

    def price_keys(self) -> list[tuple[str, float]]:
        """Return every price per million tokens with its key."""
        return [
            ("input_usd_per_mtok", self.input_usd_per_mtok),
            ("output_usd_per_mtok", self.output_usd_per_mtok),
        ]


class Catalog:
    """The set of models, in the order of the configuration.

    Parameters
    ----------
    models : iterable of Model
        At least one, names unique.

    Raises
    ------
    ConfigError
        If there is no model, too many, two share a name, or `like` leads nowhere or in a circle.

    Examples
    --------
    >>> catalog = Catalog([Model(name="small", input_usd_per_mtok=0.1, output_usd_per_mtok=0.4)])
    >>> catalog.names
    ('small',)
    """

    def __init__(self, models: Iterable[Model]) -> None:
        self.models: tuple[Model, ...] = tuple(models)
        self.names: tuple[str, ...] = tuple(model.name for model in self.models)
        if not self.models:
            raise ConfigError(
                "the catalog is empty: add at least one [[models]] table with a name and its prices"
            )
        if len(self.models) > MAX_MODELS:
            raise ConfigError(
                f"the catalog has {len(self.models)} models; at most {MAX_MODELS} are supported"
            )
        for index, name in enumerate(self.names):
            if len(name.encode("utf-8", "replace")) > MAX_ID_BYTES:
                raise ConfigError(
                    f"models[{index}].name has more than {MAX_ID_BYTES} bytes; choose a shorter name"
                )
            if name in self.names[:index]:
                raise ConfigError(f"two models are named '{name}': names are unique; rename one of them")
        self._meanings: dict[str, str] = {}
        self._add_aliases()
        self._resolved: dict[str, str | tuple[str, ...]] = {}
        self._check_likes()

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def _add_aliases(self) -> None:
        self._meanings = {name: name for name in self.names}
        for model in self.models:
            for alias in model.aliases:
                other = self._meanings.setdefault(alias, model.name)
                if other != model.name:
                    raise ConfigError(
                        f"'{alias}' is an alias of model '{model.name}' and means '{other}' already: "
                        "an alias names one model"
                    )

    def resolve(self, name: str) -> str | tuple[str, ...]:
        """Return the model that a reported name means.

        Parameters
        ----------
        name : str
            The name of a model, an alias, or one of them with another snapshot date, provider prefix or case.

        Returns
        -------
        str or tuple of str
            The name in the catalog; where it is not clear, the names it may mean, none or several.

        Examples
        --------
        >>> catalog = Catalog([Model(name="gpt-4o", input_usd_per_mtok=2.5, output_usd_per_mtok=10.0)])
        >>> catalog.resolve("openai/gpt-4o-2024-08-06")
        'gpt-4o'
        """
        found = self._resolved.get(name)
        if found is None:
            if name in self._meanings:
                return self._meanings[name]
            some = candidates(name, self._meanings)
            found = some[0] if len(some) == 1 else tuple(some)
            if len(self._resolved) >= _MOST_RESOLVED:  # names come from outside
                self._resolved.clear()
            self._resolved[name] = found
        return found

    def reported(self, feedback: Feedback) -> Feedback | Rejected:
        """Return feedback as the journal takes it, or why not.

        The model that it reports has the name of the catalog, and numbers that are no measurement are gone.
        """
        feedback = measured(feedback)
        if feedback.model is None:
            return feedback
        model = self.resolve(feedback.model)
        if isinstance(model, str):
            return feedback if model == feedback.model else replace(feedback, model=model)
        if model:
            return Rejected(
                f"feedback names model '{feedback.model}', which may be {' or '.join(model)}: "
                "list it in `aliases` of one of them - at `$.model`"
            )
        return Rejected(
            f"feedback names model '{feedback.model}', which is not in the catalog - at `$.model`"
        )

    def _check_likes(self) -> None:
        for model in self.models:
            if model.like is None:
                continue
            if model.like not in self.names:
                near = difflib.get_close_matches(model.like, self.names, n=1, cutoff=0.3)
                hint = f"did you mean '{near[0]}'?" if near else f"models are: {', '.join(self.names)}"
                raise ConfigError(
                    f"model '{model.name}' is like '{model.like}', which is not in the catalog; {hint}"
                )
            if model.prior_quality is not None:
                raise ConfigError(
                    f"model '{model.name}' has both like and prior_quality: it starts from one of them, keep one"
                )
        circle = cycle({model.name: model.like for model in self.models if model.like is not None})
        if circle:
            path = " is like ".join(f"'{name}'" for name in circle)
            raise ConfigError(f"models are like each other in a circle: {path}; take one `like` out")

    def eligible(self, request: Request, input_tokens: float) -> list[bool]:
        """Tell which models may serve a request, before any cost or latency limit; one that is paused counts as any.

        Parameters
        ----------
        request : Request
            Its `needs`, `allow`, `deny` and `max_output_tokens` are read.
        input_tokens : float
            Tokens of the input, given or estimated.

        Returns
        -------
        list of bool
            One flag per model, in catalog order.
        """
        tokens = input_tokens + (request.max_output_tokens or 0)
        needs = set(request.needs)
        if request.pictures and any(_VISION in model.capabilities for model in self.models):
            needs.add(_VISION)
        return [
            (model.context_window is None or tokens <= model.context_window)
            and (not needs or needs <= set(model.capabilities))
            and (not request.allow or _named(model, request.allow))
            and not (request.deny and _named(model, request.deny))
            for model in self.models
        ]

    @property
    def unrestricted(self) -> bool:
        """Whether a request without needs, allow or deny may go to any model, whatever its length."""
        return all(model.context_window is None for model in self.models)


def _named(model: Model, names: tuple[str, ...]) -> bool:
    return model.name in names or any(tag in names for tag in model.tags)


def cycle(likes: Mapping[str, str]) -> list[str]:
    """Return the first circle among "is like" as names, its first one also last; empty if there is none."""
    for start in likes:
        path = [start]
        while path[-1] in likes:
            following = likes[path[-1]]
            if following in path:
                return [*path[path.index(following) :], following]
            path.append(following)
    return []
