"""An executed notebook among the pages: with what its run found at its top, which run it is, and the way to the run's other pages."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from guidebook.book import captions, explorers, live, outputs, trace
from guidebook.book.chapter import Chapter
from guidebook.report.banner import banner
from guidebook.report.claims import answers
from guidebook.report.findings import METRIC, findings
from guidebook.report.tables import escaped
from guidebook.runs.run import Run

ROW = re.compile(r'<span id="([a-z0-9-]+)" (class="verdict[^"]*")>(.*?)</span>')


def stage(
    c: Chapter, others: Sequence[Run], group: Sequence[Chapter], source: Path, say: Callable[[str], None]
) -> None:
    """Puts an executed notebook among the pages of `source`, without its default values.

    Above it stands which run it shows and which `others` it does not; where it is the page of an experiment, one of its `group`, then
    also a switch between these, what the run found, and how it can be made again.
    """
    notebook = outputs.page(*c.page[:2])
    title, *rest = notebook["cells"]
    heading, *body = "".join(title["source"]).splitlines()
    top = [_cell("title", "\n".join([heading + c.suffix, *([] if group else body)]))]
    for cell in rest:  # the demo's values: those that ran stand above
        if "parameters" in (tags := cell["metadata"].get("tags", [])):
            cell["metadata"]["tags"] = [*tags, "remove-cell"]
    if group:
        top += [_cell("runs", switch(group, c)), _cell("question", "\n".join(body))]
    if c.run:
        top.append(_cell("run-banner", banner(c.run, others)))
    rest = captions.figures(rest)
    if group:
        figures, rest = _anchored(rest)
        found = findings(c.run, given := answers(c.page[1]), figures)
        top += [_cell("found", f"## What was found\n\n{found}"), _cell("trace", trace.folds(c))]
        rest = _linked(rest, c) if given else rest
    elif c.measured:
        top, rest = [*top, _cell("trace", trace.folds(c))], _linked(rest, c)
    if sampler := c.run and live.sampler(c.run, c.file, source / "_assets", c.file == "explorer", say):
        rest = [*rest, _cell("sampler", sampler)]
    notebook["cells"] = [*top, *explorers.section(c.file, c.run, source), *rest]
    (source / f"{c.file}.ipynb").write_text(json.dumps(notebook))


def switch(group: Sequence[Chapter], shown: Chapter) -> str:
    """In HTML: links to the pages of an experiment's runs, the strongest evidence first, with the one that is shown marked."""
    items = []
    for c in group:
        here = ' aria-current="page"' if c == shown else ""
        place = f'<a href="{Path(c.file).name}.html"{here}>'
        items.append(f"<li>{place}<strong>{escaped(c.kind)}</strong> <span>{escaped(c.data)}</span></a></li>")
    return f'<nav class="runs" aria-label="Runs of this experiment"><ul>{"".join(items)}</ul></nav>'


def _anchored(cells: list[dict]) -> tuple[dict[str, str], list[dict]]:
    """By metric, the anchor of the first figure that is made of it, and the cells with these anchors above the figures."""
    figures, found = {}, []
    for cell in cells:
        shows = cell["cell_type"] == "code" and any("image/png" in o.get("data", {}) for o in cell["outputs"])
        names = re.findall(r'"(\w+)"', "".join(cell["source"])) if shows else ()
        new = [name for name in dict.fromkeys(names) if METRIC.fullmatch(name) and name not in figures]
        if new:
            anchor = f"figure-{new[0].replace('_', '-')}"
            figures |= dict.fromkeys(new, anchor)
            found.append(_cell(anchor, f'<div id="{anchor}"></div>'))
        found.append(cell)
    return figures, found


def _linked(cells: list[dict], c: Chapter) -> list[dict]:
    """The cells with each verdict a link to its claim, and how the verdicts came about below them."""
    found, up = [], "../" * c.file.count("/")
    for cell in cells:
        found.append(cell)
        for output in cell.get("outputs", ()):
            text = "".join(output.get("data", {}).get("text/html", ""))
            if ROW.search(text):
                output["data"]["text/html"] = ROW.sub(rf'<a id="\1" \2 href="{up}claims.html#\1">\3</a>', text)
                found.append(_cell("trace-below", trace.below(c)))
    return found


def _cell(name: str, text: str) -> dict:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text}
