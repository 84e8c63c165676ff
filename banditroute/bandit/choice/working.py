"""The working copy of a posterior, which follows votes between two derives."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice.change import ChangeDetector
from banditroute.bandit.choice.single import Single
from banditroute.bandit.choice.state_layout import covariance_of, weights_of
from banditroute.bandit.evidence import _kernels_add as _kernels_evidence
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, RowKey
from banditroute.bandit.posterior.prior import ModelPrior
from banditroute.bandit.uncopied import Uncopied

FLOAT32: Final = np.dtype(np.float32)
YARDSTICK: Final = (1.0, 0.0)  # weight and bias of a vote of a kind that nothing is known of


class Working(Uncopied):
    """Follows votes, and tells when the next derive is due.

    Attributes
    ----------
    d : int
        Length of a context.
    models : tuple of ModelPrior
        The catalog. Index k in every array means its k-th model.
    index : dict of ModelKey to int
        Places of the models.
    """

    d: int
    models: tuple[ModelPrior, ...] = ()
    index: Mapping[ModelKey, int] = {}

    def _enter(self, models: tuple[ModelPrior, ...]) -> None:
        """Make these models the catalog."""
        self.models = models
        self.index = {model.key: k for k, model in enumerate(models)}
        self._rows: dict[str, list[RowKey]] = {}

    def _begin(
        self, state: NDArray[np.float64], kinds: dict[str, tuple[float, float]], needed: float
    ) -> None:
        """Start afresh from what was derived: weight and bias of kinds of votes, and votes until the next derive."""
        self._state, self._kinds = state, kinds
        self._new = 0
        self._needed = needed

    @property
    def working(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Copies of the working copy: (mu[K, d], V[K, d, d])."""
        return weights_of(self._state)[:-1].copy(), covariance_of(self._state)

    def surprise(
        self, key: ModelKey, x: NDArray[np.float32], quality: float, kind: str = "score"
    ) -> tuple[float, float, float] | None:
        """Return the weight of a vote, how far it is from what the working copy expects, and the variance of that.

        The last two are multiplied by the weight, and in units of the noise. None for a model that is not in the
        catalog, or a quality that is NaN.

        Raises
        ------
        ValueError
            If ``x`` is not float32[d].
        """
        k = self.index.get(key)
        if k is None or quality != quality:
            return None
        self._check_context(x)
        # The kernel speaks of a vote of the yardstick's kind.
        weight, bias = self._kinds.get(kind, YARDSTICK)
        residual, variance = _kernels_evidence.surprise(self._state, x, k, quality - bias)
        return weight, weight * residual, weight + weight * weight * (variance - 1.0)

    @property
    def due(self) -> bool:
        """Whether a tenth more feedback has come since the last derive, or the catalog has changed."""
        return self._new >= self._needed

    @property
    def state(self) -> NDArray[np.float64]:
        """What kernels work on until the next derive, working copy included; see `packing`.

        For loops that are compiled as a whole. What they fold into the working copy is told to `followed`.
        """
        return self._state

    @property
    def until_due(self) -> int:
        """How many more votes make a derive due; at least 1."""
        return max(1, math.ceil(self._needed - self._new))

    @property
    def cadence(self) -> tuple[int, float]:
        """Votes since the last derive, and at how many of them the next one is due."""
        return self._new, self._needed

    def followed(self, votes: int) -> None:
        """Count votes that a compiled loop has folded into the working copy."""
        self._new += votes

    def observe(
        self,
        model: int | ModelKey,
        x: NDArray[np.float32],
        quality: float,
        weight: float = 1.0,
        kind: str = "score",
    ) -> None:
        """Let the working copy follow one vote until the next derive; a quality that is not finite is just counted.

        A vote of a model (by key) that is not in the catalog is just counted, too.

        Raises
        ------
        ValueError
            If ``model`` is a number but no place in the catalog, or ``x`` is not float32[d]; nothing is counted then.
        """
        k = self.index.get(model) if isinstance(model, tuple) else self._place(model)
        self._check_context(x)
        self._new += 1
        if k is None or quality != quality:
            return
        worth, bias = self._kinds.get(kind, YARDSTICK)
        _kernels_evidence.follow(self._state, x, k, float(quality) - bias, float(weight) * worth)

    def observe_many(
        self,
        models: NDArray[np.int64],
        x: NDArray[np.float32],
        qualities: NDArray[np.float64],
        weights: NDArray[np.float64],
        kinds: NDArray[np.uint8],
        names: Sequence[str],
    ) -> None:
        """Let the working copy follow many votes: the same, bit for bit, as `observe` of each in order.

        Parameters
        ----------
        models : int64[n]
            Places in the catalog, -1 for none.
        x : float32[n, d]
            Contexts, contiguous.
        qualities, weights : float64[n]
            Of the votes.
        kinds : uint8[n]
            Places in ``names``.
        names : sequence of str
            Kinds of feedback.

        Raises
        ------
        ValueError
            If the columns do not fit each other, the catalog and the context length; nothing is counted then.
        """
        self._check_columns(models, x, qualities, weights, kinds, names)
        self._new += len(models)
        worth, bias = self._worth(kinds, names)
        _kernels_evidence.follow_votes(self._state, x, models, qualities - bias, weights * worth)

    def observe_until_changed(
        self,
        models: NDArray[np.int64],
        x: NDArray[np.float32],
        qualities: NDArray[np.float64],
        weights: NDArray[np.float64],
        kinds: NDArray[np.uint8],
        names: Sequence[str],
        detector: ChangeDetector,
    ) -> int | None:
        """Do what `observe_many` does, but show every vote to a detector first, as `surprise` has it.

        Returns
        -------
        int or None
            Place of the vote with which its model has changed, the last one that was followed.

        Raises
        ------
        ValueError
            As `observe_many` does.
        """
        self._check_columns(models, x, qualities, weights, kinds, names)
        worth, bias = self._worth(kinds, names)
        rows = np.array([detector.row(model.key) for model in self.models], np.int64)
        at = int(
            _kernels_evidence.judge_votes(
                self._state, x, models, qualities - bias, worth, weights, detector.sums, rows
            )
        )
        self._new += len(models) if at < 0 else at + 1
        return None if at < 0 else at

    def _worth(
        self, kinds: NDArray[np.uint8], names: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return weight and bias of the kind of each vote."""
        table = np.array([self._kinds.get(name, YARDSTICK) for name in names])
        return table[kinds, 0], table[kinds, 1]

    def learn(
        self,
        evidence: Evidence,
        model: int,
        x: NDArray[np.float32],
        quality: float,
        quality_pred: float = math.nan,
        sd_pred: float = math.nan,
        kind: str = "score",
    ) -> None:
        """Add a vote that is nothing but a quality to evidence, and observe it: both in one call.

        The same as ``evidence.add(key, x, Vote(quality, quality_pred, sd_pred), 1.0, kind=kind)`` and
        ``observe(model, x, quality, kind=kind)``, bit for bit.

        Raises
        ------
        ValueError
            If ``model`` is no place in the catalog, ``evidence`` is for contexts of another length, ``x`` is not
            float32[d] or a number is infinite; nothing is written then.
        """
        if evidence.layout.d != self.d:
            raise ValueError(f"evidence is for contexts of {self.d}, got {evidence.layout.d}")
        if not type(quality) is type(quality_pred) is type(sd_pred) is float:
            quality, quality_pred, sd_pred = float(quality), float(quality_pred), float(sd_pred)  # one type
        weight, bias = self._kinds.get(kind, YARDSTICK)
        key = self._row_key(model, kind)
        row = evidence.rows.get(key)
        # fmt: off
        if x.dtype != FLOAT32 or (quality == quality and not _kernels_evidence.learn_quality(
            evidence.row(key) if row is None else row,
            self._state, x, model, quality, quality_pred, sd_pred, weight, bias,
        )):
            self._refuse(evidence, None if row is not None else key, quality, x)
        # fmt: on
        self._new += 1

    def learn_served(
        self,
        evidence: Evidence,
        one: Single,
        model: int,
        x: NDArray[np.float32],
        quality: float,
        kind: str = "score",
    ) -> bool:
        """Learn a quality as `learn` does, with the prediction of the last choice on a desk; return whether `due`.

        Parameters
        ----------
        evidence : Evidence
            What the vote is added to.
        one : Single
            The desk; its ``candidates`` are what was expected.
        model : int
            The model that served.
        x : float32[d]
            Context of the choice.
        quality : float
            What came back.
        kind : str
            Kind of feedback.

        Returns
        -------
        bool
            Whether a derive is due.

        Raises
        ------
        ValueError
            If ``model`` is no place in the catalog, ``evidence`` is for contexts of another length, ``x`` is not
            float32[d] or a number is infinite; nothing is written then.
        """
        if evidence.layout.d != self.d:
            raise ValueError(f"evidence is for contexts of {self.d}, got {evidence.layout.d}")
        weight, bias = self._kinds.get(kind, YARDSTICK)
        key = self._row_key(model, kind)
        row = evidence.rows.get(key)
        # fmt: off
        if (x.dtype is not FLOAT32 and x.dtype != FLOAT32) or (
            quality == quality and not _kernels_evidence.learn_served(
                evidence.row(key) if row is None else row,
                self._state, x, model, one.expected, float(quality), weight, bias,
            )
        ):
            self._refuse(evidence, None if row is not None else key, quality, x)
        # fmt: on
        self._new += 1
        return self._new >= self._needed

    def _place(self, model: int) -> int:
        """Return a place in the catalog that comes from outside: the kernels take its word."""
        try:
            place = operator.index(model)
        except TypeError:
            place = -1
        if not 0 <= place < len(self.models):
            raise ValueError(
                f"a model is a key or a place in the catalog of {len(self.models)}, got {model!r}"
            )
        return place

    def _check_context(self, x: NDArray[np.float32]) -> None:
        if _form(x) != (FLOAT32, (self.d,)):
            raise ValueError(f"a context is float32[{self.d}], got {_told(x)}")

    def _check_columns(
        self,
        models: NDArray[np.int64],
        x: NDArray[np.float32],
        qualities: NDArray[np.float64],
        weights: NDArray[np.float64],
        kinds: NDArray[np.uint8],
        names: Sequence[str],
    ) -> None:
        n = len(models)
        if x.dtype != FLOAT32 or x.shape != (n, self.d) or not x.flags.c_contiguous:
            raise ValueError(f"contexts are float32[{n}, {self.d}], got {_told(x)}")
        if not len(qualities) == len(weights) == len(kinds) == n:
            raise ValueError(f"{n} votes have a quality, a weight and a kind each")
        if n and (
            models.dtype.kind not in "iu"
            or kinds.dtype.kind not in "iu"
            or models.min() < -1
            or models.max() >= len(self.models)
            or kinds.min() < 0
            or kinds.max() >= len(names)
        ):
            raise ValueError(
                f"models are places in the catalog of {len(self.models)}, or -1, and kinds places in {list(names)}"
            )

    def _row_key(self, model: int, kind: str) -> RowKey:
        if not 0 <= model < len(self.models):
            self._place(model)
        keys = self._rows.get(kind)
        if keys is None:
            keys = self._rows[kind] = [RowKey(*each.key, kind) for each in self.models]
        return keys[model]

    def _refuse(
        self, evidence: Evidence, key: RowKey | None, quality: float, x: NDArray[np.float32]
    ) -> NoReturn:
        """Raise what a bad vote is refused with; ``key`` is of a row that was made for it."""
        if key is not None:
            evidence.rows.pop(key, None)
        raise ValueError(f"a vote is finite numbers and a context float32[{self.d}], got {quality}, {x}")


def _form(x: object) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
    """Return type and shape of an array; None for what is none."""
    return (x.dtype, x.shape) if isinstance(x, np.ndarray) else None


def _told(x: object) -> str:
    """Say what an array is, but not what it holds."""
    return f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
