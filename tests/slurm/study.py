"""A study small enough to be submitted again and again: one experiment that trains for some seconds, and a book of one page."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import torch
import yaml
from safetensors.torch import load_file

from guidebook.config.params import load
from guidebook.config.paths import BOOK as CHAPTERS
from guidebook.training import checkpoint

CLUSTER = {
    "partition": "main", "account": None, "qos": None, "time": "20:00", "notice": 10, "nodes": 1, "gpus": 0, "cpus": 1,
    "memory": None, "setup": [], "container": None, "environment": {"OMP_NUM_THREADS": "1"},
}  # fmt: skip
CELLS = (
    "import os\nimport time\n\nfrom guidebook.metrics import intervals\nfrom guidebook.metrics.scores import grain\n"
    "from guidebook.config.params import from_notebook\nfrom guidebook.runs.run import open_run\nfrom guidebook.sampling.draw import draw\n"
    "from guidebook.training import loop\nfrom guidebook.training.step import Trainer\n\n"
    "params = from_notebook(globals())\nrun = open_run(params)",
    # A first life that lasts on a fast machine too: seconds that each step waits
    'wait, step = 0 if "SLURM_RESTART_COUNT" in os.environ else float(os.environ.get("PACE", 0)), Trainer.step\n'
    "Trainer.step = lambda trainer: (time.sleep(wait), step(trainer))[1]",
    "loop.train(run)",
    # Asked to stop here, where nothing listens
    'if params.data.caption.startswith("busy") and "SLURM_RESTART_COUNT" not in os.environ:\n    time.sleep(200)',
    "samples = draw(run, 1.0, 30)\nvalue, low, high = intervals.mean(grain(samples.images.numpy()))\n"
    'run.add_metrics([{"metric": "grain", "value": value, "low": low, "high": high, "interval": "normal", "n": 30,\n'
    '                  "guidance": 1.0, "draw": samples.draw.json, "extractor": "", "reference": ""}])',
)
BOOK = {
    "_config.yml": "title: tiny\nexecute: {execute_notebooks: 'off'}\nonly_build_toc_files: true\n",
    "_toc.yml": "format: jb-book\nroot: intro\nparts:\n  - caption: Experiments\n    chapters: []\n"
    "  - caption: Evidence\n    chapters: [{file: results}, {file: status}, {file: how-to-read}]\n",
    "intro.md": "# A tiny study\n",
    "how-to-read.md": "# How to read\n",
}


def write(root: Path, epochs: float, every: float) -> Path:
    """The files of the study: epochs of its training, and between two checkpoints."""
    params = load("mnist", "smoke").replace(
        experiment="tiny",
        profile="demo",
        data={"limit": 64},
        train={"batch": 16, "epochs": epochs, "checkpoint_every": every, "caption_dropout": 0.2, "ema": []},
        sample={"steps": 2, "guidance": [1], "weights": "raw"},
        evaluate={"samples": 30},
    )
    for name in ("params/tiny", "notebooks", "book"):
        (root / name).mkdir(parents=True)
    (root / "params" / "tiny" / "demo.yml").write_text(params.yaml())
    configure(root)
    given = "\n".join(f"{name} = {value!r}" for name, value in params.model_dump(mode="json").items())
    cells = [
        nbformat.v4.new_code_cell(given, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, CELLS),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Tiny: a study"), *cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, root / "notebooks" / "tiny.ipynb")
    for name, text in BOOK.items():
        (root / "book" / name).write_text(text)
    for name in ("results.md", "status.md", "reliability.md"):  # chapters with places that a build fills
        (root / "book" / name).write_text((CHAPTERS / name).read_text())
    return root


def configure(root: Path, **changes) -> None:
    (root / "params" / "cluster.yml").write_text(yaml.safe_dump(CLUSTER | changes))


@dataclass(frozen=True)
class Study:
    """A study and the folder its runs go to."""

    root: Path
    runs: Path
    env: dict[str, str]

    def guidebook(self, *words: str, check: bool = True) -> subprocess.CompletedProcess:
        """The command, as somebody on the cluster's login node types it."""
        places = {"GUIDEBOOK_ROOT": str(self.root), "GUIDEBOOK_RUNS": str(self.runs), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "guidebook", *words]
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")} | self.env | places
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done

    def submit(self, *words: str) -> tuple[str, str]:
        """Job ids of the array and of the book."""
        said = self.guidebook("submit", "tiny", "--profile", "demo", *words).stdout
        return re.search(r"^(\d+)_0 ", said)[1], re.search(r"^(\d+)  the book", said, re.M)[1]

    def array(self, *words: str) -> str:
        """Job id of the array, without the book after it, which would take more of the machine than the training."""
        array, book = self.submit(*words)
        subprocess.run(["scancel", book], env=os.environ | self.env, check=True)
        return array

    def status(self) -> list[dict]:
        return json.loads(self.guidebook("status", "--json").stdout)

    def run(self, seed: int = 0) -> Path:
        """The folder of the run with this training seed."""
        files = self.runs.glob("tiny/*/params.yml")
        found = [f.parent for f in files if yaml.safe_load(f.read_text())["train"]["seed"] == seed]
        return found[0] if found else self.runs / "none"

    def log(self, job: str) -> str:
        """What a job wrote, or `*` for all."""
        return "".join(f.read_text() for f in sorted((self.runs / "jobs").glob(f"{job}.log")))

    def seen(self, seed: int = 0) -> int:
        """Images seen by the last whole line of statistics."""
        file = self.run(seed) / "stats.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return json.loads(lines[-2])["nimg"] if len(lines) > 1 else 0


def numbers(run: Path) -> dict[str, torch.Tensor]:
    """Every number of the trained model and of the newest checkpoint."""
    tensors, _ = checkpoint.load(checkpoint.complete(run / "checkpoints")[-1])
    model = load_file(run / "model" / "raw" / "diffusion_pytorch_model.safetensors")
    return model | {f"{file}/{name}": t for file, group in tensors.items() for name, t in group.items()}


def same(a: Path, b: Path) -> bool:
    x, y = numbers(a), numbers(b)
    return len(x) > 100 and x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
