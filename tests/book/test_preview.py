"""Previews of what links lead to: by pointer and by keyboard, without a request, and every word of them a text."""

import html
from pathlib import Path

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from look import SERIOUS

ROOT = Path(__file__).parents[2]
ENTRY = 'A. <b>Author</b>. "A title" <img src=x onerror="window.hacked=1">. 2022.'
PICTURE = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
PAGE = f"""<!doctype html><html lang=en><meta charset=utf-8><title>A page</title><style>body {{ background: var(--gb-paper); color: var(--pst-color-text-base, #ced6dd) }} a {{ color: inherit }}</style><style>%s</style><body><main><article class=bd-article>
<p><a href="bibliography.html#id1" title="{html.escape(ENTRY)}">Author, 2022</a>, <a href="#fig">Figure 1</a>, <a href="#figure-grain">figure</a>,
<a href="#equation-cfg">(1)</a>, <a href="#section">a section</a>, <a href="other.html#fig">another page's</a></p>
<figure id=fig><img id=one alt="A picture" loading=lazy src="{PICTURE}"><figcaption><p>Figure 1 A &lt;i&gt;caption&lt;/i&gt;.<a class=headerlink href="#fig">#</a></p><button>Show pixels</button></figcaption></figure>
<div id=figure-grain></div><div class=cell><figure id=id5><div class=samples><span>w = 1</span><img alt="Samples" src="{PICTURE}"></div><figcaption><p>Figure 2 Samples.</p></figcaption></figure></div>
<div class=math id=equation-cfg><span class=eqno>(1)</span><mjx-container display=true>x = y</mjx-container></div>
<section id=section>words</section><div style="height: 2000px"></div></article></main><script>%s</script>"""
LINKS = {
    "Author, 2022": ENTRY,
    "Figure 1": "Figure 1 A <i>caption</i>.",
    "figure": "w = 1 Figure 2 Samples.",
    "(1)": "x = y",
}


@pytest.fixture
def page(browser, tmp_path, request):
    style, script = (ROOT / "book" / name for name in ("_static/custom.css", "_assets/js/preview.js"))
    file = tmp_path / "page.html"
    file.write_text(PAGE % (style.read_text(), script.read_text()))
    context = browser.new_context(**getattr(request, "param", {}))
    page = context.new_page()
    page.goto(file.as_uri())
    yield page
    assert page.evaluate("window.hacked ?? null") is None
    context.close()


def words(page) -> str:
    return " ".join(page.locator("#preview").inner_text().split())


def link(page, name):
    return page.get_by_role("link", name=name, exact=True)


@pytest.mark.parametrize("name", LINKS)
def test_a_pointer_on_a_link_shows_what_it_leads_to_as_text_and_leaves_with_it(page, name):
    link(page, name).hover()
    page.wait_for_selector("#preview:not([hidden])")
    assert words(page) == LINKS[name]
    assert page.locator("#preview :is([id], button, b, i, [src='x'])").count() == 0
    assert page.locator("#preview img").count() == (name in ("Figure 1", "figure"))
    page.locator("#preview").hover()  # where it stays
    page.wait_for_timeout(300)
    assert page.locator("#preview").is_visible()
    page.mouse.move(900, 600)
    page.wait_for_selector("#preview", state="hidden")


@pytest.mark.parametrize("name", LINKS)
def test_the_keyboard_opens_it_and_escape_closes_it(page, name):
    for _ in range([*LINKS].index(name) + 1):
        page.keyboard.press("Tab")
    assert words(page) == LINKS[name]
    assert link(page, name).get_attribute("aria-describedby") == "preview"
    assert link(page, name).get_attribute("title") is None
    page.keyboard.press("Escape")
    assert page.locator("#preview").is_hidden()
    assert link(page, name).get_attribute("aria-describedby") is None


@pytest.mark.parametrize("name", ["a section", "another page's"])
def test_a_link_to_anything_else_shows_nothing(page, name):
    link(page, name).hover()
    page.wait_for_timeout(300)
    assert page.locator("#preview").is_hidden()


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 390, "height": 300}}, {"viewport": {"width": 1280, "height": 900}}], indirect=True
)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_stays_within_the_window_and_is_open_to_anyone(page, theme):
    page.evaluate("(theme) => document.documentElement.dataset.theme = theme", theme)
    page.evaluate(AXE_SCRIPT)
    for name in LINKS:
        link(page, name).focus()
        page.keyboard.press("Shift")  # focus that is seen
        link(page, name).hover()
        page.wait_for_selector("#preview:not([hidden])")
        box, size = page.locator("#preview").bounding_box(), page.viewport_size
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size["width"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(SERIOUS) == []


@pytest.mark.parametrize("corner", ["top: 0; left: 0", "top: 0; right: 0", "bottom: 0; left: 0", "bottom: 0; right: 0"])
def test_in_every_corner_of_a_scrolled_window_it_stays_within_and_beside_its_link(page, corner):
    page.evaluate("(at) => { scrollTo(0, 500); document.querySelector('a').style = `position: fixed; ${at}`; }", corner)
    link(page, "Author, 2022").hover()
    page.wait_for_selector("#preview:not([hidden])")
    box, at = page.locator("#preview").bounding_box(), link(page, "Author, 2022").bounding_box()
    size = page.viewport_size
    assert 0 <= box["x"] <= size["width"] - box["width"]
    assert box["width"] > 400  # as wide as its words are, not pressed against an edge
    assert 0 <= box["y"] <= size["height"] - box["height"]
    assert min(abs(box["y"] - at["y"] - at["height"]), abs(box["y"] + box["height"] - at["y"])) < 2


def test_a_finger_opens_none_on_a_device_that_has_a_mouse_too(page):
    for pointer, hidden in (("touch", True), ("mouse", False)):
        link(page, "Figure 1").dispatch_event("pointerenter", {"pointerType": pointer})
        page.wait_for_timeout(300)
        assert page.locator("#preview").is_hidden() == hidden


@pytest.mark.parametrize("page", [{"has_touch": True, "is_mobile": True}], indirect=True)
def test_a_device_that_knows_touch_alone_has_none(page):
    link(page, "Figure 1").tap()
    page.wait_for_timeout(300)
    assert page.locator("#preview").count() == 0
    assert link(page, "Author, 2022").get_attribute("title") == ENTRY
