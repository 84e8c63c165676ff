"""Contexts and outcomes of a data set of any size: read in pieces, texts forgotten as soon as they are encoded.

Memory does not grow with the texts. Per prompt some 12 bytes are held for its place; contexts and outcomes are
arrays on disk where they are large.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from banditroute.bandit.arithmetic.chance import request_key
from banditroute.bandit.posterior.prior import Block
from banditroute.catalog import Catalog
from banditroute.errors import DataSetError
from banditroute_features import Encoder, RequestLike
from banditroute_sim.data.encoding import Prompt
from banditroute_sim.data.listing import catalog_of, load_prices
from banditroute_sim.data.pieces import Pieces
from banditroute_sim.data.reading import (
    COLUMNS,
    OUTCOMES,
    PROMPTS,
    check_task,
    forget_unmeasured,
)

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

IN_MEMORY: Final = 1 << 28  # bytes of an array beyond which it is kept on disk


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What every model makes of every prompt, and the contexts of the prompts; n prompts, K models.

    Attributes
    ----------
    name : str
        Of the data set.
    models : tuple of str
        One per column.
    rows : int64[m]
        The prompts whose quality and cost are known of all models: only these are of use.
    keys : uint64[n]
        `request_key` of each id.
    x : float32[n, d]
        Contexts.
    tokens : float64[n]
        Input tokens: the median of the counts, else estimated.
    estimated : bool[n]
        Where they are estimated.
    task : int32[n]
        Index into ``tasks``, -1 = none.
    tasks : tuple of str
    quality, cost, input_tokens, output_tokens, latency_s : float64[n, K]
        As in `DataSet`.
    feedback : float64[n, K]
        The quality that feedback reports, NaN where it says nothing: ``quality`` itself unless there is a judge.
    blocks : sequence of (start, stop)
        Blocks of a context.
    prices : float64[K, 2]
        USD per million input and output tokens.
    unmeasured : int
        Latencies that were left out because no answer takes no time, or more than a day.
    """

    name: str
    models: tuple[str, ...]
    rows: Rows
    keys: NDArray[np.uint64]
    x: NDArray[np.float32]
    tokens: Floats
    estimated: NDArray[np.bool_]
    task: NDArray[np.int32]
    tasks: tuple[str, ...]
    quality: Floats
    cost: Floats
    input_tokens: Floats
    output_tokens: Floats
    latency_s: Floats
    feedback: Floats
    blocks: Sequence[Block]
    prices: Floats
    unmeasured: int = 0
    scratch: object = field(default=None, repr=False)  # the folder of the arrays goes when this does

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dropped(self) -> int:
        """Prompts left out because the quality or the cost of one of the models is unknown."""
        return len(self.keys) - len(self.rows)

    @property
    def notes(self) -> list[str]:
        """What of the data counts as unknown, as sentences."""
        if not self.unmeasured:
            return []
        return [f"{self.unmeasured} latencies below 1 ms or above a day count as unknown"]

    def __getstate__(self) -> dict[str, Any]:
        # a worker process reads the arrays; the folder stays with the one who made it
        return {name: getattr(self, name) for name in self.__slots__} | {"scratch": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    def judged(self) -> Outcomes:
        """Return the same with what feedback reports as the quality, over the prompts of which it says all.

        Raises
        ------
        DataSetError
            If there is none.
        """
        rows = self.rows[~np.isnan(self.feedback[self.rows]).any(axis=1)]
        if not len(rows):
            raise DataSetError(f"{self.name} has no prompt that the judge has scored for all models")
        return replace(self, quality=self.feedback, rows=rows)

    def means(self, rows: Rows | None = None) -> tuple[Floats, Floats]:
        """Return mean quality and cost of every model over some rows (default: all that are of use)."""
        rows = self.rows if rows is None else rows
        return self.quality[rows].mean(axis=0), self.cost[rows].mean(axis=0)


def load_outcomes(
    folder: Path,
    encoder: Encoder,
    models: Iterable[str] | None = None,
    *,
    judge: str | None = None,
    catalog: Catalog | None = None,
) -> Outcomes:
    """Read a data set folder; see `DataSet.load` for its files.

    Parameters
    ----------
    folder : Path
        Where the files are.
    encoder : Encoder
        Of the contexts; the task is the tag.
    models : iterable of str, optional
        The models to choose from; default: `default_arms`, else all.
    judge : str, optional
        Column of `outcomes.parquet` that feedback reports instead of `quality`.
    catalog : Catalog, optional
        Where the prices come from; default: from `meta.json`, or from costs and tokens.

    Raises
    ------
    DataSetError
        One sentence: the file, what was expected, what to do.
    MissingExtraError
        If pyarrow is not installed.
    """
    if catalog is None:
        prices = load_prices(folder, models)
    else:
        prices = {one.name: (one.input_usd_per_mtok, one.output_usd_per_mtok) for one in catalog}
    chosen, _ = catalog_of(folder, models)
    prompts, outcomes = Pieces(folder / PROMPTS), Pieces(folder / OUTCOMES)
    prompts.need(["id", "prompt"])
    outcomes.need(
        [
            "id",
            "model",
            *(column for column, _, optional in COLUMNS if not optional),
            *([judge] if judge else ()),
        ]
    )
    if not prompts.count:
        raise DataSetError(f"{prompts.path} holds no prompts: expected at least one row")
    scratch = _Scratch()
    keys = _keys(prompts)
    matrices = _matrices(outcomes, keys, chosen, judge, scratch)
    unmeasured = forget_unmeasured(matrices["latency_s"])
    known = ~np.isnan(matrices["quality"] + matrices["cost_usd"])
    for column in ("quality", "cost_usd", *([judge] if judge else ())):
        for index, name in enumerate(chosen):
            if np.isnan(matrices[column][:, index]).all():
                raise DataSetError(
                    f"{outcomes.path} knows no {column} of the model '{name}': record it or leave the model out"
                )
    rows = np.flatnonzero(known.all(axis=1))
    if not rows.size:
        raise DataSetError(
            f"{outcomes.path} has no prompt with quality and cost_usd of all of "
            f"{', '.join(chosen)}: choose fewer models"
        )
    counts = _middle(matrices["input_tokens"])
    x, tokens, task, tasks = _encode(prompts, encoder, counts, scratch)
    return Outcomes(
        name=folder.resolve().name,
        models=chosen,
        rows=rows,
        keys=keys,
        x=x,
        tokens=tokens,
        estimated=np.isnan(counts),
        task=task,
        tasks=tasks,
        quality=matrices["quality"],
        cost=matrices["cost_usd"],
        input_tokens=matrices["input_tokens"],
        output_tokens=matrices["output_tokens"],
        latency_s=matrices["latency_s"],
        feedback=matrices[judge or "quality"],
        blocks=[(block.start, block.stop) for block in encoder.spec.blocks],
        prices=np.array([prices[name] for name in chosen]),
        unmeasured=unmeasured,
        scratch=scratch,
    )


class _Scratch:
    """Makes arrays: in memory, or on disk where they are large; the files go when nobody holds this any more."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._made = 0

    def array(self, shape: tuple[int, ...], dtype: DTypeLike, fill: float) -> NDArray[Any]:
        if int(np.prod(shape)) * np.dtype(dtype).itemsize <= IN_MEMORY:
            return np.full(shape, fill, dtype)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="banditroute-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._made += 1
        made = np.memmap(self._folder / f"{self._made}", dtype, "w+", shape=shape)
        made[:] = fill
        return np.asarray(made)


def _keys(prompts: Pieces) -> NDArray[np.uint64]:
    keys = np.empty(prompts.count, np.uint64)
    at = 0
    for piece in prompts.read(["id"]):
        ids = piece.texts("id")
        keys[at : at + len(ids)] = [request_key(one) for one in ids]
        at += len(ids)
    ordered = np.sort(keys)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        names = (one for piece in prompts.read(["id"]) for one in piece.texts("id"))
        name = next(one for one in names if request_key(one) == int(twice[0]))
        raise DataSetError(f"{prompts.path} holds the id '{name}' twice: give every prompt an id of its own")
    return keys


def _matrices(
    outcomes: Pieces, keys: NDArray[np.uint64], chosen: tuple[str, ...], judge: str | None, scratch: _Scratch
) -> dict[str, Floats]:
    """Return the matrices float64[n, K] by column, NaN = unknown."""
    wanted = {column: most for column, most, _ in COLUMNS}
    if judge:
        wanted[judge] = 1.0
    shape = len(keys), len(chosen)
    matrices: dict[str, Floats] = {}
    for column in wanted:
        # what no row says needs no room
        held = column in outcomes.columns
        matrices[column] = (
            scratch.array(shape, np.float64, np.nan) if held else np.broadcast_to(np.float64(np.nan), shape)
        )
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    columns = {name: index for index, name in enumerate(chosen)}
    seen = scratch.array(shape, np.bool_, False)
    present = [column for column in wanted if column in outcomes.columns]
    for piece in outcomes.read(["id", "model", *present]):
        owners, names = piece.texts("id"), piece.texts("model")
        at = np.array([columns.get(name, -1) for name in names], np.int64)
        owner = np.array([request_key(one) for one in owners], np.uint64)
        place = np.minimum(np.searchsorted(ordered, owner), len(ordered) - 1)
        use = np.flatnonzero((ordered[place] == owner) & (at >= 0))
        row, column_at = order[place[use]], at[use]
        _once(outcomes.path, seen, row, column_at, [(names[i], owners[i]) for i in use.tolist()])
        for column in present:
            values = piece.numbers(column)[use]
            wrong = values[~np.isnan(values) & ~((values >= 0.0) & (values <= wanted[column]))]
            if wrong.size:
                raise DataSetError(
                    f"{outcomes.path}: {column} holds {wrong[0]}; expected numbers from 0 to {wanted[column]:g}, "
                    "NaN = unknown"
                )
            matrices[column][row, column_at] = values
    return matrices


def _once(
    path: Path, seen: NDArray[np.bool_], row: Rows, column: Rows, who: Sequence[tuple[str, str]]
) -> None:
    """Note places as seen; raise DataSetError if one was before."""
    place = row * seen.shape[1] + column
    repeated = np.ones(len(place), np.bool_)
    repeated[np.unique(place, return_index=True)[1]] = False
    repeated |= seen[row, column]
    if repeated.any():
        model, owner = who[int(repeated.argmax())]
        raise DataSetError(f"{path} holds the outcome of '{model}' on '{owner}' twice: keep one of them")
    seen[row, column] = True


def _middle(matrix: Floats) -> Floats:
    """Return the lower median of the known numbers of each row, NaN where none is; float64[n]."""
    ordered = np.sort(matrix, axis=1)
    known = np.count_nonzero(~np.isnan(ordered), axis=1)
    middle: Floats = ordered[np.arange(len(matrix)), np.maximum(known - 1, 0) // 2]
    return middle


def _encode(
    prompts: Pieces, encoder: Encoder, counts: Floats, scratch: _Scratch
) -> tuple[NDArray[np.float32], Floats, NDArray[np.int32], tuple[str, ...]]:
    x = scratch.array((prompts.count, encoder.spec.d), np.float32, 0.0)
    tokens, task = np.empty(prompts.count), np.full(prompts.count, -1, np.int32)
    index: dict[str, int] = {}
    tagged = "task" in prompts.columns
    at = 0
    for piece in prompts.read(["prompt", "task"] if tagged else ["prompt"]):
        texts = piece.texts("prompt")
        tags = piece.texts("task", nulls=True) if tagged else [""] * len(texts)
        requests: list[RequestLike] = []
        for i, (text, tag) in enumerate(zip(texts, tags, strict=True), at):
            if tag:
                if tag not in index:
                    check_task(tag, prompts.path)
                task[i] = index.setdefault(tag, len(index))
            count = counts[i]
            requests.append(Prompt(text, (tag,) if tag else (), None if count != count else int(count)))
        part = np.empty((len(texts), encoder.spec.d), np.float32)
        encoder.encode_batch(requests, part, tokens[at : at + len(texts)])
        x[at : at + len(texts)] = part
        at += len(texts)
    return x, tokens, task, tuple(index)
