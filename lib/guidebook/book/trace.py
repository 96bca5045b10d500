"""From a number to how it came about: a run's parameters, the command that makes it again, and the code behind its verdicts."""

import html
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from guidebook.config.params import Params, departures
from guidebook.config.paths import BOOK, RESULTS
from guidebook.report.source import LIBRARY, file_of, lines, used
from guidebook.report.tables import escaped
from guidebook.runs.run import Run

if TYPE_CHECKING:
    from guidebook.book.chapter import Chapter


def folds(c: "Chapter") -> str:
    """In HTML, folded: the parameters of the run that a page shows, the command that makes it again, and the code that it calls."""
    name = c.page[0].name
    code = (f'<li><a href="../code.html#{anchor(p)}">{escaped(p.replace(":", "."))}</a></li>' for p in places(c))
    made = f'<a href="../notebooks/{name}" download>{name}</a> is this page as the repository has it, without outputs; opened in JupyterLab it runs the demo.'
    parts = {
        "Parameters": f'<pre id="params">{_pre(text(c.run.params))}</pre>',
        "Make it again": f'<pre id="again">{_pre(command(c.run))}</pre><p>{made}</p>',
        "Code": f'<ul id="code">{"".join(code)}</ul>',
    }
    made = "".join(f"<details><summary>{head}</summary>{body}</details>" for head, body in parts.items())
    status = f'<a href="../status.html#{slug(c.run)}">{escaped(c.run.name)} in Status</a>'
    return f'<div class="trace" id="run"><p>{status} · <a href="../results.html">all numbers</a></p>{made}</div>'


def below(c: "Chapter") -> str:
    """In HTML, below a page's verdicts: how they came about."""
    way = '<a href="#params">parameters</a> · <a href="#again">command</a> · <a href="#code">code</a>'
    return f'<p class="rests">These verdicts are of the run <a href="#run">{escaped(c.run.name)}</a>: {way}</p>'


def text(params: Params) -> str:
    """All parameters of a run as its folder holds them, without the builder's own folder."""
    values = params.model_dump(mode="json")
    if path := values["data"]["path"]:
        values["data"]["path"] = Path(path).name
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def command(run: Run) -> str:
    """The command that makes a run again: of a record by the file of its parameters, else by what departs from its profile."""
    if run.recorded and run.path.is_relative_to(RESULTS):
        return f"guidebook run {shlex.quote((run.path / 'params.yml').relative_to(BOOK.parent).as_posix())}"
    changes = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, _, value in departures(run.params))
    more = "".join(f" --set {shlex.quote(change)}" for change in changes)
    return f"guidebook run {run.params.experiment} --profile {run.params.profile}{more}"


def slug(run: Run) -> str:
    """The anchor of a run's row in Status."""
    return "run-" + re.sub(r"[^a-z0-9]+", "-", run.name)


def anchor(place: str) -> str:
    """The anchor of MODULE:NAME on the page of code."""
    return "code-" + re.sub(r"[^a-z0-9]+", "-", place.lower())


def places(c: "Chapter") -> list[str]:
    """MODULE:NAME of the code that a page calls: what the cell of its verdicts names first."""
    cells = [x for x in json.loads(c.page[0].read_text())["cells"] if x["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    names = {name for source in sources if "Answers(" in source for name in re.findall(r"\w+", source)}
    return sorted(used("\n".join(sources)), key=lambda place: place.partition(":")[2] not in names)


def functions(chapters: list["Chapter"]) -> str:
    """In Markdown: every function and class that these pages call, as it stands in its file, above links to them."""
    called: dict[str, list[Chapter]] = {}
    for c in chapters:
        for place in places(c):
            called.setdefault(place, []).append(c)
    parts = []
    for place, by in sorted(called.items()):
        module, _, name = place.partition(":")
        file = file_of(module)
        first, last = lines(file.read_text(), name)
        code = "\n".join(file.read_text().splitlines()[first - 1 : last])
        where = f"lib/guidebook/{file.relative_to(LIBRARY).as_posix()}, line {first}"
        parts.append(f"``````{{code-block}} python\n:name: {anchor(place)}\n:caption: {where}\n\n{code}\n``````\n")
        links = ", ".join(f'<a href="{c.file}.html#code">{escaped(c.name)}</a>' for c in by)
        parts.append(f'<p class="rests">Called by {links}</p>\n')
    return "\n".join(parts)


def _pre(words: str) -> str:
    """Lines of text in a block of HTML, which an empty line would end."""
    return html.escape(words.strip()).replace("\n", "&#10;")
