"""The HTML book: executed notebooks and generated pages beside the written chapters, built by jupyter-book."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from PIL import Image

from guidebook.book import pages
from guidebook.book.drawing import draw_pages
from guidebook.book.notebook import NotebookFailed, missing, run_experiment
from guidebook.config.errors import nearest
from guidebook.config.paths import BOOK, NOTEBOOKS, PARAMS, RESULTS, runs
from guidebook.report.claims import FILE as CLAIMS
from guidebook.report.claims import Answer, answers
from guidebook.report.tables import banner
from guidebook.runs.run import Run, all_runs, find, opened
from guidebook.sampling.draw import draw
from guidebook.sampling.sets import mosaic

SOURCE, OUTPUT = BOOK / "_build" / "source", BOOK / "_build" / "html"
ORDER = ("demo", "paper", "best")  # of an experiment's pages
EXPLORER, PERFORMANCE = NOTEBOOKS / "explorer.ipynb", NOTEBOOKS / "performance.ipynb"
SCRATCH = ("_build", "results")  # folders of book/ that are no source of pages
MADE = ("results", "status", "reliability")  # chapters that every build writes
OPTIONAL = ("explorer", "performance", "claims")  # and those it writes where the study has what they show


def build(say: Callable[[str], None] = lambda line: None) -> Path:
    """Builds `book/_build/html` from the runs at hand and the recorded results; returns its first page.

    Any warning of Sphinx fails the build, and so does a notebook that did not reach its last cell, or a chapter of `_toc.yml` that
    there is not. `say` is told what is done. Raises NotebookFailed.
    """
    toc = _contents()
    # First: without the demo's run there is no book, and that is said at once.
    demo = find("mnist", "demo") if EXPLORER.exists() else None
    chapters = [chapter for name in _experiments() for chapter in _chapters(name, say)]
    drawn = [
        (NOTEBOOKS / f"{c.run.params.experiment}.ipynb", c.executed, c.run.params.model_dump(mode="json"), c.run.path)
        for c in chapters
        if c.run.recorded
    ]
    if demo:
        demo = find("mnist", "demo")  # as its kernel will find it: another may have been brought up to date since
        shown = {"experiment": "mnist", "profile": "demo"}
        drawn.append((EXPLORER, _drawn("explorer"), shown, None, demo.path / "metrics.json"))
    if measured := PERFORMANCE.exists() and any((RESULTS / "bench").glob("*.json")):
        drawn.append((PERFORMANCE, _drawn("performance"), {}, None, RESULTS / "bench"))
    draw_pages(drawn, say)
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(BOOK, SOURCE, ignore=lambda folder, names: SCRATCH if Path(folder) == BOOK else ())
    (SOURCE / "experiments").mkdir()
    for chapter in chapters:
        _stage(chapter.executed, SOURCE / f"{chapter.file}.ipynb", chapter.run, chapter.suffix)
    if demo:
        _stage(_drawn("explorer"), SOURCE / EXPLORER.name, demo)
        _hero(demo)
    if measured:
        _stage(_drawn("performance"), SOURCE / PERFORMANCE.name, None)
    found = all_runs()
    (SOURCE / "results.md").write_text(pages.results(found))
    (SOURCE / "status.md").write_text(pages.status(found))
    (SOURCE / "reliability.md").write_text(pages.reliability())
    if CLAIMS.exists():
        (SOURCE / "claims.md").write_text(pages.claims([_answers(c) for c in chapters]))
    (SOURCE / "experiments.txt").write_text(pages.experiments(_shown(chapters)))
    _toc(toc, chapters)
    say("from pages to HTML")
    _sphinx()
    return OUTPUT / "index.html"


def _experiments() -> list[str]:
    return sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb") if (PARAMS / p.stem).is_dir())


@dataclass(frozen=True)
class Chapter:
    file: str  # where it lies in the book, without .ipynb
    title: str  # in the contents
    run: Run
    executed: Path
    suffix: str  # added to the heading, so that pages of one notebook can be told apart


def _chapters(experiment: str, say: Callable[[str], None]) -> list[Chapter]:
    """One chapter for each of an experiment's profiles that has a run. Runs at hand are brought up to date; records are drawn later.

    A complete run at hand is shown before a record of the same profile; `smoke` never is.
    """
    found = {}
    for run in [opened(p) for p in sorted(RESULTS.glob(f"{experiment}/[!.]*"))] + _complete(experiment):
        found[run.params.profile] = run
    found.pop("smoke", None)
    name, chapters = _heading(experiment).partition(":")[0], []
    for profile in sorted(found, key=lambda p: (ORDER.index(p) if p in ORDER else len(ORDER), p)):
        run, first = found[profile], not chapters
        executed = _drawn(f"{experiment}-{profile}")
        if not run.recorded:
            run, done = run_experiment(run.params)
            executed = run.path / "notebook.ipynb"
            if done:
                say(f"brought up to date: {run.name}")
        file = f"experiments/{experiment}" if first else f"experiments/{experiment}-{profile}"
        chapters.append(Chapter(file, f"{name} ({profile})", run, executed, "" if first else f" ({profile})"))
    return chapters


def _heading(experiment: str) -> str:
    """The first line of its notebook, without the `#`."""
    first, *_ = json.loads((NOTEBOOKS / f"{experiment}.ipynb").read_text())["cells"]
    return "".join(first["source"]).splitlines()[0].lstrip("# ")


def _complete(experiment: str) -> list[Run]:
    folders = sorted(
        runs().glob(f"{experiment}/*/notebook.ipynb"), key=lambda f: (f.parent / "params.yml").stat().st_mtime
    )
    return [opened(f.parent) for f in folders]


def _drawn(name: str) -> Path:
    """Where a page lies when it is drawn."""
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


def _hero(run: Run) -> None:
    """The picture of the first page: one row of digits per guidance scale, as the demo drew them."""
    sets = [draw(run, w, run.params.evaluate.samples) for w in run.params.sample.guidance if w <= 5]
    picture = mosaic(torch.cat([s.images[:20] for s in sets]), columns=20, tile=64)
    Image.fromarray(picture).save(SOURCE / "hero.png", optimize=True)


def _answers(chapter: Chapter) -> tuple[str, str, str, list[Answer]]:
    return chapter.file, chapter.title, _data(chapter.run), answers(chapter.executed)


def _data(run: Run) -> str:
    return f"{run.params.data.name}, {run.provenance().get('images_seen', 0):,} images seen"


def _shown(chapters: list[Chapter]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Of every experiment its heading and its pages: what `pages.experiments` takes."""
    of = {name: [c for c in chapters if c.run.params.experiment == name] for name in _experiments()}
    return [
        (_heading(name), [(c.file, c.run.params.profile, _data(c.run)) for c in found]) for name, found in of.items()
    ]


def _contents() -> dict:
    """`_toc.yml`. Raises NotebookFailed where it names a chapter that nobody wrote and no build makes."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    known = [*sorted(p.stem for p in BOOK.glob("*.md")), *MADE, *OPTIONAL]
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
    program = Path(sys.executable).with_name("jupyter-book")
    options = ["-W", "-n", "--keep-going", "--path-output", BOOK]
    command = [program, "build", *options, SOURCE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [s for s in (done.stdout + done.stderr).splitlines() if "WARNING" in s or "ERROR" in s]
        raise NotebookFailed(
            "the book did not build:\n" + "\n".join(lines or [done.stdout[-2000:], done.stderr[-2000:]])
        )
