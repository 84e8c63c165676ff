"""How one begins: version, help, completion, a configuration for what is there, a demo to go on with."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib import metadata, resources

import click
import pytest
import typer
from typer.testing import CliRunner

from banditroute.cli import app, main
from banditroute.cli.examples import EXAMPLES
from banditroute.config import load, parse
from tests.data_sets import data_set

ROOT = typer.main.get_command(app)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(monkeypatch, capsys, *arguments):
    """Run a command that is refused; return the sentence."""
    monkeypatch.setattr(sys, "argv", ["banditroute", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    return capsys.readouterr().err


def commands(group=ROOT, before=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield " ".join((*before, name))


def parsed(words):
    """Parse a command line as far as running it; return its parameters."""
    context, command = click.Context(ROOT, info_name="banditroute"), ROOT
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
        if hasattr(command, "commands"):
            context = click.Context(command, parent=context, info_name=name)
    return command.make_context(name, list(words), parent=context).params


def test_the_version_is_that_of_the_installed_package():
    assert run("--version").stdout == f"banditroute {metadata.version('banditroute')}\n"


def test_python_m_is_the_command():
    done = subprocess.run([sys.executable, "-m", "banditroute", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"banditroute {metadata.version('banditroute')}\n",
        "",
    )


def test_completion_can_be_installed():
    assert "--install-completion" in run("--help").stdout


@pytest.mark.parametrize("verb", list(commands()))
def test_every_command_shows_an_example_of_itself(verb):
    _, found, examples = run(*verb.split(), "--help").stdout.partition("Examples:\n")
    assert found
    assert f"banditroute {verb}" in examples


@pytest.mark.parametrize(("verb", "rest"), [(verb, rest) for verb, rest, _ in EXAMPLES])
def test_an_example_is_a_command_line_that_is_accepted(verb, rest):
    parsed([*verb.split(), *shlex.split(rest.partition(">")[0])])


def test_init_writes_the_models_and_prices_of_a_data_set():
    folder = data_set("zeroeval")
    done = run("init", "--dataset", folder)
    meta = json.loads((folder / "meta.json").read_text())
    config = parse(done.stdout)
    assert list(config.catalog.names) == meta["default_arms"]
    for model in config.models:
        assert [model.input_usd_per_mtok, model.output_usd_per_mtok] == meta["prices_per_m"][model.name]


def test_init_names_what_is_not_a_data_set(tmp_path, monkeypatch, capsys):
    assert f"{tmp_path / 'no'} is not a folder" in refused(
        monkeypatch, capsys, "init", "--dataset", tmp_path / "no"
    )


def test_init_with_neither_prints_the_annotated_example_as_it_is():
    assert run("init").stdout == resources.files("banditroute").joinpath("example.toml").read_text()


def test_init_writes_models_at_their_list_prices():
    done = run("init", "--prices", "gpt-4o", "--prices", "openai/gpt-4o-mini", "--prices", "gpt-4o")
    config = parse(done.stdout)
    assert list(config.catalog.names) == ["gpt-4o", "openai/gpt-4o-mini"]
    assert all(0.0 < model.input_usd_per_mtok < model.output_usd_per_mtok for model in config.models)


@pytest.mark.parametrize(
    ("wrong", "near"), [("gpt-4o-mni", "gpt-4o-mini"), ("openai/gpt-4o-mni", "gpt-4o-mini")]
)
def test_a_model_without_a_list_price_is_named_with_its_nearest(wrong, near, monkeypatch, capsys):
    sentence = refused(monkeypatch, capsys, "init", "--prices", wrong)
    assert f"'{wrong}'" in sentence
    assert near in sentence


@pytest.mark.parametrize("wrong", ["qqqqzzzz", "", "/", "no one/knows"])
def test_a_model_like_no_other_is_named_with_what_to_do(wrong, monkeypatch, capsys):
    assert "by hand" in refused(monkeypatch, capsys, "init", "--prices", wrong) or wrong


def test_a_data_set_and_list_prices_exclude_each_other(tmp_path, monkeypatch, capsys):
    assert "exclude" in refused(monkeypatch, capsys, "init", "--dataset", tmp_path, "--prices", "gpt-4o")


@pytest.mark.embedded
@pytest.mark.slow
def test_what_a_demo_keeps_can_be_checked_and_replayed(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "kept"
    done = run("demo", "--requests", 60, "--rate", 0, "--seed", 3, "--keep", folder, "--json")
    assert json.loads(done.stdout)["kept"] == str(folder)
    config = load(folder / "banditroute.toml")
    assert config.learning.seed == 3
    assert config.objective.cost_weight == 20.0
    assert run("check", "-c", folder / "banditroute.toml", "--offline").exit_code == 0
    replayed = run(
        "replay", "-c", folder / "banditroute.toml", "--dataset", folder / "data", "--shuffles", 2, "--json"
    )
    result = json.loads(replayed.stdout)
    assert result["prompts"] == 60
    assert set(result["models"]) == set(config.catalog.names)
    assert "is there already" in refused(monkeypatch, capsys, "demo", "--requests", 1, "--keep", folder)
