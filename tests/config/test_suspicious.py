"""What a configuration allows and hardly anybody means is told, and what is usual is not."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest
from typer.testing import CliRunner

from banditroute.cli import app
from banditroute.config import from_dict, parse, warnings

SMALL = {"name": "small", "input_usd_per_mtok": 0.15, "output_usd_per_mtok": 0.6}
LARGE = {"name": "large", "input_usd_per_mtok": 2.5, "output_usd_per_mtok": 10.0}


def told(objective: dict[str, Any] | None = None, models: Any = (SMALL, LARGE)) -> list[str]:
    """The warnings of a configuration."""
    return warnings(from_dict({"models": list(models), "objective": objective or {}}))


@pytest.mark.parametrize("key", ["input_usd_per_mtok", "output_usd_per_mtok"])
@pytest.mark.parametrize("price", [1.5e-7, 0.00099, 1000.1, 2_500.0])
def test_a_price_in_another_unit_is_named(key: str, price: float) -> None:
    (text,) = told(models=[SMALL, {**LARGE, key: price}])
    assert text.startswith(f"models[1].{key} of 'large': {price:g} USD per million tokens")


@pytest.mark.parametrize("price", [0.0, 0.001, 75.0, 1000.0])
def test_a_usual_price_and_a_free_model_are_not(price: float) -> None:
    assert told(models=[SMALL, {**LARGE, "input_usd_per_mtok": price, "output_usd_per_mtok": price}]) == []


@pytest.mark.parametrize(
    ("objective", "key", "what"),
    [
        ({"budget_usd_per_request": 1e-6}, "budget_usd_per_request", "cannot be met"),
        ({"budget_usd_per_request": 5.0}, "budget_usd_per_request", "can never bind"),
        ({"budget_usd_per_day": 50.0, "requests_per_day": 1e9}, "budget_usd_per_day", "cannot be met"),
        ({"budget_usd_per_day": 500.0, "requests_per_day": 100.0}, "budget_usd_per_day", "can never bind"),
        ({"cost_weight": 1e-4}, "cost_weight", "leaves cost without effect"),
        ({"cost_weight": 1e6}, "cost_weight", "leaves quality without effect"),
        ({"latency_weight": 1000.0}, "latency_weight", "leaves quality without effect"),
    ],
)
def test_a_budget_or_a_weight_without_effect_is_named(
    objective: dict[str, float], key: str, what: str
) -> None:
    (text,) = told(objective)
    assert text.startswith(f"objective.{key}")
    assert what in text


@pytest.mark.parametrize(
    "objective",
    [
        {},
        {"cost_weight": 100.0},
        {"latency_weight": 0.1},
        {"budget_usd_per_request": 0.002},
        {"budget_usd_per_day": 50.0, "requests_per_day": 20_000},
        {"quality_floor": 0.95, "reference": "large"},
    ],
)
def test_what_is_usual_is_not_told(objective: dict[str, Any]) -> None:
    assert told(objective) == []


def test_models_that_all_cost_the_same_leave_budget_weight_and_floor_without_effect() -> None:
    models = [{**SMALL, "input_usd_per_mtok": 0.0, "output_usd_per_mtok": 0.0, "name": name} for name in "ab"]
    for objective in (
        {"cost_weight": 100.0},
        {"budget_usd_per_request": 0.01},
        {"quality_floor": 0.9, "reference": "a"},
    ):
        assert len(told(objective, models)) == 1


def test_a_paused_model_makes_no_budget_look_usual() -> None:
    assert told({"budget_usd_per_request": 5e-4}, [{**SMALL, "paused": True}, LARGE]) == []
    (text,) = told({"budget_usd_per_request": 1e-4}, [{**SMALL, "paused": True}, LARGE])
    assert "cannot be met" in text


def test_the_example_has_no_warnings() -> None:
    assert warnings(parse(resources.files("banditroute").joinpath("example.toml").read_text())) == []


def test_check_tells_warnings_in_its_text_and_as_json(tmp_path: Any) -> None:
    file = tmp_path / "banditroute.toml"
    file.write_text(
        '[[models]]\nname = "small"\ninput_usd_per_mtok = 1.5e-7\noutput_usd_per_mtok = 6e-7\n', "utf-8"
    )
    text = CliRunner().invoke(app, ["check", "--offline", "-c", str(file)])
    assert text.exit_code == 0
    assert text.stdout.count("warning: models[0].") == 2
    found = json.loads(CliRunner().invoke(app, ["check", "--offline", "--json", "-c", str(file)]).stdout)
    assert found["ok"] is True
    assert len(found["warnings"]) == 2
