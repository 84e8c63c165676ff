"""What the engine promises, on every broker tier."""

from __future__ import annotations

import json

import pytest

from banditroute.errors import TopicError
from banditroute.runtime.broker.ports import TopicSpec
from banditroute.runtime.state.topics import topic_specs
from tests.brokers import Broker
from tests.runtime.harness import PARTITIONS, Stream, counts

pytestmark = pytest.mark.asyncio


async def test_every_request_gets_one_decision_and_all_feedback_is_applied(broker: Broker) -> None:
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            ids = await stream.request(300)
            await stream.until(lambda: engine.stats.decisions == 300)
            await stream.feedback(ids)
            await stream.settled(engine, 300)
        assert await stream.prove_one_decision_each(ids) == 0
        assert counts(await stream.prove())["applied"] == 300
        decision = (await stream.decisions())[0]
        assert decision["model"] in ("small", "medium", "large")
        assert set(decision["fallbacks"]) | {decision["model"]} == {"small", "medium", "large"}
        assert 0 < decision["propensity"] <= 1
        assert decision["expected"]["cost_usd"] > 0


async def test_learning_goes_on_after_a_restart(broker: Broker) -> None:
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            first = await stream.request(60)
            await stream.until(lambda: engine.stats.decisions == 60)
            await stream.feedback(first[:30])
            await stream.settled(engine, 30)
        second = await stream.request(60)
        await stream.feedback(first[30:])
        async with stream.running() as engine:
            await stream.until(lambda: engine.stats.decisions == 60)
            await stream.feedback(second)
            await stream.until(lambda: engine.ledger()["applied"] == 120)
        assert await stream.prove_one_decision_each(first + second) == 0
        assert counts(await stream.prove())["applied"] == 120


async def test_feedback_that_comes_before_its_decision_waits_for_it(broker: Broker) -> None:
    stream = Stream(broker, requests={"partitioner": "murmur2"})
    async with stream.users():
        async with stream.running(init=True) as engine:
            await stream.feedback(["early-1", "early-2"])
            await stream.settled(engine, 2)
            assert engine.ledger()["parked"] == 2
            await stream.request(request_id="early-1")
            await stream.request(request_id="early-2")
            await stream.until(lambda: engine.ledger()["applied"] == 2)
        assert counts(await stream.prove())["applied"] == 2


async def test_a_request_sent_again_gets_its_first_decision_and_the_headers_of_the_repeat(
    broker: Broker,
) -> None:
    stream = Stream(
        broker,
        kafka={"topics": {"reply": broker.prefix + "reply"}},
        requests={"header_pass_through": ["correlation"], "partitioner": "murmur2"},
    )
    async with stream.users():
        async with stream.running(init=True) as engine:
            await stream.request(request_id="same", headers=[("correlation", b"1")])
            await stream.request(request_id="same", headers=[("correlation", b"2")])
            await stream.until(lambda: engine.stats.repeats == 1)
            await stream.request(request_id="same", headers=[("correlation", b"3")])
            await stream.until(lambda: engine.stats.repeats == 2)
        async with stream.running() as engine:  # what was decided before it came is known to it
            await stream.request(request_id="same", headers=[("correlation", b"4")])
            await stream.until(lambda: engine.stats.repeats == 1)
            assert engine.stats.poison == 0
        assert await stream.prove_one_decision_each(["same"]) == 0
        assert await stream.dead_letters() == []
        reply = stream.names.reply or ""
        replies = [r for p in range(PARTITIONS) for r in await stream.records(reply, p)]
        assert {r.value for r in replies} == {replies[0].value}
        assert {r.key for r in replies} == {b"same"}
        assert {tuple(r.headers) for r in replies} == {(("correlation", b"%d" % n),) for n in (1, 2, 3, 4)}


async def test_another_request_under_an_id_in_use_is_a_dead_letter_and_ids_are_per_tenant(
    broker: Broker,
) -> None:
    stream = Stream(
        broker,
        kafka={"topics": {"reply": broker.prefix + "reply"}},
        requests={"partitioner": "murmur2"},
    )
    async with stream.users():
        async with stream.running(init=True) as engine:
            await stream.request(request_id="used", tenant="a")
            await stream.until(lambda: engine.stats.decisions == 1)
            await stream.request(request_id="used", tenant="a", prompt="Something else, and longer")
            await stream.request(request_id="used", tenant="b", prompt="Something else, and longer")
            await stream.request(request_id="used")
            await stream.request(request_id="used", tenant="b", tags=["another tag"])
            await stream.until(lambda: engine.stats.decisions == 3)
            await stream.until(lambda: engine.stats.repeats == 2)
            assert engine.stats.poison == 2
            await stream.feedback(["used"], tenant="b")
            await stream.feedback(["used"], tenant="a")
            await stream.feedback(["used"], tenant="c")
            await stream.settled(engine, 3)
        ledger = counts(await stream.prove())
        assert ledger["applied"] == 2
        assert ledger["foreign"] == 1
        letters = [one for one in await stream.dead_letters() if one["topic"] == stream.names.requests]
        assert [one["request_id"] for one in letters] == ["used", "used"]
        assert all(one["reason"].startswith("repeated: ") for one in letters)
        reply = stream.names.reply or ""
        replies = [
            json.loads(r.value or b"") for p in range(PARTITIONS) for r in await stream.records(reply, p)
        ]
        refused = [one for one in replies if one["model"] is None]
        assert [one["reason"].startswith("refused: repeated: ") for one in refused] == [True, True]
        assert len({one["decision_id"] for one in replies}) == 5


async def test_votes_may_be_revised_repeated_and_withdrawn(broker: Broker) -> None:
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            ids = await stream.request(20)
            await stream.until(lambda: engine.stats.decisions == 20)
            await stream.feedback(ids, feedback_id="one", voter="u")
            await stream.feedback(ids, feedback_id="one", voter="u")
            await stream.feedback(ids, feedback_id="two", voter="u", value=1.0)
            await stream.feedback(ids[:5], kind="withdraw", voter="u")
            await stream.feedback(ids[:5], kind="withdraw", voter="nobody")
            await stream.settled(engine, 70)
        ledger = counts(await stream.prove())
        assert ledger["applied"] == 20
        assert ledger["duplicate"] == 20
        assert ledger["revised"] == 25
        assert ledger["rejected"] == 5


async def test_all_that_a_voter_said_can_be_withdrawn_at_once(broker: Broker) -> None:
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            ids = await stream.request(20)
            await stream.until(lambda: engine.stats.decisions == 20)
            await stream.feedback(ids, voter="u")
            await stream.feedback(ids, voter="w", kind="thumb")
            await stream.settled(engine, 40)
            await stream.raw(stream.names.feedback, 0, b'{"kind":"withdraw","voter":"u"}')
            await stream.until(lambda: engine.ledger()["revised"] == PARTITIONS)
            await stream.raw(stream.names.feedback, 1, b'{"kind":"withdraw","voter":"u"}')
            await stream.until(lambda: engine.ledger()["elsewhere"] == PARTITIONS)
        results = await stream.prove()
        assert (counts(results)["applied"], counts(results)["revised"]) == (40, PARTITIONS)
        votes = dict.fromkeys(("score", "thumb"), 0.0)
        for result in results.values():
            for (_, _, kind), row in result.rows.items():
                votes[kind] += row[0]
        assert votes == {"score": 0.0, "thumb": 20.0}
        assert await stream.dead_letters() == []


@pytest.mark.parametrize("requests_by", ["murmur2", "crc32"])
@pytest.mark.parametrize("configured", ["auto", "right"])
async def test_feedback_is_never_orphaned_whatever_partitioners_the_producers_use(
    broker: Broker, requests_by: str, configured: str
) -> None:
    feedback_by = {"murmur2": "crc32", "crc32": "murmur2"}[requests_by]
    partitioner = "auto" if configured == "auto" else requests_by
    stream = Stream(broker, requests={"partitioner": partitioner})
    async with stream.users():
        async with stream.running(init=True) as engine:
            ids = await stream.request(80, partitioner=requests_by)
            await stream.until(lambda: engine.stats.decisions == 80)
            await stream.feedback(ids, partitioner=feedback_by)
            await stream.until(lambda: engine.ledger()["applied"] == 80)
        ledger = counts(await stream.prove())
        assert ledger["applied"] == 80
        assert ledger.get("orphan", 0) == 0
        assert await stream.alerts() == []


async def test_a_wrong_partitioner_setting_raises_an_alert_and_still_loses_nothing(broker: Broker) -> None:
    stream = Stream(broker, requests={"partitioner": "murmur2"})
    async with stream.users():
        async with stream.running(init=True) as engine:
            ids = await stream.request(60, partitioner="crc32")
            await stream.until(lambda: engine.stats.decisions == 60)
            await stream.feedback(ids)
            await stream.until(lambda: engine.ledger()["applied"] == 60)
        assert [alert["kind"] for alert in await stream.alerts()] == ["partitioner"]
        assert counts(await stream.prove())["applied"] == 60


async def test_feedback_with_a_decision_id_goes_straight_home(broker: Broker) -> None:
    stream = Stream(broker, requests={"partitioner": "any"})
    async with stream.users():
        async with stream.running(init=True) as engine:
            await stream.request(20)
            await stream.until(lambda: engine.stats.decisions == 20)
            for decision in await stream.decisions():
                await stream.feedback([decision["request_id"]], decision_id=decision["decision_id"])
            await stream.until(lambda: engine.ledger()["applied"] == 20)
            assert engine.ledger()["parked"] == 0
        journal = sum([len(await stream.records(stream.names.journal, p)) for p in range(PARTITIONS)])
        assert journal == 20 + counts(await stream.prove())["decided"]


async def test_prices_set_on_the_control_topic_act_on_the_next_decision(broker: Broker) -> None:
    stream = Stream(broker, objective={"cost_weight": 100.0})
    async with stream.users():
        async with stream.running(init=True) as engine:
            await stream.request(8)
            await stream.until(lambda: engine.stats.decisions == 8)
            edit = {
                "edit": "price",
                "model": "small",
                "input_usd_per_mtok": 900.0,
                "output_usd_per_mtok": 900.0,
            }
            await stream.raw(stream.names.control, 0, json.dumps(edit).encode())
            await stream.until(lambda: engine.ledger()["control"] == PARTITIONS)
            after = await stream.request(8)
            await stream.until(lambda: engine.stats.decisions == 16)
        chosen = {decision["request_id"]: decision["model"] for decision in await stream.decisions()}
        assert all(chosen[request_id] != "small" for request_id in after)
        await stream.prove()


async def test_a_model_paused_on_the_control_topic_gets_nothing_until_it_is_resumed(broker: Broker) -> None:
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            batches = []
            for number, paused in enumerate((True, False), 1):
                edit = {"edit": "pause", "model": "small", "paused": paused}
                await stream.raw(stream.names.control, 0, json.dumps(edit).encode())
                await stream.until(lambda number=number: engine.ledger()["control"] == number * PARTITIONS)
                batches.append(await stream.request(60))
                await stream.until(lambda number=number: engine.stats.decisions == 60 * number)
        chosen = {decision["request_id"]: decision["model"] for decision in await stream.decisions()}
        assert {chosen[request_id] for request_id in batches[0]} == {"medium", "large"}
        assert {chosen[request_id] for request_id in batches[1]} == {"small", "medium", "large"}
        await stream.prove()


async def test_a_model_that_drifts_on_one_tag_is_an_alert_that_names_both(broker: Broker) -> None:
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            await stream.until(lambda: engine.learning.drift is not None)
            for tag, value, rounds in (
                ("code", 1.0, 3),
                ("chat", 1.0, 3),
                ("chat", 0.2, 3),
                ("code", 1.0, 1),
            ):
                for _ in range(rounds):
                    before = engine.stats.decisions, engine.ledger()["applied"]
                    ids = await stream.request(100, allow=["small"], tags=[tag])
                    await stream.until(lambda before=before: engine.stats.decisions == before[0] + 100)
                    await stream.feedback(ids, value=value)
                    await stream.until(lambda before=before: engine.ledger()["applied"] == before[1] + 100)
            await stream.until(lambda: engine.ledger()["applied"] == 1000)
        drifted = [alert["message"] for alert in await stream.alerts() if alert["kind"] == "drift"]
        assert drifted
        assert all(
            "'small'" in message and "'chat'" in message and " fell by " in message for message in drifted
        )


async def test_a_model_that_changes_is_a_verdict_that_every_partition_applies(broker: Broker) -> None:
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:

            async def vote(count: int, value: float) -> None:
                ids = await stream.request(count, allow=["small"])
                await stream.until(lambda: engine.stats.decisions % count == 0 and engine.stats.decisions > 0)
                before = engine.ledger()["applied"]
                await stream.feedback(ids, value=value)
                await stream.until(lambda: engine.ledger()["applied"] == before + count)

            await vote(200, 0.9)
            before = engine.learning.policy.posterior.n.sum()
            seen = engine.learning.looks
            await stream.until(lambda: engine.learning.looks > seen)
            await vote(200, 0.1)
            await stream.until(lambda: engine.ledger()["control"] >= PARTITIONS)
            await stream.until(lambda: engine.learning.policy.posterior.n.sum() < before)
        (edit, *_) = [
            json.loads(record.value or b"") for record in await stream.records(stream.names.control, 0)
        ]
        assert edit["edit"] == "changed"
        assert edit["model"] == "small"
        assert edit["epoch"] == 1
        assert 0.0 < edit["factors"]["small"] < 0.1
        assert "change" in {alert["kind"] for alert in await stream.alerts()}
        await stream.prove()


@pytest.mark.needs("admin")
async def test_a_missing_topic_is_named(broker: Broker) -> None:
    stream = Stream(broker)
    with pytest.raises(TopicError, match=r"topic '.*requests' does not exist: create it, or run"):
        await stream.engine().start()


async def test_a_state_topic_without_genesis_is_refused(broker: Broker) -> None:
    stream = Stream(broker)
    async with stream.users():
        if broker.admin:
            await stream.create()
            names = {**stream.document["kafka"]["topics"], "state": broker.prefix + "fresh"}
            other = Stream(broker, kafka={"topics": names})
            await stream.user.create(
                [s for s in topic_specs(other.config, 32) if s.name == other.names.state]
            )
            stream = other
        with pytest.raises(TopicError, match="holds no genesis record: run `banditroute topics create"):
            await stream.engine().start()


@pytest.mark.needs("admin")
async def test_unequal_partition_counts_are_named(broker: Broker) -> None:
    stream = Stream(broker)
    async with stream.users():
        await stream.user.create([TopicSpec(stream.names.journal, 2, {})])
        await stream.user.create(
            [
                TopicSpec(getattr(stream.names, n), 4, {})
                for n in ("requests", "decisions", "state", "feedback")
            ]
        )
        await stream.user.create(
            [TopicSpec(getattr(stream.names, n), 1, {}) for n in ("control", "dead_letter", "alerts")]
        )
        with pytest.raises(TopicError, match=r"journal' has 2 partitions, but '.*requests' has 4"):
            await stream.engine().start()
