"""Traffic against a stand-in for the engine, on the embedded broker."""

import asyncio
import itertools
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from banditroute.errors import BrokerUnavailable, ConfigError
from banditroute.flow.copying.partitioner import PARTITIONERS, partitions_of
from banditroute_sim import DemoWorld, TrafficOptions, run_traffic
from tests.sim.decider import config_for, deciding

pytestmark = pytest.mark.embedded

DATA = DemoWorld(seed=1).draw(60)
_names = itertools.count()


@pytest.fixture
def config(embedded_bootstrap):
    return config_for(DATA.catalog(), embedded_bootstrap, prefix=f"traffic{next(_names)}.")


def run(config, *, names=DATA.models, copies=1, deaf=0, data=DATA, progress=None, **options):
    async def both():
        async with deciding(config, names, copies, deaf) as decider:
            chosen = TrafficOptions(**{"requests": 100, "run_id": "RUN", "fetch_wait_ms": 5} | options)
            summary = await run_traffic(config, data, chosen, progress)
            await decider.heard(summary.feedback_sent)
            return summary, decider

    return asyncio.run(both())


def test_every_request_is_sent_once_decided_once_and_answered_once(config):
    summary, decider = run(config)
    assert (summary.requests, summary.decisions, summary.feedback_sent) == (100, 100, 100)
    assert (summary.duplicates, summary.undecided, summary.unknown_outcomes) == (0, 0, 0)
    names = [request.request_id for _, request in decider.requests]
    assert sorted(names) == [f"RUN-{number:06d}" for number in range(1, 101)]
    assert sum(summary.share.values()) == pytest.approx(1.0)
    assert summary.latency_ms["p50"] <= summary.latency_ms["p99"]


def test_a_request_carries_prompt_tag_and_tokens_of_its_row_and_rows_repeat(config):
    _, decider = run(config)
    for _, request in decider.requests:
        row = (int(request.request_id[4:]) - 1) % len(DATA)
        assert request.prompt == DATA.prompts[row]
        assert request.tags == (DATA.tasks[row],)
        assert request.input_tokens == DATA.input_tokens[row, 0]


def test_feedback_is_the_recorded_outcome_of_the_decided_model(config):
    _, decider = run(config, names=("medium",), requests=60)
    column = DATA.models.index("medium")
    answers = {feedback.request_id: feedback for _, feedback in decider.feedback}
    assert len(answers) == len(decider.feedback)
    for name, feedback in answers.items():
        row = int(name[4:]) - 1
        assert (feedback.kind, feedback.source, feedback.feedback_id) == ("score", "traffic", f"{name}-score")
        assert feedback.value == DATA.quality[row, column]
        assert feedback.cost_usd == DATA.cost[row, column]
        assert feedback.output_tokens == DATA.output_tokens[row, column]
        assert feedback.input_tokens == DATA.input_tokens[row, column]
        assert feedback.latency_ms == pytest.approx(1e3 * DATA.latency_s[row, column])
        assert feedback.decision_id is not None
        assert feedback.model is None


def test_what_the_data_set_does_not_know_is_left_out(config):
    nothing = np.full_like(DATA.cost, np.nan)
    data = replace(
        DATA, input_tokens=nothing, output_tokens=nothing, latency_s=nothing, tasks=(None,) * len(DATA)
    )
    _, decider = run(config, data=data, requests=20)
    for _, request in decider.requests:
        assert request.input_tokens is None
        assert request.tags == ()
    for _, feedback in decider.feedback:
        assert feedback.input_tokens is feedback.output_tokens is feedback.latency_ms is None
        assert feedback.value is not None


@pytest.mark.parametrize(("requests_by", "feedback_by"), [("murmur2", "crc32"), ("crc32", "murmur2")])
def test_keys_go_where_the_partitioner_sends_them(config, requests_by, feedback_by):
    _, decider = run(config, partitioner=requests_by, feedback_partitioner=feedback_by)
    for partitioner, events in ((requests_by, decider.requests), (feedback_by, decider.feedback)):
        names = [event.request_id.encode() for _, event in events]
        expected = partitions_of(names, 4)[:, PARTITIONERS.index(partitioner)]
        assert [partition for partition, _ in events] == expected.tolist()


def test_feedback_may_name_the_request_alone(config):
    _, decider = run(config, send_decision_id=False, requests=20)
    assert all(feedback.decision_id is None for _, feedback in decider.feedback)


def test_a_share_of_the_decisions_gets_feedback_and_the_seed_says_which(config):
    first, one = run(config, feedback_share=0.5)
    second, _ = run(config, feedback_share=0.5)
    other, _ = run(config, feedback_share=0.5, seed=1)
    assert 30 <= first.feedback_sent <= 70
    assert {feedback.request_id for _, feedback in one.feedback} <= {r.request_id for _, r in one.requests}
    assert first.feedback_sent == second.feedback_sent
    assert other.requests == 100
    nothing, _ = run(config, feedback_share=0.0)
    assert nothing.feedback_sent == 0


def test_later_decisions_of_a_request_are_duplicates_and_get_no_feedback(config):
    summary, _ = run(config, copies=2, feedback_delay=(0.05, 0.1))
    assert (summary.decisions, summary.duplicates, summary.feedback_sent) == (100, 100, 100)


def test_decisions_on_other_peoples_requests_are_ignored(config):
    async def two():
        options = {"requests": 50, "fetch_wait_ms": 5}
        async with deciding(config, DATA.models):
            return await asyncio.gather(
                *(
                    run_traffic(config, DATA, TrafficOptions(run_id=name, **options))
                    for name in ("RUN", "RUN-0", "RUN-000001")
                )
            )

    for summary in asyncio.run(two()):
        assert (summary.decisions, summary.duplicates, summary.undecided) == (50, 0, 0)


def test_a_decision_without_a_known_outcome_gets_no_feedback(config):
    summary, _ = run(config, names=("nano", None, "stranger"))
    assert summary.decisions == 100
    assert summary.feedback_sent == 100 - summary.unknown_outcomes
    assert 0 < summary.unknown_outcomes < 100


def test_requests_left_undecided_end_the_run_and_are_counted(config):
    summary, _ = run(config, deaf=10, stall_timeout=2.0)
    assert (summary.requests, summary.decisions, summary.undecided) == (100, 90, 10)
    assert summary.feedback_sent == 90


def test_no_more_than_the_bound_is_in_flight(config):
    summary, _ = run(config, deaf=1000, max_in_flight=7, stall_timeout=0.5)
    assert (summary.requests, summary.decisions) == (7, 0)
    assert summary.mean_quality is None


def test_a_run_may_end_by_the_clock(config):
    summary, _ = run(config, requests=100_000, rate=200.0, seconds=0.3)
    assert 0 < summary.requests == summary.decisions < 100_000


def test_progress_is_told_up_to_the_end(config):
    seen = []
    run(config, progress=lambda tally: seen.append((tally.sent, tally.decided, tally.feedback_sent)))
    assert seen[-1] == (100, 100, 100)


def test_events_follow_the_field_maps(config):
    mapped = msgspec.structs.replace(
        config,
        requests=msgspec.structs.replace(
            config.requests, field_map={"request_id": "$.meta.id", "prompt": "$.text"}
        ),
        feedback=msgspec.structs.replace(
            config.feedback, field_map={"value": "$.rating", "request_id": "$.re"}
        ),
    )
    summary, decider = run(mapped, requests=20)
    assert summary.feedback_sent == 20
    assert {request.prompt for _, request in decider.requests} <= set(DATA.prompts)


def test_a_data_set_of_other_models_is_refused(config):
    other = msgspec.structs.replace(config, models=(msgspec.structs.replace(config.models[0], name="huge"),))
    with pytest.raises(ConfigError, match="knows none of the models of the catalog: it knows nano"):
        asyncio.run(run_traffic(other, DATA, TrafficOptions(requests=1)))


def test_a_broker_that_is_not_there_is_named():
    config = config_for(DATA.catalog(), "127.0.0.1:1")
    with pytest.raises(BrokerUnavailable, match=r"no broker answers at 127\.0\.0\.1:1"):
        asyncio.run(run_traffic(config, DATA, TrafficOptions(requests=1)))
