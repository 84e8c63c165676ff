"""The rules of 'What a journal record does', one hand-made log and one hand-computed answer each.

The context is (1, 1/2) and weights are powers of two, so that most answers are exact; ``ROW`` names the
leading floats of an evidence row, ``B`` to ``A`` its parts at d = 2.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import pytest

from tests.naive import (
    Prediction,
    Record,
    Result,
    Settings,
    check_exactly_once,
    differences,
    first_decisions,
    ledger_adds_up,
    parse_header,
    parse_state,
    recompute,
    row_size,
    shared_size,
)
from tests.wire import NAN, SPEC_ID, DecisionLog, Journal, Model, header_bytes, state_bytes

PARTITION = 3
X = [1.0, 0.5]
NAMES = """n sq2 n_free q_free q2_free res_n res_z tok_n tok_y tok_y2 tok_sum reserved
cost_n cost_sum cost_pred lat_n lat_y lat_y2 lat_t lat_t2 lat_ty in_sum in_pred"""
ROW = {name: i for i, name in enumerate(NAMES.split())}
B, SX, TX, A = slice(24, 26), slice(26, 28), slice(28, 30), slice(30, 33)
GPT, SONNET = Model("gpt", 1), Model("sonnet", 7)
WEIGHTS = {"thumb": 1.0, "score": 2.0, "outcome": 4.0}
PLAIN = Settings(half_life_ms=None, weights=WEIGHTS, max_parked=3)
HALF_LIFE = Settings(half_life_ms=64_000, weights=WEIGHTS, max_parked=3)  # a tick is 1000 ms


def decisions(count: int = 1, **fields: Any) -> DecisionLog:
    """A log of ``count`` decisions on requests 0, 1, ... for model gpt."""
    log = DecisionLog(PARTITION, [GPT, SONNET], X)
    for o in range(count):
        log.add(o, **fields)
    return log


def known(count: int = 1, now: int = 1_000_000) -> Journal:
    """A journal in which ``count`` decisions are known."""
    journal = Journal(now)
    journal.decided(count)
    return journal


def outcome(log: DecisionLog, journal: Journal, settings: Settings = PLAIN, **genesis: Any) -> Result:
    """The result, whose ledger must add up whatever the test is about."""
    result = recompute(PARTITION, log.records, journal.records, settings, genesis or None)
    ledger_adds_up(result, len(journal.records))
    return result


def classes(result: Result) -> dict[str, int]:
    """The ledger's classes of feedback records."""
    own = ("decided", "expired_records", "control", "control_repeated")
    others = ("first", "later", "answered", "expired", "usage_votes", "quality_votes")
    return {name: n for name, n in result.ledger.items() if name not in own + others}


def row(result: Result, model: Model = GPT) -> list[float]:
    """The row of a model: the sum over the kinds of feedback."""
    rows = [r for key, r in result.rows.items() if key[:2] == (model.name, model.generation)]
    return [math.fsum(column) for column in zip(*rows, strict=True)]


# ----------------------------------------------------------------------------------------------- wire formats


def test_header_is_read_as_documented() -> None:
    models = [Model("gpt", 1, 0.5, 0.25, 3.0, 0.001, 7.0), Model("modèle", 4_000_000_000)]
    data = header_bytes([1.0, 0.1], models, 1 << 40, shadow=True, input_tokens=37.25, counted=True)
    header = parse_header(data)
    assert (header.input_tokens, header.counted) == (37.25, True)
    assert (header.version, header.d, header.spec_id) == (1, 2, "0123456789abcdef")
    assert (header.request_offset, header.shadow) == (1 << 40, True)
    assert header.x == [1.0, struct.unpack("<f", struct.pack("<f", 0.1))[0]]
    assert header.x[1] != 0.1
    assert header.models[0] == Prediction("gpt", 1, 0.5, 0.25, 3.0, 0.001, 7.0)
    assert (header.models[1].name, header.models[1].generation) == ("modèle", 4_000_000_000)
    assert math.isnan(header.models[1].quality)


def test_header_of_fixed_bytes_is_read_as_documented() -> None:
    data = bytes.fromhex(
        """
        42524431 0100 0100 0100 0000 00000443 0123456789abcdef 0500000000000000
        0000803f
        000000000000e03f 000000000000d03f 0000000000000840 000000000000f87f 000000000000f87f
        02000000 0100 61
        """
    )
    header = parse_header(data)
    model = header.models[0]
    assert (header.d, header.request_offset, header.shadow, header.x) == (1, 5, False, [1.0])
    assert (header.input_tokens, header.counted) == (132.0, False)
    assert (model.name, model.generation) == ("a", 2)
    assert (model.quality, model.sd, model.log_tokens) == (0.5, 0.25, 3.0)
    assert math.isnan(model.cost)
    assert math.isnan(model.log_latency)


@pytest.mark.parametrize("at", [0, 4, 11])
def test_damaged_header_is_refused(at: int) -> None:
    data = header_bytes(X, [GPT], 0)
    with pytest.raises(ValueError, match="header"):
        parse_header(data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :])
    with pytest.raises(ValueError, match="1 bytes too many"):
        parse_header(data + b"\0")
    with pytest.raises(ValueError, match="ends inside a name"):
        parse_header(data[:-1])


def test_state_is_read_as_documented_and_a_flipped_bit_is_refused() -> None:
    shared = [float(i) for i in range(shared_size(2))]
    usage = [1.0] * 24 + [0.0] * 4 + [2.0] * 2 + [0.0] * 3
    rows = {("gpt", 1, "score"): [i / 2 for i in range(row_size(2))], ("gpt", 1, "usage"): usage}
    data = state_bytes({"d": 2, "j": 9, "ledger": {}}, shared, rows)
    state = parse_state(data)
    assert (state.meta["j"], state.meta["keys"]) == (
        9,
        [["gpt", 1, "score", True], ["gpt", 1, "usage", False]],
    )
    assert (state.shared, state.rows) == (shared, rows)
    for at in (0, 4, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"checksum|state record of version 1"):
            parse_state(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_row_sizes() -> None:
    assert (row_size(2), shared_size(2)) == (24 + 6 + 3, 1 + 2 + 3)
    assert (row_size(32), shared_size(32)) == (24 + 96 + 528, 1 + 32 + 528)


def test_differences_finds_each_kind_and_nothing_in_an_equal_record() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True)
    result = outcome(log, journal)
    at = {**result.fields, "hi": {"0": 0}}
    meta = {"d": 2, "ledger": {**result.ledger, "late": 0}, "parked": 0, "at": at}
    assert differences(result, parse_state(state_bytes(meta, result.shared, result.rows))) == []
    wrong = {"d": 2, "ledger": {}, "parked": 1, "at": {**at, "X": 5}}
    other = [0.0] * row_size(2)
    found = differences(
        result, parse_state(state_bytes(wrong, [1.0] * shared_size(2), {("gpt", 1, "thumb"): other}))
    )
    assert len(found) == 5


# --------------------------------------------------------------------------------------------------- evidence


def test_quality_vote_adds_the_documented_floats() -> None:
    log = DecisionLog(PARTITION, [GPT._replace(quality=0.5, sd=0.5)], X)
    log.add(0)
    journal = known(1)
    journal.feedback("r0", "score", value=0.75)
    result = outcome(log, journal)
    r = row(result)
    # w = 2, q = 3/4, z = (3/4 - 1/2) / (1/2)
    assert r[: ROW["tok_n"]] == [2.0, 1.125, 2.0, 1.5, 1.125, 1.0, 0.5]
    assert r[ROW["tok_n"] : 24] == [0.0] * 17
    assert (r[B], r[SX], r[TX], r[A]) == ([1.5, 0.75], [2.0, 1.0], [0.0, 0.0], [2.0, 1.0, 0.5])
    assert result.shared == [0.0] * shared_size(2)
    assert result.ledger == {"applied": 1, "decided": 1, "first": 1, "quality_votes": 1}
    assert (result.open, result.parked) == (1, 0)


@pytest.mark.parametrize(
    ("quality", "sd", "value", "residual"),
    [
        (0.0, 0.25, 1.0, [1.0, 2.5]),
        (1.0, 0.25, 0.0, [1.0, -2.5]),
        (0.5, 0.0, 1.0, [0.0, 0.0]),
        (NAN, 0.5, 1.0, [0.0, 0.0]),
        (0.5, NAN, 1.0, [0.0, 0.0]),
    ],
)
def test_residual_is_clipped_and_needs_a_prediction(
    quality: float, sd: float, value: float, residual: list[float]
) -> None:
    log = DecisionLog(PARTITION, [GPT._replace(quality=quality, sd=sd)], X)
    log.add(0)
    journal = known(1)
    journal.feedback("r0", "thumb", value=value)
    assert row(outcome(log, journal))[ROW["res_n"] : ROW["tok_n"]] == residual


def test_usage_adds_the_documented_floats() -> None:
    log = DecisionLog(PARTITION, [GPT._replace(log_tokens=math.log(8.0), cost=0.25)], X)
    log.add(0)
    journal = known(1)
    journal.feedback("r0", "usage", output_tokens=3, cost_usd=0.5, latency_ms=1.0, input_tokens=10)
    result = outcome(log, journal)
    r = row(result)
    y = math.log1p(3)
    assert r[: ROW["tok_n"]] == [0.0] * 7
    assert r[ROW["tok_n"] : ROW["lat_n"]] == [1.0, y, y * y, 3.0, 0.0, 1.0, 0.5, 0.25]
    assert r[ROW["lat_n"] : 21] == [1.0, 0.0, 0.0, y, y * y, 0.0]
    assert (r[B], r[SX], r[TX], r[A]) == ([0.0, 0.0], [0.0, 0.0], [1.0, 0.5], [0.0, 0.0, 0.0])
    assert result.shared == [1.0, y, y * 0.5, 1.0, 0.5, 0.25]
    assert result.ledger == {"applied": 1, "decided": 1, "first": 1, "usage_votes": 1}


def test_unknown_predictions_stand_for_what_was_seen() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "usage", output_tokens=3, cost_usd=0.5)
    r = row(outcome(log, journal))
    assert (r[ROW["reserved"]], r[ROW["cost_pred"]]) == (0.0, 0.5)


def test_latency_without_tokens_takes_the_logged_tokens_or_zero() -> None:
    log = DecisionLog(PARTITION, [GPT._replace(log_tokens=2.0), SONNET], X)
    log.add(0)
    journal = known(1)
    journal.feedback("r0", "usage", latency_ms=0)
    journal.feedback("r0", "usage", latency_ms=1, model="sonnet", voter="v")
    result = outcome(log, journal)
    floor = math.log(1e-3)
    assert row(result)[ROW["lat_n"] : 21] == [1.0, floor, floor * floor, 2.0, 4.0, floor * 2.0]
    assert row(result, SONNET)[ROW["lat_n"] : 21] == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_usage_may_ride_on_a_vote_at_the_votes_weight() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "outcome", ok=True, cost_usd=0.5)
    result = outcome(log, journal)
    assert [row(result)[ROW[name]] for name in ("n", "cost_n", "cost_sum")] == [4.0, 4.0, 2.0]
    assert (result.ledger["usage_votes"], result.ledger["quality_votes"]) == (1, 1)


@pytest.mark.parametrize(
    ("kind", "fields", "quality"),
    [
        ("thumb", {"value": True}, 1.0),
        ("thumb", {"value": False}, 0.0),
        ("thumb", {"value": 1}, 1.0),
        ("score", {"value": 0.25}, 0.25),
        ("outcome", {"ok": True}, 1.0),
        ("outcome", {"ok": False}, 0.0),
        ("outcome", {"ok": True, "value": 0.5}, 0.5),
    ],
)
def test_kinds_say_their_quality(kind: str, fields: dict[str, Any], quality: float) -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", kind, **fields)
    r = row(outcome(log, journal))
    assert (r[ROW["n"]], r[ROW["q_free"]]) == (WEIGHTS[kind], WEIGHTS[kind] * quality)


def test_reported_input_tokens_are_learned_beside_the_estimate_of_the_header() -> None:
    log, journal = decisions(1, input_tokens=8.5), known(1)
    journal.feedback("r0", "score", value=0.0, input_tokens=12)
    result = outcome(log, journal)
    assert result.ledger["usage_votes"] == 1
    assert row(result)[ROW["lat_ty"] : 24] == [0.0, 24.0, 17.0, 0.0]
    journal.feedback("r0", "withdraw")
    assert row(outcome(log, journal)) == [0.0] * row_size(2)


@pytest.mark.parametrize(
    ("header", "reported"),
    [
        ({"input_tokens": 8.0, "counted": True}, 12),
        ({"input_tokens": 8.0}, 0),
        ({"input_tokens": 8.0}, None),
        ({"input_tokens": 0.0}, 12),
        ({"input_tokens": NAN}, 12),
    ],
)
def test_input_tokens_that_say_nothing_about_an_estimate_are_not_learned_from(
    header: dict[str, Any], reported: int | None
) -> None:
    log, journal = decisions(1, **header), known(1)
    journal.feedback("r0", "usage", input_tokens=reported)
    assert row(outcome(log, journal)) == [0.0] * row_size(2)


def test_evidence_goes_to_the_model_that_served() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, model="sonnet")
    assert set(outcome(log, journal).rows) == {("sonnet", 7, "thumb")}


def test_rows_are_told_apart_by_the_generation_in_the_header() -> None:
    log = decisions(1)
    log.add(1, models=[GPT._replace(generation=2)])
    journal = known(2)
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("r1", "thumb", value=False)
    result = outcome(log, journal)
    assert {key: r[ROW["q_free"]] for key, r in result.rows.items()} == {
        ("gpt", 1, "thumb"): 1.0,
        ("gpt", 2, "thumb"): 0.0,
    }


def test_every_applied_vote_is_a_bit_of_the_sum() -> None:
    log, journal = decisions(40), known(40)
    for k in range(40):
        if k % 3:
            journal.feedback(f"r{k}", "score", value=2.0**-k)
    r = row(outcome(log, journal, Settings(None, {"score": 1.0}, 3)))
    assert r[ROW["q_free"]] == r[B][0] == sum(2.0**-k for k in range(40) if k % 3)


# ----------------------------------------------------------------------------------- slots: repeat and revise


def test_vote_in_a_new_slot_is_applied_for_each_kind_source_and_voter() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("r0", "score", value=1.0)
    journal.feedback("r0", "thumb", value=True, source="app")
    journal.feedback("r0", "thumb", value=True, voter="u")
    journal.feedback("r0", "thumb", value=True, source="app", voter="u")
    result = outcome(log, journal)
    assert classes(result) == {"applied": 5}
    assert row(result)[ROW["n"]] == 6.0


def test_another_vote_in_a_slot_revises() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "score", value=0.25)
    journal.feedback("r0", "score", value=0.75)
    result = outcome(log, journal)
    assert classes(result) == {"applied": 1, "revised": 1}
    assert [row(result)[ROW[name]] for name in ("n", "sq2", "q_free")] == [2.0, 1.125, 1.5]
    assert row(result)[A] == [2.0, 1.0, 0.5]
    assert result.ledger["quality_votes"] == 1


def test_revision_may_move_the_vote_to_another_model() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("r0", "thumb", value=True, model="sonnet")
    result = outcome(log, journal)
    assert classes(result) == {"applied": 1, "revised": 1}
    assert row(result) == [0.0] * row_size(2)
    assert row(result, SONNET)[ROW["n"]] == 1.0


def test_equal_vote_without_feedback_id_is_a_duplicate() -> None:
    log, journal = decisions(1), known(1)
    for _ in range(3):
        journal.feedback("r0", "thumb", value=True)
    journal.feedback("r0", "thumb", value=1.0, model="gpt")
    result = outcome(log, journal)
    assert classes(result) == {"applied": 1, "duplicate": 3}
    assert row(result)[ROW["n"]] == 1.0


def test_vote_that_differs_only_in_input_tokens_revises() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "usage", output_tokens=3)
    journal.feedback("r0", "usage", output_tokens=3, input_tokens=5)
    assert classes(outcome(log, journal)) == {"applied": 1, "revised": 1}


def test_seen_feedback_id_is_a_duplicate_whatever_it_says() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, feedback_id="a")
    journal.feedback("r0", "thumb", value=False, feedback_id="b")
    journal.feedback("r0", "thumb", value=True, feedback_id="a")
    journal.feedback("r0", "thumb", value=True, feedback_id="b")
    result = outcome(log, journal)
    assert classes(result) == {"applied": 1, "revised": 1, "duplicate": 2}
    assert row(result)[ROW["q_free"]] == 0.0


def test_equal_vote_with_a_new_feedback_id_revises() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, feedback_id="a")
    journal.feedback("r0", "thumb", value=True, feedback_id="b")
    result = outcome(log, journal)
    assert classes(result) == {"applied": 1, "revised": 1}
    assert row(result)[ROW["n"]] == 1.0


def test_equal_vote_without_feedback_id_is_a_duplicate_of_one_that_had_one() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, feedback_id="a")
    journal.feedback("r0", "thumb", value=True)
    assert classes(outcome(log, journal)) == {"applied": 1, "duplicate": 1}


def test_feedback_id_is_remembered_per_slot() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, feedback_id="a")
    journal.feedback("r0", "score", value=1.0, feedback_id="a")
    assert classes(outcome(log, journal)) == {"applied": 2}


def test_decision_has_sixteen_slots() -> None:
    log, journal = decisions(2), known(2)
    for voter in range(18):
        journal.feedback("r0", "thumb", value=True, voter=f"v{voter}")
    journal.feedback("r0", "thumb", value=False, voter="v3")
    journal.feedback("r1", "thumb", value=True, voter="v17")
    result = outcome(log, journal)
    assert classes(result) == {"applied": 17, "rejected": 2, "revised": 1}
    assert [row(result)[ROW[name]] for name in ("n", "q_free")] == [17.0, 16.0]


def test_slot_takes_sixteen_feedback_ids() -> None:
    log, journal = decisions(1), known(1)
    for k in range(18):
        journal.feedback("r0", "score", value=k / 32, feedback_id=f"f{k}")
    journal.feedback("r0", "score", value=0.5, feedback_id="f3")
    result = outcome(log, journal)
    assert classes(result) == {"applied": 1, "revised": 15, "rejected": 2, "duplicate": 1}
    assert row(result)[ROW["q_free"]] == pytest.approx(2 * 15 / 32, abs=1e-12)
    journal.feedback("r0", "score", value=0.5)
    assert classes(outcome(log, journal))["revised"] == 16


# --------------------------------------------------------------------------------------------------- withdraw


def test_withdraw_takes_back_the_quality_votes_of_its_source_and_voter() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, voter="u")
    journal.feedback("r0", "score", value=0.5, voter="u")
    journal.feedback("r0", "usage", output_tokens=3, voter="u")
    journal.feedback("r0", "thumb", value=True, voter="w")
    journal.feedback("r0", "thumb", value=True, voter="u", source="app")
    journal.feedback("r0", "withdraw", voter="u")
    result = outcome(log, journal)
    assert classes(result) == {"applied": 5, "revised": 1}
    r = row(result)
    assert [r[ROW[name]] for name in ("n", "sq2", "n_free", "q_free", "tok_n")] == [2.0, 2.0, 2.0, 2.0, 1.0]
    assert (r[B], r[SX], r[A]) == ([2.0, 1.0], [2.0, 1.0], [2.0, 1.0, 0.5])


def test_withdraw_takes_back_the_usage_that_rode_on_the_vote() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, output_tokens=3, cost_usd=0.5, latency_ms=9.0)
    journal.feedback("r0", "withdraw")
    result = outcome(log, journal)
    assert row(result) == [0.0] * row_size(2)
    assert result.shared == [0.0] * shared_size(2)


def test_withdraw_takes_the_residual_back() -> None:
    log = DecisionLog(PARTITION, [GPT._replace(quality=0.5, sd=0.5)], X)
    log.add(0)
    journal = known(1)
    journal.feedback("r0", "score", value=0.75)
    journal.feedback("r0", "withdraw")
    assert row(outcome(log, journal)) == [0.0] * row_size(2)


@pytest.mark.parametrize("before", [[], ["usage"], ["thumb", "withdraw"]])
def test_withdraw_of_nothing_is_rejected(before: list[str]) -> None:
    log, journal = decisions(1), known(1)
    for kind in before:
        journal.feedback("r0", kind, value=True)
    journal.feedback("r0", "withdraw")
    assert classes(outcome(log, journal))["rejected"] == 1


def test_withdraw_is_a_duplicate_when_its_feedback_id_was_seen() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, feedback_id="a")
    journal.feedback("r0", "withdraw", feedback_id="w")
    journal.feedback("r0", "withdraw", feedback_id="w")
    journal.feedback("r0", "withdraw", feedback_id="a")
    journal.feedback("r0", "withdraw", feedback_id="other")
    assert classes(outcome(log, journal)) == {"applied": 1, "revised": 1, "duplicate": 2, "rejected": 1}


def test_vote_seen_before_its_withdrawal_stays_a_duplicate() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, feedback_id="a")
    journal.feedback("r0", "withdraw", feedback_id="w")
    journal.feedback("r0", "thumb", value=True, feedback_id="a")
    result = outcome(log, journal)
    assert classes(result) == {"applied": 1, "revised": 1, "duplicate": 1}
    assert row(result)[ROW["n"]] == 0.0


def test_vote_after_a_withdrawal_revises() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("r0", "withdraw")
    journal.feedback("r0", "thumb", value=True)
    result = outcome(log, journal)
    assert classes(result) == {"applied": 1, "revised": 2}
    assert row(result)[ROW["n"]] == 1.0


# --------------------------------------------------------------------------------------------------- refusals


def test_feedback_below_the_closed_requests_is_late() -> None:
    log, journal = decisions(3), known(3)
    journal.expire(2)
    journal.feedback("r1", "thumb", value=True, decision_id="3-1")
    journal.feedback("r2", "thumb", value=True, decision_id="3-2")
    assert classes(outcome(log, journal)) == {"late": 1, "applied": 1}


def test_late_comes_before_the_look_at_the_request_id() -> None:
    log, journal = decisions(1), known(1)
    journal.expire(1)
    journal.feedback("another", "thumb", value=True, decision_id="3-0")
    assert classes(outcome(log, journal)) == {"late": 1}


def test_feedback_by_request_id_on_a_closed_decision_parks() -> None:
    log, journal = decisions(1), known(1)
    journal.expire(1)
    journal.feedback("r0", "thumb", value=True)
    result = outcome(log, journal)
    assert (classes(result), result.parked) == ({}, 1)


def test_decision_id_of_another_partition_is_rejected() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, decision_id="2-0")
    assert classes(outcome(log, journal)) == {"rejected": 1}


def test_decision_id_with_another_request_id_is_rejected() -> None:
    log, journal = decisions(2), known(2)
    journal.feedback("r1", "thumb", value=True, decision_id="3-0")
    assert classes(outcome(log, journal)) == {"rejected": 1}


def test_another_tenant_is_foreign_and_no_tenant_is_not() -> None:
    log, journal = decisions(1, tenant="acme"), known(1)
    log.add(1)
    journal.decided(2)
    journal.feedback("r0", "thumb", value=True, tenant="evil")
    journal.feedback("r1", "thumb", value=True, tenant="acme")
    journal.feedback("r0", "thumb", value=True, tenant="acme")
    journal.feedback("r0", "score", value=1.0)
    assert classes(outcome(log, journal)) == {"foreign": 2, "applied": 2}


def test_withdrawal_by_another_tenant_is_foreign() -> None:
    log, journal = decisions(1, tenant="acme"), known(1)
    journal.feedback("r0", "thumb", value=True, tenant="acme")
    journal.feedback("r0", "withdraw", tenant="evil")
    assert classes(outcome(log, journal)) == {"applied": 1, "foreign": 1}


def test_model_outside_the_catalog_of_the_header_is_rejected() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, model="llama")
    assert classes(outcome(log, journal)) == {"rejected": 1}


@pytest.mark.parametrize("fields", [{"shadow": True}, {"model": None}])
def test_shadow_and_empty_decisions_need_the_model_that_served(fields: dict[str, Any]) -> None:
    log, journal = decisions(1, **fields), known(1)
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("r0", "thumb", value=True, model="sonnet")
    result = outcome(log, journal)
    assert classes(result) == {"rejected": 1, "applied": 1}
    assert set(result.rows) == {("sonnet", 7, "thumb")}


def test_source_offset_at_or_below_the_last_is_copied_twice() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True, src=(0, 5))
    journal.feedback("r0", "score", value=1.0, src=(0, 5))
    journal.feedback("r0", "score", value=1.0, src=(0, 4))
    journal.feedback("r0", "score", value=1.0, src=(1, 4))
    result = outcome(log, journal)
    assert classes(result) == {"applied": 2, "copied_twice": 2}
    assert result.fields["hi"] == {0: 5, 1: 4}


# ---------------------------------------------------------------------------------------------------- parking


def test_feedback_before_its_decision_parks_and_settles_at_the_decided_that_covers_it() -> None:
    log, journal = decisions(2), Journal()
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("r1", "thumb", value=True, decision_id="3-1")
    assert outcome(log, journal).parked == 2
    journal.decided(1)
    result = outcome(log, journal)
    assert (classes(result), result.parked) == ({"applied": 1}, 1)
    journal.decided(2)
    result = outcome(log, journal)
    assert (classes(result), result.parked) == ({"applied": 2}, 0)
    assert result.ledger["quality_votes"] == 2


def test_parked_records_settle_oldest_first_and_with_the_same_classes() -> None:
    log, journal = decisions(1), Journal()
    journal.feedback("r0", "thumb", value=False, feedback_id="a")
    journal.feedback("r0", "thumb", value=True, feedback_id="b")
    journal.feedback("r0", "thumb", value=True, feedback_id="a")
    journal.decided(1)
    result = outcome(log, journal)
    assert classes(result) == {"applied": 1, "revised": 1, "duplicate": 1}
    assert row(result)[ROW["q_free"]] == 1.0


def test_withdraw_parks_as_well() -> None:
    log, journal = decisions(1), Journal()
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("r0", "withdraw")
    assert outcome(log, journal).parked == 2
    journal.decided(1)
    assert classes(outcome(log, journal)) == {"applied": 1, "revised": 1}


def test_overfull_park_gives_up_its_oldest() -> None:
    log, journal = decisions(6), Journal()
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("r1", "thumb", value=True, everywhere=True)
    for k in range(2, 5):
        journal.feedback(f"r{k}", "thumb", value=True)
    result = outcome(log, journal)
    assert (classes(result), result.parked) == ({"orphan": 1, "elsewhere": 1}, 3)
    journal.decided(6)
    assert classes(outcome(log, journal)) == {"orphan": 1, "elsewhere": 1, "applied": 3}


def test_expire_gives_up_what_was_parked_before_its_time() -> None:
    log, journal = decisions(1), Journal(now=1000)
    journal.feedback("x", "thumb", value=True)
    journal.now = 1500
    journal.feedback("y", "thumb", value=True, everywhere=True)
    journal.now = 2000
    journal.feedback("z", "thumb", value=True)
    journal.expire(0, before=1000)
    assert outcome(log, journal).parked == 3
    journal.expire(0, before=2000)
    result = outcome(log, journal)
    assert (classes(result), result.parked) == ({"orphan": 1, "elsewhere": 1}, 1)


def test_parked_record_whose_request_was_closed_meanwhile_is_late() -> None:
    log = DecisionLog(PARTITION, [GPT], X)
    log.add(0)
    log.add(2)
    log.add(3)
    journal = known(1)
    journal.feedback("r1", "thumb", value=True, decision_id="3-1")
    journal.decided(2)
    journal.expire(2)
    assert outcome(log, journal).parked == 1
    journal.decided(3)
    assert classes(outcome(log, journal)) == {"late": 1}


def test_decided_that_brings_nothing_new_tries_nothing() -> None:
    log = DecisionLog(PARTITION, [GPT], X)
    log.add(0)
    log.add(2)
    journal = known(2)
    journal.feedback("r1", "thumb", value=True, decision_id="3-1")
    journal.expire(2)
    journal.decided(2)
    result = outcome(log, journal)
    assert (classes(result), result.parked) == ({}, 1)


# ----------------------------------------------------------------------------------------- decided and expire


def test_later_decisions_are_counted_and_never_learn() -> None:
    log = DecisionLog(PARTITION, [GPT, SONNET], X)
    log.add(0)
    log.add(1)
    log.add(0, model="sonnet")
    log.add(1, model="sonnet")
    log.add(2)
    journal = known(5)
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("r1", "thumb", value=True, decision_id="3-1")
    result = outcome(log, journal)
    assert (result.ledger["first"], result.ledger["later"], result.open) == (3, 2, 3)
    assert set(result.rows) == {("gpt", 1, "thumb")}
    assert (result.fields["D"], result.fields["rD"]) == (5, 3)
    assert [r.offset for r in first_decisions(log.records)] == [0, 1, 4]
    check_exactly_once(3, log.records)


def test_decision_on_a_skipped_request_is_not_first() -> None:
    log = DecisionLog(PARTITION, [GPT], X)
    log.add(5)
    log.add(4)
    journal = known(2)
    journal.feedback("r4", "thumb", value=True)
    result = outcome(log, journal)
    assert (result.ledger["first"], result.ledger["later"], result.parked) == (1, 1, 1)
    with pytest.raises(AssertionError):
        check_exactly_once(6, log.records)
    check_exactly_once(6, log.records, r0=4, skipped=[4])


def test_request_id_means_the_lowest_open_decision() -> None:
    log = DecisionLog(PARTITION, [GPT, SONNET], X)
    log.add(0, "same")
    log.add(1, "same", "sonnet")
    journal = known(2)
    journal.feedback("same", "thumb", value=True)
    journal.expire(1)
    journal.feedback("same", "thumb", value=True)
    result = outcome(log, journal)
    assert classes(result) == {"applied": 2}
    assert set(result.rows) == {("gpt", 1, "thumb"), ("sonnet", 7, "thumb")}


def test_decided_never_goes_back() -> None:
    log, journal = decisions(2), known(2)
    journal.decided(1)
    result = outcome(log, journal)
    assert (result.fields["D"], result.ledger["decided"], result.ledger["first"]) == (2, 2, 2)


def test_decided_beyond_the_log_is_an_error() -> None:
    with pytest.raises(ValueError, match="decision 1, which is not in the log"):
        outcome(decisions(1), known(2))


def test_expire_closes_answered_and_unanswered_decisions() -> None:
    log, journal = decisions(5), known(5)
    journal.feedback("r0", "thumb", value=False)
    journal.feedback("r1", "usage", output_tokens=1)
    journal.feedback("r2", "thumb", value=True)
    journal.feedback("r2", "withdraw")
    journal.expire(4)
    result = outcome(log, journal)
    assert (result.ledger["answered"], result.ledger["expired"], result.open) == (1, 3, 1)
    assert (result.fields["X"], result.fields["rX"]) == (4, 4)
    assert row(result)[ROW["n"]] == 1.0


def test_expire_stays_between_what_was_closed_and_what_is_known() -> None:
    log, journal = decisions(5), known(3)
    journal.expire(9)
    assert (outcome(log, journal).fields["X"], outcome(log, journal).fields["rX"]) == (3, 3)
    journal.expire(1)
    assert outcome(log, journal).fields["X"] == 3
    journal.decided(5)
    result = outcome(log, journal)
    assert (result.open, result.ledger["expired_records"]) == (2, 2)


def test_later_decisions_count_for_the_closed_requests_but_not_in_the_ledger_of_firsts() -> None:
    log = DecisionLog(PARTITION, [GPT], X)
    for o in (7, 2, 8):
        log.add(o)
    journal = known(3)
    journal.expire(2)
    result = outcome(log, journal)
    assert result.fields["rX"] == 8
    assert (result.ledger["expired"], result.ledger["first"], result.open) == (1, 2, 1)


def test_genesis_sets_where_a_partition_begins() -> None:
    log = DecisionLog(PARTITION, [GPT], X, start=10)
    log.add(4)
    log.add(6)
    journal = Journal(start=100)
    journal.decided(12)
    journal.feedback("r4", "thumb", value=True)
    journal.feedback("r5", "thumb", value=True, decision_id="3-4")
    journal.feedback("r6", "thumb", value=True)
    result = outcome(log, journal, D=10, X=10, rD=5, rX=5, hi={"0": -1}, cursor=3)
    assert classes(result) == {"late": 1, "applied": 1}
    assert (result.ledger["first"], result.ledger["later"], result.parked) == (1, 1, 1)
    assert (result.fields["D"], result.fields["cursor"]) == (12, 3)


# ---------------------------------------------------------------------------------------------------- control


def test_price_edit_sets_the_price_once() -> None:
    log, journal = decisions(1), known(1)
    journal.price(0, "gpt", 1.0, 2.0)
    journal.price(0, "gpt", 9.0, 9.0)
    journal.price(1, "gpt", 3.0, 4.0)
    journal.price(0, "sonnet", 9.0, 9.0)
    result = outcome(log, journal)
    assert result.fields["prices"] == {"gpt": [3.0, 4.0]}
    assert (result.fields["cursor"], result.ledger["control"], result.ledger["control_repeated"]) == (1, 2, 2)


def test_changed_shrinks_every_generation_of_the_named_models_but_not_residuals_or_the_shared_row() -> None:
    log = DecisionLog(PARTITION, [GPT._replace(quality=0.5, sd=0.5), SONNET], X)
    log.add(0)
    log.add(1, models=[GPT._replace(generation=2, quality=0.5, sd=0.5)])
    log.add(2, model="sonnet")
    journal = known(3)
    for k in range(3):
        journal.feedback(f"r{k}", "thumb", value=True, output_tokens=3)
    whole = outcome(log, journal)
    journal.changed(0, "gpt", 1, {"gpt": 0.25})
    result = outcome(log, journal)
    for key in (("gpt", 1, "thumb"), ("gpt", 2, "thumb")):
        expected = [v * 0.25 for v in whole.rows[key]]
        expected[ROW["res_n"] : ROW["tok_n"]] = [1.0, 1.0]
        assert result.rows[key] == expected
    assert row(result, SONNET) == row(whole, SONNET)
    assert result.shared == whole.shared
    assert result.fields["shrink"] == {"gpt": math.log(0.25)}
    assert result.fields["epochs"] == {"gpt": 1}


def test_changed_acts_only_in_the_next_epoch_of_its_model() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True)
    journal.changed(0, "gpt", 2, {"gpt": 0.5})  # epoch 1 is missing
    journal.changed(1, "gpt", 1, {"gpt": 0.5})
    journal.changed(2, "gpt", 1, {"gpt": 0.5})  # the verdict of another detector on the same change
    journal.changed(3, "sonnet", 1, {"gpt": 0.5})
    journal.changed(4, "gpt", 2, {"gpt": 0.5})
    result = outcome(log, journal)
    assert row(result)[ROW["n"]] == 0.125
    assert result.fields["epochs"] == {"gpt": 2, "sonnet": 1}
    assert result.fields["shrink"] == {"gpt": math.log(0.5) + math.log(0.5) + math.log(0.5)}
    assert (result.fields["cursor"], result.ledger["control"]) == (4, 5)


def test_vote_from_before_a_change_is_taken_back_at_its_shrunk_weight() -> None:
    log, journal = decisions(2), known(2)
    journal.feedback("r0", "thumb", value=True, output_tokens=3)
    journal.changed(0, "gpt", 1, {"gpt": 0.25, "sonnet": 0.5})
    journal.feedback("r1", "thumb", value=True)
    journal.feedback("r0", "withdraw")
    result = outcome(log, journal)
    assert row(result)[ROW["n"]] == pytest.approx(1.0, abs=1e-12)
    assert row(result)[ROW["tok_n"]] == pytest.approx(0.0, abs=1e-12)
    assert result.shared == [0.0] * shared_size(2)


# ------------------------------------------------------------------------------------------------------ decay


def test_evidence_halves_in_a_half_life() -> None:
    log, journal = decisions(1), known(1, now=5_000_500)
    journal.feedback("r0", "thumb", value=True, output_tokens=3)
    now = outcome(log, journal, HALF_LIFE)
    journal.now = 5_064_400  # 64 ticks on
    journal.decided(1)
    then = outcome(log, journal, HALF_LIFE)
    factor = math.exp(-math.log(2.0))
    assert row(then) == [v * factor for v in row(now)]
    assert then.shared == [v * factor for v in now.shared]
    assert (then.fields["decay"], then.fields["clock"]) == (-math.log(2.0), 5064)
    assert (now.fields["decay"], now.fields["clock"]) == (0.0, 5000)


def test_residuals_do_not_decay() -> None:
    log = DecisionLog(PARTITION, [GPT._replace(quality=0.5, sd=0.5)], X)
    log.add(0)
    journal = known(1)
    journal.feedback("r0", "thumb", value=True)
    journal.now += 64_000
    journal.decided(1)
    assert row(outcome(log, journal, HALF_LIFE))[ROW["res_n"] : ROW["tok_n"]] == [1.0, 1.0]


def test_clock_ticks_once_per_tick_for_every_record_and_never_back() -> None:
    log, journal = decisions(1), known(1, now=10_000)
    journal.feedback("r0", "thumb", value=True, src=(0, 5))
    for now in (10_999, 11_000, 9_000, 11_999, 13_000, 8_000):
        journal.now = now
        journal.feedback("r0", "thumb", value=True, src=(0, 5))
    result = outcome(log, journal, HALF_LIFE)
    one, two = -math.log(2.0) * 1000 / 64_000, -math.log(2.0) * 2000 / 64_000
    assert result.fields["decay"] == one + two
    assert result.fields["clock"] == 13
    assert row(result)[ROW["n"]] == 1.0 * math.exp(one) * math.exp(two)


def test_tick_is_a_64th_of_a_long_half_life() -> None:
    log, journal = decisions(1), known(1, now=0)
    journal.feedback("r0", "thumb", value=True)
    journal.now = 1_562
    journal.decided(1)
    settings = Settings(100_000, WEIGHTS, 3)  # 100000 // 64 = 1562
    result = outcome(log, journal, settings)
    assert (result.fields["clock"], result.fields["decay"]) == (1, -math.log(2.0) * 1562 / 100_000)


def test_tick_is_never_shorter_than_a_second() -> None:
    log, journal = decisions(1), known(1, now=0)
    journal.now = 999
    journal.decided(1)
    assert outcome(log, journal, Settings(6_400, WEIGHTS, 3)).fields["decay"] == 0.0
    journal.now = 1_000
    journal.decided(1)
    result = outcome(log, journal, Settings(6_400, WEIGHTS, 3))
    assert (result.fields["clock"], result.fields["decay"]) == (1, -math.log(2.0) * 1000 / 6_400)


def test_without_half_life_nothing_decays_and_there_is_no_clock() -> None:
    log, journal = decisions(1), known(1)
    journal.feedback("r0", "thumb", value=True)
    journal.now += 10**12
    journal.decided(1)
    result = outcome(log, journal)
    assert (row(result)[ROW["n"]], result.fields["decay"], result.fields["clock"]) == (1.0, 0.0, None)


@pytest.mark.parametrize("how", ["withdraw", "revise"])
def test_withdrawn_votes_leave_no_trace_through_decay_and_change(how: str) -> None:
    """To 1e-9 of a log in which the vote never was (or was the other one from the start)."""

    def play(with_vote: bool) -> Result:
        log = DecisionLog(PARTITION, [GPT._replace(quality=0.3, sd=0.4, log_tokens=2.0, cost=0.1), SONNET], X)
        for o in range(3):
            log.add(o, x=[1.0, 0.3 * o, -0.7])
        journal = known(3)
        journal.feedback("r1", "score", value=0.3, output_tokens=17, latency_ms=120.0)
        journal.now += 7_777
        if with_vote:
            journal.feedback("r2", "score", value=0.9, output_tokens=40, latency_ms=33.0, cost_usd=0.02)
        journal.now += 31_000
        journal.changed(0, "gpt", 1, {"gpt": 0.3})
        journal.feedback("r0", "score", value=0.7, output_tokens=5)
        journal.now += 21_000
        if how == "withdraw" and with_vote:
            journal.feedback("r2", "withdraw")
        elif how == "revise":
            journal.feedback("r2", "score", value=0.1, output_tokens=4)
        journal.now += 5_000
        journal.decided(3)
        return outcome(log, journal, HALF_LIFE)

    with_it, without = play(True), play(False)
    assert row(with_it) == pytest.approx(row(without), rel=0, abs=1e-9)
    assert with_it.shared == pytest.approx(without.shared, rel=0, abs=1e-9)
    assert row(with_it) != [0.0] * row_size(3)


# ----------------------------------------------------------------------------------------------------- ledger


def test_ledger_accounts_for_every_record_and_every_first_decision() -> None:
    log = decisions(4)
    log.add(1)
    journal = known(4)
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("r0", "thumb", value=True)
    journal.feedback("nobody", "thumb", value=True)
    journal.decided(5)
    journal.expire(2, before=0)
    journal.price(0, "gpt", 1, 1)
    journal.price(0, "gpt", 1, 1)
    result = outcome(log, journal)
    assert result.ledger == {
        "applied": 1,
        "duplicate": 1,
        "decided": 2,
        "expired_records": 1,
        "control": 1,
        "control_repeated": 1,
        "first": 4,
        "later": 1,
        "answered": 1,
        "expired": 1,
        "quality_votes": 1,
    }
    assert (result.parked, result.open) == (1, 2)


def test_ledger_that_does_not_add_up_is_noticed() -> None:
    log, journal = decisions(1), known(1)
    result = outcome(log, journal)
    with pytest.raises(AssertionError):
        ledger_adds_up(result, 2)
    result.open = 0
    with pytest.raises(AssertionError):
        ledger_adds_up(result, 1)


def test_empty_partition_has_nothing() -> None:
    result = recompute(PARTITION, [], [], PLAIN, d=2)
    assert (result.rows, result.ledger, result.parked, result.open) == ({}, {}, 0, 0)
    assert result.shared == [0.0] * shared_size(2)
    assert result.fields == {
        "D": 0,
        "rD": 0,
        "X": 0,
        "rX": 0,
        "hi": {},
        "cursor": -1,
        "epochs": {},
        "prices": {},
        "paused": {},
        "shrink": {},
        "decay": 0.0,
        "clock": None,
    }


def test_journal_records_of_another_version_or_type_change_nothing_but_a_count() -> None:
    feedback = {"v": 2, "request_id": "r0", "kind": "withdraw"}
    values = [
        json.dumps({"type": "feedback", "src": [0, 0], "feedback": feedback}).encode(),
        b'{"type": "unheard"}',
        b"{",
        b"\xff",
        b"[]",
    ]
    records = [Record(offset, 0, value) for offset, value in enumerate(values)]
    result = recompute(PARTITION, [], records, PLAIN)
    assert result.ledger == {"unreadable": len(values)}
    ledger_adds_up(result, len(values))


def test_a_withdrawal_by_voter_takes_back_every_open_vote_of_that_voter_and_those_that_wait() -> None:
    log = DecisionLog(PARTITION, [GPT], X)
    for offset in range(4):
        log.add(offset, tenant="t1" if offset < 3 else "t2")
    journal = Journal()
    journal.decided(3)
    journal.feedback("r0", "thumb", value=True, voter="u", source="app")
    journal.feedback("r1", "score", value=0.5, voter="u", tenant="t1")
    journal.feedback("r1", "score", value=0.5, voter="w")
    journal.feedback("r3", "score", value=0.5, voter="u", tenant="t2")  # waits
    journal.feedback("r2", "usage", output_tokens=3, voter="u")
    before = len(journal.records)

    def withdrawn(**fields: str) -> dict[str, int]:
        del journal.records[before:]
        journal.next = before
        event = {"v": 1, "kind": "withdraw", "voter": "u", **fields}
        journal.append({"type": "feedback", "src": [1, 0], "feedback": event, "everywhere": True})
        result = outcome(log, journal)
        ledger_adds_up(result, before + 1)
        votes = sum(row[0] for row in result.rows.values())
        return {"votes": round(votes), "parked": result.parked, **classes(result)}

    rest = {"applied": 4, "revised": 1}
    assert withdrawn() == {"votes": 2, "parked": 0, "withdrawn": 1, **rest}  # a score weighs 2
    assert withdrawn(tenant="t1") == {"votes": 2, "parked": 1, **rest}
    assert withdrawn(tenant="t2") == {"votes": 5, "parked": 0, "withdrawn": 1, **rest}
    assert withdrawn(source="app") == {"votes": 4, "parked": 1, **rest}
    assert withdrawn(source="other") == {"votes": 5, "parked": 1, "applied": 4, "elsewhere": 1}


def test_spec_id_of_the_header_is_hexadecimal() -> None:
    assert parse_header(header_bytes(X, [GPT], 0)).spec_id == SPEC_ID.hex()
