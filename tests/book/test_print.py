"""The book on paper: light whatever the theme, with its heading, and nothing cut at the right."""

import re
from pathlib import Path

import pytest

from guidebook.report.tables import table

ROOT = Path(__file__).parents[2]
SHEET = {"width": 718, "height": 1000}  # A4 less a centimetre on each side
WIDE = table([f"a long heading {i}" for i in range(9)], [["some-name-of-a-run/profile" for _ in range(9)]]).text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_printed_page_is_light_and_its_tables_are_whole(browser, theme):
    page = browser.new_page(viewport=SHEET)
    style = (ROOT / "book/_static/custom.css").read_text()
    page.set_content(
        f'<html data-theme="{theme}"><style>body {{ background: var(--pst-color-background); margin: 0 }}</style><style>{style}</style>'
        f'<div class="bd-sidebar-primary">x</div><article class="bd-article"><h1>Title</h1>{WIDE}<pre>{"code " * 60}</pre></article></html>'
    )
    page.emulate_media(media="print")
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert [int(x) for x in re.findall(r"\d+", ground)] == [255, 255, 255]
    ends = page.evaluate(
        "() => [...document.querySelectorAll('article *')].map((e) => e.getBoundingClientRect().right)"
    )
    assert max(ends) <= SHEET["width"]
    assert page.locator("h1").is_visible()
    assert not page.locator(".bd-sidebar-primary").is_visible()
    page.close()
