"""A study of one small notebook, run by the command itself: with two cells in which a fault can be put."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from guidebook.config.params import Params, load
from guidebook.config.paths import ROOT
from guidebook.training import checkpoint

CELLS = (
    "import os, time\nfrom guidebook.training import loop\nfrom guidebook.config.params import from_notebook\n"
    "from guidebook.runs.run import open_run\n\nparams = from_notebook(globals())\nrun = open_run(params)",
    "loop.train(run)",
    'exec(os.environ.get("FAULT", ""))',
    'run.metrics() or run.add_metrics([{"metric": "grain", "value": 1.0, "low": 0.0, "high": 2.0, "interval": "normal",\n'
    '    "n": 30, "guidance": None, "draw": None, "extractor": "", "reference": ""}])',
)
BOOK = {
    "_config.yml": "title: tiny\nexecute: {execute_notebooks: 'off'}\nonly_build_toc_files: true\n",
    "_toc.yml": "format: jb-book\nroot: intro\nparts:\n  - caption: Experiments\n    chapters: []\n"
    "  - caption: Evidence\n    chapters: [{file: results}, {file: status}]\n",
    "intro.md": "# A tiny study\n",
}


@dataclass(frozen=True)
class Study:
    root: Path
    runs: Path
    experiment: str = "tiny"
    profile: str = "demo"

    def start(self, *words: str, fault: str = "") -> subprocess.Popen:
        """The command, as it is typed, with a fault in the kernel."""
        env = os.environ | {"GUIDEBOOK_ROOT": str(self.root), "GUIDEBOOK_RUNS": str(self.runs), "FAULT": fault}
        # Whoever starts the tests in the background has SIGINT ignored, and so would have what they start.
        program = ["env", "--default-signal=INT", Path(sys.executable).with_name("guidebook")]
        return subprocess.Popen(
            [*program, *words],
            env=env | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, fault: str = "") -> tuple[int, str]:
        """`guidebook run tiny`: exit status and what it said about itself."""
        return ended(self.start("run", "tiny", fault=fault))

    @property
    def folder(self) -> Path:
        """The run's folder."""
        (found,) = self.runs.glob(f"{self.experiment}/{self.profile}-*")
        return found

    @property
    def page(self) -> Path:
        return self.folder / "notebook.ipynb"

    def begins(self, process: subprocess.Popen, steps: int = 1) -> None:
        """Returns when the training has written down so many lines of statistics, or the command has ended."""
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            files = list(self.runs.glob("tiny/demo-*/stats.jsonl"))
            if files and len(files[0].read_text().splitlines()) >= steps:
                return
            time.sleep(0.02)


def ended(process: subprocess.Popen) -> tuple[int, str]:
    said, error = process.communicate(timeout=240)
    lines = (said + error).splitlines()
    return process.returncode, "\n".join(x for x in lines if not x.startswith(("tiny/demo", "WARNING: took over")))


def study(root: Path, steps: int = 8, processes: int = 1) -> Study:
    """The files of a study whose training has so many steps, with a checkpoint after every fourth."""
    params = load("mnist", "smoke").replace(
        data={"limit": 64},
        train={
            "batch": 16,
            "epochs": steps / 4,
            "checkpoint_every": 1,
            "caption_dropout": 0.2,
            "ema": [],
            "processes": processes,
        },
        sample={"steps": 2, "guidance": [1], "weights": "raw"},
        evaluate={"samples": 30},
    )
    return written(root, params, CELLS)


def written(root: Path, params: Params, cells: Sequence[str]) -> Study:
    """The files of a study with one experiment: its params, a notebook with these cells of code, and a book."""
    params = params.replace(experiment="tiny", profile="demo")
    for name in ("params/tiny", "notebooks", "book"):
        (root / name).mkdir(parents=True)
    (root / "params" / "tiny" / "demo.yml").write_text(params.yaml())
    given = "\n".join(f"{name} = {value!r}" for name, value in params.model_dump(mode="json").items())
    cells = [new_code_cell(given, metadata={"tags": ["parameters"]}), *map(new_code_cell, cells)]
    notebook = new_notebook(cells=[new_markdown_cell("# Tiny: a study"), *cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, root / "notebooks" / "tiny.ipynb")
    for name, text in BOOK.items():
        (root / "book" / name).write_text(text)
    for name in ("results.md", "status.md"):  # chapters with places that a build fills
        (root / "book" / name).write_text((ROOT / "book" / name).read_text())
    return Study(root, root / "runs")


def children(pid: int) -> list[int]:
    """Every process that descends from one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if words[0] != "Z":
            parents[int(stat.parent.name)] = int(words[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [grandchild for child in found for grandchild in children(child)]


def named(pids: list[int], word: str) -> list[int]:
    """Those of the processes whose command holds the word."""
    return [p for p in pids if word in Path(f"/proc/{p}/cmdline").read_bytes().decode(errors="replace")]


def gone(pids: list[int], seconds: float) -> bool:
    """Whether all of them have ended, or do within so long."""
    until = time.monotonic() + seconds
    while any(_lives(p) for p in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def seen(folder: Path) -> int:
    """Images seen at the newest complete checkpoint."""
    return max((int(p.name[5:]) for p in checkpoint.complete(folder / "checkpoints")), default=0)
