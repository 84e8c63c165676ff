"""An invented world for the demo: five models, five tasks, and what each model makes of each prompt."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from banditroute.catalog import Model
from banditroute_sim.data.dataset import DataSet

TASKS: Final = ("chat", "code", "extract", "math", "translate")

# name, USD per million input and output tokens, output tokens of an answer relative to the task's, seconds to
# the first token, tokens per second, loss of quality (in logits) per e-fold of prompt length
_MODELS: Final = (
    ("nano", 0.05, 0.20, 1.0, 0.15, 240.0, 0.60),
    ("small", 0.15, 0.60, 1.0, 0.20, 160.0, 0.45),
    ("medium", 0.80, 3.00, 1.0, 0.30, 110.0, 0.30),
    ("large", 3.00, 15.00, 1.0, 0.50, 70.0, 0.15),
    ("reasoner", 5.00, 20.00, 3.0, 1.50, 90.0, 0.10),
)
# Typical quality, a row per task: the right model depends on the task, and price order is not quality order.
_QUALITY: Final = (
    (0.78, 0.86, 0.91, 0.93, 0.90),
    (0.30, 0.45, 0.62, 0.90, 0.91),
    (0.93, 0.92, 0.92, 0.94, 0.88),
    (0.18, 0.28, 0.40, 0.48, 0.94),
    (0.55, 0.90, 0.91, 0.93, 0.87),
)
_TOKENS: Final = (220.0, 350.0, 60.0, 260.0, 150.0)  # median length of an answer, per task
_CHARS_PER_TOKEN: Final = 4.0
_HARDNESS: Final = 0.7  # sd in logits of what a prompt does to all models alike
_LUCK: Final = 0.7  # sd in logits of what is left to chance, per prompt and model

_THINGS: Final = (
    "river",
    "lamp",
    "garden",
    "train",
    "window",
    "market",
    "ladder",
    "bridge",
    "harbour",
    "clock",
)
_KINDS: Final = ("quiet", "bright", "narrow", "tall", "simple", "heavy", "late", "round", "distant", "wide")
_DOINGS: Final = (
    "count",
    "carry",
    "move",
    "compare",
    "sort",
    "measure",
    "collect",
    "repeat",
    "follow",
    "paint",
)
_TEMPLATES: Final = (
    (
        "How would you {do} the {kind} {thing} near the {thing2}?",
        "Tell me more about a {kind} {thing2}, please.",
    ),
    (
        "def {do}_{thing}(items, limit={a}):\n    return [x * {b} for x in items if x < limit]",
        "for {thing} in range({a}):\n    total += {do}({thing}, {b})  # {kind}",
    ),
    (
        "{thing}: {a}; {thing2}: {b}; state: {kind}.",
        "List every number and every {thing} in the lines above.",
    ),
    (
        "Solve {a}*x + {b} = {b}*x - {a} for x.",
        "If {a} people {do} {b} {kind} things, how many does each one have?",
    ),
    ("The {kind} {thing} will {do} the {thing2}.", "Translate this: a {thing2} and a {kind} {thing}."),
)
_SENTENCES: Final = 200  # different sentences per task


class DemoWorld:
    """Simulated models and tasks; what is drawn depends on the seed alone.

    Parameters
    ----------
    seed : int
        Seed of everything drawn.

    Attributes
    ----------
    models : tuple of Model
        The catalog, cheapest first.
    cost_weight : float
        The weight at which no single model is right for every task.

    Examples
    --------
    >>> [model.name for model in DemoWorld(seed=0).models]
    ['nano', 'small', 'medium', 'large', 'reasoner']
    """

    cost_weight: Final = 20.0

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.models = tuple(
            Model(name=name, input_usd_per_mtok=price_in, output_usd_per_mtok=price_out)
            for name, price_in, price_out, *_ in _MODELS
        )

    def draw(self, n: int) -> DataSet:
        """Draw n requests and the outcome of every model on each.

        All models meet the same draws, so the best fixed model, the cheapest, a random choice and the oracle
        can be told exactly for the requests that were sent.

        Parameters
        ----------
        n : int
            Number of requests, at least 1.

        Returns
        -------
        DataSet
            quality = sigmoid(logit(typical quality of the task) - slope of the model x log-length of the prompt
            + hardness + luck); output tokens and latency are log-normal; costs follow from prices and tokens.
        """
        rng = np.random.default_rng(self.seed)
        task = rng.integers(len(TASKS), size=n)
        prompts = _prompts(rng, task)
        chars = np.fromiter(map(len, prompts), np.float64, n)
        tokens_in = np.ceil(chars / _CHARS_PER_TOKEN)[:, None].repeat(len(_MODELS), axis=1)
        price_in, price_out, length, first, speed, slope = (
            np.array(column) for column in list(zip(*_MODELS, strict=True))[1:]
        )
        spread = np.log(np.array(_TOKENS))[task] + 0.4 * rng.standard_normal(n)
        tokens_out = np.ceil(np.exp(spread[:, None] + 0.2 * rng.standard_normal(tokens_in.shape)) * length)
        typical = np.array(_QUALITY)[task]
        logit = np.log(typical / (1.0 - typical)) - slope * (np.log(chars) - np.log(chars).mean())[:, None]
        logit += _HARDNESS * rng.standard_normal((n, 1)) + _LUCK * rng.standard_normal(tokens_in.shape)
        return DataSet(
            name="demo",
            ids=tuple(f"demo/{row}" for row in range(n)),
            prompts=tuple(prompts),
            tasks=tuple(TASKS[index] for index in task),
            models=tuple(model.name for model in self.models),
            quality=1.0 / (1.0 + np.exp(-logit)),
            cost=(tokens_in * price_in + tokens_out * price_out) / 1e6,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            latency_s=(first + tokens_out / speed) * np.exp(0.25 * rng.standard_normal(tokens_in.shape)),
            listed_prices={m.name: (m.input_usd_per_mtok, m.output_usd_per_mtok) for m in self.models},
        )


def _prompts(rng: np.random.Generator, task: npt.NDArray[np.int64]) -> list[str]:
    """Write one prompt per task: sentences of the task's templates, mostly few and sometimes many."""
    pools = [[_sentence(rng, templates) for _ in range(_SENTENCES)] for templates in _TEMPLATES]
    counts = np.minimum(1 + rng.lognormal(0.7, 0.8, len(task)).astype(np.int64), 24)
    picks = iter(rng.integers(_SENTENCES, size=int(counts.sum())).tolist())
    return [
        "\n".join([pools[kind][next(picks)] for _ in range(count)])
        for kind, count in zip(task.tolist(), counts.tolist(), strict=True)
    ]


def _sentence(rng: np.random.Generator, templates: tuple[str, ...]) -> str:
    words = {
        "thing": _THINGS[rng.integers(len(_THINGS))],
        "thing2": _THINGS[rng.integers(len(_THINGS))],
        "kind": _KINDS[rng.integers(len(_KINDS))],
        "do": _DOINGS[rng.integers(len(_DOINGS))],
        "a": int(rng.integers(2, 60)),
        "b": int(rng.integers(2, 60)),
    }
    return templates[rng.integers(len(templates))].format(**words)
