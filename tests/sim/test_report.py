"""Reports: self-contained, escaped, the numbers beside the figures."""

import csv
import math
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from banditroute.errors import ConfigError
from banditroute_sim.report import (
    Line,
    Page,
    Point,
    Table,
    calibration,
    check_writable,
    frontier,
    histogram,
    lines,
    shares,
    write_csv,
)
from banditroute_sim.report.figures import mix_frontier
from tests.sim.pages import check_rendering, parse

EVIL = '</svg><script src="https://example.org/x.js">alert(1)</script>$\\frac{\x00"\'&--> 日本'


def full_page(name="model"):
    page = Page(f"Report on {name}", f"What {name} is worth.")
    page.section(name)
    page.verdict(name, good=True)
    page.sentence(name)
    page.table(Table(("who", name), [(name, 1.0), ("other", None), ("third", math.nan)], name))
    x = np.arange(0.0, 1000.0)
    drawn = [Line(name, x, x, x - 1.0, x + 1.0), Line("flat", x[::7], 0.0 * x[::7])]
    for log in (False, True):
        page.figure(lines(drawn, xlabel="round", ylabel="regret", caption=name, marks=[500.0], log=log))
    models = [Point(name, 1.0, 0.5), Point("b", 2.0, 0.8), Point("c", 3.0, 0.6)]
    page.figure(frontier([Point(name, 1.5, 0.9, 0.01)], models, caption=name))
    page.figure(shares(x, {name: x * 0.0 + 0.25, "b": x * 0.0 + 0.75}, xlabel="round", caption=name))
    page.figure(calibration(x / 1000.0, x / 1000.0, caption=name))
    page.figure(histogram(x / 1000.0, xlabel="propensity", caption=name))
    return page


@pytest.fixture(scope="module")
def evil():
    return full_page(EVIL).html()


def test_a_page_parses_and_every_element_is_closed(evil):
    parser = parse(evil)
    assert parser.tags.count("svg") == parser.tags.count("figure") == 6
    assert parser.tags.count("table") == 7


def test_a_page_has_no_script_and_refers_to_nothing_outside(evil):
    parser = parse(evil)
    assert not {"script", "link", "img", "iframe", "object", "base", "style"} & set(parser.tags) - {"style"}
    for name, value in parser.attributes:
        assert not name.startswith("on")
        if name in {"href", "src", "xlink:href", "clip-path", "style", "xmlns"}:
            assert "//" not in (value or "")
            assert name != "href" or value.startswith("#")
    css = re.search(r"<style>(.*?)</style>", evil, re.DOTALL).group(1)
    assert "url(" not in css
    assert "@import" not in css
    assert "http" not in full_page().html()


def test_a_page_is_readable_on_a_phone_and_in_the_dark(evil):
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in evil
    assert "prefers-color-scheme:dark" in evil
    assert "viewBox" in evil
    assert not re.search(r"<svg[^>]*\b(width|height)=", evil)


def test_what_comes_from_outside_is_shown_as_it_is(evil):
    text = "".join(parse(evil).words)
    assert EVIL.replace("\x00", "\N{REPLACEMENT CHARACTER}") in text
    assert "\x00" not in evil


def test_drawings_are_well_formed_and_share_no_id(evil):
    found = []
    for svg in re.findall(r"<svg.*?</svg>", evil, re.DOTALL):
        tree = ET.fromstring(svg)
        ids = [node.attrib["id"] for node in tree.iter() if "id" in node.attrib]
        found += ids
        for used in re.findall(r'(?:url\(|href=")#([^)"]*)', svg):
            assert used in ids
    assert len(set(found)) == len(found)


def test_the_same_page_has_the_same_bytes():
    assert full_page().html() == full_page().html()


def test_the_table_under_a_line_holds_its_first_and_last_point():
    x = np.arange(0.0, 1001.0)
    table = lines([Line("a", x, 2.0 * x)], xlabel="round", ylabel="y", caption="c").table
    assert table.rows[0] == [0, 0.0]
    assert table.rows[-1] == [1000, 2000.0]
    assert len(table.rows) == 11


def test_the_mix_frontier_is_the_upper_hull():
    points = [
        Point(str(i), c, q) for i, (c, q) in enumerate([(1, 0.5), (2, 0.55), (3, 0.9), (4, 0.8), (5, 1.0)])
    ]
    assert [p.name for p in mix_frontier(points)] == ["0", "2", "4"]
    figure = frontier([Point("ours", 2.0, 0.8)], points, caption="c")
    assert figure.table.rows[0][4] == pytest.approx(0.1)
    assert figure.table.rows[2][4] == pytest.approx(0.55 - 0.7)


def test_shares_of_many_models_end_in_one_band_and_stay_one():
    x = np.arange(3)
    figure = shares(x, {f"m{k}": np.full(3, 0.02) for k in range(50)}, xlabel="round", caption="c")
    assert len(figure.legend) == 10
    assert sum(figure.table.rows[0][1:]) == pytest.approx(1.0)


def test_figures_of_nothing_are_drawn():
    nothing = np.zeros(0)
    for figure in (
        lines([], xlabel="x", ylabel="y", caption="c"),
        shares(nothing, {"a": nothing}, xlabel="x", caption="c"),
        calibration(nothing, nothing, caption="c"),
        histogram(nothing, xlabel="x", caption="c"),
        frontier([], [], caption="c"),
        lines([Line("a", [0, 1], [math.nan, math.nan])], xlabel="x", ylabel="y", caption="c", log=True),
    ):
        assert "<svg" in figure.html("f")


def test_csv_has_numbers_in_full_and_nothing_where_they_are_unknown(tmp_path):
    file = tmp_path / "a.csv"
    write_csv(file, ("who", "x", "y"), [('a,"b"', 1 / 3, None), ("c", math.nan, 2)])
    with file.open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [["who", "x", "y"], ['a,"b"', repr(1 / 3), ""], ["c", "", "2"]]


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    missing = tmp_path / "missing" / "a.html"
    for write in (
        lambda: Page("t").write(missing),
        lambda: write_csv(missing, (), []),
        lambda: check_writable(missing),
    ):
        with pytest.raises(ConfigError, match=r"cannot write '.*missing"):
            write()
    check_writable(tmp_path / "new.html")
    assert not (tmp_path / "new.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1200, False)])
def test_a_page_fits_a_phone_and_a_desk_and_follows_the_theme(tmp_path, width, dark):
    page = tmp_path / "page.html"
    full_page(EVIL).write(page)
    check_rendering(page, tmp_path / "page.png", width, dark)
