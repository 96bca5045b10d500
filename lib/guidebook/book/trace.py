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

# Parts of the page of code and how places in them begin; what it has of the first three, beside what pages call
SUBJECTS = {
    "Guidance": "diffusion.guidance:", "Objectives": "diffusion.objective:", "Solvers": "diffusion.solvers:", "Paths and training": ("diffusion", "training"),
    "Sampling": "sampling", "Measurements": "metrics", "Runs and exports": ("runs", "export"), "Reports": "",
}  # fmt: skip
CORE = {
    "diffusion.guidance": "conditional_or_not good_and_bad linear between rescaled cfg_plus_plus projected by_classifier",
    "diffusion.objective": "Objective vp rectified_flow edm", "diffusion.solvers": "ddim heun dpmpp_2m sample",
}  # fmt: skip
FREE = ("train", "sample", "quality", "batch")  # benches of any experiment
SMALL = {"reduced": "paper"}  # what a bench makes of a profile whose weights are not at hand

if TYPE_CHECKING:
    from guidebook.book.chapter import Chapter


def folds(c: "Chapter") -> str:
    """In HTML, folded: the parameters of the run or of the records that a page shows, the command that makes them again, and the code that it calls."""
    name, up = c.page[0].name, "../" * c.file.count("/")
    code = (f'<li><a href="{up}code.html#{anchor(p)}">{escaped(p.replace(":", "."))}</a></li>' for p in places(c))
    made = f'<a href="{up}notebooks/{name}" download>{name}</a> is this page as the repository has it, without outputs'
    if c.run:
        values, again, made = text(c.run.params), command(c.run), f"{made}; opened in JupyterLab it runs the demo"
        of = f'<a href="{up}status.html#{slug(c.run)}">{escaped(c.run.name)} in Status</a> · <a href="{up}results.html">all numbers</a>'
    else:
        of, values, again = measured(c)
    parts = {
        "Parameters": f'<pre id="params">{_pre(values)}</pre>',
        "Make it again": f'<pre id="again">{_pre(again)}</pre><p>{made}.</p>',
        "Code": f'<ul id="code">{"".join(code)}</ul>',
    }
    made = "".join(f"<details><summary>{head}</summary>{body}</details>" for head, body in parts.items())
    return f'<div class="trace" id="run"><p>{of}</p>{made}</div>'


def measured(c: "Chapter") -> tuple[str, str, str]:
    """Records of a page of no run: their files in HTML, what these say of how they were made, and the commands that measure again."""
    place, shows = c.page[4][0], c.page[0].read_text()
    found = {file: json.loads(file.read_bytes()) for file in sorted(place.glob("*.json")) or [place]}
    found = {file: r for file, r in found.items() if "bench" not in r or f'\\"{r["bench"]}\\"' in shows}
    again = [["python", "-m", "bench", r.get("bench", "six")] for r in found.values()]
    for words, made in (
        (words, r["made"]) for words, r in zip(again, found.values(), strict=True) if words[-1] in FREE
    ):
        words += ["--experiment", made["experiment"], "--profile", SMALL.get(made["profile"], made["profile"])]
    values = yaml.safe_dump({file.stem: r["made"] for file, r in found.items()}, sort_keys=False, allow_unicode=True)
    return ", ".join(f"<code>{escaped(file.name)}</code>" for file in found), values, "\n".join(map(shlex.join, again))


def below(c: "Chapter") -> str:
    """In HTML, below a page's verdicts: how they came about."""
    way = '<a href="#params">parameters</a> · <a href="#again">command</a> · <a href="#code">code</a>'
    of = f'the run <a href="#run">{escaped(c.run.name)}' if c.run else '<a href="#run">one measurement'
    return f'<p class="rests">These verdicts are of {of}</a>: {way}</p>'


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
    called: dict[str, list[Chapter]] = {f"{of}:{name}": [] for of, names in CORE.items() for name in names.split()}
    for place, i in sorted((place, i) for i, c in enumerate(chapters) for place in places(c)):
        called.setdefault(place, []).append(chapters[i])
    parts = []
    for subject, prefix in SUBJECTS.items():
        mine = {place: called.pop(place) for place in [*called] if place.startswith(prefix)}
        parts += [f"## {subject}\n"] * bool(mine)
        for place, by in mine.items():
            module, _, name = place.partition(":")
            file = file_of(module)
            first, last = lines(file.read_text(), name)
            code = "\n".join(file.read_text().splitlines()[first - 1 : last])
            where = f"lib/guidebook/{file.relative_to(LIBRARY).as_posix()}, line {first}"
            parts.append(f"``````{{code-block}} python\n:name: {anchor(place)}\n:caption: {where}\n\n{code}\n``````\n")
            links = ", ".join(f'<a href="{c.file}.html#code">{escaped(c.name)}</a>' for c in by)
            parts += [f'<p class="rests">Called by {links}</p>\n'] * bool(by)
    return "\n".join(parts)


def _pre(words: str) -> str:
    """Lines of text in a block of HTML, which an empty line would end."""
    return html.escape(words.strip()).replace("\n", "&#10;")
