"""The bound on work between two awaits: what is done at once is bounded by counts, and what takes longer is told."""

from __future__ import annotations

import pytest

from banditroute.runtime.tasks import partition_task
from banditroute.runtime.tasks.meter import WORK_SECONDS, Meter
from tests.brokers import Broker
from tests.runtime.harness import Stream


def test_the_longest_stretch_of_each_kind_is_told_and_those_above_the_bound_are_counted() -> None:
    meter = Meter()
    for seconds in (0.001, 0.006, 0.005, 0.009):
        meter.took("derive", seconds)
    with meter.work("publish"):
        pass
    with pytest.raises(ZeroDivisionError), meter.work("copy"):
        _ = 1 // 0
    assert meter.longest["derive"] == 0.009
    assert meter.over["derive"] == 2
    assert set(meter.longest) == {"derive", "publish", "copy"}


@pytest.mark.parametrize("microseconds", [5, 50, 150])
def test_a_batch_becomes_as_large_as_can_be_decided_within_the_bound(microseconds: int) -> None:
    meter = Meter()
    for _ in range(50):
        meter.decided(1, 0.01)  # one alone says little
        meter.decided(meter.batch, 1e-6 * microseconds * meter.batch)
    assert meter.batch * 1e-6 * microseconds == pytest.approx(WORK_SECONDS, rel=0.1)
    for _ in range(50):
        meter.decided(meter.batch, 1.0)
    assert meter.batch == 16  # and no smaller


@pytest.mark.asyncio
async def test_no_batch_is_larger_than_its_bound_and_what_was_measured_is_in_the_engine(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition_task, "JOURNAL_CHUNK", 20)
    monkeypatch.setattr(Meter, "batch", 16)
    stream = Stream(broker)
    async with stream.users():
        async with stream.running(init=True) as engine:
            sizes = []
            decide, took = engine.learning.decide, engine.learning.meter.took

            def counted(partition, records, now):  # type: ignore[no-untyped-def]
                sizes.append(len(records))
                return decide(partition, records, now)

            engine.learning.decide = counted  # type: ignore[method-assign]
            ids = await stream.request(300)
            await stream.until(lambda: engine.stats.decisions == 300)
            await stream.feedback(ids)
            await stream.settled(engine, 300)
            assert max(sizes) <= 16
            assert sum(sizes) == 300
            took("derive", 0.0)
            assert {"decide", "journal", "observe", "derive", "copy"} <= set(engine.learning.meter.longest)
        assert await stream.prove_one_decision_each(ids) == 0
