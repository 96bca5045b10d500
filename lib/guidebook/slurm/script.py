"""The batch scripts of SLURM jobs: an array of experiments (the template `script.sh`), and the book after them."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from guidebook.config.paths import NOTEBOOKS, ROOT, runs
from guidebook.slurm.site import BOOK, Cluster

KEPT = ("GUIDEBOOK_RUNS", "GUIDEBOOK_DATA", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
BOOK_NAME = "guidebook-book"


@dataclass(frozen=True)
class Task:
    """One task of an array."""

    name: str  # mnist/paper, seed 1
    words: tuple[str, ...]  # of `guidebook run`
    folder: str  # of the run
    processes: int  # that share its work
    missing: tuple[str, ...]  # data and weights that are not on this machine
    fetch: str  # the command that downloads them
    asks: Cluster  # for its resources


def records() -> Path:
    """The folder of what was submitted: a file an array."""
    return runs().resolve() / "jobs"


def logs(cluster: Cluster) -> Path:
    """The folder of the jobs' output."""
    return Path(os.path.abspath(ROOT / cluster.logs)) if cluster.logs else records()


def script(work: list[Task]) -> str:
    """The batch script of an array, whose tasks ask for the same resources."""
    cluster = work[0].asks
    throttle = f"%{cluster.throttle}" if cluster.throttle else ""
    options = [f"--array=0-{len(work) - 1}{throttle}", f"--output={logs(cluster)}/%A_%a.log"]
    options += [f"--signal=B:USR1@{cluster.notice}", "--requeue"]
    options += [f"--nodes={cluster.nodes}", f"--ntasks-per-node={work[0].processes // cluster.nodes}"]
    quoted = ((shlex.quote(t.name), shlex.quote(t.folder), shlex.join(t.words)) for t in work)
    cases = [f"    {i}) name={name} run={run} words=({words}) ;;" for i, (name, run, words) in enumerate(quoted)]
    values = {"HEAD": _head(cluster, "guidebook", options), "TASKS": "\n".join(cases), "PROGRAM": _program(cluster)}
    values |= {"GRACE": str(cluster.notice * 3 // 4), "RECORDS": shlex.quote(str(records())), "BOOK": BOOK_NAME}
    text = Path(__file__).with_suffix(".sh").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def book_script(cluster: Cluster) -> str:
    """The batch script of `make book`; its dependency is an option of `sbatch`. The explorer draws from the demo's run.

    Of tasks that failed, pages that can be built are built; a demo that fails, too, leaves its page out.
    """
    asks = cluster.job(BOOK)
    program = _program(asks)
    demo = f"{program} run mnist --profile demo\n" if (NOTEBOOKS / "explorer.ipynb").exists() else ""
    head = _head(asks, BOOK_NAME, ["--requeue", f"--output={logs(asks)}/book-%j.log"])
    return f"{head}\ntrap 'echo \"the book: exit status $?\"' EXIT\n{demo}{program} build\n"


def _head(cluster: Cluster, name: str, options: list[str]) -> str:
    """The lines that SLURM reads, the folder, the site's setup and the environment."""
    place = {"partition": cluster.partition, "account": cluster.account, "qos": cluster.qos, "mem": cluster.memory}
    place["gpus-per-node"] = cluster.gpus if cluster.gpus_per_node else None
    shared = [f"--job-name={name}", f"--time={cluster.time}", *(f"--{k}={v}" for k, v in place.items() if v)]
    shared += ["--open-mode=append", f"--cpus-per-task={cluster.cpus}", *options, *cluster.sbatch]
    kept = {k: os.path.abspath(os.environ[k]) for k in KEPT if os.environ.get(k)}
    exports = {"GUIDEBOOK_ROOT": os.path.abspath(ROOT)} | kept | OFFLINE | cluster.environment
    lines = [*(f"#SBATCH {option}" for option in shared), f"cd {shlex.quote(str(ROOT))} || exit 1", *cluster.setup]
    return "\n".join(["#!/bin/bash", *lines, *(f"export {k}={shlex.quote(v)}" for k, v in exports.items())])


def _program(cluster: Cluster) -> str:
    return f"{cluster.container} guidebook" if cluster.container else f"{shlex.quote(sys.executable)} -m guidebook"
