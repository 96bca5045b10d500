"""The batch scripts of SLURM jobs: an array of experiments (the template `script.sh`), and the book after them."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from guidebook.config.paths import NOTEBOOKS, ROOT, runs
from guidebook.slurm.site import Cluster

KEPT = ("GUIDEBOOK_ROOT", "GUIDEBOOK_RUNS", "GUIDEBOOK_DATA", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Task:
    """One task of the array."""

    name: str  # mnist/paper, seed 1
    words: tuple[str, ...]  # of `guidebook run`
    folder: str  # of the run
    processes: int  # that share its work
    missing: tuple[str, ...]  # data and weights that are not on this machine
    fetch: str  # the command that downloads them


def logs() -> Path:
    """The folder of the jobs' logs and of what was submitted."""
    return runs().resolve() / "jobs"


def script(cluster: Cluster, work: list[Task]) -> str:
    """The batch script of the array."""
    options = [f"--array=0-{len(work) - 1}", f"--output={logs()}/%A_%a.log", f"--signal=B:USR1@{cluster.notice}"]
    options += [f"--nodes={cluster.nodes}", f"--ntasks-per-node={work[0].processes // cluster.nodes}"]
    options += [f"--gpus-per-node={cluster.gpus}"] if cluster.gpus else []
    quoted = ((shlex.quote(t.name), shlex.quote(t.folder), shlex.join(t.words)) for t in work)
    cases = [f"    {i}) name={name} run={run} words=({words}) ;;" for i, (name, run, words) in enumerate(quoted)]
    text = Path(__file__).with_suffix(".sh").read_text()
    text = text.replace("@PROGRAM@", _program(cluster)).replace("@GRACE@", str(cluster.notice * 3 // 4))
    return text.replace("@HEAD@", _head(cluster, "guidebook", options)).replace("@TASKS@", "\n".join(cases))


def book_script(cluster: Cluster) -> str:
    """The batch script of `make book`; its dependency is an option of `sbatch`. The explorer draws from the demo's run."""
    program = _program(cluster)
    demo = f"{program} run mnist --profile demo && " if (NOTEBOOKS / "explorer.ipynb").exists() else ""
    return f"{_head(cluster, 'guidebook-book', [f'--output={logs()}/book-%j.log'])}\n{demo}{program} build\n"


def _head(cluster: Cluster, name: str, options: list[str]) -> str:
    """The lines that SLURM reads, the folder, the site's setup and the environment."""
    place = {"partition": cluster.partition, "account": cluster.account, "qos": cluster.qos, "mem": cluster.memory}
    shared = [f"--job-name={name}", f"--time={cluster.time}", *(f"--{k}={v}" for k, v in place.items() if v)]
    shared += ["--open-mode=append", "--requeue", f"--cpus-per-task={cluster.cpus}"]
    kept = {k: os.path.abspath(os.environ[k]) for k in KEPT if k in os.environ}
    sbatch = [f"#SBATCH {option}" for option in [*shared, *options]]
    exports = [f"export {k}={shlex.quote(v)}" for k, v in (kept | OFFLINE | cluster.environment).items()]
    return "\n".join(["#!/bin/bash", *sbatch, f"cd {shlex.quote(str(ROOT))} || exit 1", *cluster.setup, *exports])


def _program(cluster: Cluster) -> str:
    return f"{cluster.container} guidebook" if cluster.container else f"{shlex.quote(sys.executable)} -m guidebook"
