"""The HTML book: executed notebooks and generated pages beside the written chapters, built by jupyter-book."""

import ctypes
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from guidebook.book import captions, outputs, pages
from guidebook.book.notebook import NotebookFailed, draw_pages, run_experiment
from guidebook.config.budget import published
from guidebook.config.errors import nearest
from guidebook.config.params import departures
from guidebook.config.paths import BOOK, NOTEBOOKS, PARAMS, RESULTS, runs
from guidebook.report.banner import banner, fraction
from guidebook.report.claims import answers
from guidebook.runs.lock import lock
from guidebook.runs.manifest import take_place, writing
from guidebook.runs.run import Run, every_run, foremost, usable
from guidebook.sampling.draw import sample_set
from guidebook.sampling.sets import mosaic
from guidebook.sampling.spec import Draw

OUTPUT = BOOK / "_build" / "html"
ASIDE = OUTPUT.with_name("aside")  # where new pages are made, while those before keep their place
SOURCE, BUILT = ASIDE / "source", ASIDE / "_build" / "html"
ORDER = ("demo", "paper", "best")  # of an experiment's pages
EXPLORER = NOTEBOOKS / "explorer.ipynb"
SCRATCH = ("_build", "results")  # folders of book/ that are no source of pages
MEASURED = {"foundations": "foundations.ipynb", "performance": "bench", "six-images": "six-images.json"}  # of no run
OPTIONAL = ("explorer", *MEASURED)  # chapters that a build adds where there is something to show


@dataclass(frozen=True)
class Chapter:
    """A page that is an executed notebook."""

    file: str  # its place in the book, without .ipynb
    run: Run | None
    page: tuple  # its notebook, its executed notebook and what else `execute` takes
    suffix: str = ""  # added to the heading, so that pages of one notebook can be told apart

    @property
    def data(self) -> str:
        return fraction(self.run) if self.run else "measured once"

    @property
    def title(self) -> str:
        """In the contents."""
        name = _heading(self.page[0]).partition(":")[0]
        if not self.run:
            return name
        profile, files, paper = self.run.params.profile, self.run.params.data, published(self.run.params)
        own = paper and profile not in (*ORDER, "fraction") and files.entry.stand_in and files.name != paper.data.name
        short = "fraction of " if departures(self.run.params) else "fraction on " if own else ""
        return f"{name} ({short}{profile})"


def build(say: Callable[[str], None] = lambda line: None) -> Path:
    """Builds `book/_build/html` from the runs that are there and the recorded results; returns its first page.

    Any warning of Sphinx fails the build, and so does a notebook that stops before its last cell, or a chapter of `_toc.yml` that does
    not exist; the pages are then those of before. `say` hears of each step and of changed pages. Raises NotebookFailed, Locked.
    """
    toc = _contents()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    with lock(OUTPUT.parent), writing(ASIDE, "the book"):
        shutil.rmtree(ASIDE, ignore_errors=True)  # of a build that was killed
        _build(toc, say)
        before, now = _articles(OUTPUT), _articles(BUILT)
        take_place(BUILT, OUTPUT)
        shutil.rmtree(ASIDE)
    changed = {page for page in now.keys() & before.keys() if now[page] != before[page]}
    for word, found in (("new", now.keys() - before.keys()), ("changed", changed)):
        if found:
            say(f"{word}: {', '.join(sorted(found))}")
    return OUTPUT / "index.html"


def _build(toc: dict, say: Callable[[str], None]) -> None:
    """Makes the pages in BUILT."""
    every = usable(every_run())
    found = foremost(every)
    chapters, extra = [c for name in _experiments() for c in _chapters(name, found, say)], []
    named = {run.name: run for run in found if run.finished and EXPLORER.exists()}
    explored = next((named[f"mnist/{p}"] for p in ORDER if f"mnist/{p}" in named), None)
    if explored:
        shown, record = {"experiment": "mnist", "profile": explored.params.profile}, explored.path
        place = (record, ()) if explored.recorded else (None, [record / "metrics.json"])
        extra.append(Chapter("explorer", explored, (EXPLORER, _drawn("explorer"), shown, *place)))
    for name, record in MEASURED.items():
        source, place = NOTEBOOKS / f"{name}.ipynb", RESULTS / record
        if source.exists() and (place.is_file() or any(place.glob("*.json"))):
            kept = place.suffix == ".ipynb" and outputs.of(source, place)  # executed from cells that are as they were
            extra.append(Chapter(name, None, (source, place if kept else _drawn(name), {}, None, [place])))
    draw_pages([c.page for c in (*chapters, *extra) if RESULTS not in c.page[1].parents], say)
    shutil.copytree(BOOK, SOURCE, ignore=lambda folder, names: SCRATCH if Path(folder) == BOOK else ())
    (SOURCE / "experiments").mkdir()
    for c in (*chapters, *extra):
        alike = [r for r in every if c.run and r.finished and r.name == c.run.name and r.path != c.run.path]
        _stage(c, alike)
    _write_pages(chapters, extra, found)
    if explored:  # the first page shows its samples
        _hero(explored)
    _toc(toc, chapters)
    say("from pages to HTML")
    _sphinx()


def _write_pages(chapters: list[Chapter], extra: list[Chapter], found: list[Run]) -> None:
    """Fills those of the chapters with places for tables that the book has, and the table of experiments."""
    answered = [(c.file, c.title, c.data, answers(c.page[1])) for c in (*chapters, *extra)]
    shown = {NOTEBOOKS / f"{name}.ipynb": [] for name in _experiments()}
    for c in chapters:
        shown[c.page[0]].append((c.file, c.run.params.profile, c.data))
    filled = {
        "intro": lambda: pages.intro([(_heading(n), rows) for n, rows in shown.items()]),
        "guidance": pages.guidance,
        "results": lambda: pages.results(found),
        "status": lambda: pages.status(found),
        "reliability": pages.reliability,
        "how-to-read": pages.how_to_read,
        "claims": lambda: pages.claims(answered),
        "atlas": pages.atlas,
    }
    for name in (name for name in filled if (BOOK / f"{name}.md").exists()):
        (SOURCE / f"{name}.md").write_text(filled[name]())


def _experiments() -> list[str]:
    return sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb") if (PARAMS / p.stem).is_dir())


def _chapters(experiment: str, found: list[Run], say: Callable[[str], None]) -> list[Chapter]:
    """One chapter for each of an experiment's profiles that has a finished run, except `smoke`.

    Live runs are brought up to date here; pages of records are drawn later.
    """
    of = [r for r in found if r.params.experiment == experiment and r.finished and r.owner == r.path]
    finished, chapters = {r.params.profile: r for r in of if r.params.profile != "smoke"}, []
    for profile in sorted(finished, key=lambda p: (ORDER.index(p) if p in ORDER else len(ORDER), p)):
        run = finished[profile]
        executed, record = _drawn(f"{experiment}-{profile}"), run.path
        if not run.recorded:
            run, done = run_experiment(run.params)
            executed, record = run.path / "notebook.ipynb", None
            if done:
                say(f"brought up to date: {run.name}")
        ending, suffix = (f"-{profile}", f" ({profile})") if chapters else ("", "")
        page = (NOTEBOOKS / f"{experiment}.ipynb", executed, run.params.model_dump(mode="json"), record)
        chapters.append(Chapter(f"experiments/{experiment}{ending}", run, page, suffix))
    return chapters


def _heading(notebook: Path) -> str:
    """The first line of a notebook, without the `#`."""
    first, *_ = json.loads(notebook.read_text())["cells"]
    return "".join(first["source"]).splitlines()[0].lstrip("# ")


def _drawn(name: str) -> Path:
    """The executed notebook of a page that is drawn."""
    return runs() / "pages" / f"{name}.ipynb"


def _stage(c: Chapter, others: list[Run]) -> None:
    """Puts an executed notebook among the pages: with the note that says which run it shows and not, without its default values."""
    notebook = outputs.page(*c.page[:2])
    title, *rest = notebook["cells"]
    heading, *body = "".join(title["source"]).splitlines()
    title["source"] = "\n".join([heading + c.suffix, *body])
    for cell in rest:
        tags = cell["metadata"].get("tags", [])
        if "injected-parameters" in tags:
            cell["metadata"]["tags"] = [*tags, "hide-input"]
            if c.run and c.run.params.data.path:
                cell["source"] = _without_place(c.page[2])
        elif "parameters" in tags:  # the demo's values: the injected ones are those that ran
            cell["metadata"]["tags"] = [*tags, "remove-cell"]
    note = c.run and {"cell_type": "markdown", "id": "run-banner", "metadata": {}, "source": banner(c.run, others)}
    notebook["cells"] = captions.figures([title, *([note] if note else []), *rest])
    (SOURCE / f"{c.file}.ipynb").write_text(json.dumps(notebook))


def _without_place(values: dict) -> str:
    """Parameters as papermill writes them, but of the path of the images, which is the builder's, its last part alone."""
    from papermill.translators import PythonTranslator

    data = values["data"]
    return PythonTranslator.codify(values | {"data": data | {"path": Path(data["path"]).name}})


def _articles(html: Path) -> dict[str, str]:
    """Text of each page, by its place, without the contents of the book beside it."""
    found = {}
    for file in html.rglob("*.html"):
        _, there, rest = file.read_text().partition("<article")
        if there:
            found[str(file.relative_to(html))] = rest.partition("</article>")[0]
    return found


def _hero(run: Run) -> None:
    """The picture of the first page: one row of digits per guidance scale."""
    draws = [Draw.of(run.params, w, run.params.evaluate.samples) for w in run.params.sample.guidance if w <= 5]
    images = np.concatenate([sample_set(run, each).pixels[:20] for each in draws])
    Image.fromarray(mosaic(images, columns=20, tile=64)).save(SOURCE / "hero.png", optimize=True)


def _contents() -> dict:
    """`_toc.yml`. Raises NotebookFailed where it names a chapter that is not written and that no build makes."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    known = [*sorted(p.stem for p in BOOK.glob("*.md")), *OPTIONAL]
    for name in (str(c.get("file")) for part in toc["parts"] for c in part["chapters"]):
        if name not in known and not any((BOOK / f"{name}.{kind}").is_file() for kind in ("md", "ipynb")):
            raise NotebookFailed(
                f"_toc.yml: there is no chapter {name[:60]!r}{nearest(name, known)}; there are: {', '.join(known)}. "
                "Mend its name, or write the file"
            )
    return toc


def _toc(toc: dict, chapters: list[Chapter]) -> None:
    for part in toc["parts"]:
        if part["caption"] == "Experiments":
            part["chapters"] = [{"file": c.file, "title": c.title} for c in chapters]
        part["chapters"] = [c for c in part["chapters"] if list(SOURCE.glob(f"{c['file']}.*"))]
    toc["parts"] = [part for part in toc["parts"] if part["chapters"]]  # before the first run there are no experiments
    (SOURCE / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))


def _sphinx() -> None:
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", "-W", "-n", "--keep-going", "--path-output", ASIDE, SOURCE]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL),  # PR_SET_PDEATHSIG: killed when this process ends
    )  # fmt: skip
    if done.returncode:
        lines = [s for s in (done.stdout + done.stderr).splitlines() if "WARNING" in s or "ERROR" in s]
        failed = "\n".join(lines or [done.stdout[-2000:], done.stderr[-2000:]])
        raise NotebookFailed(f"the book did not build:\n{failed}")
