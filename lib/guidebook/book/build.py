"""The HTML book: executed notebooks and generated pages beside the written chapters, built by jupyter-book."""

import ctypes
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from guidebook.book import explorers, outputs, pages
from guidebook.book.chapter import HOME, Chapter, chapters, drawn, experiments, heading
from guidebook.book.notebook import NotebookFailed, draw_pages
from guidebook.book.stage import stage
from guidebook.config.errors import nearest
from guidebook.config.paths import BOOK, NOTEBOOKS, PARAMS, RESULTS
from guidebook.report.claims import answers
from guidebook.runs.lock import lock
from guidebook.runs.manifest import take_place, writing
from guidebook.runs.run import Run, every_run, foremost, usable

OUTPUT = BOOK / "_build" / "html"
ASIDE = OUTPUT.with_name("aside")  # where new pages are made, while those before keep their place
SOURCE, BUILT = ASIDE / "source", ASIDE / "_build" / "html"
EXPLORER = NOTEBOOKS / "explorer.ipynb"
EXPLORED = ("demo", "paper")  # the first that there is of the digits' runs
SCRATCH = ("_build", "results")  # folders of book/ that are no source of pages
MEASURED = {"foundations": "foundations.ipynb", "performance": "bench", "six-images": "six-images.json"}  # of no run
OPTIONAL = ("explorer", *MEASURED)  # chapters that a build adds where there is something to show


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
    groups = {name: chapters(name, found, say) for name in experiments(toc)}
    shown, extra = [c for group in groups.values() for c in group], _extra(groups.get("mnist", []))
    draw_pages([c.page for c in (*shown, *extra) if RESULTS not in c.page[1].parents], say)
    shutil.copytree(BOOK, SOURCE, ignore=lambda folder, names: SCRATCH if Path(folder) == BOOK else ())
    (SOURCE / "experiments").mkdir()
    for c in (*shown, *extra):
        alike = [r for r in every if c.run and r.finished and r.name == c.run.name and r.path != c.run.path]
        group = groups[c.run.params.experiment] if c in shown else ()
        stage(c, alike, group, SOURCE, say)
    (SOURCE / "_assets" / "notebooks").mkdir(parents=True, exist_ok=True)
    for name in (*groups, *(c.file for c in extra if c.measured)):
        shutil.copy(NOTEBOOKS / f"{name}.ipynb", SOURCE / "_assets" / "notebooks")
    _write_pages(groups, extra, found)
    _toc(toc, groups)
    say("from pages to HTML")
    _sphinx()


def _extra(digits: list[Chapter]) -> list[Chapter]:
    """The explorer, of a run of the digits, and chapters of no run, where there is something to show on them."""
    extra, finished = [], {c.run.params.profile: c.run for c in digits if EXPLORER.exists()}
    if explored := next((finished[p] for p in EXPLORED if p in finished), None):
        shown, record = {"experiment": "mnist", "profile": explored.params.profile}, explored.path
        place = (record, ()) if explored.recorded else (None, [record / "metrics.json"])
        extra.append(Chapter("explorer", explored, (EXPLORER, drawn("explorer"), shown, *place)))
    for name, record in MEASURED.items():
        source, place = NOTEBOOKS / f"{name}.ipynb", RESULTS / record
        if source.exists() and (place.is_file() or any(place.glob("*.json"))):
            kept = place.suffix == ".ipynb" and outputs.of(source, place)  # executed from cells that are as they were
            extra.append(Chapter(name, None, (source, place if kept else drawn(name), {}, None, [place])))
    return extra


def _write_pages(groups: dict[str, list[Chapter]], extra: list[Chapter], found: list[Run]) -> None:
    """Fills those of the chapters that have places for what is made of records."""
    shown = [c for group in groups.values() for c in group]
    given = [(c, answers(c.page[1])) for c in (*shown, *extra)]
    answered = [(c.file, c.title, c.data, found) for c, found in given]
    listed = [(heading(NOTEBOOKS / f"{n}.ipynb"), [(c.file, c.kind, c.data) for c in of]) for n, of in groups.items()]
    places = {c.run.name: c.file for c in shown}
    filled = {
        "intro": lambda: pages.intro(given, shown, found, SOURCE / "_assets" / "front"),
        "experiments": lambda: pages.experiments(listed),
        "guidance": pages.guidance,
        "results": lambda: pages.results(found, places),
        "status": lambda: pages.status(found, places),
        "reliability": pages.reliability,
        "how-to-read": pages.how_to_read,
        "claims": lambda: pages.claims(answered),
        "atlas": pages.atlas,
        "code": lambda: pages.code([*(of[0] for of in groups.values() if of), *(c for c in extra if c.measured)]),
    }
    for name in filled:
        if (page := BOOK / f"{name}.md").exists() and "<!-- " in page.read_text():
            (SOURCE / page.name).write_text(filled[name]())
    explorers.index([(c.file, c.run, c.title, c.data) for c in shown], SOURCE)


def _articles(html: Path) -> dict[str, str]:
    """Text of each page, by its place, without the contents of the book beside it."""
    found = {}
    for file in html.rglob("*.html"):
        _, there, rest = file.read_text().partition("<article")
        if there:
            found[str(file.relative_to(html))] = rest.partition("</article>")[0]
    return found


def _contents() -> dict:
    """`_toc.yml`. Raises NotebookFailed where it names a chapter that is not written and that no build makes."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    known = [*sorted(p.stem for p in BOOK.glob("*.md")), *OPTIONAL]
    for caption, name in ((p["caption"], str(c.get("file"))) for p in toc["parts"] for c in p["chapters"]):
        there = any((BOOK / f"{name}.{kind}").is_file() for kind in ("md", "ipynb"))
        experiment = caption == HOME and (PARAMS / name.removeprefix("experiments/")).is_dir()
        if not (name in known or there or experiment):
            raise NotebookFailed(
                f"_toc.yml: there is no chapter {name[:60]!r}{nearest(name, known)}; there are: {', '.join(known)}. "
                "Mend its name, or write the file"
            )
    return toc


def _toc(toc: dict, groups: dict[str, list[Chapter]]) -> None:
    """Writes the contents: of each experiment its strongest run, and the others below that."""
    for part in toc["parts"]:
        if part["caption"] == HOME:
            part["chapters"] = [c for c in part["chapters"] if not c["file"].startswith("experiments/")]
            for first, *others in filter(None, groups.values()):
                below = [{"file": c.file, "title": c.title} for c in others]
                part["chapters"].append(
                    {"file": first.file, "title": first.name} | ({"sections": below} if below else {})
                )
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
