"""What a rehearsal puts a rollout through: changes in the middle of the stream, aimed at the model that serves most."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from msgspec.structs import replace as changed
from numpy.typing import NDArray

from banditroute.catalog import Model
from banditroute.config import Config
from banditroute_sim.rehearse.world import Drawn
from banditroute_sim.replay.passes import NEVER, NOBODY, Course

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

NEWCOMER: Final = "a new model"
_NEW_PRICE: Final = 0.5  # of the model that the new one claims to be like


@dataclass(frozen=True, slots=True)
class Stress:
    """A change in the middle of a stream; the target is the model that serves most by then.

    Attributes
    ----------
    name, title : str
    price : float
        What the target's prices are multiplied by.
    quality : float
        What the target's quality is multiplied by.
    out : float
        Share of the stream for which the target does not serve.
    newcomer : float
        Quality of a new model as a share of that of the worst one, 0 for no new model. It costs half of the target and
        is declared to be like it.
    silent : bool
        Whether no feedback comes any more.
    """

    name: str
    title: str
    price: float = 1.0
    quality: float = 1.0
    out: float = 0.0
    newcomer: float = 0.0
    silent: bool = False


STRESSES: Final = (
    Stress("outage", "{} is out for a quarter of the time", out=0.25),
    Stress("price-change", "{} costs three times as much", price=3.0),
    Stress("degradation", "{} silently loses 30 % of its quality", quality=0.7),
    Stress("new-model", "a bad model arrives that claims to be like {} at half the price", newcomer=0.7),
    Stress("feedback-loss", "no feedback comes any more", silent=True),
)


@dataclass(frozen=True, slots=True)
class Staged:
    """What is played: a configuration, outcomes and a course.

    Attributes
    ----------
    config : Config
        With the new model, if there is one.
    drawn : Drawn
        With its outcomes, changed from the middle on; ``present`` takes another model where its own is out.
    course : Course
    start, stop : int
        The rounds from which, and until which the change lasts.
    """

    config: Config
    drawn: Drawn
    course: Course
    start: int
    stop: int


def stage(
    config: Config, drawn: Drawn, delay: Rows, stress: Stress | None, target: int, ranked: Rows
) -> Staged:
    """Set the stage of a run.

    Parameters
    ----------
    config : Config
        What would run.
    drawn : Drawn
        A draw of the world.
    delay : int64[T]
        Of the answers, or NEVER.
    stress : Stress, optional
        What happens; default: nothing.
    target : int
        The model that it happens to.
    ranked : int64[K]
        The models by falling mean quality.
    """
    rounds = len(drawn)
    start = rounds // 2
    stop = min(rounds, start + max(1, round(stress.out * rounds))) if stress and stress.out else rounds
    prices = np.array(config.catalog.price_table())
    eligible = np.array([not model.paused for model in config.catalog])
    starts: tuple[int, ...] = (0,)
    price_steps, eligible_steps = [prices], [eligible]
    if stress is not None:
        drawn, config, delay = _changed(config, drawn, delay, stress, target, ranked, start, stop)
        after_prices, after = prices.copy(), eligible.copy()
        after_prices[target] = _dearer(prices[target], stress.price)
        if stress.newcomer:
            price_steps = [np.vstack([prices, _dearer(prices[target], _NEW_PRICE)])]
            after_prices = price_steps[0]
            eligible_steps, after = [np.append(eligible, False)], np.append(eligible, True)
        after[target] &= not stress.out
        starts, price_steps, eligible_steps = (
            (0, start),
            [*price_steps, after_prices],
            [*eligible_steps, after],
        )
        if stop < rounds:
            starts = (*starts, stop)
            price_steps, eligible_steps = [*price_steps, price_steps[0]], [*eligible_steps, eligible_steps[0]]
    keys = np.arange(rounds, dtype=np.uint64)
    course = Course(np.arange(rounds), keys, starts, np.array(price_steps), np.array(eligible_steps), delay)
    return Staged(config, drawn, course, start, stop)


def _changed(
    config: Config,
    drawn: Drawn,
    delay: Rows,
    stress: Stress,
    target: int,
    ranked: Rows,
    start: int,
    stop: int,
) -> tuple[Drawn, Config, Rows]:
    quality, cost, present = drawn.quality.copy(), drawn.cost.copy(), drawn.present.copy()
    quality[start:, target] *= stress.quality
    cost[start:, target] *= stress.price
    if stress.out:
        hit = np.arange(start, stop)
        hit = hit[present[hit] == target]
        present[hit] = next(
            (int(k) for k in ranked if k != target and not config.models[int(k)].paused), NOBODY
        )
    if stress.silent:
        delay = np.where(np.arange(len(drawn)) + np.maximum(delay, 0) >= start, NEVER, delay)
    if stress.newcomer:
        # as many tokens as the target, at half of its price
        wide = {
            name: np.column_stack([getattr(drawn, name), getattr(drawn, name)[:, target]])
            for name in ("input_tokens", "output_tokens", "latency_s")
        }
        quality = np.column_stack([quality, stress.newcomer * quality[:, int(ranked[-1])]])
        cost = np.column_stack([cost, _NEW_PRICE * cost[:, target]])
        like = config.models[target]
        model = Model(
            name=NEWCOMER,
            input_usd_per_mtok=_NEW_PRICE * like.input_usd_per_mtok,
            output_usd_per_mtok=_NEW_PRICE * like.output_usd_per_mtok,
            request_usd=_NEW_PRICE * like.request_usd,
            like=like.name,
        )
        config = changed(config, models=(*config.models, model))
        drawn = replace(drawn, **wide)
    return replace(drawn, quality=quality, cost=cost, present=present), config, delay


def _dearer(row: Floats, factor: float) -> Floats:
    """Return a row of prices times a factor; where a tier begins stays."""
    scaled = factor * row
    scaled[3::3] = row[3::3]
    return scaled
