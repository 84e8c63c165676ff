"""Evidence is sums: it equals the oracle bit for bit, merges by addition, and a vote comes back out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from banditroute.bandit.evidence.evidence import Evidence, RowKey, Vote
from banditroute.bandit.evidence.row_layout import HEAD, IN_PRED, IN_SUM, RES_N, RES_Z, Layout
from tests import naive_bandit as naive

D = 5
KEYS = [RowKey("large", 0), RowKey("small", 0), RowKey("small", 1), RowKey("small", 1, "thumb")]
NAN = math.nan


def numbers(low, high):
    return st.one_of(st.just(NAN), st.floats(low, high))


votes = st.builds(
    Vote,
    quality=numbers(-2, 3),
    quality_pred=numbers(-2, 3),
    sd_pred=numbers(-0.1, 1),
    output_tokens=numbers(0, 1e5),
    log_tokens_pred=numbers(0, 12),
    cost_usd=numbers(0, 1),
    cost_pred=numbers(0, 1),
    latency_ms=numbers(-1, 1e5),
    input_tokens=numbers(0, 1e5),
    input_pred=numbers(-1, 1e5),
)
contexts = st.lists(st.floats(-2, 2, width=32), min_size=D, max_size=D).map(lambda v: np.array(v, np.float32))
entries = st.tuples(
    st.sampled_from(KEYS), contexts, votes, st.floats(-2, 2), st.floats(-2, 2), st.sampled_from([1.0, -1.0])
)
batches = st.lists(entries, max_size=12)


def learned(batch):
    evidence = Evidence(D)
    for key, *entry in batch:
        evidence.add(key.model, *entry, kind=key.kind)
    return evidence


@settings(deadline=None)
@given(batches)
def test_evidence_equals_the_oracle_bit_for_bit(batch):
    evidence = learned(batch)
    rows = {key: [0.0] * naive.row_size(D) for key in evidence.rows}
    shared = [0.0] * naive.shared_size(D)
    for key, x, *rest in batch:
        naive.add(rows[key], shared, x, *rest)
    assert evidence.shared.tobytes() == np.array(shared).tobytes()
    for key, row in rows.items():
        assert evidence.rows[key].tobytes() == np.array(row).tobytes()


@settings(deadline=None)
@given(batches, batches)
def test_merging_two_parts_gives_the_same_bits_in_either_order(first, second):
    a, b = learned(first), learned(second)
    assert Evidence.merge([a, b]) == Evidence.merge([b, a])


@settings(deadline=None)
@given(batches, batches, batches)
def test_merging_adds_in_the_given_order_and_leaves_the_parts_alone(first, second, third):
    parts = [learned(first), learned(second), learned(third)]
    before = [part.copy() for part in parts]
    assert Evidence.merge(parts) == Evidence.merge([Evidence.merge(parts[:2]), parts[2]])
    other = Evidence.merge([parts[0], Evidence.merge(parts[1:])])
    merged = Evidence.merge(parts)
    for key, row in merged.rows.items():
        scale = sum(np.abs(part.rows[key]) for part in parts if key in part.rows)
        assert np.all(np.abs(other.rows[key] - row) <= 1e-15 * 3 * scale)
    assert parts == before


def test_merging_matches_models_by_key_and_never_by_position():
    x = np.ones(D, np.float32)
    first, second = Evidence(D), Evidence(D)
    for key in KEYS:
        first.add(key.model, x, Vote(quality=1.0), 1.0, kind=key.kind)
    for key in reversed(KEYS[1:]):
        second.add(key.model, x, Vote(quality=0.5), 2.0, kind=key.kind)
    merged = Evidence.merge([first, second])
    assert [merged.rows[key][0] for key in KEYS] == [1.0, 3.0, 3.0, 3.0]


def test_merging_different_context_lengths_is_refused():
    with pytest.raises(ValueError, match="one context length"):
        Evidence.merge([Evidence(2), Evidence(3)])
    with pytest.raises(ValueError, match="at least one"):
        Evidence.merge([])


@settings(deadline=None)
@given(entries)
def test_a_withdrawal_takes_a_vote_back_out(entry):
    key, x, vote, weight, shared_weight, _ = entry
    evidence = Evidence(D)
    evidence.add(key.model, x, vote, weight, shared_weight, 1.0, key.kind)
    evidence.add(key.model, x, vote, -weight, -shared_weight, -1.0, key.kind)
    assert not evidence.rows[key].any()
    assert not evidence.shared.any()


def test_scaling_multiplies_everything_of_one_row_but_its_residual_sums():
    vote = Vote(1.0, 0.4, 0.5, 100.0, 5.0, 0.01, 0.02, 300.0, 80.0, 60.0)
    evidence = learned([(key, np.ones(D, np.float32), vote, 1.0, 1.0, 1.0) for key in KEYS])
    before = evidence.copy()
    evidence.scale(KEYS[0], 0.3)
    expected = before.rows[KEYS[0]] * 0.3
    expected[[RES_N, RES_Z]] = before.rows[KEYS[0]][[RES_N, RES_Z]]
    assert evidence.rows[KEYS[0]].tobytes() == expected.tobytes()
    assert evidence.rows[KEYS[1]].tobytes() == before.rows[KEYS[1]].tobytes()
    assert evidence.shared.tobytes() == before.shared.tobytes()
    evidence.scale_shared(0.5)
    assert evidence.shared.tobytes() == (before.shared * 0.5).tobytes()
    evidence.scale(RowKey("unknown"), 0.5)
    assert RowKey("unknown") not in evidence.rows


def test_a_vote_of_another_specification_touches_the_context_free_part_only():
    evidence = Evidence(D)
    evidence.add_free(KEYS[0], Vote(quality=0.5, output_tokens=10.0, input_tokens=9.0, input_pred=8.0), 2.0)
    row = evidence.rows[KEYS[0]]
    assert row[2:5].tolist() == [2.0, 1.0, 0.5]
    row[2:5] = 0.0
    assert not row.any()
    assert not evidence.shared.any()


def test_the_witness_of_powers_of_two_shows_every_vote_exactly_once():
    x = np.array([1, 0, 0, 0, 0], np.float32)
    evidence = Evidence(D)
    for k in range(52):
        evidence.add(KEYS[0], x, Vote(quality=2.0**k), 1.0)
    assert evidence.rows[KEYS[0]][evidence.layout.b][0] == 2.0**52 - 1


@pytest.mark.parametrize(
    "vote",
    [Vote(quality=math.inf), Vote(output_tokens=math.inf), Vote(cost_usd=-math.inf), Vote(latency_ms=math.inf),
     Vote(output_tokens=-1.0), Vote(output_tokens=1.0, log_tokens_pred=1e300),
     Vote(input_tokens=math.inf), Vote(input_tokens=1.0, input_pred=math.inf), Vote(input_tokens=-1.0)],
)  # fmt: skip
def test_an_infinite_or_impossible_number_is_refused_and_nothing_is_written(vote):
    evidence = Evidence(D)
    with pytest.raises(ValueError, match=r"finite|count"):
        evidence.add(KEYS[0], np.ones(D, np.float32), vote, 1.0)
    assert evidence == Evidence(D)


def test_a_context_of_another_length_type_or_with_nan_is_refused():
    evidence = Evidence(D)
    for x in (np.ones(D), np.ones(D + 1, np.float32), np.full(D, np.nan, np.float32)):
        with pytest.raises(ValueError, match="context"):
            evidence.add(KEYS[0], x, Vote(quality=1.0), 1.0)
    assert evidence == Evidence(D)


def test_clearing_forgets_everything_and_equality_sees_every_bit():
    evidence = learned([(KEYS[0], np.ones(D, np.float32), Vote(quality=1.0), 1.0, 1.0, 1.0)])
    other = evidence.copy()
    other.rows[KEYS[0]][30] += 1e-16 if other.rows[KEYS[0]][30] == 0 else 2.3e-16
    assert evidence != other
    evidence.clear()
    assert evidence == Evidence(D)
    assert evidence != "evidence"
    assert repr(evidence) == "Evidence(d=5, rows=0)"


def test_the_row_layout_is_the_wire_format_of_version_1():
    layout = Layout(4)
    slices = [layout.b, layout.sx, layout.tx, layout.a]
    assert [(s.start, s.stop) for s in slices] == [(24, 28), (28, 32), (32, 36), (36, 46)]
    assert (layout.row_size, layout.shared_size) == (46, 15)
    assert (IN_SUM, IN_PRED, HEAD) == (21, 22, 24)
    assert (layout.shared_tb, layout.shared_ta) == (slice(1, 5), slice(5, 15))
    with pytest.raises(ValueError, match="at least 1"):
        Layout(0)
