"""What tests do with a page: parse it, and look at it in a headless browser."""

import shutil
import subprocess
from html.parser import HTMLParser

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
