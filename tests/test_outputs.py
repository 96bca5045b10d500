"""Executed notebooks as pages: the source's own cells, and of the outputs what neither runs nor loads anything."""

import json
import re

import numpy as np
import pytest

from guidebook.book.notebook import NotebookFailed
from guidebook.book.outputs import GLUED, STATE, VIEW, page
from guidebook.report.claims import Answers
from guidebook.report.samples import samples
from guidebook.report.tables import below, table

BASE, CONTROLS = "@jupyter-widgets/base", "@jupyter-widgets/controls"


def code(source, *outputs, tags=()):
    return {
        "cell_type": "code",
        "source": source,
        "metadata": {"tags": [*tags]},
        "execution_count": 1,
        "outputs": outputs,
    }


def shown(data, **metadata):
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def model(name, module=CONTROLS, **state):
    return {"model_name": f"{name}Model", "model_module": module, "model_module_version": "2.0.0", "state": state}


@pytest.fixture
def drawn(tmp_path):
    """The page of a notebook of one cell that gave these outputs."""

    def draw(*outputs, widgets=None, ran=None, tags=()):
        files = tmp_path / "source.ipynb", tmp_path / "executed.ipynb"
        values, plot = code("w = 1", tags=["parameters"]), code("plot()", *outputs)
        metadata = {"widgets": {STATE: {"state": widgets or {}}}}
        for file, cells in zip(files, ([values, code("plot()", tags=[*tags])], ran or [values, plot]), strict=True):
            file.write_text(json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}))
        return page(*files)

    return draw


@pytest.mark.parametrize(
    "output",
    [
        shown({"text/plain": ["a", "b"], "image/png": "iVBORw0KGgo="}),
        shown({"text/html": '<div class="scroll"><table class="table"><thead><tr><th>a</th></tr></thead><tbody><tr><td>1 &lt; 2</td></tr></tbody></table></div>'}),
        shown({"text/html": '<ul><li>a</li></ul><details><summary>b</summary><pre>c\n\nd</pre></details><p><em>e</em></p>'}),
        shown({"text/html": '<span class="verdict holds">✓ holds</span>'}),
        shown({"text/html": '<div class="samples"><div class="rows"><span>a</span></div><img src="data:image/webp;base64,UklGRg==" width="80" height="8" alt="a &lt;b&gt;"></div>'}),
        {"output_type": "stream", "name": "stdout", "text": "said"},
    ],
)  # fmt: skip
def test_what_our_notebooks_show_is_shown_as_it_is(drawn, output):
    assert drawn(output)["cells"][1]["outputs"] == [output]


@pytest.mark.parametrize(
    "made",
    [
        table(["fd_judge", "n"], [[below("0.5", "of 2"), 3]]),
        samples(np.zeros((8, 1, 4, 4), np.uint8), 8, ["a row"], ["aquarium fish"] * 8),
        Answers(None, [("mnist-grain", "0.5", ("undecided", "why")), ("mnist-best", "", ("undecided", "what would decide was not measured"))]),
    ],
    ids=["table", "samples", "answers"],
)  # fmt: skip
def test_what_our_functions_make_is_shown_but_for_its_style(drawn, made):
    text = made._repr_html_()
    text = text if isinstance(text, str) else text[0]
    assert "wbr" in text or "tall" in text or "long" in text
    (output,) = drawn(shown({"text/html": text}))["cells"][1]["outputs"]
    assert output["data"]["text/html"] == re.sub(' style="[^"]*"', "", text)


@pytest.mark.parametrize(
    "data",
    [
        {"application/javascript": "hacked()"},
        {"image/svg+xml": "<svg onload='hacked()'/>"},
        {"text/markdown": "{download}`/etc/passwd`"},
        {"text/latex": r"\href{javascript:hacked()}{x}"},
        {"application/vnd.unknown+json": {}},
        {VIEW: {"model_id": "gone"}},
    ],
)
def test_other_kinds_of_outputs_are_left_out(drawn, data):
    error = {"output_type": "error", "ename": "E", "evalue": "", "traceback": ["<script>"]}
    stderr = {"output_type": "stream", "name": "stderr", "text": "/home/me"}
    assert drawn(shown(data), error, stderr)["cells"][1]["outputs"] == []


@pytest.mark.parametrize(
    "text",
    [
        "<script>hacked()</script>",
        "<img src=x onerror=hacked()>",
        "<a href='javascript:hacked()'>a</a>",
        "<a href='https://hacked.example'>a</a>",
        "<iframe src='/etc/passwd'></iframe>",
        "<style>td { background: url(//hacked.example) }</style>",
        "<svg><animate onbegin=hacked() attributeName=x></svg>",
        "<math><mtext></form><form><mglyph><style></math><img src onerror=hacked()>",
        "<form action=x><button formaction='javascript:hacked()'>a</button></form>",
        "<!-- --!><img src=x onerror=hacked()> -->",
    ],
)
def test_html_of_other_kinds_becomes_text_or_nothing(drawn, text):
    (output,) = drawn(shown({"text/html": f"<p>{text}</p>"}))["cells"][1]["outputs"]
    rest = output["data"]["text/html"].replace("<p>", "").replace("</p>", "")
    assert "<" not in rest


@pytest.mark.parametrize(
    "tag",
    ['<p style="background: url(//x)">', '<p id="hacked">', '<p class="mathjax_process">', "<p onclick=hacked()>"],
)
def test_attributes_are_classes_of_our_tables_alone(drawn, tag):
    (output,) = drawn(shown({"text/html": f"{tag}a</p>"}))["cells"][1]["outputs"]
    assert output["data"]["text/html"] == "<p>a</p>"


def test_values_in_the_prose_keep_their_names_and_bring_nothing_else(drawn):
    name = f"{GLUED}text/plain"
    facts = {"scrapbook": {"name": "n", "mime_prefix": GLUED, "more": 1}, "myst": {"markdown": {}}}
    (output,) = drawn(shown({name: "'9,999'", f"{GLUED}text/html": "<script>"}, **facts))["cells"][1]["outputs"]
    assert output == shown({name: "'9,999'"}, scrapbook={"name": "n", "mime_prefix": GLUED})


def kept(notebook) -> dict:
    return notebook["metadata"]["widgets"][STATE]["state"]


def test_the_widgets_of_a_view_stay(drawn):
    widgets = {
        "a1": model("Layout", BASE, _view_name="LayoutView", width="min(100%, 34em)"),
        "b2": model("SelectionSlider", _view_name="SelectionSliderView", _options_labels=["0", "1"], index=0),
        "c3": model(
            "Link", _view_name=None, source=["IPY_MODEL_b2", "index"], target=["IPY_MODEL_d4", "selected_index"]
        ),
        "d4": model("Image", _view_name="ImageView", format="png", value={}),
    }
    view = {"text/plain": "SelectionSlider", VIEW: {"model_id": "b2", "version_major": 2, "version_minor": 0}}
    notebook = drawn(shown(view), widgets=widgets)
    assert kept(notebook) == widgets
    assert notebook["cells"][1]["outputs"] == [shown(view)]


@pytest.mark.parametrize(
    "other",
    [
        model("HTML", value="<script>"),
        model("Output", "@jupyter-widgets/output", outputs=[shown({"text/html": "<script>"})]),
        model("Text", "https://hacked.example/x.js"),
        model("Text", _view_module="https://hacked.example/x.js"),
        model("Text", _view_name="HTMLView", value="<script>"),
        model("Image", format="url", value="https://hacked.example"),
        model("Link", source=["IPY_MODEL_a", "value"], target=["IPY_MODEL_b", "format"]),
    ],
)
def test_other_widgets_are_left_out_with_their_views(drawn, other):
    view = shown({VIEW: {"model_id": "a1"}})
    notebook = drawn(view, widgets={"a1": other, "</script>": model("Text")})
    assert kept(notebook) == {}
    assert notebook["cells"][1]["outputs"] == []


def test_a_page_without_a_view_carries_no_widget_and_so_not_their_script(drawn):
    view = shown({VIEW: {"model_id": "a1"}})
    hidden = drawn(view, widgets={"a1": model("Text")}, tags=["remove-cell"])
    assert kept(hidden) == {}
    assert hidden["cells"][1]["outputs"] == []
    assert kept(drawn(widgets={"a1": model("Text")})) == {}


def test_words_of_widgets_are_words(drawn):
    words = r"</script><script>hacked()</script> \href{javascript:hacked()}{x}"
    state = {
        "description": words,
        "description_allow_html": True,
        "background": "url(//hacked.example)",
        "value": [words],
    }
    view = shown({VIEW: {"model_id": "a1"}})
    (found,) = kept(drawn(view, widgets={"a1": model("Label", **state)})).values()
    assert {*found["state"]} == {"description", "value"}
    assert not {*"<>\\"} & {*found["state"]["description"], *found["state"]["value"][0]}


def test_the_values_that_ran_are_no_cells_of_the_page(drawn):
    injected = code("w = 2", shown({"text/html": "<script>"}), tags=["injected-parameters"])
    ran = [code("w = 1", tags=["parameters"]), injected, injected, code("plot()")]
    cells = drawn(ran=ran)["cells"]
    assert [(c["source"], c["outputs"]) for c in cells] == [("w = 1", []), ("plot()", [])]


@pytest.mark.parametrize(
    "ran", [[code("w = 1")], [code("w = 1"), code("hacked()")], [code("w = 1"), code("plot()"), code("")]]
)
def test_a_notebook_of_other_cells_is_refused(drawn, ran):
    with pytest.raises(NotebookFailed, match=r"holds other cells than source\.ipynb"):
        drawn(ran=ran)
