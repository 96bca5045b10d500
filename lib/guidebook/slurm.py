"""Experiments as SLURM jobs: one task of an array for each, the book after the last one.

A task runs `guidebook run` and outlives its time limit, a preemption and a dead node: the batch shell turns SLURM's notice into a
file STOP in the run folder, training saves and exits 75, the task alone is requeued and goes on.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from guidebook import params as P
from guidebook.cluster import Cluster, fits
from guidebook.data.catalog import at_hand
from guidebook.paths import ROOT, runs
from guidebook.run import folder

KEPT = ("GUIDEBOOK_ROOT", "GUIDEBOOK_RUNS", "GUIDEBOOK_DATA", "HF_HOME", "HF_HUB_CACHE", "TORCH_HOME")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class SubmitError(RuntimeError):
    """Jobs that were not submitted. One line: why, and what to do."""


@dataclass(frozen=True)
class Task:
    """What one task of the array runs."""

    name: str  # mnist/paper, seed 1
    words: tuple[str, ...]  # of `guidebook run`
    folder: str  # of the run


def tasks(
    experiments: list[str], profile: str, settings: dict, seeds: list[int] | None, cluster: Cluster
) -> list[Task]:
    """A task per experiment and seed. Raises ParamsError, and SubmitError naming what is not on this machine."""
    settings = {"train.processes": cluster.processes} | settings
    found, lacking = [], []
    for experiment in experiments:
        for seed in seeds or [None]:
            chosen = settings | ({} if seed is None else {"train.seed": seed})
            params = P.load(experiment, profile, chosen)
            if params.train.processes % cluster.nodes:
                raise SubmitError(
                    f"train.processes = {params.train.processes} cannot be shared by {cluster.nodes} nodes alike: change one of them"
                )
            words = [experiment, "--profile", profile]
            words += [
                w
                for key, value in chosen.items()
                for w in ("--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}")
            ]
            name = f"{experiment}/{profile}" + ("" if seed is None else f", seed {seed}")
            found.append(Task(name, tuple(words), str(folder(params))))
            lacking += [piece for piece in missing(params) if piece not in lacking]
    if lacking:
        raise SubmitError(
            f"not on this machine: {'; '.join(lacking)}. A node has no internet: first `guidebook fetch "
            f"{' '.join(experiments)} --profile {profile}`"
        )
    if len({task.folder for task in found}) < len(found):
        raise SubmitError("two tasks would train the same run: name every experiment and every seed once")
    return found


def missing(params: P.Params) -> list[str]:
    """What a run would have to download: its data set, its text encoder."""
    from guidebook.text import at_hand as encoder_at_hand

    lacking = [] if at_hand(params.data.name) else [f"data set {params.data.name}"]
    if not encoder_at_hand(params.text.encoder):
        lacking.append(f"text encoder {params.text.encoder} (or --set text.encoder=embedded, a stand-in)")
    return lacking


def script(cluster: Cluster, work: list[Task]) -> str:
    """The batch script of the array."""
    processes = int(next(w for w in work[0].words if w.startswith("train.processes=")).partition("=")[2])
    head = [
        f"--array=0-{len(work) - 1}",
        f"--output={logs()}/%A_%a.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{cluster.notice}",
        f"--nodes={cluster.nodes}",
        f"--ntasks-per-node={processes // cluster.nodes}",
        f"--cpus-per-task={cluster.cpus}",
        *([f"--gpus-per-node={cluster.gpus}"] if cluster.gpus else []),
    ]
    cases = []
    for i, task in enumerate(work):
        values = (shlex.quote(task.name), shlex.quote(task.folder), shlex.join(task.words))
        cases.append("    {}) name={} run={} words=({}) ;;".format(i, *values))
    rendezvous = (
        [
            "# where the processes of all nodes meet",
            'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))",
        ]
        if cluster.nodes > 1
        else []
    )
    return "\n".join(
        [
            *_preamble(cluster, "guidebook", head),
            *rendezvous,
            "case $SLURM_ARRAY_TASK_ID in",
            *cases,
            "esac",
            LIFE.replace("GUIDEBOOK", _program(cluster)).replace("PATIENCE", str(cluster.notice * 3 // 4)),
        ]
    )


# A trapped signal ends `wait` early, so it is asked again; status 127 then means that it had told already. Work that cannot be
# interrupted would be killed at the limit, and a job so ended does not come back: it is requeued before, and loses no more than
# by a kill. A job that was cancelled stops like one that was preempted, but is not wanted again.
LIFE = """\
echo "$(date +%FT%T) $name: life $((${SLURM_RESTART_COUNT:-0} + 1)), job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"
mkdir -p "$run"
rm -f "$run/STOP"
requeue() {
    if scontrol show job -o "$SLURM_JOB_ID" | grep -q 'JobState=\\(RUNNING\\|PREEMPTED\\)'; then
        scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    fi
}
leave() {
    echo "$(date +%FT%T) asked to stop"
    touch "$run/STOP"
    again=1
    [ -n "$timer" ] || { late & timer=$!; }
}
late() {
    trap 'kill $!; exit' TERM
    sleep PATIENCE &
    wait
    echo "$(date +%FT%T) it did not stop in time"
    requeue
}
timer=
again=1
trap leave USR1 TERM
GUIDEBOOK run "${words[@]}" &
child=$!
while [ -n "$again" ]; do
    again=
    wait $child
    now=$?
    [ $now = 127 ] || status=$now
done
[ -z "$timer" ] || kill $timer
echo "$(date +%FT%T) $name: exit status $status"
[ $status != 75 ] || requeue
exit $status
"""


def book_script(cluster: Cluster) -> str:
    """The batch script that builds the book; its dependency is named when it is submitted."""
    head = [f"--output={logs()}/book-%j.log", "--open-mode=append", "--requeue", f"--cpus-per-task={cluster.cpus}"]
    return "\n".join([*_preamble(cluster, "guidebook-book", head), f"exec {_program(cluster)} build", ""])


def _preamble(cluster: Cluster, name: str, head: list[str]) -> list[str]:
    """Lines up to the first that differs: what SLURM reads, where it runs, what it inherits."""
    place = {"partition": cluster.partition, "account": cluster.account, "qos": cluster.qos, "mem": cluster.memory}
    options = [f"--job-name={name}", f"--time={cluster.time}", *(f"--{k}={v}" for k, v in place.items() if v)]
    kept = {k: os.path.abspath(os.environ[k]) for k in KEPT if k in os.environ}
    exports = {**kept, **OFFLINE, **cluster.environment}
    return [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in [*options, *head]),
        f"cd {shlex.quote(str(ROOT))}",
        *cluster.setup,
        *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
    ]


def _program(cluster: Cluster) -> str:
    return f"{cluster.container} guidebook" if cluster.container else f"{shlex.quote(sys.executable)} -m guidebook"


def submit(cluster: Cluster, work: list[Task]) -> tuple[str, str]:
    """Submits the array and the book after it; their job ids. Raises SubmitError."""
    if not shutil.which("sbatch"):
        raise SubmitError("sbatch is not on PATH: submit from a machine of the cluster; --dry-run prints the scripts")
    waiting = {job["folder"]: job["job"] for job in jobs() if job["state"] not in ENDED}
    for task in work:
        if task.folder in waiting:
            raise SubmitError(
                f"{task.name} is in the queue already, as job {waiting[task.folder]}: wait for it or scancel it"
            )
    if objection := fits(cluster, _answer("sinfo", "-h", "-o", "%P|%l|%D|%c|%m|%G")):
        raise SubmitError(objection)
    place = logs()
    place.mkdir(parents=True, exist_ok=True)
    array = _sbatch(script(cluster, work))
    after = [f"--dependency=afterok:{array}", "--kill-on-invalid-dep=yes"]
    book = _sbatch(book_script(cluster), *after)
    (place / f"{array}.json").write_text(json.dumps({"book": book, "tasks": [asdict(task) for task in work]}, indent=1))
    return array, book


def logs() -> Path:
    """Where the jobs write, and what was submitted is kept."""
    return runs().resolve() / "jobs"


ENDED = "not queued"


def jobs() -> list[dict]:
    """Every submitted task with the state of its job: `job`, `name`, `folder`, `state`, `reason`, `left` (time to its limit)."""
    files = sorted(logs().glob("*.json"))
    if not files or not shutil.which("squeue"):
        return []
    lines = _answer("squeue", "-h", "-r", "--me", "-o", "%i|%T|%r|%L").splitlines()
    live = {job: rest for job, *rest in (line.split("|") for line in lines)}
    found = []
    for file in files:
        for i, task in enumerate(json.loads(file.read_text())["tasks"]):
            job = f"{file.stem}_{i}"
            state, reason, left = live.get(job, (ENDED, "", ""))
            found.append(
                {
                    "job": job,
                    "name": task["name"],
                    "folder": task["folder"],
                    "state": state,
                    "reason": reason,
                    "left": left,
                }
            )
    return found


def _sbatch(text: str, *options: str) -> str:
    done = subprocess.run(["sbatch", "--parsable", *options], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SubmitError(f"sbatch refused: {' '.join(done.stderr.split())}")
    return done.stdout.strip().partition(";")[0]


def _answer(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SubmitError(f"{command[0]} failed: {' '.join(done.stderr.split())}")
    return done.stdout
