"""The batch scripts of SLURM jobs: an array of experiments, and the book after the last one.

A task runs `guidebook run` and outlives its time limit, a preemption and a dead node: the batch shell turns SLURM's notice into a
file STOP in the run folder, training saves and exits 75, the task alone is requeued and goes on.
"""

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
    """What one task of the array runs."""

    name: str  # mnist/paper, seed 1
    words: tuple[str, ...]  # of `guidebook run`
    folder: str  # of the run
    processes: int  # that work on it
    lacking: tuple[str, ...]  # what it needs and this machine does not have


def logs() -> Path:
    """Where the jobs write, and what was submitted is kept."""
    return runs().resolve() / "jobs"


def script(cluster: Cluster, work: list[Task]) -> str:
    """The batch script of the array."""
    head = [
        f"--array=0-{len(work) - 1}",
        f"--output={logs()}/%A_%a.log",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{cluster.notice}",
        f"--nodes={cluster.nodes}",
        f"--ntasks-per-node={work[0].processes // cluster.nodes}",
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
            LIFE.replace("GUIDEBOOK", _program(cluster)).replace("SECONDS_LEFT", str(cluster.notice * 3 // 4)),
        ]
    )


# A trapped signal ends `wait` early, so it is asked again; status 127 then means that it had told already. Work that cannot be
# interrupted would be killed at the limit, and a job so ended does not come back: it is requeued before, and loses no more than
# by a kill. A job that was cancelled stops like one that was preempted, but is not wanted again.
LIFE = """\
echo "$(date +%FT%T) $name: life $((${SLURM_RESTART_COUNT:-0} + 1)), job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID  # not SLURM_JOB_ID: one task has the number of the whole array
mkdir -p "$run"
rm -f "$run/STOP"
requeue() {
    if scontrol show job -o "$task" | grep -q 'JobState=\\(RUNNING\\|PREEMPTED\\)'; then
        scontrol requeue "$task"
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
    sleep SECONDS_LEFT &
    wait
    echo "$(date +%FT%T) it did not stop in time"
    requeue
}
timer=
again=1
status=127
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
rm -f "$run/STOP"
echo "$(date +%FT%T) $name: exit status $status"
[ "$status" != 75 ] || requeue
exit $status
"""


def book_script(cluster: Cluster) -> str:
    """The batch script that does what `make book` does; its dependency is named when it is submitted."""
    head = [f"--output={logs()}/book-%j.log", "--open-mode=append", "--requeue", f"--cpus-per-task={cluster.cpus}"]
    program = _program(cluster)
    # The explorer draws from the demo's run.
    first = f"{program} run mnist --profile demo && " if (NOTEBOOKS / "explorer.ipynb").exists() else ""
    return "\n".join([*_preamble(cluster, "guidebook-book", head), f"{first}{program} build", ""])


def _preamble(cluster: Cluster, name: str, head: list[str]) -> list[str]:
    """Lines up to the first that differs: what SLURM reads, where it runs, what it inherits."""
    place = {"partition": cluster.partition, "account": cluster.account, "qos": cluster.qos, "mem": cluster.memory}
    options = [f"--job-name={name}", f"--time={cluster.time}", *(f"--{k}={v}" for k, v in place.items() if v)]
    kept = {k: os.path.abspath(os.environ[k]) for k in KEPT if k in os.environ}
    exports = {**kept, **OFFLINE, **cluster.environment}
    return [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in [*options, *head]),
        f"cd {shlex.quote(str(ROOT))} || exit 1",
        *cluster.setup,
        *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
    ]


def _program(cluster: Cluster) -> str:
    return f"{cluster.container} guidebook" if cluster.container else f"{shlex.quote(sys.executable)} -m guidebook"
