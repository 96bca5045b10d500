"""Executed notebooks as pages: the cells of their source, and of their outputs pictures, text and harmless HTML alone."""

import json
import re
from pathlib import Path
from typing import Any

from pygments.token import STANDARD_TYPES

from guidebook.book.notebook import NotebookFailed
from guidebook.report.claims import every

VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"
GLUED = "application/papermill.record/"
TAGS = (
    "br", "code", "details", "div", "em", "img", "li", "p", "pre", "span", "strong", "summary", "table", "tbody", "td", "th",
    "thead", "tr", "ul", "wbr",
)  # fmt: skip
# None that MathJax reads; the last are those of the parts of highlighted code
CLASSES = (
    "samples", "heads", "tall", "rows", "scroll", "table", "rests", "verdict", "holds", "fails", "undecided", "open", "long", "highlight",
    *STANDARD_TYPES.values(),
)  # fmt: skip
# Other widgets hold HTML, or fetch scripts
WIDGETS = (
    "Button", "ButtonStyle", "DescriptionStyle", "FloatSlider", "HBox", "Image", "IntText", "Label", "LabelStyle", "Layout",
    "Link", "SelectionSlider", "SliderStyle", "Stack", "Text", "TextStyle", "VBox",
)  # fmt: skip
LINKED = ("index", "selected_index")
# Of a picture: the pixels themselves, and how large they are shown
PICTURE = {"src": r"data:image/webp;base64,[A-Za-z0-9+/]+=*", "width": r"\d+", "height": r"\d+", "alt": r"(?s).*"}
MODULES = ("@jupyter-widgets/base", "@jupyter-widgets/controls")
INTERVAL = re.compile(r"(?<=\d,) (?=-?[\d.,]+\])")  # the blank in [0.1, 0.3], at which no line of a cell breaks
HARMLESS = str.maketrans("<>\\", "‹›∖")  # no tag, no end of the script that holds the state, no TeX


def of(source: Path, executed: Path) -> bool:
    """A check that an executed notebook holds the cells of its source, and no others but injected parameters."""
    notebook, done = (json.loads(file.read_text())["cells"] for file in (source, executed))
    return ["".join(c["source"]) for c in notebook] == ["".join(c["source"]) for c in _ran(done)]


def page(source: Path, executed: Path) -> dict:
    """An executed notebook for a page, without what could run in a reader's browser. Raises NotebookFailed where its cells are others."""
    notebook, done = (json.loads(file.read_text()) for file in (source, executed))
    ran = _ran(done["cells"])
    if not of(source, executed):
        raise NotebookFailed(f"{executed} holds other cells than {source.name}: delete it")
    models = done["metadata"].get("widgets", {}).get(STATE, {}).get("state", {})
    widgets, cells = {id: _words(model) for id, model in models.items() if id.isalnum() and _known(model)}, []
    for cell, outcome in zip(notebook["cells"], ran, strict=True):
        cells.append(cell)
        if cell["cell_type"] == "code":
            unseen = "remove-cell" in cell["metadata"].get("tags", [])  # its widgets are for a kernel
            outputs = [_output(output, {} if unseen else widgets) for output in outcome["outputs"]]
            cell |= {"execution_count": outcome["execution_count"], "outputs": [output for output in outputs if output]}
    viewed = any(VIEW in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    state = {"state": widgets if viewed else {}, "version_major": 2, "version_minor": 0}
    return notebook | {"cells": cells, "metadata": notebook["metadata"] | {"widgets": {STATE: state}}}


def _ran(cells: list[dict]) -> list[dict]:
    return [c for c in cells if "injected-parameters" not in c["metadata"].get("tags", [])]


def _output(output: dict, widgets: dict) -> dict | None:
    """The harmless part of an output; None where there is none."""
    if output["output_type"] == "stream":
        return output if output["name"] == "stdout" else None
    data, shown, metadata = output.get("data", {}), {}, {}
    shown |= {kind: data[kind] for kind in ("text/plain", "image/png") if kind in data}
    if text := "".join(data.get("text/html", "")):
        shown["text/html"] = _harmless(text)
    if (model := data.get(VIEW, {}).get("model_id")) in widgets:
        shown[VIEW] = {"model_id": model, "version_major": 2, "version_minor": 0}
    if (glued := f"{GLUED}text/plain") in data:
        shown, name = {glued: data[glued]}, output["metadata"]["scrapbook"]["name"]
        metadata = {"scrapbook": {"name": name, "mime_prefix": GLUED}}
    return shown and {"output_type": "display_data", "data": shown, "metadata": metadata}


def _harmless(text: str) -> str:
    """HTML without links, scripts and tags that no table needs."""
    import bleach

    claims = every()  # whose verdicts are anchors

    def allowed(tag: str, name: str, value: str) -> bool:
        if tag == "img":
            return name in PICTURE and re.fullmatch(PICTURE[name], value) is not None
        return value in claims if name == "id" else name == "class" and set(value.split()) <= set(CLASSES)

    cleaned = bleach.clean(text, tags=TAGS, attributes=allowed, protocols=["data"])
    cleaned = re.sub(r"<img(?:(?! src=)[^>])*>", "", cleaned)  # what is left of other pictures
    return re.sub(r"<td>[^<]*", lambda cell: INTERVAL.sub("\xa0", cell[0]), cleaned)


def _known(model: dict) -> bool:
    """A check that a widget is of an allowed kind: it links and shows nothing else."""
    name, state = model["model_name"].removesuffix("Model"), model["state"]
    modules = {model["model_module"], state.get("_model_module"), state.get("_view_module")} - {None}
    linked = {*state.get("source", ())[1:], *state.get("target", ())[1:]}  # else one may set what is refused here
    view, picture = state.get("_view_name"), state.get("format", "png")
    shown = view in (None, f"{name}View", "StyleView", "LayoutView") and picture == "png"
    return name in WIDGETS and modules <= {*MODULES} and linked <= {*LINKED} and shown


def _words(value: Any) -> Any:
    """A JSON value whose texts are shown as they are, without the fields of a widget that show HTML or load a picture."""
    if isinstance(value, dict):
        return {key: _words(of) for key, of in value.items() if key not in ("description_allow_html", "background")}
    if isinstance(value, list):
        return [_words(of) for of in value]
    return value.translate(HARMLESS) if isinstance(value, str) else value
