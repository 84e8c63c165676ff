"""Exported logs are read as they were written, feedback settles as the engine settles it, and bad input is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from banditroute.bandit.arithmetic.chance import request_key
from banditroute.config import from_dict
from banditroute.errors import DataSetError, TopicError
from banditroute.events import Feedback
from banditroute.flow.deciding.decider import OutputRecord
from banditroute.flow.records.header import parse_header
from banditroute.runtime.broker.kafka import KafkaClient
from banditroute.runtime.broker.ports import TopicSpec
from banditroute.testing.memory_broker import MemoryBroker
from banditroute_sim.evaluate.export import export_log, fetch
from banditroute_sim.evaluate.log import ExportedLog
from banditroute_sim.evaluate.run import EvaluationOptions, evaluate
from banditroute_sim.evaluate.targets import Always, Logged, Objective, Prices, Uniform
from banditroute_sim.evaluate.votes import Votes, served_key
from tests.sim.exported import DOCUMENT, MODELS, cost_of, header_of, records, write_lines, write_parquet

PRICES = {model["name"]: (model["input_usd_per_mtok"], model["output_usd_per_mtok"]) for model in MODELS}


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[OutputRecord], list[dict[str, Any]]]:
    decisions, events = records(900)
    return write_lines(tmp_path_factory.mktemp("log"), decisions, events), decisions, events


def test_parquet_and_json_lines_give_the_same_estimates(written, tmp_path: Path) -> None:
    folder, decisions, events = written
    other = write_parquet(tmp_path / "other", decisions, events)
    options = EvaluationOptions(replicates=200, logged_floor=0.3)
    results = [evaluate(ExportedLog(one), Uniform(), options) for one in (folder, other)]
    assert results[0] == results[1]
    assert results[0]["refused"] is None


def test_columns_are_what_the_headers_say(written) -> None:
    folder, decisions, events = written
    (batch,) = ExportedLog(folder).batches()
    assert len(batch) == 900
    assert batch.predicted
    header = parse_header(header_of(decisions[5]))
    assert batch.names == tuple(key.name for key in header.keys)
    np.testing.assert_array_equal(batch.quality[5], header.predictions[:, 0])
    np.testing.assert_array_equal(batch.cost[5], header.predictions[:, 3])
    assert batch.names[batch.chosen[5]] == json.loads(decisions[5].value)["model"]
    assert batch.outcome[5, 0] == events[5]["value"]
    assert batch.outcome[5, 1] == events[5]["cost_usd"]
    assert batch.eligible.all()


async def _broker(decisions: list[OutputRecord], feedback: list[bytes], config: Any) -> Any:
    client = MemoryBroker(clock=lambda: 7).client()
    topics = config.kafka.topics
    await client.create([TopicSpec(topics.decisions, 2, {}), TopicSpec(topics.feedback, 1, {})])
    await client.append(topics.decisions, 0, decisions)
    await client.append(topics.feedback, 0, [OutputRecord(None, one) for one in feedback])
    return client


@pytest.mark.asyncio
async def test_an_export_of_the_topics_is_the_log(written, tmp_path: Path) -> None:
    folder, decisions, events = written
    config = from_dict({**DOCUMENT, "feedback": {"field_map": {"value": "$.stars"}}})
    foreign = [
        {("stars" if key == "value" else key): value for key, value in event.items()} for event in events
    ]
    client = await _broker(decisions, [*(json.dumps(event).encode() for event in foreign), b"poison"], config)
    done = await export_log(client, config, tmp_path / "out")
    dropped = done.pop("dropped")
    assert done == {"decisions": 900, "feedback": 900, "rejected": 1}
    assert (dropped["read"], dropped["dropped"], sum(dropped["reasons"].values())) == (901, 1, 1)
    options = EvaluationOptions(replicates=100, logged_floor=0.3)
    exported = evaluate(ExportedLog(tmp_path / "out"), Uniform(), options)
    assert exported == evaluate(ExportedLog(folder), Uniform(), options)


def test_the_logging_policy_is_worth_what_was_logged(written) -> None:
    folder, _, events = written
    result = evaluate(ExportedLog(folder), Logged(), EvaluationOptions(replicates=200))
    quality = np.mean([event["value"] for event in events])
    for name in ("ips", "snips", "dr"):
        one = result["estimates"]["quality"][name]
        assert one["value"] == pytest.approx(quality, rel=1e-12)
        assert one["bootstrap"] == pytest.approx(result["logged"]["quality"]["bootstrap"])
        assert result["gain"]["quality"][name]["bootstrap"] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert result["weights"]["effective_sample_size"] == 900


def test_one_model_is_worth_what_it_is_worth(written) -> None:
    result = evaluate(ExportedLog(written[0]), Always("large"), EvaluationOptions(logged_floor=0.3))
    for name in ("ips", "dr"):
        low, high = result["estimates"]["quality"][name]["empirical_bernstein"]
        assert low <= 0.7 <= high
        low, high = result["estimates"]["quality"][name]["bootstrap"]
        assert low - 0.5 * (high - low) <= 0.7 <= high + 0.5 * (high - low)
    assert result["estimates"]["cost_usd"]["snips"]["value"] == pytest.approx(cost_of("large"))
    spent = result["estimates"]["utility"]["snips"]["value"]
    quality = result["estimates"]["quality"]["snips"]["value"]
    assert spent == pytest.approx(quality - 20.0 * cost_of("large"))


def test_a_price_acts_without_new_data(written) -> None:
    cheaper = {**PRICES, "large": (1.0, 2.0)}
    target = Objective(((20.0, 1.0),), models=frozenset(["large"]), prices=Prices(PRICES, cheaper))
    result = evaluate(ExportedLog(written[0]), target, EvaluationOptions(logged_floor=0.3))
    listed = [
        {"name": name, "input_usd_per_mtok": a, "output_usd_per_mtok": b} for name, (a, b) in cheaper.items()
    ]
    assert result["estimates"]["cost_usd"]["snips"]["value"] == pytest.approx(cost_of("large", listed))
    # expected costs change in proportion
    (batch,) = ExportedLog(written[0]).batches()
    plan = target.plan(batch)
    np.testing.assert_array_equal(plan.cost[:, :2], batch.cost[:, :2])
    assert (plan.cost[:, 2] < 0.5 * batch.cost[:, 2]).all()


def test_a_price_of_input_and_output_alike_multiplies_what_was_expected(written) -> None:
    (batch,) = ExportedLog(written[0]).batches()
    twice = {name: (2.0 * a, 2.0 * b) for name, (a, b) in PRICES.items()}
    cost, paid = Prices(PRICES, twice).costs(batch)
    np.testing.assert_allclose(cost, 2.0 * batch.cost, rtol=1e-12)
    np.testing.assert_allclose(paid, 2.0 * batch.outcome[:, 1], rtol=1e-12)


def test_greedy_takes_the_largest_expected_utility(written) -> None:
    (batch,) = ExportedLog(written[0]).batches()
    for weight in (0.0, 50.0, 1e6):
        chance = Objective(((weight, 1.0),)).plan(batch).probabilities
        assert (chance.argmax(axis=1) == (batch.quality - weight * batch.cost).argmax(axis=1)).all()
        assert (chance.sum(axis=1) == 1.0).all()
    mixed = Objective(((0.0, 0.25), (1e6, 0.75)), floor=0.2).plan(batch).probabilities
    np.testing.assert_allclose(mixed.sum(axis=1), 1.0)
    assert mixed.min() >= 0.2 / 3 - 1e-12


def _vote(**fields: Any) -> Feedback:
    return Feedback(**{"request_id": "r", "kind": "score", "value": 0.5, **fields})


@pytest.mark.parametrize(
    ("events", "quality", "cost"),
    [
        ([], np.nan, np.nan),
        ([_vote(value=0.25)], 0.25, np.nan),
        ([_vote(value=0.2), _vote(value=0.8)], 0.8, np.nan),  # revised
        ([_vote(feedback_id="a"), _vote(value=0.8, feedback_id="b"), _vote(feedback_id="a")], 0.8, np.nan),
        ([_vote(value=0.0, source="a"), _vote(value=1.0, source="b")], 0.5, np.nan),
        ([_vote(value=0.25), Feedback(request_id="r", kind="withdraw")], np.nan, np.nan),
        ([_vote(value=0.25), Feedback(request_id="r", kind="withdraw"), _vote(value=1.0)], 1.0, np.nan),
        ([_vote(value=0.25, voter="a"), Feedback(request_id="r", kind="withdraw", voter="b")], 0.25, np.nan),
        ([_vote(value=0.25), Feedback(request_id="r", kind="usage", cost_usd=2.0)], 0.25, 2.0),
        ([_vote(value=0.25, model="served")], 0.25, np.nan),
        ([_vote(value=0.25, model="another")], np.nan, np.nan),
        ([_vote(value=0.25, request_id="another")], np.nan, np.nan),
    ],
)  # fmt: skip
def test_feedback_settles_by_slots(events: list[Feedback], quality: float, cost: float) -> None:
    votes = Votes()
    for event in events:
        votes.add(event)
    votes.settle()
    key = request_key("r")
    got = votes.look_up([[key, served_key(key, "served")]])[0]
    np.testing.assert_array_equal(got[:2], [quality, cost])


def test_a_kind_can_be_picked() -> None:
    votes = Votes("thumb")
    votes.add(_vote(value=0.5))
    votes.add(_vote(kind="thumb", value=True))
    votes.settle()
    assert votes.look_up([[request_key("r")]])[0, 0] == 1.0


def test_decisions_that_were_not_drawn_are_left_out_and_counted(written, tmp_path: Path) -> None:
    _, decisions, events = written
    rows = [json.loads(one.value) for one in decisions[:60]]
    rows[3]["mode"] = "shadow"
    rows[4] |= {"reason": "stale", "propensity": None}
    rows[5] |= {"reason": "none-eligible: request", "model": None, "propensity": None}
    changed = [
        OutputRecord(one.key, json.dumps(row).encode(), one.headers)
        for one, row in zip(decisions, rows, strict=False)
    ]
    log = ExportedLog(write_lines(tmp_path / "log", [*changed, changed[7]], events))
    assert sum(map(len, log.batches())) == 57
    assert log.left_out == {"shadow": 1, "stale": 1, "none-eligible": 1, "repeated": 1}


def _broken(tmp_path: Path, written: Any, **fields: Any) -> ExportedLog:
    _, decisions, events = written
    row = {**json.loads(decisions[0].value), **fields}
    one = OutputRecord(b"r-0", json.dumps(row).encode(), decisions[0].headers)
    return ExportedLog(write_lines(tmp_path / "log", [one, *decisions[1:]], events))


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.5, None])
def test_a_propensity_outside_of_0_to_1_is_refused(written, tmp_path: Path, propensity: float) -> None:
    with pytest.raises(DataSetError, match=r"propensity of decision 0-0 is .*expected a number in \(0, 1\]"):
        list(_broken(tmp_path, written, propensity=propensity).batches())


def test_a_row_that_is_no_decision_is_refused(written, tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="not a decision"):
        list(_broken(tmp_path, written, fallbacks=3).batches())


def test_a_damaged_header_is_refused(written, tmp_path: Path) -> None:
    _, decisions, events = written
    bad = OutputRecord(b"r-0", decisions[0].value, [("banditroute", b"no")])
    log = ExportedLog(write_lines(tmp_path / "log", [bad], events))
    with pytest.raises(DataSetError, match="header of decision 0-0 cannot be read"):
        list(log.batches())


def test_objectives_need_headers_and_others_do_not(written, tmp_path: Path) -> None:
    folder, decisions, events = written
    rows = [json.loads(one.value) for one in decisions]
    (tmp_path / "decisions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "feedback.jsonl").write_text("\n".join(map(json.dumps, events)))
    log = ExportedLog(tmp_path)
    with pytest.raises(DataSetError, match="carry no header"):
        evaluate(log, Objective(((1.0, 1.0),)))
    options = EvaluationOptions(replicates=100, logged_floor=0.3)
    without, with_headers = (
        evaluate(log, Uniform(), options),
        evaluate(ExportedLog(folder), Uniform(), options),
    )
    assert without["log"]["predictions"] == "running means"
    for name in ("ips", "snips"):
        one = without["estimates"]["quality"][name]["value"]
        assert one == pytest.approx(with_headers["estimates"]["quality"][name]["value"], rel=1e-12)


@pytest.mark.parametrize(
    ("decisions", "feedback", "sentence"),
    [
        (None, None, "holds no decisions"),
        ([], None, "holds no feedback"),
        ([], [{"request_id": "r"}], "holds no valid feedback"),
        ([], [{"request_id": "r", "kind": "score", "value": 1}], "no decision with a propensity"),
    ],
)
def test_an_empty_log_is_refused(tmp_path: Path, decisions: Any, feedback: Any, sentence: str) -> None:
    for name, rows in (("decisions", decisions), ("feedback", feedback)):
        if rows is not None:
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataSetError, match=sentence):
        evaluate(ExportedLog(tmp_path), Uniform())


def test_a_log_without_any_quality_is_refused(written, tmp_path: Path) -> None:
    _, decisions, events = written
    rows = [{"request_id": event["request_id"], "kind": "usage", "cost_usd": 1.0} for event in events]
    rows[0]["value"] = float("nan")
    write_lines(tmp_path, decisions, [])
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "feedback.parquet")
    (tmp_path / "feedback.jsonl").unlink()
    with pytest.raises(DataSetError, match="no decision of the log has a quality"):
        evaluate(ExportedLog(tmp_path), Uniform())


def test_what_is_not_json_or_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "feedback.jsonl").write_text("{not json")
    (tmp_path / "decisions.jsonl").write_text("")
    with pytest.raises(DataSetError, match="line 1 is not JSON"):
        list(ExportedLog(tmp_path).batches())
    (tmp_path / "feedback.jsonl").unlink()
    (tmp_path / "feedback.parquet").write_text("{not parquet")
    with pytest.raises(DataSetError, match="cannot be read as parquet"):
        list(ExportedLog(tmp_path).batches())


@pytest.mark.embedded
@pytest.mark.asyncio
async def test_a_log_is_fetched_from_a_broker(written, tmp_path: Path, embedded_bootstrap: str) -> None:
    _, decisions, events = written
    topics = {"decisions": "ope-decisions", "feedback": "ope-feedback"}
    config = from_dict({**DOCUMENT, "kafka": {"bootstrap_servers": embedded_bootstrap, "topics": topics}})
    client = KafkaClient(config)
    await client.start()
    try:
        await client.append("ope-decisions", 0, decisions[:300])
        await client.append(
            "ope-feedback", 0, [OutputRecord(None, json.dumps(event).encode()) for event in events[:300]]
        )
    finally:
        await client.stop()
    done = await fetch(config, tmp_path / "out")
    assert (done["decisions"], done["feedback"], done["rejected"]) == (300, 300, 0)
    (batch,) = ExportedLog(tmp_path / "out").batches()
    assert len(batch) == 300
    assert batch.predicted


@pytest.mark.asyncio
async def test_topics_that_are_not_there_are_named(tmp_path: Path) -> None:
    config = from_dict(DOCUMENT)
    with pytest.raises(TopicError, match=r"topic 'banditroute.decisions' does not exist"):
        await export_log(MemoryBroker().client(), config, tmp_path / "out")
