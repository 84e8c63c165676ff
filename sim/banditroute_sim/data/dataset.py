"""A data set on disk: prompts, and what every model made of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from banditroute.catalog import Model
from banditroute.errors import DataSetError
from banditroute_sim.data.reading import read_folder

Matrix = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Baseline:
    """What a fixed way of choosing would have got; `model` is absent where it is not one model."""

    mean_quality: float
    mean_cost_usd: float
    mean_utility: float
    model: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values, the model first."""
        numbers = {key: getattr(self, key) for key in ("mean_quality", "mean_cost_usd", "mean_utility")}
        return numbers if self.model is None else {"model": self.model, **numbers}


@dataclass(frozen=True)
class DataSet:
    """Prompts and the outcome of every model on each of them.

    Matrices are float64[n, K], a row per prompt and a column per model. Quality and cost are known everywhere;
    NaN in the other matrices means unknown, and what is unknown is never filled in.

    Attributes
    ----------
    name : str
        Name of the folder, or of the world it was drawn from.
    ids, prompts : tuple of str
        One per row.
    tasks : tuple of (str or None)
        The tag of each row.
    models : tuple of str
        One per column.
    quality, cost : float64[n, K]
        Quality in [0, 1] and USD per request.
    input_tokens, output_tokens, latency_s : float64[n, K]
        NaN where unknown.
    dropped : int
        Prompts left out because the quality or the cost of one of the models is unknown.
    listed_prices : mapping of str to (float, float)
        USD per million input and output tokens, as far as the data set declares them.
    """

    name: str
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    tasks: tuple[str | None, ...]
    models: tuple[str, ...]
    quality: Matrix
    cost: Matrix
    input_tokens: Matrix
    output_tokens: Matrix
    latency_s: Matrix
    dropped: int = 0
    listed_prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], models: Iterable[str] | None = None) -> Self:
        """Read a data set folder.

        `prompts.parquet` holds `id, prompt` and optionally `task`; `outcomes.parquet` holds `id, model, quality,
        cost_usd` and optionally `input_tokens, output_tokens, latency_s`; an optional `meta.json` names
        `default_arms` and `prices_per_m`. Further columns and outcomes of other prompts are ignored. A prompt
        is kept if quality and cost of every chosen model are known, so that any choice has a recorded outcome
        and all comparisons are over the same prompts; the others are counted in `dropped`.

        Parameters
        ----------
        folder : path
            Where the files are.
        models : iterable of str, optional
            The models to choose from; default: `default_arms`, else every model with an outcome, sorted.

        Raises
        ------
        DataSetError
            One sentence: the file, what was expected, what to do.
        MissingExtraError
            If pyarrow is not installed.
        """
        return cls(**read_folder(Path(folder), models))

    @cached_property
    def request_tokens(self) -> Matrix:
        """Input tokens of each prompt, float64[n]: the median over the models that counted them, NaN if none did."""
        ordered = np.sort(self.input_tokens, axis=1)  # NaN comes last
        known = np.count_nonzero(~np.isnan(ordered), axis=1)
        middle: Matrix = ordered[np.arange(len(self)), np.maximum(known - 1, 0) // 2]
        return middle

    def prices(self) -> dict[str, tuple[float, float]]:
        """Return USD per million input and output tokens of every model.

        Declared prices are taken as they are; the others are the non-negative least squares solution of
        cost = tokens x prices.

        Raises
        ------
        DataSetError
            If a price is not declared and does not follow from costs and tokens.
        """
        return {
            name: self.listed_prices.get(name) or self._fitted_price(index)
            for index, name in enumerate(self.models)
        }

    def catalog(self) -> tuple[Model, ...]:
        """Return the models with their prices, for a configuration."""
        return tuple(
            Model(name=name, input_usd_per_mtok=price_in, output_usd_per_mtok=price_out)
            for name, (price_in, price_out) in self.prices().items()
        )

    def utility(self, cost_weight: float) -> Matrix:
        """Return quality - cost_weight * cost, float64[n, K]."""
        return self.quality - cost_weight * self.cost

    def best_fixed(self, cost_weight: float, rows: Rows | None = None) -> Baseline:
        """Return the one model of highest mean utility, in hindsight, over `rows` (default: all)."""
        return self._fixed(int(_at(self.utility(cost_weight), rows).mean(axis=0).argmax()), cost_weight, rows)

    def cheapest(self, cost_weight: float, rows: Rows | None = None) -> Baseline:
        """Return the one model of lowest mean cost over `rows` (default: all)."""
        return self._fixed(int(_at(self.cost, rows).mean(axis=0).argmin()), cost_weight, rows)

    def uniform(self, cost_weight: float, rows: Rows | None = None) -> Baseline:
        """Return what a uniformly random choice gets on average over `rows` (default: all)."""
        quality, cost = float(_at(self.quality, rows).mean()), float(_at(self.cost, rows).mean())
        return Baseline(quality, cost, quality - cost_weight * cost)

    def oracle_utility(self, cost_weight: float, rows: Rows | None = None) -> float:
        """Return the mean utility of the best model of each single prompt over `rows` (default: all)."""
        return float(_at(self.utility(cost_weight), rows).max(axis=1).mean())

    def _fixed(self, index: int, cost_weight: float, rows: Rows | None) -> Baseline:
        quality, cost = (float(_at(matrix, rows)[:, index].mean()) for matrix in (self.quality, self.cost))
        return Baseline(quality, cost, quality - cost_weight * cost, self.models[index])

    def _fitted_price(self, index: int) -> tuple[float, float]:
        tokens = np.column_stack([self.input_tokens[:, index], self.output_tokens[:, index]])
        return fitted_price(tokens, self.cost[:, index], self.name, self.models[index])


def fitted_price(tokens: Matrix, cost: Rows | Matrix, name: str, model: str) -> tuple[float, float]:
    """Return the prices that costs and tokens tell: non-negative least squares.

    Parameters
    ----------
    tokens : float64[n, 2]
        Input and output tokens, NaN = unknown.
    cost : float64[n]
        USD.
    name, model : str
        Of the data set and of the model, for the error.

    Returns
    -------
    (float, float)
        USD per million input and output tokens.

    Raises
    ------
    DataSetError
        If costs are not tokens times prices.
    """
    from scipy.optimize import nnls  # noqa: PLC0415 - slow to import, and seldom needed

    known = ~np.isnan(tokens).any(axis=1) & ~np.isnan(cost)
    tokens, cost = tokens[known] / 1e6, cost[known]
    if np.linalg.matrix_rank(tokens) == 2:
        price, residual = nnls(tokens, cost)
        if residual <= 0.05 * np.linalg.norm(cost):
            return float(price[0]), float(price[1])
    raise DataSetError(
        f"the data set '{name}' does not tell the prices of '{model}': they do not follow from its costs and "
        "tokens; declare them in meta.json under prices_per_m as [input, output] USD per million tokens"
    )


def _at(matrix: Matrix, rows: Rows | None) -> Matrix:
    return matrix if rows is None else matrix[rows]
