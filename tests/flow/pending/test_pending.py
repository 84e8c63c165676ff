"""The compact store of open decisions behaves as dictionaries do."""

from __future__ import annotations

import math
import random
import struct

import numpy as np
import pytest

from banditroute.bandit.evidence.evidence import ModelKey
from banditroute.flow.pending import _kernels_index
from banditroute.flow.pending.identity import Identifier
from banditroute.flow.pending.index import RequestIndex
from banditroute.flow.pending.interning import Segments
from banditroute.flow.pending.open_decision import KnownBatch, KnownDecision, Open
from banditroute.flow.pending.pending import NeedPredictions, Pending
from banditroute.flow.pending.slots import KINDS, NONE, Slot
from banditroute.flow.records.header import HeaderWriter, parse_header
from tests.flow.pending.naive_pending import NaivePending, Row

D = 3
SPEC = "0123456789abcdef"
KEYS = [ModelKey("a"), ModelKey("b", 2), ModelKey("c")]
WRITER = HeaderWriter(KEYS, SPEC, D)
NAN = math.nan


class Both:
    """A store and its oracle, and random steps that both take."""

    def __init__(self, seed: int, keep: int | None) -> None:
        self.rng = random.Random(seed)
        self.identifier = Identifier("key")
        self.store = Pending(D, SPEC, self.identifier, keep)
        self.naive = NaivePending()
        self.offset = self.request = self.journal = 0
        self.now = 1_700_000_000_000
        self.headers: dict[int, bytes] = {}

    def row(self, request_offset: int) -> Row:
        rng = self.rng
        number = request_offset if rng.random() < 0.9 else rng.randrange(request_offset + 1)
        x = tuple(float(np.float32(rng.uniform(-1, 1))) for _ in range(D))
        predictions = {key.name: tuple(rng.uniform(0, 1) for _ in range(5)) for key in KEYS}
        model = rng.choice(["a", "b", "c", "c", None])
        row = Row(
            self.offset, self.now, request_offset, f"r{number}", True, model, rng.choice([None, "t", "u"]),
            rng.choice([None, "s", "code"]), x, predictions,
        )  # fmt: skip
        self.offset += 1
        return row

    def header(self, row: Row) -> bytes:
        predictions = np.array([[row.predictions[key.name] for key in KEYS]])
        x = np.array([row.x], np.float32)
        return WRITER.write([row.request_offset], x, predictions, np.ones(1), np.array([False]), False)[0]

    def add(self) -> None:
        rng = self.rng
        self.offset += rng.random() < 0.05  # a control record takes an offset
        self.request += 1 + (5 << 32 if rng.random() < 0.01 else rng.random() < 0.1)
        late = rng.random() < 0.15
        row = self.row(max(0, self.request - rng.randrange(6)) if late else self.request)
        header = self.headers[row.offset] = self.header(row)
        known = KnownDecision(
            row.offset, row.timestamp, row.request_id, row.model, row.tenant, header, row.segment
        )
        self.store.add(known, parse_header(header), self.naive.r)
        self.naive.add(row)

    def add_batch(self) -> None:
        rows: list[Row] = []
        ids = set()
        for _ in range(self.rng.randrange(1, 30)):
            self.request += 1 + (3 << 32 if self.rng.random() < 0.005 else 0)
            row = self.row(self.request)
            if row.request_id in ids:  # not twice in one batch
                row.request_id = f"r{self.request}"
            ids.add(row.request_id)
            rows.append(row)
        names = [key.name for key in KEYS]
        chosen = np.array([names.index(row.model) if row.model else -1 for row in rows])
        headers = [self.header(row) for row in rows]
        self.headers |= {row.offset: header for row, header in zip(rows, headers, strict=True)}
        batch = KnownBatch(
            np.array([row.request_offset for row in rows]), [row.request_id.encode() for row in rows],
            np.array([row.x for row in rows], np.float32), chosen,
            np.array([row.predictions[row.model] if row.model else [NAN] * 5 for row in rows]),
            np.ones(len(rows), np.float32), np.zeros(len(rows), np.bool_), [row.tenant for row in rows],
            [row.segment for row in rows], headers, tuple(KEYS), False,
        )  # fmt: skip
        self.store.add_batch(rows[0].offset, np.full(len(rows), self.now), batch)
        for row in rows:
            self.naive.add(row)

    def vote(self) -> None:
        rng = self.rng
        row = rng.choice(self.naive.open() or [None])
        if row is None:
            return
        found = self.store.at_request_offset(row.request_offset)
        assert found is not None
        kind, who, on = rng.choice(KINDS), rng.choice([None, "v", "w"]), rng.random() < 0.8
        pair = self.identifier.of_pair(None, who)
        slots = self.store.slots_of(found)
        assert [(slot.kind, slot.who) for slot in slots] == [
            (kind, self.identifier.of_pair(None, who)) for kind, who in row.slots
        ]
        slot = next((slot for slot in slots if (slot.kind, slot.who) == (kind, pair)), None)
        was_on = slot is not None and slot.on
        numbers = (rng.random(), NAN, rng.random(), NAN, 7.0)
        seen = ([] if slot is None else slot.seen) + [(self.journal, 1)] * (rng.random() < 0.5)
        predictions = None if rng.random() < 0.5 else (0.5, 0.25, rng.random(), NAN)
        new = Slot(
            NONE if slot is None else slot.row,
            kind,
            on,
            pair,
            seen,
            rng.choice(KEYS),
            numbers,
            predictions,
            -0.5,
            0.25,
        )
        self.store.put_slot(found, new, self.journal, 0 if kind == "usage" else on - was_on)
        row.slots[kind, who] = {
            "on": on, "seen": list(seen), "key": new.key, "numbers": numbers, "predictions": predictions,
        }  # fmt: skip
        row.touched.append(self.journal)
        self.journal += 1

    def step(self) -> None:
        rng, store, naive = self.rng, self.store, self.naive
        self.now += rng.choice([0, 0, 1, 1000, -5, 1 << 33 if rng.random() < 0.02 else 3])
        event = rng.random()
        if event < 0.35:
            self.add()
        elif event < 0.45:
            self.add_batch()
        elif event < 0.6:
            upto = rng.randrange(self.offset + 1)
            assert store.take_in(upto)[:2] == naive.take_in(upto)
        elif event < 0.7:
            upto = naive.due(self.now - rng.randrange(4000), rng.randrange(-3, 30))
            upto = rng.randrange(self.offset + 1) if upto is None or rng.random() < 0.2 else upto
            assert tuple(store.close_below(upto))[:2] == naive.close_below(upto)[:2]
        else:
            self.vote()

    def agree(self) -> None:
        rng, store, naive = self.rng, self.store, self.naive
        assert len(store) == len(naive.open())
        assert store.first_touch() == naive.first_touch()
        for surplus in (-1, 0, 3, 40):
            before = self.now - rng.randrange(3000)
            most = rng.choice([None, 1, 5, 20])
            assert store.due(before, surplus, most) == naive.due(before, surplus, most)
        upto = rng.choice([None, rng.randrange(self.offset + 2)])
        asked = [rng.randrange(self.request + 2) for _ in range(20)]
        for number in [*asked, *(row.request_offset for row in naive.rows)]:
            self.equal(store.at_request_offset(number, upto), naive.at_request_offset(number, upto))
            tenant = rng.choice([None, "t", "nobody's"])
            found = store.of_request_id(f"r{number}", upto, tenant)
            self.equal(found, naive.of_request_id(f"r{number}", upto, tenant))
            namesakes = store.namesakes(f"r{number}")
            for one, row in zip(namesakes, naive.namesakes(f"r{number}"), strict=True):
                self.equal(one, row)
            assert store.has_request(f"r{number}") == naive.has_request(f"r{number}")
        ids = [f"r{number}" for number in asked]
        places = [place for place, request_id in enumerate(ids) if naive.has_request(request_id)]
        assert list(store.has_each([request_id.encode() for request_id in ids])) == places

    def equal(self, found: Open | None, row: Row | None) -> None:
        assert (found is None) == (row is None)
        if found is None or row is None:
            return
        assert (found.offset, found.kind.model, found.segment) == (row.offset, row.model, row.segment)
        assert found.identity == self.identifier.of(row.request_id)
        assert found.tenant == self.identifier.of_name(row.tenant)
        assert found.x.tolist() == list(row.x)
        assert found.on == sum(bool(slot["on"]) for (kind, _), slot in row.slots.items() if kind != "usage")
        for slot, naive in zip(self.store.slots_of(found), row.slots.values(), strict=True):
            assert (slot.on, slot.seen, slot.key, slot.predictions) == tuple(
                naive[name] for name in ("on", "seen", "key", "predictions")
            )
            assert repr(slot.numbers) == repr(naive["numbers"])
        for key in KEYS:
            try:
                predicted = self.store.predicted(found, key.name)
            except NeedPredictions as need:
                self.store.supply(need.offset, self.headers[need.offset])
                predicted = self.store.predicted(found, key.name)
                self.store.forget_supplied()
            assert predicted is not None
            assert predicted[0] == key
            assert (predicted[1] or found.decided) == row.predictions[key.name][:4]
        assert self.store.predicted(found, "gone") is None


@pytest.mark.parametrize("keep", [None, 0, 10])
@pytest.mark.parametrize("block", range(4))
def test_the_store_behaves_as_dictionaries_do(
    block: int, keep: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banditroute.flow.pending.blocks.BLOCK", 8)
    for module in ("pending", "rows"):
        monkeypatch.setattr(f"banditroute.flow.pending.{module}.BLOCK", 8)
        monkeypatch.setattr(f"banditroute.flow.pending.{module}.BITS", 3)
    for seed in range(10 * block, 10 * block + 10):
        both = Both(seed, keep)
        for step in range(250):
            both.step()
            if step % 10 == 0:
                both.agree()
        both.agree()


def test_growing_and_emptying_gives_all_memory_back() -> None:
    both = Both(1, 10)
    empty = both.store.nbytes
    for _ in range(400):
        both.add_batch()
    both.store.take_in(both.offset)
    assert len(both.store) > 5000
    assert both.store.nbytes > 5000 * 96
    both.store.close_below(both.offset)
    assert len(both.store) == 0
    assert both.store.nbytes < empty + 1_000_000


def test_a_decision_costs_at_most_96_bytes_besides_its_context() -> None:
    store = Pending(D, SPEC, Identifier("key"))
    count, n = 200, 512
    for at in range(count):
        offsets = np.arange(at * n, (at + 1) * n)
        batch = KnownBatch(
            offsets, [b"r%d" % offset for offset in offsets], np.zeros((n, D), np.float32), np.zeros(n, np.int64),
            np.zeros((n, 5)), np.ones(n, np.float32), np.zeros(n, np.bool_), ["t"] * n, ["s"] * n, [b""] * n,
            tuple(KEYS), False,
        )  # fmt: skip
        store.add_batch(at * n, np.zeros(n, np.int64), batch)
    each = store.nbytes / (count * n)
    assert each - 4 * D <= 96.5  # and a part of the last block


def test_the_hash_is_siphash_with_128_bits() -> None:
    k0, k1 = (np.uint64(part) for part in struct.unpack("<2Q", bytes(range(16))))
    expected = {
        0: "a3817f04ba25a8e66df67214c7550293",
        1: "da87c1d86b99af44347659119b22fc45",
        8: "3b62a9ba6258f5610f83e264f31497b4",
        15: "5493e99933b0a8117e08ec0f97cfc3d9",
    }
    for length, digest in expected.items():
        data = np.frombuffer(bytes(range(length)) or b"\0", np.uint8)
        assert struct.pack("<2Q", *_kernels_index.siphash(data, 0, length, k0, k1)).hex() == digest


def test_ids_hash_alike_alone_and_together_and_differ_under_another_key() -> None:
    ids = ["", "a", "12345678", "ä" * 100, "r-1"]
    one, other = Identifier("one"), Identifier("other")
    assert [tuple(row) for row in one.of_each([text.encode() for text in ids]).tolist()] == [
        one.of(i) for i in ids
    ]
    assert not {one.of(text) for text in ids} & {other.of(text) for text in ids}
    pairs = [("a", None), (None, "a"), ("a", ""), ("", "a"), ("a:b", None), ("a", "b"), (None, "")]
    assert len({one.of_pair(*pair) for pair in pairs}) == len(pairs)


def test_the_index_finds_the_lowest_of_equal_fingerprints_across_the_wrap_of_numbers() -> None:
    rng = random.Random(7)
    index, floor = RequestIndex(), (1 << 32) - 500
    entries = [(rng.randrange(200) | rng.randrange(3) << 40, floor + number) for number in range(1000)]
    for low, number in entries:
        index.insert(np.array([low], np.uint64), np.array([number]))
    rng.shuffle(entries)
    while entries:
        gone, entries = entries[:37], entries[37:]
        index.remove(np.array([low for low, _ in gone], np.uint64), np.array([number for _, number in gone]))
        assert len(index) == len(entries)
        for low in range(200):
            numbers = sorted(number for other, number in entries if other & 0xFFFFFFFF == low)
            assert index.find(low, floor) == (numbers[0] if numbers else -1)
            if len(numbers) > 1:
                assert index.find(low, floor, numbers[0] - floor + 1) == numbers[1]


def test_segments_without_decisions_make_room_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("banditroute.flow.pending.interning.MOST_SEGMENTS", 4)
    in_use: set[int] = set()
    segments = Segments(lambda: in_use)
    numbers = [segments.number(name) for name in ("a", "b", "c")]
    in_use = set(numbers)
    assert segments.number("d") == 0
    in_use = {segments.number("b")}
    assert [segments.number(f"e{i}") for i in range(4)] == [0] * 3 + [segments.number("e3")]
    assert segments[segments.number("e3")] == "e3"
    assert segments[segments.number("b")] == "b"
    assert segments[0] is None
