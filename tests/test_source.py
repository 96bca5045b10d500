"""Source of the library on a page: the lines of its file, escaped, and nothing imported for it."""

import html
import json
import re
import subprocess
import sys

import pytest

from guidebook.book.outputs import _harmless
from guidebook.config.paths import NOTEBOOKS
from guidebook.report.source import LIBRARY, lines, source

TEXT = '''"""A module."""
x = 1

# y = a x
# b = 2
@wrapped
def f(x):
    return x < 2

class A:
    # z = c
    def f(self):
        return "</pre>"
'''


def shown(place: str) -> str:
    """The text of the block."""
    return html.unescape(re.sub("<[^>]+>", "", source(place).text.partition("</pre>")[0]))


@pytest.mark.parametrize(("name", "span"), [("f", (4, 8)), ("A", (10, 13)), ("A.f", (11, 13))])
def test_a_definition_is_found_with_its_decorators_and_the_comment_above_it(name, span):
    assert lines(TEXT, name) == span


@pytest.mark.parametrize("place", ["diffusion.guidance:between", "training.ema:EMA.update", "data.shards:_epoch"])
def test_what_is_shown_stands_in_the_file_character_for_character(place):
    module, _, name = place.partition(":")
    text, code = (LIBRARY / f"{module.replace('.', '/')}.py").read_text(), shown(place).strip("\n")
    indent = "    " if "." in name else ""
    assert "\n".join(indent + line if line else line for line in code.split("\n")) in text
    assert f"def {name.split('.')[-1]}(" in code


def test_an_equation_stands_above_its_function():
    assert shown("diffusion.guidance:between").startswith("# w(σ) = w where low < σ ≤ high, else 1")


def test_signs_of_html_in_code_are_text_and_a_page_takes_the_block_as_it_is():
    text = source("diffusion.guidance:between").text
    assert "low * a < s" not in text
    assert "&lt;" in text
    assert _harmless(text) == text


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("diffusion.guidanse:between", "no module diffusion.guidanse"),
        ("diffusion.guidance:betwen", r"betwen is not defined there \(nearest: between\)"),
        ("training.ema:EMA.updat", r"nearest: update"),
    ],
)
def test_a_name_that_there_is_not_is_refused_in_one_line(place, said):
    with pytest.raises(ValueError, match=said) as refused:
        source(place)
    assert len(str(refused.value).splitlines()) == 1


def test_showing_a_function_of_tensors_imports_no_torch():
    code = "import sys; from guidebook.report.source import source; source('diffusion.guidance:between'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_place_that_a_notebook_names_is_there():
    named = {
        (page.stem, place)
        for page in NOTEBOOKS.glob("*.ipynb")
        for cell in json.loads(page.read_text())["cells"]
        for place in re.findall(r'\bsource\("([^"]+)"\)', "".join(cell["source"]))
    }
    assert len({page for page, _ in named}) > 8
    assert all(source(place).text for _, place in named)
