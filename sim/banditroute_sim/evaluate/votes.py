"""Feedback, settled and held compactly: what came back for each decision.

Per slot (kind, source, voter) the last vote counts, an event that the slot has seen counts once, and a withdrawal takes
back what its (source, voter) said before. The quality of a decision is the mean of its votes, its usage the mean of
what was reported. About 110 bytes are held per vote.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.arithmetic.chance import request_key
from banditroute.events import Feedback

Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]

QUALITY, COST, INPUT, OUTPUT = range(4)
NAN: Final = float("nan")
_SERVED: Final = 0x9E3779B97F4A7C15
_SHARD_BITS: Final = np.uint64(56)


def _key(*parts: str | None) -> int:
    text = "\0".join("\1" if part is None else part for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def decision_key(decision_id: str, request_id: str) -> int:
    """Return the key under which feedback that names a decision finds it."""
    return _key(decision_id, request_id)


def served_key(key: int, model: str) -> int:
    """Return the key of votes that say which model served."""
    return key ^ _key(model) ^ _SERVED


class Votes:
    """Collects feedback, then answers what came back for a decision.

    Parameters
    ----------
    kind : str, optional
        Take quality from this kind of feedback alone.

    Attributes
    ----------
    taken : int
        Feedback events taken in.
    """

    def __init__(self, kind: str | None = None) -> None:
        self.taken = 0
        self._kind = kind
        self._whole: tuple[array[int], ...] = tuple(array("Q") for _ in range(4))
        self._withdrawn = array("b")
        self._numbers: tuple[array[float], ...] = tuple(array("d") for _ in range(4))
        self._of_voter: dict[str, list[tuple[int, Feedback]]] = {}
        self._keys: Keys = np.empty(0, np.uint64)
        self._mean: Floats = np.empty((0, 4))

    def add(self, feedback: Feedback) -> None:
        """Take in one event, in the order of the log."""
        request = feedback.request_id
        if request is None:
            self._withdraw_voter(feedback)
            return
        if feedback.voter is not None and feedback.quality is not None:
            self._of_voter.setdefault(feedback.voter, []).append((self.taken, feedback))
        self.taken += 1
        key = (
            request_key(request)
            if feedback.decision_id is None
            else decision_key(feedback.decision_id, request)
        )
        voter = _key(feedback.source, feedback.voter)
        slot = _key(feedback.kind, feedback.source, feedback.voter)
        if feedback.model is not None:
            key = served_key(key, feedback.model)
        event = 0 if feedback.feedback_id is None else _key(feedback.feedback_id)
        quality = feedback.quality if self._kind in (None, feedback.kind) else None
        for column, value in zip(self._whole, (key, slot, voter, event), strict=True):
            column.append(value)
        self._withdrawn.append(feedback.kind == "withdraw")
        numbers = (quality, feedback.cost_usd, feedback.input_tokens, feedback.output_tokens)
        for numeric, number in zip(self._numbers, numbers, strict=True):
            numeric.append(NAN if number is None else number)

    def _withdraw_voter(self, withdrawal: Feedback) -> None:
        """Forget the quality of every vote of a voter so far; decisions' tenants are not known here, claims are."""
        stay = []
        for position, vote in self._of_voter.get(withdrawal.voter or "", []):
            of_source = withdrawal.source in (None, vote.source)
            if of_source and (vote.tenant is None or withdrawal.tenant in (None, vote.tenant)):
                self._numbers[0][position] = NAN
            else:
                stay.append((position, vote))
        self._of_voter[withdrawal.voter or ""] = stay

    def settle(self) -> None:
        """Settle what was taken in; call it once, before `look_up`."""
        key, slot, voter, event = (np.frombuffer(column, np.uint64) for column in self._whole)
        withdrawn = np.frombuffer(self._withdrawn, np.int8)
        numbers = [np.frombuffer(column, np.float64) for column in self._numbers]
        settled = []
        shard = (key >> _SHARD_BITS).astype(np.uint8)
        for one in range(
            256
        ):  # in the order of the keys, so that what is sorted and copied at once stays small
            rows = np.flatnonzero(shard == one)
            if len(rows):
                settled.append(
                    _settled(
                        key[rows],
                        slot[rows],
                        voter[rows],
                        event[rows],
                        withdrawn[rows].astype(np.bool_),
                        np.column_stack([column[rows] for column in numbers]),
                    )
                )
        if settled:
            self._keys = np.concatenate([keys for keys, _ in settled])
            self._mean = np.concatenate([means for _, means in settled])
        self._whole, self._numbers, self._withdrawn = (), (), array("b")

    def look_up(self, keys: Sequence[Sequence[int]]) -> Floats:
        """Return quality, cost (USD), input and output tokens of decisions; float64[n, 4], NaN = unknown.

        Parameters
        ----------
        keys : n sequences of int
            Under which keys the votes of each decision may stand.
        """
        table = np.array(keys, np.uint64).reshape(len(keys), -1)
        result = np.full((len(table), 4), NAN)
        if not len(self._keys):
            return result
        place = np.searchsorted(self._keys, table)
        place[place == len(self._keys)] = 0
        hit = self._keys[place] == table
        means = np.where(hit[:, :, None], self._mean[place], NAN)
        known = ~np.isnan(means)
        count = known.sum(axis=1)
        total = np.where(known, means, 0.0).sum(axis=1)
        np.divide(total, count, out=result, where=count > 0)
        return result


def _settled(
    key: Keys, slot: Keys, voter: Keys, event: Keys, withdrawn: NDArray[np.bool_], numbers: Floats
) -> tuple[Keys, Floats]:
    """Return keys, sorted, and the means of the votes that count; the votes are in the order of the log."""
    place = np.arange(len(key))
    keep = ~withdrawn
    # an event seen before in its slot is a repeat, wherever it stands
    order = np.lexsort((place, event, slot, key))
    same = np.all([column[order][1:] == column[order][:-1] for column in (event, slot, key)], axis=0)
    keep[order[1:][same & (event[order][1:] != 0)]] = False
    # the last vote of a slot counts
    rows = np.flatnonzero(keep)
    order = rows[np.lexsort((rows, slot[rows], key[rows]))]
    last = np.ones(len(order), np.bool_)
    last[:-1] = (slot[order][1:] != slot[order][:-1]) | (key[order][1:] != key[order][:-1])
    order = order[last]
    # quality votes before a withdrawal of the same voter do not
    if withdrawn.any():
        speaker = key ^ voter
        # the last of equal keys stays
        back = dict(zip(speaker[withdrawn].tolist(), place[withdrawn].tolist(), strict=True))
        taken = [back.get(k, -1) for k in speaker[order].tolist()]
        order = order[~((np.array(taken, np.int64) > order) & ~np.isnan(numbers[order, QUALITY]))]
    return _means(key[order], numbers[order])


def _means(key: Keys, numbers: Floats) -> tuple[Keys, Floats]:
    if not len(key):
        return key, numbers
    starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
    known = ~np.isnan(numbers)
    count = np.add.reduceat(known, starts, axis=0, dtype=np.int64)
    total = np.add.reduceat(np.where(known, numbers, 0.0), starts, axis=0)
    return key[starts], np.where(count > 0, total / np.maximum(count, 1), NAN)
