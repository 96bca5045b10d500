"""Figures of executed notebooks: a number, the caption that the notebook writes beneath, and the same in words for who cannot see them."""

import html
import re

CAPTION = re.compile(r"(?s)[*$](?!\*).*")  # a paragraph in italics, or one that begins with a formula
SAMPLES = '<div class="samples"'  # of `report.samples`
MATHS = {
    r"\hat ": "", r"\bar": "", r"\theta": "θ", r"\sigma": "σ", r"\mu": "μ", r"\cdot": "·", r"\le": "≤", r"\varepsilon": "ε",
}  # fmt: skip
SENTENCE = re.compile(r"(?<=[^.\d][.:])\s+(?=[A-ZÀ-Ž*$0-9])")


def figures(cells: list[dict]) -> list[dict]:
    """The cells of a page in which each output that is a picture is a figure: the paragraph after it is its caption, and leaves its cell.

    A figure without one has the first sentence of the paragraph before it. The alternative text is the caption after the
    heading it stands under.
    """
    values, found, heading, before = _glued(cells), [], "", ""
    cells = [dict(cell, metadata=dict(cell["metadata"])) for cell in cells]
    for cell, following in zip(cells, [*cells[1:], None], strict=True):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = next((line.lstrip("# ") for line in reversed(text.splitlines()) if line.startswith("#")), heading)
            before = text.strip().split("\n\n")[-1] if text.strip() else before
        elif cell["cell_type"] == "code" and any(map(_pictured, cell["outputs"])):
            caption = _taken(following) or _first(before) or heading
            _figure(cell, caption, f"{heading}: {words(caption, values)}" if heading else words(caption, values))
        if text.strip() or cell.get("outputs"):
            found.append(cell)
    return found


def _figure(cell: dict, caption: str, alt: str) -> None:
    cell["metadata"]["mystnb"] = {"figure": {"caption": caption}, "image": {"alt": alt}}
    for output in cell["outputs"]:
        data = output.get("data", {})
        if SAMPLES in (shown := "".join(data.get("text/html", ""))):
            data["text/html"] = shown.replace(' alt="', f' alt="{html.escape(alt)}; ', 1)


def _pictured(output: dict) -> bool:
    data = output.get("data", {})
    return "image/png" in data or SAMPLES in "".join(data.get("text/html", ""))


def _taken(cell: dict | None) -> str:
    """The caption that a cell begins with, taken out of it; empty where it begins with none."""
    first, _, rest = "".join(cell["source"] if cell else ()).strip().partition("\n\n")
    if not cell or cell["cell_type"] != "markdown" or not CAPTION.fullmatch(first):
        return ""
    cell["source"] = rest
    return upright(first)


def _first(paragraph: str) -> str:
    """The first sentence of a paragraph, without the words in bold that it begins with, as a sentence of its own."""
    if paragraph.startswith("#"):
        return ""
    text = re.sub(r"^\*\*What you should see:\*\*\s*", "", paragraph).replace("**", "")
    first = SENTENCE.split(text)[0].strip().rstrip(":")
    return first[:1].upper() + first[1:]


def upright(text: str) -> str:
    """A paragraph of italics in the type of a caption: without the stars around its parts, which are none of a formula or of code."""
    parts = re.split(r"(\$[^$]*\$|`[^`]*`|\*\*[^*]*\*\*)", text)
    return "".join(part if i % 2 else part.replace("*", "") for i, part in enumerate(parts))


def words(text: str, values: dict[str, str]) -> str:
    """Markdown as plain words: values for their names, formulas as they are said, no citations."""
    text = re.sub(r"\{glue:[^}]*\}`([^`]*)`", lambda found: values.get(found[1].partition(":")[0], ""), text)
    text = re.sub(r"\s*\{cite[^}]*\}`[^`]*`", "", text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    for tex, said in MATHS.items():
        text = text.replace(tex, said)
    return " ".join(re.sub(r"[$`*{}\\]", "", text).split())


def _glued(cells: list[dict]) -> dict[str, str]:
    """Values for the prose of a page, by name."""
    outputs = [o for cell in cells for o in cell.get("outputs", []) if "scrapbook" in o.get("metadata", {})]
    return {
        o["metadata"]["scrapbook"]["name"]: str(value).strip("'")
        for o in outputs
        for value in [*o["data"].values()][:1]
    }
