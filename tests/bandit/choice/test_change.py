"""A change is told soon, and what does not change is left alone, also where votes come in heaps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from banditroute.bandit.choice.change import LEAST_VOTES, ChangeDetector, verdict
from banditroute.bandit.choice.policy import Policy
from banditroute.bandit.evidence.evidence import Evidence, ModelKey, RowKey, Vote
from banditroute.bandit.posterior.posterior import ModelPrior
from banditroute.flow.judge import Judge, Sight

A, B = ModelKey("a"), ModelKey("b")


def alarms(detector, residuals, variance=1.0):
    return [t for t, r in enumerate(residuals) if detector.observe(A, 1.0, float(r), variance)]


def test_noise_alone_raises_an_alarm_less_than_once_in_a_hundred_thousand_votes():
    rng = np.random.default_rng(0)
    assert len(alarms(ChangeDetector(), rng.normal(size=100_000))) <= 1


@pytest.mark.parametrize(("shift", "within"), [(1.0, 60), (-1.0, 60), (0.5, 250), (-0.5, 250), (0.4, 400)])
def test_a_shift_up_or_down_is_told_within_a_bound(shift, within):
    rng = np.random.default_rng(1)
    delays = []
    for _ in range(20):
        detector = ChangeDetector()
        assert not alarms(detector, rng.normal(size=500))
        delays.append(alarms(detector, rng.normal(size=2000) + shift)[0])
    assert np.median(delays) <= within


def test_one_wild_vote_is_no_change():
    detector = ChangeDetector()
    assert not detector.observe(A, 1.0, 1e9, 1.0)
    assert not detector.observe(A, 1.0, -1e9, 1.0)


def test_votes_taken_together_say_the_same_as_one_by_one_where_no_error_is_shared():
    one, many = ChangeDetector(), ChangeDetector()
    alone = next(t for t in range(1, 100) if one.observe(A, 1.0, 0.8, 1.0))
    heaps = next(t for t in range(1, 100) if many.observe(A, 4.0, 3.2, 4.0))
    assert math.ceil(alone / 4) == heaps


def test_an_error_that_all_votes_share_is_no_change():
    # a thousand votes, each half a standard deviation off, when the expectation itself was that uncertain
    assert not ChangeDetector().observe(A, 1000.0, 500.0, 1000.0 + 0.25 * 1000.0**2)
    assert ChangeDetector().observe(A, 1000.0, 500.0, 1000.0)


def test_models_are_watched_apart_and_an_alarm_starts_again():
    detector = ChangeDetector()
    for _ in range(13):
        assert not detector.observe(A, 1.0, 1.4, 1.0)
        assert not detector.observe(B, 1.0, 0.0, 1.0)
    assert any(detector.observe(A, 1.0, 1.4, 1.0) for _ in range(5))
    assert not detector.observe(A, 1.0, 1.4, 1.0)


def test_a_verdict_keeps_one_vote_of_the_model_and_at_most_a_quarter_of_the_others():
    factors = verdict(A, {A: 400.0, B: 200.0, ModelKey("c"): 10_000.0})
    assert factors == {"a": 1 / 400.0, "b": 0.25, "c": 0.01}
    assert verdict(A, {A: LEAST_VOTES, B: 200.0}) is None
    assert verdict(A, {B: 200.0}) is None


def test_a_verdict_sums_the_generations_of_a_name():
    factors = verdict(ModelKey("a", 1), {A: 100.0, ModelKey("a", 1): 100.0})
    assert factors == {"a": 1 / 200.0}


def learned(evidence, rng, votes, quality, d=3, key=A):
    for _ in range(votes):
        x = np.array([1.0, *(rng.normal(size=d - 1) / 2)], np.float32)
        evidence.add(key, x, Vote(quality=quality + 0.3 * rng.normal()), 1.0)


def test_looks_at_evidence_find_a_change_however_many_votes_lie_between():
    for heap in (1, 7, 50, 400):
        rng = np.random.default_rng(heap)
        policy = Policy([ModelPrior(A), ModelPrior(B)], [(0, 1), (1, 3)])
        judge, evidence = Judge(), Evidence(3)
        found = []
        judge.look(Sight(evidence.copy(), 0, 0.0), policy.derived, {})
        for quality in (0.8, 0.2):
            for _ in range(400 // heap):
                learned(evidence, rng, heap, quality)
                found += judge.look(Sight(evidence.copy(), 0, 0.0), policy.derived, {"a": 3})
            assert bool(found) == (quality == 0.2), heap
        assert found[0].model == "a"
        assert found[0].epoch == 4


def test_a_new_kind_of_request_that_is_answered_all_at_once_is_no_change():
    rng = np.random.default_rng(2)
    policy = Policy([ModelPrior(A), ModelPrior(B)], [(0, 1), (1, 3)])
    judge, evidence = Judge(), Evidence(3)
    for count, x, quality in ((500, [1.0, 1.0, 0.0], 0.9), (1500, [1.0, 0.0, 1.0], 0.6)):
        for _ in range(count):
            evidence.add(A, np.array(x, np.float32), Vote(quality=quality + 0.2 * rng.normal()), 1.0)
        assert judge.look(Sight(evidence.copy(), 0, 0.0), policy.derived, {}) == []


def test_evidence_that_a_verdict_scaled_in_between_is_no_change():
    rng = np.random.default_rng(5)
    policy = Policy([ModelPrior(A)], [(0, 1), (1, 3)])
    judge, evidence = Judge(), Evidence(3)
    learned(evidence, rng, 300, 0.8)
    judge.look(Sight(evidence.copy(), 0, 0.0), policy.derived, {})
    evidence.scale(RowKey(*A), 0.01)
    learned(evidence, rng, 100, 0.2)
    assert judge.look(Sight(evidence.copy(), 1, 0.0), policy.derived, {}) == []


def test_forgetting_in_between_is_no_change():
    rng = np.random.default_rng(6)
    policy = Policy([ModelPrior(A)], [(0, 1), (1, 3)])
    judge, evidence = Judge(), Evidence(3)
    decay = 0.0
    for _ in range(200):
        evidence.scale(RowKey(*A), 0.95)
        decay += math.log(0.95)
        learned(evidence, rng, 20, 0.8)
        assert judge.look(Sight(evidence.copy(), 0, decay), policy.derived, {}) == []
