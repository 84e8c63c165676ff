"""What a configuration allows and hardly anybody means: prices in another unit, budgets and weights without effect."""

from __future__ import annotations

import itertools
from typing import Final

from banditroute.catalog import LEAST_USD_PER_MTOK, USUAL_USD_PER_MTOK, Model
from banditroute.config.tables import Config, Objective

# The mean request of a deployment is between these: input and output tokens.
_SHORT: Final = (100.0, 20.0)
_LONG: Final = (100_000.0, 10_000.0)
_NO_QUALITY: Final = 0.001  # quality points that nobody would notice
_MOST_LATENCY_WEIGHT: Final = 10.0  # quality points a second: a tenth of a second outweighs all of quality


def warnings(config: Config) -> list[str]:
    """Return what looks like a mistake, as sentences: what, and what it does.

    Parameters
    ----------
    config : Config
        Its models and its objective are read.
    """
    return [*_prices(config.models), *_budget(config), *_weights(config)]


def unusual_price(price: float) -> str | None:
    """Say what is unusual about a price in USD per million tokens; None for a usual one, and for 0.

    Examples
    --------
    >>> unusual_price(0.0000025)
    '2.5e-06 USD per million tokens is next to nothing: is it the price of one token, or of a thousand?'
    """
    if 0.0 < price < LEAST_USD_PER_MTOK:
        return f"{price:g} USD per million tokens is next to nothing: is it the price of one token, or of a thousand?"
    if price > USUAL_USD_PER_MTOK:
        return f"{price:g} USD per million tokens is more than any model costs: is it in another unit or currency?"
    return None


def _prices(models: tuple[Model, ...]) -> list[str]:
    found = []
    for index, model in enumerate(models):
        for key, price in model.price_keys():
            unusual = unusual_price(price)
            if unusual is not None:
                found.append(f"models[{index}].{key} of '{model.name}': {unusual}")
    return found


def _cost(model: Model, tokens: tuple[float, float]) -> float:
    return 1e-6 * (model.input_usd_per_mtok * tokens[0] + model.output_usd_per_mtok * tokens[1])


def _budget(config: Config) -> list[str]:
    objective = config.objective
    models = [model for model in config.models if not model.paused]
    key, budget = _budget_of(objective)
    if not models:
        return []
    if objective.quality_floor is not None and len({_cost(model, _LONG) for model in models}) == 1:
        return ["objective.quality_floor: all models cost the same, so there is nothing to save"]
    if budget is None:
        return []
    cheapest = min(_cost(model, _SHORT) for model in models)
    dearest = max(_cost(model, _LONG) for model in models)
    if budget >= dearest:
        found = f"can never bind: the dearest model costs {dearest:.3g} USD", _LONG
    elif budget < cheapest:
        found = f"cannot be met: the cheapest model costs {cheapest:.3g} USD", _SHORT
    else:
        return []
    text, (given, written) = found
    size = f"a request of {given:,.0f} input and {written:,.0f} output tokens"
    return [f"{key} is {budget:.3g} USD a request and {text} for {size}"]


def _budget_of(objective: Objective) -> tuple[str, float | None]:
    if objective.budget_usd_per_request is not None:
        return "objective.budget_usd_per_request", objective.budget_usd_per_request
    if objective.budget_usd_per_day is not None and objective.requests_per_day is not None:
        key = "objective.budget_usd_per_day / objective.requests_per_day"
        return key, objective.budget_usd_per_day / objective.requests_per_day
    return "", None


def _weights(config: Config) -> list[str]:
    objective, found = config.objective, []
    models = [model for model in config.models if not model.paused]
    if objective.cost_weight > 0.0 and len(models) > 1:
        for_long = [_cost(model, _LONG) for model in models]
        for_short = sorted(_cost(model, _SHORT) for model in models)
        most = objective.cost_weight * (max(for_long) - min(for_long))
        least = objective.cost_weight * min(b - a for a, b in itertools.pairwise(for_short))
        if most < _NO_QUALITY:
            found.append(
                f"objective.cost_weight = {objective.cost_weight:g} leaves cost without effect: even for a request of "
                f"{_LONG[0]:,.0f} input and {_LONG[1]:,.0f} output tokens models differ by {most:.2g} quality points"
            )
        elif least > 1.0:
            found.append(
                f"objective.cost_weight = {objective.cost_weight:g} leaves quality without effect: even for a request "
                f"of {_SHORT[0]:.0f} input and {_SHORT[1]:.0f} output tokens the next dearer model would have to be "
                f"{least:.3g} quality points better, and quality is between 0 and 1"
            )
    if objective.latency_weight > _MOST_LATENCY_WEIGHT:
        found.append(
            f"objective.latency_weight = {objective.latency_weight:g} leaves quality without effect: it is in quality "
            "points per second, and a tenth of a second outweighs everything"
        )
    return found
