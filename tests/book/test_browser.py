"""The built book in a real browser, from a folder, with the network off, and with captions that try to break out."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from look import READY, faults, look, pages
from PIL import Image
from safetensors.numpy import load_file

from guidebook.config.params import load

ROOT = Path(__file__).parents[2]
HOSTILE = (
    'A {label} <b>digit</b> </script><script>window.hacked=1</script> "quoted" & <img src=x onerror="window.hacked=1">'
)
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

pytestmark = pytest.mark.timeout(1200)


# All of it in one process: each start of one takes seconds.
BUILD = """
import shutil
from pathlib import Path
from forks import forked_kernels
from guidebook.book import build as module
from guidebook.book.notebook import run_experiment
from guidebook.config.params import load
from guidebook.runs.checked import with_comment
from guidebook.runs.manifest import checksum
from guidebook.runs.recording import record

def sphinx(made=module._sphinx):
    made()
    shutil.copytree(module.SOURCE, Path.cwd() / "source")

module._sphinx = sphinx
with forked_kernels():
    run, _ = run_experiment(load("mnist", "demo"))
    kept = record(run)
    paper = kept.rename(kept.with_name("paper"))
    for file in paper.rglob("params.yml"):
        _, text = file.read_text().split("\\n", 1)  # without its checksum
        file.write_text(with_comment(text.replace("profile: demo", "profile: paper")))
    checksum(paper)
    module.build()
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory, shared, browser) -> Path:
    """A project of its own whose demo is as small as `smoke`, run, recorded once more as `paper`, and built."""
    root = tmp_path_factory.mktemp("project")
    for name in ("params", "notebooks", "book"):
        ignored = shutil.ignore_patterns("_build", "results", ".ipynb_checkpoints", "kernel-*")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    (root / "book/results").mkdir()
    for kept in ("costs.json", "foundations.ipynb", "six-images.json"):
        shutil.copy(ROOT / "book/results" / kept, root / "book/results")
    demo = load("mnist", "smoke").replace(profile="demo", data={"caption": HOSTILE})
    (root / "params/mnist/demo.yml").write_text(demo.yaml())
    runs = shared(root / "runs")
    place = {"GUIDEBOOK_ROOT": str(root), "GUIDEBOOK_RUNS": str(runs), "HF_HUB_OFFLINE": "1"}
    place["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))  # forks
    command = [sys.executable, "-c", BUILD]
    done = subprocess.run(command, env=os.environ | place, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return root


def test_plain_sphinx_builds_the_same_pages_from_the_same_sources(site, tmp_path):
    """The way out of jupyter-book 1."""
    source, program = site / "source", Path(sys.executable)
    for command in (
        [program.with_name("jupyter-book"), "config", "sphinx", source],
        [program.with_name("sphinx-build"), "-W", "-n", "--keep-going", "-q", "-b", "html", source, tmp_path / "html"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    theirs, ours = (pages(folder) for folder in (tmp_path / "html", site / "book/_build/html"))
    assert set(theirs) == set(ours)
    text = theirs["experiments/mnist.html"].read_text()
    assert "Figure 3" in text
    assert "fontawesome.js" not in text


class Visit:
    """A page opened from its file: what it asked for, complained about and shows."""

    def __init__(self, browser, file: Path, viewport: dict):
        self.context = browser.new_context(viewport=viewport)
        self.page, self.outside, self.complaints = self.context.new_page(), [], []
        self.page.route("**/*", self._route)
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("requestfailed", lambda r: self.complaints.append(f"{r.url}: {r.failure}"))
        self.page.goto(file.as_uri(), wait_until="load")
        self.page.evaluate("async () => { if (window.MathJax?.startup) await MathJax.startup.promise; }")
        if self.page.locator("script[type='application/vnd.jupyter.widget-view+json']").count():
            self.page.wait_for_selector("img[src^='blob:']", state="visible")

    def _route(self, route):
        if urlsplit(route.request.url).scheme in ("file", "data", "blob"):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def ask(self, script: str):
        return self.page.evaluate(script)


RAW_MATHS = r"""() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.parentElement.closest("pre, code, script, style") && /\\\(|\\\[|\$\$|\\begin\{/.test(node.data)) found.push(node.data);
  }
  return found;
}"""
LOOK = {
    "hacked": "() => window.hacked ?? null",
    "maths": "() => document.querySelectorAll('.math').length",
    "unrendered": "() => [...document.querySelectorAll('.math')].filter(e => !e.querySelector('mjx-container')).map(e => e.textContent)",
    "errors": "() => [...document.querySelectorAll('mjx-merror, [data-mml-node=merror]')].map(e => e.textContent)",
    "raw": RAW_MATHS,
    "ids": "() => [...document.querySelectorAll('[id]')].map(e => e.id)",
    "links": "() => [...document.querySelectorAll('a[href]')].map(e => e.href)",
    "images": "() => [...document.images].map(e => [e.getAttribute('src').slice(0, 80), e.complete && e.naturalWidth > 0])",
    "text": "() => document.body.innerText",
}


@pytest.fixture(scope="session")
def book(site, browser) -> dict[str, dict]:
    """What the browser saw of every page, by its path in the book."""
    root, seen = site / "book/_build/html", {}
    for file in sorted(root.rglob("*.html")):
        if {"vendor", "_static"} & set(file.relative_to(root).parts) or 'http-equiv="Refresh"' in file.read_text():
            continue
        visit = Visit(browser, file, DESK)
        visit.ask(READY)
        facts = {name: visit.ask(script) for name, script in LOOK.items()}
        visit.page.set_viewport_size(PHONE)
        visit.page.wait_for_timeout(100)
        facts["wide"] = visit.ask(
            "() => [document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]"
        )
        seen[str(file.relative_to(root))] = facts | {"outside": visit.outside, "complaints": visit.complaints}
        visit.context.close()
    return seen


@pytest.fixture(scope="session")
def seen(site, browser) -> dict[str, list[str]]:
    """Faults of every page."""
    return {name: faults(look(browser, file)) for name, file in pages(site / "book/_build/html").items()}


def test_no_page_is_heavy_dim_or_closed_to_anyone(seen):
    assert {name: found for name, found in seen.items() if found} == {}


def of_pages(book: dict[str, dict], fact: str) -> dict:
    """The pages on which a list of faults is not empty."""
    return {page: facts[fact] for page, facts in book.items() if facts[fact]}


def test_every_chapter_is_a_page(book):
    chapters = {
        "intro",
        "experiments",
        "foundations",
        "how-to-read",
        "run",
        "guidance",
        "explorer",
        "claims",
        "results",
    }
    chapters |= {"status", "code", "bibliography"}
    runs = {"experiments/mnist.html", "experiments/mnist-demo.html"}
    assert {f"{c}.html" for c in chapters} | runs <= set(book)


def test_the_table_of_experiments_leads_to_every_one_that_has_run_and_says_which_have_not(book):
    table, pages = book["experiments.html"], [p for p in book if p.startswith("experiments/")]
    assert all(any(link.endswith(page) for link in table["links"]) for page in pages)
    assert "not run yet" in table["text"]


def test_the_contents_show_an_experiment_once_and_its_page_the_way_to_its_other_runs(site, browser):
    for name, page in (
        ("intro", "mnist.html"),
        ("experiments/mnist", "mnist-demo.html"),
        ("experiments/mnist-demo", "mnist.html"),
    ):
        visit = Visit(browser, site / f"book/_build/html/{name}.html", DESK)
        listed = visit.ask(
            "() => [...document.querySelectorAll('.bd-sidebar-primary a')].filter(a => a.checkVisibility()).map(a => a.textContent.trim())"
        )
        assert listed.count("MNIST") == 1
        if name != "intro":
            assert visit.page.locator("nav.runs a").count() == 2
            assert (
                visit.page.locator("nav.runs a[aria-current=page]").get_attribute("href") == f"{Path(name).name}.html"
            )
            visit.page.locator(f'nav.runs a[href="{page}"]').click()
            visit.page.wait_for_url(f"**/experiments/{page}")
        visit.context.close()


def test_every_experiments_page_opens_with_what_was_found(site):
    pages = [*(site / "book/_build/html/experiments").glob("*.html")]
    assert len(pages) == 2
    for page in pages:
        text = page.read_text()
        assert text.index('class="run-banner"') < text.index('class="findings"') < text.index("<h2>Data")
        assert re.search(r'<div class="findings"><p>[^<]*</p><ul><li>', text)


def test_from_a_claim_to_its_run_parameters_command_and_code_are_three_clicks_and_back(site, browser):
    root = site / "book/_build/html"
    visit = Visit(browser, root / "claims.html", DESK)
    page, links = (
        visit.page,
        visit.ask(
            "() => [...document.querySelectorAll('.rests a[href*=\".html#\"]')].map(a => a.getAttribute('href'))"
        ),
    )
    assert len(links) >= 4
    assert sum(link.startswith("six-images.html") for link in links) == 3
    for link in links:
        up = "../" * link.count("/")
        for last in ("run", "params", "again", "code"):
            page.goto((root / "claims.html").as_uri())
            page.locator(f'a[href="{link}"]').first.click()
            row = page.locator(":target")
            assert row.get_attribute("href") == f"{up}claims.html#{link.partition('#')[2]}"
            page.locator(f'p.rests a[href="#{last}"]').click()
            assert page.locator(f"#{last}").is_visible(), "the fold opens for its anchor"
        page.locator("#code a").first.click()
        assert re.search(r"\b(def|class) \w+", page.locator(":target").inner_text())
        back = "experiments/mnist.html#code" if up else "six-images.html#code"
        page.locator(f'a[href="{back}"]').first.click()
        page.wait_for_url(f"**/{back}")
    page.goto((root / "experiments/mnist-demo.html").as_uri())
    page.locator("#run a").first.click()
    assert "mnist/demo" in page.locator(":target").inner_text()
    visit.context.close()


def test_the_notebook_to_download_is_the_repositorys(site):
    given = site / "book/_build/html/notebooks/mnist.ipynb"
    assert given.read_bytes() == (ROOT / "notebooks/mnist.ipynb").read_bytes()


def test_no_page_shows_the_key_of_a_citation(book):
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text(), re.M)
    assert {page: shown for page, facts in book.items() if (shown := [k for k in keys if k in facts["text"]])} == {}


def test_the_front_door_opens_on_the_introduction(site, browser):
    page = browser.new_page()
    page.goto((site / "book/_build/html/index.html").as_uri(), wait_until="commit")
    page.wait_for_url("**/intro.html")
    page.close()


def test_no_page_asks_for_anything_outside_its_folder(book):
    assert of_pages(book, "outside") == {}


def test_no_page_complains_in_the_console(book):
    assert of_pages(book, "complaints") == {}


def test_every_formula_is_typeset(book):
    assert of_pages(book, "unrendered") == {}
    assert of_pages(book, "errors") == {}
    assert book["guidance.html"]["maths"] > 20


def test_no_tex_is_left_in_the_text(book):
    assert of_pages(book, "raw") == {}


def test_a_caption_is_text_on_every_page(book):
    assert of_pages(book, "hacked") == {}
    assert any("onerror" in facts["text"] for facts in book.values()), (
        "the hostile caption is on no page: nothing tested"
    )


def test_every_internal_link_leads_somewhere(book, site):
    root, broken = site / "book/_build/html", {}
    for page, facts in book.items():
        for link in set(facts["links"]):
            url = urlsplit(link)
            if url.scheme != "file":
                continue
            file, fragment = Path(unquote(url.path)), unquote(url.fragment)
            if not file.is_file() or (fragment and fragment not in book[str(file.relative_to(root))]["ids"]):
                broken.setdefault(page, []).append(link)
    assert broken == {}


def test_every_image_is_shown(book):
    assert {page: bad for page, facts in book.items() if (bad := [src for src, ok in facts["images"] if not ok])} == {}
    assert len(book["experiments/mnist.html"]["images"]) >= 9


def test_a_recorded_page_shows_the_pictures_of_its_run(book):
    live, recorded = book["experiments/mnist-demo.html"], book["experiments/mnist.html"]
    assert len(live["images"]) == len(recorded["images"])
    assert "shows the run" in live["text"]
    assert "shows the recorded run" in recorded["text"]


def test_on_a_phone_no_page_scrolls_sideways(book):
    assert {page: facts["wide"] for page, facts in book.items() if facts["wide"][0] > facts["wide"][1]} == {}


def tiles(visit: Visit, which: int) -> list[np.ndarray]:
    """The pixels (8, 8) of each image in panel number `which` of the page's explorer."""
    found = []
    for tile in visit.page.locator(".explorer-panels figure").nth(which).locator("canvas").all():
        with Image.open(io.BytesIO(tile.screenshot())) as image:
            shown = np.array(image.convert("L")).astype(int)
        rows, columns = (((np.arange(8) + 0.5) * n / 8).astype(int) for n in shown.shape)
        found.append(shown[np.ix_(rows, columns)])
    return found


def test_the_page_of_the_explorer_leads_to_those_of_all_experiments(book):
    links = [link.rpartition("/html/")[2] for link in book["explorer.html"]["links"]]
    assert "experiments/mnist-demo.html#explore-mnist-demo" in links
    assert "experiments/mnist.html#explore-mnist-paper" in links


@pytest.mark.parametrize("page", ["explorer", "experiments/mnist", "experiments/mnist-demo"])
def test_an_explorer_shows_the_samples_of_the_scale_that_its_slider_names(site, browser, page):
    """Of a run, live and recorded, guidance off beside guidance on; then, by the keyboard, without the caption."""
    (run,) = (site / "runs/mnist").glob("demo-*")
    visit = Visit(browser, site / f"book/_build/html/{page}.html", DESK)
    visit.page.locator(".explorer").scroll_into_view_if_needed()
    for which, w in ((0, 1), (1, 5), (0, 0)):
        if w == 0:
            visit.page.get_by_role("slider", name="w", exact=True).first.press("ArrowLeft")
        visit.page.wait_for_selector(".explorer-images canvas")
        visit.page.wait_for_timeout(200)
        (file,) = run.glob(f"samples/w{w}-*/images.safetensors")
        images, shown = load_file(file)["images"], tiles(visit, which)
        assert len(shown) == 20
        assert all(np.abs(mine - image[0]).max() <= 1 for mine, image in zip(shown, images, strict=False))
    assert visit.complaints == visit.outside == []
    visit.context.close()
