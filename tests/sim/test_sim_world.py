"""The invented world of the demo."""

import numpy as np
import pytest

from banditroute.catalog import Catalog
from banditroute.events import decode_request
from banditroute_sim import DemoWorld
from banditroute_sim.demo.world import TASKS
from banditroute_sim.traffic.wire import Wire
from tests.sim.decider import config_for

WORLD = DemoWorld(seed=3)
DRAWN = WORLD.draw(4000)


def test_the_same_seed_draws_the_same_world_and_another_seed_another_one():
    again, other = DemoWorld(seed=3).draw(4000), DemoWorld(seed=4).draw(4000)
    assert again.prompts == DRAWN.prompts
    assert (again.quality == DRAWN.quality).all()
    assert (again.latency_s == DRAWN.latency_s).all()
    assert other.prompts != DRAWN.prompts


def test_everything_drawn_is_within_bounds():
    assert ((DRAWN.quality > 0.0) & (DRAWN.quality < 1.0)).all()
    for matrix in (DRAWN.cost, DRAWN.input_tokens, DRAWN.output_tokens, DRAWN.latency_s):
        assert matrix.shape == (4000, 5)
        assert (np.isfinite(matrix) & (matrix > 0.0)).all()
    assert set(DRAWN.tasks) == set(TASKS)


def test_costs_follow_from_prices_and_tokens():
    assert Catalog(WORLD.models).names == DRAWN.models
    assert DRAWN.catalog() == WORLD.models
    price_in, price_out = np.array(list(DRAWN.prices().values())).T
    assert DRAWN.cost == pytest.approx(
        (DRAWN.input_tokens * price_in + DRAWN.output_tokens * price_out) / 1e6
    )


def test_no_model_is_right_for_every_task_and_the_best_mix_of_tasks_beats_every_fixed_model():
    tasks, utility = np.array(DRAWN.tasks), DRAWN.utility(WORLD.cost_weight)
    means = np.array([utility[tasks == task].mean(axis=0) for task in TASKS])
    assert len(set(means.argmax(axis=1))) >= 3
    shares = np.array([(tasks == task).mean() for task in TASKS])
    assert shares @ means.max(axis=1) > DRAWN.best_fixed(WORLD.cost_weight).mean_utility + 0.03


def test_a_longer_prompt_is_harder_for_a_small_model_than_for_a_large_one():
    length = np.log([len(prompt) for prompt in DRAWN.prompts])
    slope = [np.polyfit(length, DRAWN.quality[:, column], 1)[0] for column in (0, 3)]
    assert slope[0] < slope[1] < 0.0


def test_every_prompt_is_a_valid_request():
    wire = Wire(DRAWN, "r", "demo", config_for(WORLD.models, ""))
    for number in range(200):
        request = decode_request(wire.request(number)[1])
        assert request.prompt == DRAWN.prompts[number]
        assert request.tags == (DRAWN.tasks[number],)
