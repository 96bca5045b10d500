"""The output shown in the chapter "Running on a cluster": `python tests/slurm/record_chapter.py` writes book/cluster/*.txt.

On a real SLURM of one node with two CPUs the MNIST demo is submitted with two seeds; the first task is preempted on its way, and both
are cancelled when it has gone on. Takes some minutes. Paths of the machine become `~/guidebook`, addresses `node1`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from cluster import cluster
from study import CLUSTER

HERE = Path(__file__).resolve().parents[2]
CHAPTER = HERE / "book" / "cluster"
NAMES = ("missing.txt", "refused.txt", "cluster.yml", "dry-run.txt", "submit.txt", "status.txt", "log.txt")
SITE = CLUSTER | {
    "time": "30:00",
    "notice": 60,
    "sbatch": ["--comment=guidance"],
    "overrides": {"book": {"time": "2:00:00"}},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, cluster(Path(scratch) / "slurm") as slurm:
        root = Path(scratch) / "guidebook"
        for name in NAMES:  # the chapter includes them, and this study's book is built with it
            (CHAPTER / name).touch()
        shutil.copytree(HERE / "book", root / "book", ignore=shutil.ignore_patterns("_build"))
        for name in ("params", "notebooks"):
            shutil.copytree(HERE / name, root / name)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "GUIDEBOOK"))} | slurm.env
        env |= {"GUIDEBOOK_ROOT": str(root), "GUIDEBOOK_RUNS": str(root / "runs"), "COLUMNS": "118"}

        def said(command: str) -> str:
            """A command as it is typed, and what it says."""
            words = command.replace("guidebook", f"{sys.executable} -m guidebook", 1)
            done = subprocess.run(words, shell=True, env=env, capture_output=True, text=True, cwd=root, check=False)
            return f"$ {command}\n{done.stdout}{done.stderr}"

        def site(**changes) -> None:
            (root / "params" / "cluster.yml").write_text(yaml.safe_dump(SITE | changes, sort_keys=False))

        def keep(name: str, text: str) -> None:
            for path, shown in (
                (str(root), "~/guidebook"),
                (str(HERE), "~/guidebook"),
                (sys.executable, "~/guidebook/.venv/bin/python"),
            ):
                text = text.replace(path, shown)
            text = re.sub(r"127\.0\.0\.\d", "node1", text)
            (CHAPTER / name).write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")

        site()
        keep("missing.txt", said("guidebook submit mnist --profile paper"))
        site(cpus=3)
        keep("refused.txt", said("guidebook submit mnist --profile demo"))
        site()
        keep("cluster.yml", (root / "params" / "cluster.yml").read_text())
        words = "mnist --profile demo --seeds 0,1"
        keep("dry-run.txt", said(f"guidebook submit {words} --dry-run"))
        submitted = said(f"guidebook submit {words}")
        keep("submit.txt", submitted)
        array = re.search(r"^(\d+)_0 ", submitted, re.M)[1]

        log = root / "runs" / "jobs" / f"{array}_0.log"
        while not re.search(r"training [1-9]", log.read_text() if log.exists() else ""):
            time.sleep(1)
        # What SLURM sends before a limit or a preemption
        slurm.run("scancel", "--signal=USR1", "--batch", f"{array}_0")
        slurm.wait(f"{array}_0", "PENDING", 120)
        slurm.wait(f"{array}_0", "RUNNING", 120)
        while log.read_text().count("training") < 4:
            time.sleep(1)
        keep("status.txt", said("guidebook status"))
        keep("log.txt", f"$ cat runs/jobs/{array}_0.log\n" + log.read_text())


if __name__ == "__main__":
    main()
