"""Which models a data set has outcomes of, and their prices: declared, or those that costs and tokens tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.errors import DataSetError
from banditroute_sim.data.dataset import fitted_price
from banditroute_sim.data.pieces import Pieces
from banditroute_sim.data.reading import META, OUTCOMES, PROMPTS, choose_models, listed_prices, read_meta

Floats = NDArray[np.float64]

_SAMPLED: Final = 100_000  # outcomes that prices are fitted to


def catalog_of(folder: Path, models: Iterable[str] | None = None) -> tuple[tuple[str, ...], Floats]:
    """Return the models of a data set, and their prices as `DataSet.prices` tells them; float64[K, 2].

    Raises
    ------
    DataSetError
        If a model has no outcomes, or the prices of one are neither declared nor follow from costs and tokens.
    """
    if not folder.is_dir():
        raise DataSetError(f"{folder} is not a folder: expected one that holds {PROMPTS} and {OUTCOMES}")
    meta = read_meta(folder / META)
    table = Pieces(folder / OUTCOMES)
    present: set[str] = set()
    for piece in table.read(["model"]):
        present.update(piece.texts("model"))
    chosen = choose_models(models, meta.get("default_arms"), sorted(present), table.path, folder / META)
    declared = listed_prices(meta, folder / META)
    prices = np.array([declared.get(name, (np.nan, np.nan)) for name in chosen])
    return chosen, prices


def load_prices(folder: Path, models: Iterable[str] | None = None) -> dict[str, tuple[float, float]]:
    """Return USD per million input and output tokens of the models of a data set; see `DataSet.prices`.

    Raises
    ------
    DataSetError
        If a model has no outcomes, or the prices of one are neither declared nor follow from costs and tokens.
    """
    chosen, prices = catalog_of(folder, models)
    missing = [chosen[k] for k in np.flatnonzero(np.isnan(prices[:, 0]))]
    if missing:
        samples = _samples(Pieces(folder / OUTCOMES), missing)
        for name in missing:
            cost, *tokens = samples[name]
            prices[chosen.index(name)] = fitted_price(
                np.column_stack(tokens), np.asarray(cost), folder.resolve().name, name
            )
    return {
        name: (float(given), float(written)) for name, (given, written) in zip(chosen, prices, strict=True)
    }


def _samples(outcomes: Pieces, models: Sequence[str]) -> dict[str, list[list[float]]]:
    """Return cost, input and output tokens of outcomes from all over the file, by model."""
    columns = ("cost_usd", "input_tokens", "output_tokens")
    outcomes.need(["cost_usd"])
    present = [column for column in columns if column in outcomes.columns]
    samples: dict[str, list[list[float]]] = {name: [[], [], []] for name in models}
    step = max(1, outcomes.count // _SAMPLED)
    for piece in outcomes.read(["model", *present]):
        values = {column: piece.numbers(column) for column in present}
        for i, name in enumerate(piece.texts("model")):
            if (piece.first + i) % step == 0 and name in samples:
                for held, column in zip(samples[name], columns, strict=True):
                    held.append(float(values[column][i]) if column in values else float("nan"))
    return samples
