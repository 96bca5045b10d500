"""Chapters of the book that are executed notebooks: which there are, what they are called, and in what order they stand."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guidebook.book.notebook import run_experiment
from guidebook.config.budget import images, published, share
from guidebook.config.params import departures
from guidebook.config.paths import NOTEBOOKS, PARAMS, runs
from guidebook.report.banner import fraction
from guidebook.runs.run import Run

ORDER = ("paper", "best", "fraction", "demo")  # of runs whose evidence is equally strong
HOME = "Experiments"  # the part of the contents that lists the experiments, in their order


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
    def measured(self) -> bool:
        """A check that it shows records of no run, and is not kept as it was executed."""
        return self.run is None and self.page[4][0].suffix != ".ipynb"

    @property
    def name(self) -> str:
        """The heading without the question."""
        return heading(self.page[0]).partition(":")[0]

    @property
    def kind(self) -> str:
        """The run's profile; of what a run that falls short of it is a fraction."""
        profile, files, paper = self.run.params.profile, self.run.params.data, published(self.run.params)
        own = paper and profile not in ORDER and files.name != paper.data.name
        short = "fraction of " if departures(self.run.params) else "fraction on " if own else ""
        return f"{short}{profile}"

    @property
    def title(self) -> str:
        """In lists of pages."""
        return f"{self.name} ({self.kind})" if self.run else self.name


def experiments(toc: dict) -> list[str]:
    """Names of the experiments, in the order of the contents; those that they do not name come last, by their letters."""
    listed = [
        Path(c["file"]).name for part in toc.get("parts", ()) if part["caption"] == HOME for c in part["chapters"]
    ]
    there = sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb") if (PARAMS / p.stem).is_dir())
    return sorted(there, key=lambda name: listed.index(name) if name in listed else len(listed))


def evidence(run: Run) -> tuple:
    """How strong the evidence of a run of an experiment is, the strongest first when sorted.

    The published data come before other images, images that were taken before those that stand in for them, then the larger share of
    the published training (else the more images), then `ORDER`.
    """
    p, seen = run.params, run.provenance().get("images_seen")
    paper, own = published(p) or p, p.data.contents is not None
    stands_in = p.data.entry.stand_in is None and not own
    place = ORDER.index(p.profile) if p.profile in ORDER else len(ORDER)
    return p.data.name != paper.data.name, stands_in, -(share(p, seen) or seen or images(p)), place, p.profile


def chapters(experiment: str, found: list[Run], say: Callable[[str], None]) -> list[Chapter]:
    """One chapter for each of an experiment's profiles that has a finished run, except `smoke`; the strongest has the plain address.

    Live runs are brought up to date here; pages of records are drawn later.
    """
    of = [r for r in found if r.params.experiment == experiment and r.finished and r.owner == r.path]
    made = []
    for run in sorted((r for r in of if r.params.profile != "smoke"), key=evidence):
        profile = run.params.profile
        executed, record = drawn(f"{experiment}-{profile}"), run.path
        if not run.recorded:
            run, done = run_experiment(run.params)
            executed, record = run.path / "notebook.ipynb", None
            if done:
                say(f"brought up to date: {run.name}")
        ending, suffix = (f"-{profile}", f" ({profile})") if made else ("", "")
        page = (NOTEBOOKS / f"{experiment}.ipynb", executed, run.params.model_dump(mode="json"), record)
        made.append(Chapter(f"experiments/{experiment}{ending}", run, page, suffix))
    return made


def heading(notebook: Path) -> str:
    """The first line of a notebook, without the `#`."""
    first, *_ = json.loads(notebook.read_text())["cells"]
    return "".join(first["source"]).splitlines()[0].lstrip("# ")


def drawn(name: str) -> Path:
    """The executed notebook of a page that is drawn."""
    return runs() / "pages" / f"{name}.ipynb"
