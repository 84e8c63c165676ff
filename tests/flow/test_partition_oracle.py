"""The product's partition against the independent oracle: same logs, same bits, whatever is restored when."""

from __future__ import annotations

import json
import random

import pytest

from banditroute.flow.partition import Partition, genesis_state
from banditroute.flow.pending.pending import NeedPredictions
from banditroute.flow.records.position import LearnerSettings
from banditroute.flow.records.snapshot import Genesis, State, decode_state, encode_state
from tests import naive
from tests.wire import SPEC_ID, DecisionLog, Journal, Model

SPEC = SPEC_ID.hex()
D = 3
HOUR = 3_600_000


class History:
    """A random but lawful pair of logs of partition 0, with everything that users and brokers may do to them."""

    def __init__(self, seed: int, half_life: bool, *, plain: bool = False) -> None:
        rng = self.rng = random.Random(seed)
        self.plain = plain  # most of it is first votes on open decisions
        self.settings = LearnerSettings(
            half_life_ms=6.0 * HOUR if half_life else None,
            thumb_weight=1.0,
            score_weight=0.7,
            judge_weight=1.5,
            outcome_weight=2.0,
            max_parked=6,
        )
        self.models = [Model(name, 0, *(rng.uniform(0.1, 1) for _ in range(5))) for name in ("a", "b", "c")]
        self.decisions = DecisionLog(0, self.models, [1.0, 0.5, -0.25])
        self.journal = Journal()
        self.known = 0
        self.closed = 0
        self.control = 0
        self.epochs = dict.fromkeys("abc", 0)
        self.requests = self.read_again = 0
        self.source = {0: 0, 1: 0}
        for _ in range(rng.randrange(60, 240)):
            self.step()
            if plain:
                self.journal.decided(len(self.decisions.records))
                for _ in range(rng.randrange(6)):
                    self.plain_vote()

    def step(self) -> None:
        rng, journal = self.rng, self.journal
        journal.now += rng.choice([0, 1, 1000, HOUR // 4])
        event = rng.random()
        if event < 0.3:
            self.requests += 1
            offset = self.requests if rng.random() < 0.85 else max(0, self.requests - rng.randrange(4))
            name = None if rng.random() < 0.05 else rng.choice(self.models).name
            self.decisions.add(
                offset,
                f"r{offset if rng.random() < 0.9 else offset - 1}",
                name,
                tenant=rng.choice([None, "t1"]),
                shadow=rng.random() < 0.1,
                x=[1.0, rng.uniform(-1, 1), rng.uniform(-1, 1)],
                input_tokens=rng.choice([0.0, rng.uniform(1, 900)]) if rng.random() < 0.3 else 100.1,
                counted=rng.random() < 0.3,
            )
        elif event < 0.45:
            self.known = max(self.known, rng.randrange(len(self.decisions.records) + 1))
            journal.decided(self.known if rng.random() < 0.9 else rng.randrange(self.known + 1))
        elif event < 0.5:
            self.closed = (
                max(self.closed, rng.randrange(self.known + 1)) if rng.random() < 0.6 else self.closed
            )
            journal.expire(self.closed, journal.now - rng.choice([0, 1000, HOUR]))
        elif event < 0.55:
            self.edit()
        else:
            self.feedback()

    def edit(self) -> None:
        rng = self.rng
        number = self.control if rng.random() < 0.8 or not self.control else rng.randrange(self.control)
        which = rng.random()
        if which < 0.2:
            self.journal.pause(number, rng.choice("ab"), rng.random() < 0.5)
        elif which < 0.5:
            self.journal.price(number, rng.choice("ab"), rng.uniform(0, 2), 1.5)
        else:
            name = rng.choice("abc")
            self.epochs[name] += rng.random() < 0.9
            factors = {other: rng.uniform(0.1, 1.0) for other in rng.sample("abc", rng.randrange(1, 4))}
            self.journal.changed(number, name, self.epochs[name], factors)
        self.control = max(self.control, number + 1)

    def feedback(self) -> None:
        rng = self.rng
        source = rng.randrange(2)
        if rng.random() < 0.92:
            self.source[source] += 1
        target = rng.randrange(max(0, self.requests - 12), self.requests + 3)
        kind = rng.choice(["thumb", "thumb", "score", "judge", "outcome", "usage", "withdraw"])
        fields: dict[str, object] = {}
        if kind == "withdraw" and rng.random() < 0.3:
            self.withdraw_voter(source)
            return
        if kind == "thumb":
            fields["value"] = rng.random() < 0.5
        elif kind in ("score", "judge") or (kind == "outcome" and rng.random() < 0.5):
            fields["value"] = rng.choice([0.25, rng.random()])
        elif kind == "outcome":
            fields["ok"] = rng.random() < 0.5
        if kind == "usage" or rng.random() < 0.3:
            fields["output_tokens"] = rng.randrange(0, 900)
        numbers = {
            "cost_usd": rng.random() * 0.1,
            "latency_ms": rng.uniform(0, 3000),
            "input_tokens": rng.choice([0, 7, 130]),
        }
        fields |= {name: number for name, number in numbers.items() if rng.random() < 0.2}
        if rng.random() < 0.5:
            fields["decision_id"] = f"{0 if rng.random() < 0.95 else 1}-{target}"
        if rng.random() < 0.6:
            fields["feedback_id"] = f"f{rng.randrange(30)}"
        if rng.random() < 0.3:
            fields["model"] = rng.choice(["a", "b", "c", "gone"])
        if rng.random() < 0.3:
            fields["tenant"] = rng.choice(["t1", "t2"])
        if rng.random() < 0.5:
            fields["voter"] = rng.choice(["u", "v"])
        if rng.random() < 0.2:
            fields["source"] = "app"
        self.journal.feedback(
            f"r{target}", kind, src=(source, self.source[source]), everywhere=rng.random() < 0.2, **fields
        )

    def plain_vote(self) -> None:
        """A vote that nobody else may have given: its voter is new, or its kind."""
        rng = self.rng
        self.source[0] += 1
        target = rng.randrange(max(0, self.requests - 12), self.requests + 1)
        kind = rng.choice(["thumb", "score", "judge", "outcome", "usage"])
        fields: dict[str, object] = {"value": float(rng.random() < 0.5)}
        numbers = {
            "output_tokens": rng.randrange(900),
            "latency_ms": rng.choice([0.0, rng.uniform(0, 3000)]),
            "cost_usd": rng.random(),
            "input_tokens": rng.randrange(3),
        }
        if kind == "usage" or rng.random() < 0.3:
            fields |= {
                name: number for name, number in numbers.items() if rng.random() < 0.5 or kind == "usage"
            }
        if rng.random() < 0.8:
            fields["voter"] = f"v{self.source[0]}" if rng.random() < 0.9 else "ü"
        if rng.random() < 0.3:
            fields["feedback_id"] = f"g{rng.randrange(1000)}"
        if rng.random() < 0.2:
            fields["model"] = rng.choice("abc")
        if rng.random() < 0.2:
            fields["decision_id"] = f"0-{target}"
        if rng.random() < 0.2:
            fields["source"] = "app"
        self.journal.feedback(f"r{target}", kind, src=(0, self.source[0]), **fields)

    def withdraw_voter(self, source: int) -> None:
        """Everything that a voter has said, perhaps of one source or tenant only."""
        rng = self.rng
        fields: dict[str, object] = {"voter": rng.choice(["u", "v", "nobody"])}
        if rng.random() < 0.3:
            fields["tenant"] = rng.choice(["t1", "t2"])
        if rng.random() < 0.3:
            fields["source"] = rng.choice(["app", "other"])
        if rng.random() < 0.3:
            fields["feedback_id"] = f"f{rng.randrange(30)}"
        event = {"v": 1, "kind": "withdraw", **fields}
        src = [source, self.source[source]]
        self.journal.append({"type": "feedback", "src": src, "feedback": event, "everywhere": True})

    def genesis(self) -> State:
        return genesis_state(0, D, SPEC, self.settings, Genesis(log_epoch=1, hash_key=""))

    def partition(self, state: State, upto: int, keep: int | None = 3) -> Partition:
        """A partition restored from a state, having applied the journal up to an offset."""
        partition = Partition(state, D, SPEC, self.settings, keep)
        for record in self.decisions.records[partition.decisions_from :]:
            partition.read_decision(record.offset, record.timestamp, record.value, record.headers)
        partition.begin()
        for record in self.journal.records[partition.journal_from : upto]:
            self.apply(partition, record)
        partition.finish()
        return partition

    def apply(self, partition: Partition, record: naive.Record) -> None:
        """Apply a journal record, reading decisions again where memory does not hold all of them."""
        for _ in range(1 + len(self.decisions.records)):
            try:
                partition.apply(record.offset, record.timestamp, record.value)
            except NeedPredictions as need:
                partition.supply(need.offset, self.decisions.records[need.offset].headers)
                self.read_again += 1
            else:
                return
        raise AssertionError("the same decision was asked for again and again")

    def oracle(self) -> naive.Result:
        weights = {"thumb": 1.0, "score": 0.7, "judge": 1.5, "outcome": 2.0}
        settings = naive.Settings(self.settings.half_life_ms, weights, self.settings.max_parked)
        return naive.recompute(0, self.decisions.records, self.journal.records, settings, d=D)


def published(partition: Partition) -> State:
    return decode_state(encode_state(partition.snapshot()))


@pytest.mark.parametrize("half_life", [False, True], ids=["for-ever", "half-life"])
@pytest.mark.parametrize("block", range(8))
def test_a_partition_equals_the_oracle_bit_for_bit(block: int, half_life: bool) -> None:
    for seed in range(25 * block, 25 * block + 25):
        history = History(seed, half_life)
        expected = history.oracle()
        partition = history.partition(history.genesis(), len(history.journal.records))
        assert naive.differences(expected, naive.parse_state(encode_state(partition.snapshot()))) == [], seed
        naive.ledger_adds_up(expected, len(history.journal.records))


def test_what_is_kept_in_memory_changes_nothing() -> None:
    read_again = 0
    for seed in range(2000, 2030):
        history = History(seed, half_life=True)
        end = len(history.journal.records)
        states = [
            encode_state(history.partition(history.genesis(), end, keep).snapshot()) for keep in (None, 5, 0)
        ]
        assert states[0] == states[1] == states[2], seed
        read_again += history.read_again
    assert read_again > 100


@pytest.mark.parametrize("half_life", [False, True], ids=["for-ever", "half-life"])
@pytest.mark.parametrize("block", range(8))
def test_a_partition_restored_from_any_state_equals_the_oracle(
    block: int, half_life: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banditroute.flow.partition.CHECKPOINT_EVERY", 7)
    for seed in range(1000 + 15 * block, 1000 + 15 * block + 15):
        history = History(seed, half_life)
        end = len(history.journal.records)
        expected = history.oracle()
        state = history.genesis()
        at = 0
        while at < end:
            at = min(end, at + history.rng.randrange(1, 40))
            state = published(history.partition(state, at))
        assert (
            naive.differences(
                expected, naive.parse_state(encode_state(history.partition(state, end).snapshot()))
            )
            == []
        ), seed


def test_a_state_that_does_not_fit_its_logs_is_refused() -> None:
    from banditroute.errors import StateError

    history = History(3, half_life=False)
    end = len(history.journal.records)
    state = published(history.partition(history.genesis(), end))
    state.at.rX += 1
    with pytest.raises(StateError, match="does not lead to what its state record says"):
        history.partition(state, end)


def test_a_state_whose_logs_were_replaced_is_refused() -> None:
    from banditroute.errors import StateError

    history = History(4, half_life=False)
    end = len(history.journal.records)
    state = published(history.partition(history.genesis(), end))
    last = history.journal.records[-1]
    event = json.loads(last.value) | {"unknown": 1}
    history.journal.records[-1] = naive.Record(last.offset, last.timestamp, json.dumps(event).encode())
    with pytest.raises(StateError, match="truncated or replaced"):
        history.partition(state, end)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_state_record_is_refused(damage: str) -> None:
    from banditroute.errors import StateError

    value = encode_state(History(5, half_life=False).genesis())
    broken = {
        "flip": value[:40] + bytes([value[40] ^ 1]) + value[41:],
        "cut": value[:-9],
        "empty": b"",
        "foreign": b'{"v": 1}',
    }[damage]
    with pytest.raises(StateError):
        decode_state(broken)
