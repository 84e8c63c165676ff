"""Turns what was chosen for a batch into decision records: from columns to bytes in one compiled pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from banditroute.bandit.choice.policy import LIMITS
from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.events import MAX_ID_BYTES, WIRE_VERSION, Weights, encode
from banditroute.flow.deciding import _kernels_records as kernels
from banditroute.flow.deciding.chosen import Chosen
from banditroute.flow.deciding.decision_structs import DecisionStructs, Mode
from banditroute.flow.deciding.encoded import BATCH_BYTES, EncodedRecords, Part
from banditroute.flow.pending.kept import HeaderTable
from banditroute.flow.pending.open_decision import KnownBatch
from banditroute.flow.records.header import COLUMNS, HEADER_NAME, HeaderWriter
from banditroute_features import FeatureSpec

MAX_PASSED_HEADERS: Final = 8192  # bytes of pass-through headers per decision
_LATENCY = LIMITS.index("latency_weight")
_MOST_FRAGMENTS: Final = 4096  # tenants and segments remembered as JSON
_UNKNOWN: Final = -2
_HEADER_NAME: Final = np.frombuffer(HEADER_NAME.encode(), np.uint8)
_PLAIN: Final = bytes(b for b in range(32, 256) if b not in b'"\\\x7f')  # what a JSON string holds as it is

Bytes = NDArray[np.uint8]
Texts = tuple[Bytes, NDArray[np.int64]]
_json = msgspec.json.Encoder()


class DecisionWriter:
    """Writes the decision records of one configuration.

    Parameters
    ----------
    keys : sequence of ModelKey
        The catalog.
    spec : FeatureSpec
        Of the contexts.
    mode : str
        ``active``, ``shadow`` or ``frozen``.
    passed : iterable of str
        Names of the request headers that are copied.
    structs : DecisionStructs
        Makes the few decisions that are not written in columns: too old, without a model, with an id to be escaped.
    """

    def __init__(
        self,
        keys: Sequence[ModelKey],
        spec: FeatureSpec,
        mode: Mode,
        passed: Iterable[str],
        structs: DecisionStructs,
    ) -> None:
        self._keys = tuple(keys)
        self._shadow = mode == "shadow"
        self._passed = frozenset(passed)
        self._structs = structs
        self._header = HeaderWriter(keys, spec.spec_id, spec.d)
        self._spec_id = spec.spec_id
        self._names = texts_of([_json.encode(key.name) for key in keys])
        usual, only = ("greedy", "greedy") if mode == "frozen" else ("utility", "only-eligible")
        end = "}" if mode == "active" else f',"mode":"{mode}"}}'
        self._rest = [
            '","request_id":"', '","model":', f',"reason":"{usual}"', f',"reason":"{only}"', ',"fallbacks":[',
            ',"propensity":', ',"explored":true', ',"expected":{"quality":', ',"cost_usd":', ',"latency_ms":', end,
        ]  # fmt: skip
        self._constants: dict[int, Texts] = {}
        self._longest_fragment: int = 0
        self._room = (
            1024 + len(keys) + MAX_ID_BYTES + len(self._names[0])
        )  # of a value, beside what may change
        self._forget_fragments()

    def write(self, chosen: Chosen) -> tuple[EncodedRecords, KnownBatch]:
        """Return the records, and what becomes pending once they are in the log."""
        headers = self._headers(chosen)
        records = self._records(chosen, headers, self._passed_headers(chosen))
        return records, chosen.known(headers, self._keys, shadow=self._shadow)

    def known(self, chosen: Chosen) -> KnownBatch:
        """Return what becomes pending of decisions that nobody writes."""
        return chosen.known(self._headers(chosen), self._keys, shadow=self._shadow)

    def _headers(self, chosen: Chosen) -> HeaderTable:
        x, candidates = chosen.batch.x, chosen.choices.candidates
        return self._header.write(chosen.offsets, x, candidates, chosen.tokens, chosen.counted, self._shadow)

    def _records(
        self, chosen: Chosen, headers: HeaderTable, passed: dict[int, list[tuple[str, bytes]]]
    ) -> EncodedRecords:
        ids = chosen.ids
        n = len(ids)
        packed_ids = texts_of(ids)
        nothing = np.zeros(1, np.uint8), np.zeros(n, np.int64)
        special, longest = self._special(chosen, ids, packed_ids[0], nothing)
        counts, packed_extra, most_extra = np.zeros(n, np.int32), nothing, 0
        if passed:
            extra = [b""] * n
            for i, others in passed.items():
                extra[i], counts[i] = encode_headers(others), len(others)
            packed_extra, most_extra = texts_of(extra), max(map(len, extra))
        weights, places = self._weights(chosen)
        if len(self._fragment_texts) >= _MOST_FRAGMENTS:
            self._forget_fragments()
        places[:, 1] = self._fragments_of("segment", chosen.segments)
        places[:, 2] = self._fragments_of("tenant", chosen.tenants)
        constants = self._constants.get(chosen.partition) or self._begin(chosen.partition)
        flags = np.zeros((n, 2), np.uint8)
        flags[:, 0] = chosen.choices.explored
        flags[:, 1] = ~np.isnan(chosen.predictions[:, COLUMNS - 1])
        names = self._names
        # the longest value that can be, and from it the most room that all can take
        value = self._room + len(constants[0]) + len(weights[0]) + 2 * self._longest_fragment
        value = max(value, longest)
        most = kernels.FRAME + MAX_ID_BYTES + value + self._header.size + len(HEADER_NAME) + most_extra
        scratch, spans = np.empty(value, np.uint8), np.empty((n, kernels.SPANS), np.int64)
        out = np.empty(max(most, min(n * most, BATCH_BYTES)), np.uint8)
        parts, row = [], 0
        numbers = _numbers(chosen)
        while row < n:
            # fmt: off
            after, used = kernels.write_records(
                out, scratch, spans, row, n, packed_ids, chosen.offsets, constants, names, chosen.choices.rank,
                numbers, flags, weights, places, self._packed_fragments, special, packed_extra, counts,
                _HEADER_NAME, headers.rows,
            )
            # fmt: on
            parts.append(Part(row, after, out[:used].tobytes()))
            row = after
        return EncodedRecords(parts, spans, passed)

    def _begin(self, partition: int) -> Texts:
        """Return what never changes in the decisions of a partition."""
        first = f'{{"v":{WIRE_VERSION},"decision_id":"{partition}-'
        texts = self._constants[partition] = texts_of([text.encode() for text in (first, *self._rest)])
        return texts

    def _special(self, chosen: Chosen, ids: list[bytes], blob: Bytes, nothing: Texts) -> tuple[Texts, int]:
        """Return the values that are not written in columns, empty for all others, and the longest one's length."""
        places = set(np.flatnonzero(chosen.chosen < 0).tolist()) | set(chosen.stale)
        if blob.tobytes().translate(None, _PLAIN):
            places |= {i for i, request_id in enumerate(ids) if request_id.translate(None, _PLAIN)}
        if not places:
            return nothing, 0
        at = sorted(places)
        values = [b""] * len(ids)
        for i, decision in zip(at, self._structs.of(chosen, at), strict=True):
            values[i] = encode(decision)
        return texts_of(values), max(map(len, values))

    def _weights(self, chosen: Chosen) -> tuple[Texts, NDArray[np.int32]]:
        """Return the different weights, with what follows them, and places with their number in the first column."""
        cost, latency = chosen.choices.cost_weight, chosen.batch.limits[:, _LATENCY]
        places = np.zeros((len(cost), 3), np.int32)
        different = [[float(cost[0]), float(latency[0])]]
        if (cost != cost[0]).any() or (latency != latency[0]).any():  # mostly the same for a whole batch
            found, places[:, 0] = np.unique(np.stack((cost, latency), axis=1), axis=0, return_inverse=True)
            different = found.tolist()
        follows = f',"posterior_version":{_json.encode(chosen.version).decode()},"spec_id":"{self._spec_id}"'
        texts = [b',"weights":' + encode(Weights(*pair)) + follows.encode() for pair in different]
        return texts_of(texts), places

    def _fragments_of(self, name: str, values: Sequence[str | None]) -> list[int]:
        """Return which fragment holds each value of a field, -1 where there is none."""
        known = self._fragments[name]
        places = [known.get(value, _UNKNOWN) for value in values]
        if _UNKNOWN in places:
            for value in dict.fromkeys(values):
                if value not in known:
                    known[value] = len(self._fragment_texts)
                    text = b',"%b":%b' % (name.encode(), _json.encode(value))
                    self._fragment_texts.append(text)
                    self._longest_fragment = max(self._longest_fragment, len(text))
            self._packed_fragments = texts_of(self._fragment_texts)
            places = [known[value] for value in values]
        return places

    def _forget_fragments(self) -> None:
        self._fragments: dict[str, dict[str | None, int]] = {"segment": {None: -1}, "tenant": {None: -1}}
        self._fragment_texts: list[bytes] = []
        self._longest_fragment = 0
        self._packed_fragments = texts_of([])

    def _passed_headers(self, chosen: Chosen) -> dict[int, list[tuple[str, bytes]]]:
        """Return the request headers to be copied, by place."""
        found = {}
        if self._passed:
            for i, (record, _) in enumerate(chosen.fresh):
                # Kafka allows a header without a value
                if not record.headers:
                    continue
                headers = [(name, value or b"") for name, value in record.headers if name in self._passed]
                size = sum(len(name) + len(value) for name, value in headers)
                if headers and size <= MAX_PASSED_HEADERS:
                    found[i] = headers
        return found


def _numbers(chosen: Chosen) -> Texts:
    """Return propensity, quality, cost and latency of every decision as JSON numbers, the latter if expected."""
    numbers = np.empty((len(chosen.fresh), kernels.NUMBERS))
    numbers[:, 0] = chosen.choices.propensity
    numbers[:, 1], numbers[:, 2] = chosen.predictions[:, 0], chosen.predictions[:, 3]
    numbers[:, 3] = np.exp(chosen.predictions[:, COLUMNS - 1])
    text = np.frombuffer(_json.encode(numbers.ravel().tolist()), np.uint8)
    ends = np.empty(numbers.size, np.int64)
    kernels.number_ends(text, ends)
    return text, ends


def texts_of(texts: Sequence[bytes]) -> Texts:
    """Return texts one behind the other, uint8[...], and where each ends, int64[n]."""
    data = np.frombuffer(b"".join(texts) or b"\0", np.uint8)
    return data, np.fromiter(accumulate(map(len, texts)), np.int64, len(texts))


def encode_headers(headers: Sequence[tuple[str, bytes]]) -> bytes:
    """Return headers as a record of version 2 holds them, without their number."""
    out = bytearray()
    for name, value in headers:
        for data in (name.encode(), value):
            rest = len(data) << 1  # zigzag
            while rest > 127:
                out.append(rest & 127 | 128)
                rest >>= 7
            out.append(rest)
            out += data
    return bytes(out)
