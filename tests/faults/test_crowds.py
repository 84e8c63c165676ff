"""Honest misconfigurations in bulk: feedback on requests that never come, and voters who take everything back."""

from __future__ import annotations

import json

import pytest

from tests.brokers import Broker
from tests.runtime.harness import PARTITIONS, Stream, counts

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]

ORPHANS, WITHDRAWALS, VOTES = 12_000, 100, 400


async def test_a_crowd_of_orphans_and_withdrawals_holds_up_no_decision_and_is_accounted_for(
    broker: Broker,
) -> None:
    stream = Stream(broker, requests={"partitioner": "murmur2"}, feedback={"max_parked": 2_000})
    async with stream.users():
        async with stream.running(init=True) as engine:
            ids = await stream.request(VOTES)
            await stream.until(lambda: engine.stats.decisions == VOTES)
            await stream.feedback(ids, voter="u", feedback_id="once")
            await stream.settled(engine, VOTES)
            await stream.feedback([f"never-{number}" for number in range(ORPHANS)])
            for number in range(WITHDRAWALS):
                event = {"kind": "withdraw", "voter": "u" if number == 0 else f"nobody-{number}"}
                where = number % PARTITIONS
                await stream.raw(stream.names.feedback, where, json.dumps(event).encode())
            ids += await stream.request(100)
            await stream.until(lambda: engine.stats.decisions == VOTES + 100)
            await stream.until(lambda: sum(engine.ledger()[name] for name in ("parked", "orphan")) == ORPHANS)
            await stream.until(
                lambda: engine.ledger()["revised"] + engine.ledger()["elsewhere"] == PARTITIONS * WITHDRAWALS
            )
            assert engine.ledger()["parked"] <= PARTITIONS * 2_000
        assert await stream.prove_one_decision_each(ids) == 0
        ledger = counts(await stream.prove())
        assert ledger["applied"] == VOTES
        assert ledger["revised"] >= 1
