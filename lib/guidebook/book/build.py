"""The HTML book: executed notebooks and generated pages beside the written chapters, built by jupyter-book."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from PIL import Image

from guidebook.book import pages
from guidebook.book.notebook import NotebookFailed, draw_pages, missing, run_experiment
from guidebook.config.errors import nearest
from guidebook.config.params import ParamsError
from guidebook.config.paths import BOOK, NOTEBOOKS, PARAMS, RESULTS, runs
from guidebook.report.banner import banner
from guidebook.report.claims import answers
from guidebook.runs.run import Run, all_runs, find

SOURCE, OUTPUT = BOOK / "_build" / "source", BOOK / "_build" / "html"
ORDER = ("demo", "paper", "best")  # of an experiment's pages
EXPLORER, PERFORMANCE = NOTEBOOKS / "explorer.ipynb", NOTEBOOKS / "performance.ipynb"
SCRATCH = ("_build", "results")  # folders of book/ that are no source of pages
OPTIONAL = ("explorer", "performance")  # chapters that a build adds where there is something to show


@dataclass(frozen=True)
class Chapter:
    file: str  # its place in the book, without .ipynb
    title: str  # in the contents
    run: Run
    executed: Path
    suffix: str  # added to the heading, so that pages of one notebook can be told apart

    @property
    def data(self) -> str:
        return f"{self.run.params.data.name}, {self.run.provenance().get('images_seen', 0):,} images seen"


def build(say: Callable[[str], None] = lambda line: None) -> Path:
    """Builds `book/_build/html` from the runs that are there and the recorded results; returns its first page.

    Any warning of Sphinx fails the build, and so does a notebook that did not reach its last cell, or a chapter of `_toc.yml`
    that does not exist. `say` hears of each step. Raises NotebookFailed.
    """
    toc, found = _contents(), all_runs()
    chapters = [chapter for name in _experiments() for chapter in _chapters(name, found, say)]
    explored = _explored()
    extra = {}  # pages that are drawn, but of no experiment: what `execute` takes
    if explored:
        shown, record = {"experiment": "mnist", "profile": explored.params.profile}, explored.path
        place = (record, None) if explored.recorded else (None, record / "metrics.json")
        extra[EXPLORER] = (EXPLORER, _drawn("explorer"), shown, *place)
    if PERFORMANCE.exists() and any((RESULTS / "bench").glob("*.json")):
        extra[PERFORMANCE] = (PERFORMANCE, _drawn("performance"), {}, None, RESULTS / "bench")
    redrawn = [
        (NOTEBOOKS / f"{c.run.params.experiment}.ipynb", c.executed, c.run.params.model_dump(mode="json"), c.run.path)
        for c in chapters
        if c.run.recorded
    ]
    draw_pages([*redrawn, *extra.values()], say)
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(BOOK, SOURCE, ignore=lambda folder, names: SCRATCH if Path(folder) == BOOK else ())
    (SOURCE / "experiments").mkdir()
    for c in chapters:
        _stage(c.executed, SOURCE / f"{c.file}.ipynb", c.run, c.suffix)
    for notebook, (_, executed, *_rest) in extra.items():
        _stage(executed, SOURCE / notebook.name, explored if notebook == EXPLORER else None)
    _write_pages(chapters, found)
    _hero(explored)
    _toc(toc, chapters)
    say("from pages to HTML")
    _sphinx()
    return OUTPUT / "index.html"


def _write_pages(chapters: list[Chapter], found: list[Run]) -> None:
    of = {name: [] for name in _experiments()}
    for c in chapters:
        of[c.run.params.experiment].append((c.file, c.run.params.profile, c.data))
    (SOURCE / "results.md").write_text(pages.results(found))
    (SOURCE / "status.md").write_text(pages.status(found))
    (SOURCE / "reliability.md").write_text(pages.reliability())
    answered = [(c.file, c.title, c.data, answers(c.executed)) for c in chapters]
    (SOURCE / "claims.md").write_text(pages.claims(answered))
    (SOURCE / "experiments.txt").write_text(pages.experiments([(_heading(name), rows) for name, rows in of.items()]))


def _experiments() -> list[str]:
    return sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb") if (PARAMS / p.stem).is_dir())


def _chapters(experiment: str, found: list[Run], say: Callable[[str], None]) -> list[Chapter]:
    """One chapter for each of an experiment's profiles that has a finished run, except `smoke`.

    Live runs are brought up to date here; pages of records are drawn later.
    """
    finished = {
        r.params.profile: r for r in found if r.params.experiment == experiment and r.finished and r.owner == r.path
    }
    finished.pop("smoke", None)
    name, chapters = _heading(experiment).partition(":")[0], []
    for profile in sorted(finished, key=lambda p: (ORDER.index(p) if p in ORDER else len(ORDER), p)):
        run, executed = finished[profile], _drawn(f"{experiment}-{profile}")
        if not run.recorded:
            run, done = run_experiment(run.params)
            executed = run.path / "notebook.ipynb"
            if done:
                say(f"brought up to date: {run.name}")
        ending, suffix = (f"-{profile}", f" ({profile})") if chapters else ("", "")
        chapters.append(Chapter(f"experiments/{experiment}{ending}", f"{name} ({profile})", run, executed, suffix))
    return chapters


def _heading(experiment: str) -> str:
    """The first line of its notebook, without the `#`."""
    first, *_ = json.loads((NOTEBOOKS / f"{experiment}.ipynb").read_text())["cells"]
    return "".join(first["source"]).splitlines()[0].lstrip("# ")


def _explored() -> Run | None:
    """The run of the explorer and of the first page's picture: MNIST's demo, or until it has run a record."""
    for profile in ORDER if EXPLORER.exists() else ():
        with suppress(ParamsError):
            return find("mnist", profile)
    return None


def _drawn(name: str) -> Path:
    """The executed notebook of a page that is drawn."""
    return runs() / "pages" / f"{name}.ipynb"


def _stage(executed: Path, target: Path, run: Run | None, suffix: str = "") -> None:
    """Puts an executed notebook among the pages: with the note that says which run it shows, without its default values."""
    if cells := missing(executed):
        raise NotebookFailed(f"{executed} is not complete (cells {cells}): it gets no page")
    notebook = json.loads(executed.read_text())
    title, *rest = notebook["cells"]
    heading, *body = "".join(title["source"]).splitlines()
    title["source"] = "\n".join([heading + suffix, *body])
    for cell in rest:
        tags = cell["metadata"].get("tags", [])
        if "injected-parameters" in tags:
            cell["metadata"]["tags"] = [*tags, "hide-input"]
        elif "parameters" in tags:  # the demo's values: the injected ones are those that ran
            cell["metadata"]["tags"] = [*tags, "remove-cell"]
    notes = [{"cell_type": "markdown", "id": "run-banner", "metadata": {}, "source": banner(run)}] if run else []
    notebook["cells"] = [title, *notes, *rest]
    target.write_text(json.dumps(notebook))


def _hero(run: Run | None) -> None:
    """The picture of the first page: one row of digits per guidance scale."""
    import torch

    from guidebook.sampling.draw import draw
    from guidebook.sampling.sets import mosaic

    if run:
        scales = [w for w in run.params.sample.guidance if w <= 5]
        images = torch.cat([draw(run, w, run.params.evaluate.samples).images[:20] for w in scales])
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
    for leftover in (OUTPUT, OUTPUT.parent / ".doctrees"):
        shutil.rmtree(leftover, ignore_errors=True)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "-W", "-n", "--keep-going"]
    done = subprocess.run([*command, "--path-output", BOOK, SOURCE], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [s for s in (done.stdout + done.stderr).splitlines() if "WARNING" in s or "ERROR" in s]
        raise NotebookFailed(
            "the book did not build:\n" + "\n".join(lines or [done.stdout[-2000:], done.stderr[-2000:]])
        )
