"""The pages that the verbs write, as a headless browser shows them on a phone and on a desk."""

import pytest
from typer.testing import CliRunner

from banditroute.cli import app
from tests.sim.pages import check_rendering, parse
from tests.sim.sets import configuration, data_set

SIMULATE = (
    "--scenario",
    "flip",
    "--seeds",
    "2",
    "--horizon",
    "600",
    "--policy",
    "banditroute",
    "--policy",
    "ucb1",
)
TALL = 12_000  # the whole page: what sticks out far below is seen, too


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each verb, of small runs of models with long names."""
    folder = tmp_path_factory.mktemp("pages")
    data = data_set(folder / "data", 150, ("small", "large", "other"))
    config = configuration(folder / "c.toml", ("small", "large", "other"), "budget_usd_per_request = 0.001")
    commands = {
        "simulate": SIMULATE,
        "replay": ("--dataset", data, "-c", config, "--shuffles", 2),
        "replay-two": ("--dataset", data, "--shuffles", 2, "--model", "small", "--model", "large"),
        "rehearse": ("-c", config, "--log", data, "--runs", 4, "--requests", 150, "--requests-per-day", 50),
    }
    written = {}
    for name, flags in commands.items():
        written[name] = folder / f"{name}.html"
        verb = name.partition("-")[0]
        result = CliRunner().invoke(app, [verb, *map(str, flags), "--report", str(written[name])])
        assert result.exit_code in {0, 1}, result.exception
    return written


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simulate", "replay", "replay-two", "rehearse"])
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1200, False)])
def test_the_page_of_a_verb_fits_a_phone_and_a_desk_and_follows_the_theme(pages, tmp_path, name, width, dark):
    check_rendering(pages[name], tmp_path / "page.png", width, dark, TALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simulate", "replay", "replay-two", "rehearse"])
def test_the_page_of_a_verb_holds_all_it_shows(pages, name):
    text = pages[name].read_text(encoding="utf-8")
    page = parse(text)
    assert "http" not in text
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not {"src", "onload", "onerror"} & {key for key, _ in page.attributes}
    assert page.tags.count("svg") > 3
    assert page.tags.count("table") > page.tags.count("svg")  # the numbers of each figure, and more
