"""The HTML book: executed notebooks and generated pages beside the written chapters, built by jupyter-book."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from PIL import Image

from guidebook import pages
from guidebook.imagesets import sheet
from guidebook.notebook import NotebookFailed, execute, missing, run_experiment
from guidebook.paths import BOOK, NOTEBOOKS, PARAMS, RESULTS, runs
from guidebook.run import Run, all_runs, find, opened
from guidebook.sampling import draw

SOURCE, OUTPUT = BOOK / "_build" / "source", BOOK / "_build" / "html"
SCRATCH = ("_build", "results")  # folders of book/ that are no source of pages


def build() -> Path:
    """Builds `book/_build/html` from the runs at hand and the recorded results; returns its first page.

    Any warning of Sphinx fails the build, and so does a notebook that did not reach its last cell. Raises NotebookFailed.
    """
    chapters = [page for name in _experiments() for page in _pages(name)]
    explorer = _explorer()
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(BOOK, SOURCE, ignore=lambda folder, names: SCRATCH if Path(folder) == BOOK else ())
    (SOURCE / "experiments").mkdir()
    for name, _, executed in chapters:
        _stage(executed, SOURCE / f"{name}.ipynb")
    _stage(explorer, SOURCE / "explorer.ipynb")
    found = all_runs()
    (SOURCE / "results.md").write_text(pages.results(found))
    (SOURCE / "status.md").write_text(pages.status(found))
    _hero(find("mnist", "demo"))
    _toc(chapters)
    _sphinx()
    return OUTPUT / "index.html"


def _experiments() -> list[str]:
    return sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb") if (PARAMS / p.stem).is_dir())


def _pages(experiment: str) -> list[tuple[str, str, Path]]:
    """(page name, title in the contents, executed notebook) of each of an experiment's profiles, brought up to date.

    A complete run at hand is shown before a record of the same profile; `smoke` never is.
    """
    found = {}
    for run in [opened(p) for p in sorted(RESULTS.glob(f"{experiment}/*")) if p.is_dir()] + _complete(experiment):
        found[run.params.profile] = run
    found.pop("smoke", None)
    made = []
    for profile in sorted(found, key=["demo", "paper", "best"].index):
        run, first = found[profile], not made
        name = f"experiments/{experiment}" if first else f"experiments/{experiment}-{profile}"
        title = f"{experiment}: {'recorded' if run.recorded else 'run'}, {profile}"
        made.append((name, title, _executed(run)))
    return made


def _complete(experiment: str) -> list[Run]:
    folders = sorted(
        runs().glob(f"{experiment}/*/notebook.ipynb"), key=lambda f: (f.parent / "params.yml").stat().st_mtime
    )
    return [opened(f.parent) for f in folders]


def _executed(run: Run) -> Path:
    """The run's executed notebook, redrawn where the code or the record has changed since."""
    if not run.recorded:
        return run_experiment(run.params)[0].path / "notebook.ipynb"
    target = runs() / "pages" / f"{run.params.experiment}-{run.params.profile}.ipynb"
    source = NOTEBOOKS / f"{run.params.experiment}.ipynb"
    execute(source, target, run.params.model_dump(mode="json"), record=run.path)
    return target


def _explorer() -> Path:
    target, run = runs() / "pages" / "explorer.ipynb", find("mnist", "demo")
    execute(
        NOTEBOOKS / "explorer.ipynb",
        target,
        {"experiment": "mnist", "profile": "demo"},
        depends=run.path / "metrics.json",
    )
    return target


def _stage(executed: Path, target: Path) -> None:
    if cells := missing(executed):
        raise NotebookFailed(f"{executed} is not complete (cells {cells}): it gets no page")
    shutil.copyfile(executed, target)


def _hero(run: Run) -> None:
    """The picture of the first page: one row of digits per guidance scale, as the demo drew them."""
    sets = [draw(run, w, run.params.evaluate.samples) for w in run.params.sample.guidance if w <= 5]
    rows = [Image.fromarray(sheet(s.images[:20], columns=20)) for s in sets]
    width, height = rows[0].size
    scale = max(1, 1600 // width)
    picture = Image.new("L", (width, height * len(rows)))
    for i, row in enumerate(rows):
        picture.paste(row, (0, i * height))
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(SOURCE / "hero.png")


def _toc(chapters: list[tuple[str, str, Path]]) -> None:
    toc = yaml.safe_load((SOURCE / "_toc.yml").read_text())
    for part in toc["parts"]:
        if part["caption"] == "Experiments":
            part["chapters"] = [{"file": name, "title": title} for name, title, _ in chapters]
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
