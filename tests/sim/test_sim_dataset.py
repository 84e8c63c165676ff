"""`DataSet.load`: what is read, what is left out, and one sentence for everything that is wrong."""

import builtins
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from banditroute.errors import DataSetError, MissingExtraError
from banditroute_sim import DataSet
from tests.data_sets import data_set

PROMPTS = {"id": ["a", "b", "c"], "prompt": ["one", "two", "three"], "task": ["x", None, "y"]}
OUTCOMES = {
    "id": ["a", "a", "b", "b", "c", "c"],
    "model": ["big", "small"] * 3,
    "quality": [1.0, 0.5, 0.8, 0.0, 0.6, 0.4],
    "cost_usd": [0.032, 0.0012, 0.064, 0.0024, 0.034, 0.0014],
    "input_tokens": [10.0, 10.0, 20.0, 20.0, 20.0, 20.0],
    "output_tokens": [1000.0, 1000.0, 2000.0, 2000.0, 1000.0, 1000.0],
}


def folder(tmp_path, prompts=PROMPTS, outcomes=OUTCOMES, meta=None):
    for name, columns in (("prompts", prompts), ("outcomes", outcomes)):
        if columns is not None:
            pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    if meta is not None:
        (tmp_path / "meta.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))
    return tmp_path


def changed(columns, **news):
    return {name: values for name, values in (columns | news).items() if values is not None}


def test_rows_follow_prompts_and_columns_follow_models(tmp_path):
    data = DataSet.load(folder(tmp_path))
    assert data.models == ("big", "small")
    assert data.prompts == ("one", "two", "three")
    assert data.tasks == ("x", None, "y")
    assert data.quality.tolist() == [[1.0, 0.5], [0.8, 0.0], [0.6, 0.4]]
    assert data.input_tokens.tolist() == [[10.0, 10.0], [20.0, 20.0], [20.0, 20.0]]
    assert np.isnan(data.latency_s).all()
    assert len(data) == 3
    assert data.dropped == 0


def test_the_order_of_outcomes_does_not_matter(tmp_path):
    backwards = {name: values[::-1] for name, values in OUTCOMES.items()}
    assert DataSet.load(folder(tmp_path, outcomes=backwards)).cost[0, 0] == 0.032


def test_a_prompt_with_an_unknown_outcome_of_a_chosen_model_is_dropped_and_counted(tmp_path):
    outcomes = changed(OUTCOMES, quality=[1.0, 0.5, None, 0.0, 0.6, 0.4])
    data = DataSet.load(folder(tmp_path, outcomes=outcomes))
    assert data.ids == ("a", "c")
    assert data.dropped == 1
    assert len(DataSet.load(tmp_path, models=["small"])) == 3


def test_an_unknown_number_of_tokens_stays_unknown(tmp_path):
    data = DataSet.load(
        folder(tmp_path, outcomes=changed(OUTCOMES, input_tokens=[None, None, 20.0, None, 5.0, 9.0]))
    )
    assert np.isnan(data.input_tokens[0]).all()
    assert np.isnan(data.request_tokens[0])
    assert data.request_tokens[1:].tolist() == [20.0, 5.0]


def test_default_arms_are_the_models_unless_others_are_asked_for(tmp_path):
    path = folder(tmp_path, meta={"default_arms": ["small"]})
    assert DataSet.load(path).models == ("small",)
    assert DataSet.load(path, models=["big", "small"]).models == ("big", "small")


def test_columns_that_may_be_absent_may_be_absent(tmp_path):
    data = DataSet.load(
        folder(
            tmp_path,
            changed(PROMPTS, task=None),
            changed(OUTCOMES, input_tokens=None, output_tokens=None),
        )
    )
    assert data.tasks == (None, None, None)
    assert np.isnan(data.request_tokens).all()


def test_baselines_are_those_of_the_matrices(tmp_path):
    data = DataSet.load(folder(tmp_path))
    assert data.best_fixed(0.0).to_dict() == {
        "model": "big",
        "mean_quality": pytest.approx(0.8),
        "mean_cost_usd": pytest.approx(0.13 / 3),
        "mean_utility": pytest.approx(0.8),
    }
    assert data.best_fixed(100.0).model == data.cheapest(100.0).model == "small"
    assert data.uniform(1.0).mean_utility == pytest.approx(data.utility(1.0).mean())
    assert data.uniform(1.0).model is None
    assert data.oracle_utility(10.0) == pytest.approx(np.mean([0.68, 0.16, 0.386]))
    assert data.oracle_utility(0.0, np.array([2, 2, 0])) == pytest.approx((0.6 + 0.6 + 1.0) / 3)


def test_declared_prices_come_first_and_the_others_follow_from_costs_and_tokens(tmp_path):
    data = DataSet.load(folder(tmp_path, meta={"prices_per_m": {"small": [7, 8]}}))
    assert data.prices()["small"] == (7.0, 8.0)
    assert data.prices()["big"] == pytest.approx((200.0, 30.0))
    assert [model.output_usd_per_mtok for model in data.catalog()] == pytest.approx([30.0, 8.0])


@pytest.mark.parametrize("tokens", [None, [10.0] * 6])
def test_a_price_that_does_not_follow_is_an_error_and_not_a_guess(tmp_path, tokens):
    data = DataSet.load(
        folder(tmp_path, outcomes=changed(OUTCOMES, input_tokens=tokens, output_tokens=tokens))
    )
    with pytest.raises(DataSetError, match=r"does not tell the prices of 'big'.*prices_per_m"):
        data.prices()


@pytest.mark.parametrize(
    ("prompts", "outcomes", "meta", "sentence"),
    [
        (None, OUTCOMES, None, r"prompts\.parquet is missing"),
        (PROMPTS, None, None, r"outcomes\.parquet is missing"),
        (changed(PROMPTS, prompt=None), OUTCOMES, None, r"prompts\.parquet has no column 'prompt'.*id, task"),
        (PROMPTS, changed(OUTCOMES, quality=None), None, r"outcomes\.parquet has no column 'quality'"),
        (PROMPTS, changed(OUTCOMES, quality=["good"] * 6), None, "column 'quality' is not numeric"),
        (
            PROMPTS,
            changed(OUTCOMES, quality=[None] * 6),
            None,
            "knows no quality of the model 'big'|not numeric",
        ),
        (PROMPTS, changed(OUTCOMES, quality=[float("nan")] * 6), None, "knows no quality of the model 'big'"),
        (
            PROMPTS,
            changed(OUTCOMES, quality=[1.5] * 6),
            None,
            r"quality holds 1\.5; expected numbers from 0 to 1",
        ),
        (PROMPTS, changed(OUTCOMES, cost_usd=[-1.0] * 6), None, "cost_usd holds -1.0"),
        (PROMPTS, changed(OUTCOMES, cost_usd=[float("inf")] * 6), None, "cost_usd holds inf"),
        (changed(PROMPTS, id=["a", "a", "b"]), OUTCOMES, None, "the id 'a' twice"),
        (changed(PROMPTS, id=["a", None, "b"]), OUTCOMES, None, "column 'id' is empty in row 1"),
        (changed(PROMPTS, task=["x", "y", "z" * 300]), OUTCOMES, None, "more than 256 bytes"),
        (PROMPTS, changed(OUTCOMES, model=["big"] * 6), None, "the outcome of 'big' on 'a' twice"),
        (
            {"id": pa.array([], pa.string()), "prompt": pa.array([], pa.string())},
            OUTCOMES,
            None,
            "no prompts",
        ),
        (
            PROMPTS,
            changed(OUTCOMES, quality=[1.0, None, None, 0.0, None, 0.4]),
            None,
            "no prompt with quality and cost_usd of all of big, small",
        ),
        (PROMPTS, OUTCOMES, "{", r"meta\.json cannot be read as JSON"),
        (PROMPTS, OUTCOMES, [], r"meta\.json is not a JSON object"),
        (PROMPTS, OUTCOMES, {"default_arms": "big"}, "default_arms is not a list"),
        (
            PROMPTS,
            OUTCOMES,
            {"default_arms": ["huge"]},
            "no outcomes of the model 'huge': it knows big, small",
        ),
        (PROMPTS, OUTCOMES, {"prices_per_m": {"big": 3}}, "prices_per_m is not an object"),
        (PROMPTS, OUTCOMES, {"prices_per_m": {"big": [-1, 3]}}, "price that is not between"),
    ],
)
def test_what_is_wrong_is_one_sentence_that_names_it(tmp_path, prompts, outcomes, meta, sentence):
    with pytest.raises(DataSetError, match=sentence) as caught:
        DataSet.load(folder(tmp_path, prompts, outcomes, meta))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_file_that_is_not_parquet_are_named(tmp_path):
    with pytest.raises(DataSetError, match="nowhere is not a folder"):
        DataSet.load(tmp_path / "nowhere")
    (folder(tmp_path) / "outcomes.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataSetError, match=r"outcomes\.parquet cannot be read as parquet"):
        DataSet.load(tmp_path)


@pytest.mark.parametrize(
    ("models", "sentence"), [(["huge"], "'huge'"), ([], "no model was chosen"), (["big", "big"], "twice")]
)
def test_models_asked_for_must_be_there_once(tmp_path, models, sentence):
    with pytest.raises(DataSetError, match=sentence):
        DataSet.load(folder(tmp_path), models=models)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"Data sets.*banditroute\[sim\]"):
        DataSet.load(folder_without_writing(tmp_path))


def folder_without_writing(tmp_path):
    (tmp_path / "prompts.parquet").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "rows", "models"), [("zeroeval", 1924, 12), ("paretobandit", 1785, 3), ("routellm", 8339, 2)]
)
def test_real_data_sets_are_read_as_they_are(name, rows, models):
    path = data_set(name)
    data = DataSet.load(path)
    assert (len(data), len(data.models), data.dropped) == (rows, models, 0)
    assert data.cheapest(0.0).mean_cost_usd <= data.uniform(0.0).mean_cost_usd
    assert data.best_fixed(10.0).mean_utility <= data.oracle_utility(10.0)
    assert all(task for task in data.tasks)
    declared, data.__dict__["listed_prices"] = data.prices(), {}
    fitted = data.prices()
    for model in data.models:
        assert fitted[model] == pytest.approx(declared[model], rel=1e-3)
