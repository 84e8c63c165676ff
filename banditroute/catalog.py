"""The catalog: the models a request can be sent to, with prices, limits, capabilities and tags."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from banditroute.aliases import candidates
from banditroute.errors import ConfigError
from banditroute.events import MAX_ID_BYTES, Feedback, Rejected, Request, measured, whole

MAX_MODELS = 256
MAX_USD_PER_MTOK = 1e6
LEAST_USD_PER_MTOK = 0.001  # cheaper, but not free: a price per token or per thousand
USUAL_USD_PER_MTOK = 1000.0  # dearer: another unit or currency
_PRICES = (
    "input_usd_per_mtok",
    "output_usd_per_mtok",
    "cached_input_usd_per_mtok",
    "cache_write_input_usd_per_mtok",
)
_VISION = "vision"  # what a picture needs, where some model declares it
_MOST_RESOLVED = 4096  # reported names remembered

Price = Annotated[float, Meta(ge=0.0, le=MAX_USD_PER_MTOK)]


class Tier(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model costs for requests of more than so many input tokens: all of their tokens, as providers bill."""

    above_input_tokens: Annotated[int, Meta(gt=0)]
    input_usd_per_mtok: Price
    output_usd_per_mtok: Price
    cached_input_usd_per_mtok: Price | None = None
    cache_write_input_usd_per_mtok: Price | None = None


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model: a name, prices in USD per million tokens, and what is known of it beforehand.

    `generation` tells two models of one name apart: raise it when a provider swaps what is behind the
    name, and learning starts afresh. `like` names the model that it starts from, until votes of its own tell.
    `aliases` are other names under which feedback may report it. Input read from a prompt cache and written to it has
    prices of its own, long requests those of the last tier that they are above, and every request costs `request_usd`.
    """

    name: Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES)]
    input_usd_per_mtok: Price
    output_usd_per_mtok: Price
    cached_input_usd_per_mtok: Price | None = None
    cache_write_input_usd_per_mtok: Price | None = None
    request_usd: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.0
    tiers: tuple[Tier, ...] = ()
    max_output_tokens: Annotated[int, Meta(gt=0)] | None = None
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
        found = []
        tiers = [(f"tiers[{index}].", tier) for index, tier in enumerate(self.tiers)]
        for prefix, prices in [("", self), *tiers]:
            for key in _PRICES:
                price = getattr(prices, key)
                if price is not None:
                    found.append((prefix + key, price))
        return found

    def prices_at(self, input_tokens: float) -> Model | Tier:
        """Return what holds the prices of a request of so many input tokens: the model, or one of its tiers."""
        found: Model | Tier = self
        for tier in self.tiers:
            if input_tokens > tier.above_input_tokens:
                found = tier
        return found


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
        self._places: dict[str, int] = {}
        for index, name in enumerate(self.names):
            if len(name.encode("utf-8", "replace")) > MAX_ID_BYTES:
                raise ConfigError(
                    f"models[{index}].name has more than {MAX_ID_BYTES} bytes; choose a shorter name"
                )
            if self._places.setdefault(name, index) != index:
                raise ConfigError(f"two models are named '{name}': names are unique; rename one of them")
        self._meanings: dict[str, str] = {}
        self._add_aliases()
        self._resolved: dict[str, str | tuple[str, ...]] = {}
        self._check_likes()
        self._check_tiers()
        self._most_tiers = max(len(model.tiers) for model in self.models)
        plain = not self._most_tiers and not any(model.request_usd for model in self.models)
        self._columns = 2 if plain else 3 + 3 * self._most_tiers

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __contains__(self, name: object) -> bool:
        return name in self._places

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

        The model that it reports has the name of the catalog, numbers that are no measurement are gone, counts of
        tokens are of all tokens, and the cost of a request that used a prompt cache is worked out where it is not told.
        """
        told = whole(feedback)
        if isinstance(told, Rejected):
            return told
        feedback = measured(told)
        if feedback.model is None:
            return feedback
        model = self.resolve(feedback.model)
        if isinstance(model, str):
            if model != feedback.model:
                feedback = replace(feedback, model=model)
            cost = self._cost(feedback)
            return feedback if cost is None else replace(feedback, cost_usd=cost)
        if model:
            return Rejected(
                f"feedback names model '{feedback.model}', which may be {' or '.join(model)}: "
                "list it in `aliases` of one of them - at `$.model`"
            )
        return Rejected(
            f"feedback names model '{feedback.model}', which is not in the catalog - at `$.model`"
        )

    def _cost(self, feedback: Feedback) -> float | None:
        """Return what a request cost that used a prompt cache, by list prices; None where that is told or not known."""
        cached, kept = feedback.cached_input_tokens, feedback.cache_write_input_tokens
        given, written = feedback.input_tokens, feedback.output_tokens
        if feedback.cost_usd is not None or not (cached or kept) or given is None or written is None:
            return None
        model = self.models[self._places[str(feedback.model)]]
        prices = model.prices_at(given)
        read_price, kept_price = prices.cached_input_usd_per_mtok, prices.cache_write_input_usd_per_mtok
        if (cached and read_price is None) or (kept and kept_price is None):
            return None
        full = given - (cached or 0) - (kept or 0)
        usd = prices.input_usd_per_mtok * full + prices.output_usd_per_mtok * written
        usd += (read_price or 0.0) * (cached or 0) + (kept_price or 0.0) * (kept or 0)
        return model.request_usd + 1e-6 * usd

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

    def _check_tiers(self) -> None:
        for model in self.models:
            above = [tier.above_input_tokens for tier in model.tiers]
            if above != sorted(set(above)):
                raise ConfigError(
                    f"the tiers of model '{model.name}' do not rise: expected each `above_input_tokens` to be larger "
                    "than the one before"
                )

    def price_table(self, in_force: Mapping[str, tuple[float, float]] | None = None) -> list[list[float]]:
        """Return the prices that decisions reckon with; K rows as `DecideBatch.prices` has them.

        Parameters
        ----------
        in_force : mapping of str to (float, float), optional
            Prices of input and output that control edits have set. The tiers of such a model change in proportion.
        """
        edits = in_force or {}
        return [self._price_row(model, edits.get(model.name)) for model in self.models]

    def _price_row(self, model: Model, edit: tuple[float, float] | None) -> list[float]:
        listed = model.input_usd_per_mtok, model.output_usd_per_mtok
        given, written = listed if edit is None else edit
        row = [float(given), float(written)]
        if self._columns == len(row):
            return row
        by = [new / old if old > 0.0 else 1.0 for new, old in zip(row, listed, strict=True)]
        row.append(model.request_usd)
        for tier in model.tiers:
            prices = tier.input_usd_per_mtok * by[0], tier.output_usd_per_mtok * by[1]
            row += [float(tier.above_input_tokens), *prices]
        while len(row) < self._columns:
            row += [math.inf, 0.0, 0.0]
        return row

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
        wanted = request.max_output_tokens or 0
        tokens = input_tokens + wanted
        needs = set(request.needs)
        if request.pictures and any(_VISION in model.capabilities for model in self.models):
            needs.add(_VISION)
        return [
            (model.context_window is None or tokens <= model.context_window)
            and (model.max_output_tokens is None or wanted <= model.max_output_tokens)
            and (not needs or needs <= set(model.capabilities))
            and (not request.allow or _named(model, request.allow))
            and not (request.deny and _named(model, request.deny))
            for model in self.models
        ]

    @property
    def unrestricted(self) -> bool:
        """Whether a request without needs, allow or deny may go to any model, whatever its length."""
        return all(model.context_window is None and model.max_output_tokens is None for model in self.models)


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
