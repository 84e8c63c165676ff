"""What tests do with a page: parse it, and look at it in a headless browser."""

import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Balance(HTMLParser):
    """Parses a document, checks that elements close in order, and keeps tags, attributes and text."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.words = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def parse(html):
    parser = Balance()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def check_rendering(page, picture, width, dark=False, height=1600):
    """Check that a browser of this width shows a page in its theme, with nothing in the margin; return the pixels."""
    pixels = screenshot(page, picture, width, dark, height)
    assert pixels.shape[1] == width
    edge = pixels[:, -8:, :3].reshape(-1, 3)
    assert (edge == edge[0]).all()  # nothing sticks out into the margin
    assert (edge[0].mean() < 0.3) == dark
    drawn = (np.abs(pixels[..., :3] - edge[0]).max(axis=2) > 0.3).mean()
    assert 0.01 < drawn < 0.5
    colours = {tuple(row) for row in (pixels[..., :3].reshape(-1, 3) * 255).astype(int)[::7].tolist()}
    assert any(b > r + 60 for r, _, b in colours)  # our own line is blue in both themes
    return pixels


def screenshot(page, picture, width, dark=False, height=1600):
    """Return what a browser shows of a page, float[height, width, 4]; skip where there is no browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    import matplotlib.image

    theme = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *theme,
         f"--window-size={width},{height}", f"--screenshot={picture}", page.as_uri()],
        capture_output=True, check=True, timeout=200,
    )  # fmt: skip
    return matplotlib.image.imread(picture)
