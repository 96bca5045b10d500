"""What the book's Sphinx extension mends: weight, numbers of figures, descriptions, names of entries."""

from types import SimpleNamespace

import numpy as np
from docutils import nodes
from PIL import Image
from pybtex.database import parse_string

from guidebook.book.theme import AuthorYear, described, mended, numbered


def test_a_page_has_no_script_of_icons_and_loads_pictures_when_they_are_scrolled_to(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a b.png")
    page = (
        '<head>\n  <script defer src="../_static/scripts/fontawesome.js?digest=5"></script>\n<script src="x.js"></script></head>'
        '<img alt="a" src="a%20b.png" /><img src="data:image/png;base64,AA=="/><img loading="eager" src="a%20b.png"/><img src="none.png"/>'
    )
    assert mended(page, tmp_path) == (
        '<head>\n<script src="x.js"></script></head>'
        '<img loading="lazy" width="30" height="20" alt="a" src="a%20b.webp" /><img src="data:image/png;base64,AA=="/>'
        '<img loading="eager" src="a%20b.png"/><img src="none.png"/>'
    )
    assert mended(mended(page, tmp_path), tmp_path) == mended(page, tmp_path)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a b.webp"))[..., 0], noise)


def test_the_index_of_words_is_loaded_where_it_is_searched(tmp_path):
    scripts = "".join(
        f'\n <script src="../{name}.js"></script>'
        for name in ("_static/searchtools", "searchindex", "_static/../js/search", "x")
    )
    assert mended(scripts, tmp_path) == '\n <script src="../x.js"></script>'
    results = f'{scripts}<div id="search-results"></div>'
    assert mended(results, tmp_path) == results


def test_figures_are_counted_on_each_page():
    env = SimpleNamespace(toc_fignumbers={"a": {"figure": {"x": (1,), "y": (2,)}}, "b": {"figure": {"z": (3,)}, "table": {"t": (1,)}}, "c": {}})  # fmt: skip
    assert numbered(None, env) == []
    assert env.toc_fignumbers == {"a": {"figure": {"x": (1,), "y": (2,)}}, "b": {"figure": {"z": (1,)}, "table": {"t": (1,)}}, "c": {}}  # fmt: skip


def test_a_page_is_described_by_its_first_paragraph_of_some_length():
    page, context = nodes.section(), {"metatags": "<x>"}
    page += [nodes.paragraph("", "Short."), nodes.paragraph("", f'About "this" <page>\n{40 * "word "}')]
    described(None, "a", "", context, page)
    assert context["metatags"].startswith(
        '<x><meta name="description" content="About &quot;this&quot; &lt;page&gt; word '
    )
    assert "word …" in context["metatags"]
    described(None, "genindex", "", empty := {}, None)
    assert empty == {}


def test_an_entry_is_called_as_the_text_calls_it():
    people = {"a": "Ho, Jonathan and Salimans, Tim", "b": "van den Oord, A", "c": "A, B and C, D and E, F"}
    entries = "".join(f"@misc{{{k}, author={{{who}}}, title={{T}}, year={{2022}}}}" for k, who in people.items())
    data = parse_string(entries, "bibtex")
    labels = {e.key: e.label for e in AuthorYear().format_bibliography(data)}
    assert labels == {"a": "Ho and Salimans, 2022", "b": "van den Oord, 2022", "c": "A et al., 2022"}


def test_what_has_the_colour_of_all_code_is_no_element_of_its_own(tmp_path):
    """More than half of the page of code would be such elements."""
    code = '<span class="k">def</span><span class="w"> </span><span class="nf">f</span><span class="p">(</span><span class="n">x</span>'
    assert mended(code, tmp_path) == '<span class="k">def</span> <span class="nf">f</span>(x'
