"""The search of the book: what a reader types leads to the page that is about it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from guidebook.book import pages
from guidebook.book.chapter import Chapter
from guidebook.config.paths import BOOK, NOTEBOOKS, PARAMS

pytestmark = pytest.mark.timeout(300)

# What is typed, the page that is about it, and where it is among those that are found
ABOUT = {
    "guidance scale": ("how-to-read", 1),
    "EMA": ("experiments/ema", 1),
    "caption dropout": ("guidance", 1),
    "CFG++": ("guidance", 1),
    "FID": ("how-to-read", 1),
    "six images": ("six-images", 1),
    "latent": ("experiments/celeba", 3),
    "sampler": ("experiments/samplers", 3),
}


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> Path:
    """The pages as they are written: notebooks without outputs, and the page of code."""
    root = tmp_path_factory.mktemp("book")
    shutil.copytree(BOOK, source := root / "source", ignore=shutil.ignore_patterns("_build", "results", "vendor"))
    (source / "experiments").mkdir()
    chapters = []
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        place = f"experiments/{file.stem}" if (PARAMS / file.stem).is_dir() else file.stem
        shutil.copy(file, source / f"{place}.ipynb")
        chapters.append(Chapter(place, None, (file,)))
    (source / "code.md").write_text(pages.code(chapters))
    programs = Path(sys.executable)
    for command in (
        [programs.with_name("jupyter-book"), "config", "sphinx", source],
        [programs.with_name("sphinx-build"), "-q", "-b", "html", source, root / "html"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return root / "html"


def hits(browser, book: Path, query: str) -> list[str]:
    """The pages that are found, the first first, without the part of a page that is named."""
    page = browser.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{(book / 'search.html').as_uri()}?q={query.replace('+', '%2B')}")
    page.wait_for_function(
        "document.querySelector('#search-results .search-summary')?.textContent.match(/found|did not match/)"
    )
    found = page.evaluate(
        "() => [...document.querySelectorAll('#search-results li a')].map((a) => a.href.split('/html/')[1])"
    )
    page.close()
    assert {url.partition(":")[0] for url in asked} == {"file"}
    return [place.partition(".html")[0] for place in found]


@pytest.mark.parametrize("query", ABOUT)
def test_the_page_that_is_about_it_comes_first_and_none_of_code_among_the_first_three(browser, book, query):
    found, (about, place) = hits(browser, book, query), ABOUT[query]
    assert about in found[:place]
    assert "code" not in found[:3]
