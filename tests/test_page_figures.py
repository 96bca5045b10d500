"""Figures of pages: a caption taken from the paragraph beneath, and words for those who cannot see it."""

import json
import re

import pytest

from guidebook.book.captions import figures, words
from guidebook.config.paths import NOTEBOOKS, PARAMS
from guidebook.report.samples import samples


def markdown(source):
    return {"cell_type": "markdown", "source": source, "metadata": {}}


def picture(**metadata):
    outputs = [{"output_type": "display_data", "data": {"image/png": "iVBORw0KGgo="}, "metadata": {}}]
    return {"cell_type": "code", "source": "plot()", "metadata": metadata, "outputs": outputs}


def glue(name, value):
    data, facts = {"application/papermill.record/text/plain": repr(value)}, {"scrapbook": {"name": name}}
    return {"cell_type": "code", "source": "glue()", "metadata": {}, "outputs": [{"data": data, "metadata": facts}]}


def captioned(*cells):
    """The caption and the alternative text of the one figure, and the Markdown that is left."""
    found = figures([*cells])
    (figure,) = (c["metadata"]["mystnb"] for c in found if "mystnb" in c["metadata"])
    return (
        figure["figure"]["caption"],
        figure["image"]["alt"],
        [c["source"] for c in found if c["cell_type"] == "markdown"],
    )


@pytest.mark.parametrize(
    ("paragraph", "caption", "alt"),
    [
        ("*Loss against images seen.*", "Loss against images seen.", "Loss against images seen."),
        ("$w = 2$.", "$w = 2$.", "w = 2."),
        ("*Guidance off,* $w = 1$*: a class per row.*", "Guidance off, $w = 1$: a class per row.", "Guidance off, w = 1: a class per row."),
        ("*By* $\\hat x_0$ *and a distance {cite}`a2018`, lower is\nbetter.*", "By $\\hat x_0$ and a distance {cite}`a2018`, lower is\nbetter.", "By x_0 and a distance, lower is better."),
        ("*At* $w =$ {glue:text}`best`*, of {glue:text}`page.ipynb::other`.*", "At $w =$ {glue:text}`best`, of {glue:text}`page.ipynb::other`.", "At w = 2.0, of ."),
    ],
)  # fmt: skip
def test_the_paragraph_beneath_a_picture_is_its_caption_and_leaves_its_cell(paragraph, caption, alt):
    before = markdown("# Page\n\n## Samples\n\nSome words.")
    found = captioned(glue("best", "2.0"), before, picture(), markdown(f"{paragraph}\n\nWhat follows."))
    assert found == (caption, f"Samples: {alt}", [before["source"], "What follows."])
    _, _, left = captioned(before, picture(), markdown(paragraph))
    assert left == [before["source"]]


def test_a_picture_without_one_is_called_by_the_sentence_before_it():
    before = "## The data\n\nMore.\n\n**What you should see:** ten images, 0.5 of them coarse. Easy to read."
    after = "**Adherence** is a share.\n\n*No caption.*"
    caption, alt, left = captioned(markdown(before), picture(), markdown(after))
    assert caption == "Ten images, 0.5 of them coarse."
    assert alt == f"The data: {caption}"
    assert left == [before, after]
    assert captioned(markdown("## The data"), picture(), picture_free())[0] == "The data"


def picture_free():
    return {"cell_type": "code", "source": "x", "metadata": {}, "outputs": []}


def test_words_of_a_figure_are_no_markup():
    assert words("**A** `b` [c](d.md) $\\theta \\le 2$ {cite:t}`e`", {}) == "A b c θ ≤ 2"


def test_images_side_by_side_are_a_figure_and_say_how_they_stand():
    import numpy as np

    text = samples(np.zeros((4, 1, 2, 2), np.uint8), 2, ['a"b', "<i>"], ["w = 0", "w = 1"]).text
    cell = picture() | {"outputs": [{"output_type": "display_data", "data": {"text/html": text}, "metadata": {}}]}
    cell, *_ = [c for c in figures([cell, markdown('*A "quoted" caption.*')]) if c["cell_type"] == "code"]
    shown = cell["outputs"][0]["data"]["text/html"]
    assert (
        'alt="A &quot;quoted&quot; caption.; 4 images in 2 rows (a&quot;b; &lt;i&gt;) and 2 columns (w = 0; w = 1)"'
        in shown
    )


def lookouts(name):
    """Of each figure of a notebook, or two in a row, what the text between it and the figure before says to look for; not of one above the first text."""
    found, text, shown = [], "", False
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"][1:]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text, shown = (source if shown else f"{text}\n\n{source}"), False
        elif re.search(r"^(figures|charts|page)\.\w+\(.*;$", source, re.M | re.S) and text and not shown:
            found += re.findall(r"\*\*What you should see:\*\* ((?:.|\n(?!\n))+)", text) or [None]
            shown = True
    return found


@pytest.mark.parametrize(
    "name", [*sorted(p.name for p in PARAMS.iterdir() if (NOTEBOOKS / f"{p.name}.ipynb").exists()), "six-images"]
)
def test_before_every_figure_of_an_experiment_stands_what_to_look_for_and_no_result(name):
    """Pages of several runs share the text, so that no value of one stands in it."""
    found = lookouts(name)
    assert None not in found
    assert len({*found}) == len(found) > 2
    assert not any("{glue" in text for text in found)
