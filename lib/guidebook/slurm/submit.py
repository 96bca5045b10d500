"""Experiments sent to SLURM: which tasks, whether all they need is there, and what became of them."""

import json
import shlex
import shutil
import subprocess
from dataclasses import asdict

from guidebook.config import params as P
from guidebook.config import pretrained
from guidebook.config.datasets import available
from guidebook.runs.run import folder
from guidebook.runtime.precision import native_bf16
from guidebook.slurm.script import Task, book_script, logs, script
from guidebook.slurm.site import Cluster, fits

ENDED = "not queued"


class SubmitError(RuntimeError):
    """Jobs that were not submitted. One line: why, and what to do."""


def tasks(
    experiments: list[str], profile: str, settings: dict, seeds: list[int] | None, cluster: Cluster
) -> list[Task]:
    """A task per experiment and seed. Raises ParamsError and SubmitError."""
    if seeds and "train.seed" in settings:
        raise SubmitError("--seeds and --set train.seed name seeds twice: leave one of them out")
    settings = {"train.processes": cluster.processes} | settings
    found = []
    for experiment in experiments:
        for seed in seeds or [None]:
            chosen = settings | ({} if seed is None else {"train.seed": seed})
            params = P.load(experiment, profile, chosen)
            if params.train.precision == "auto":  # resolved here, since the job's script names the run's folder
                chosen |= {"train.precision": "bf16" if cluster.gpus or native_bf16("cpu") else "fp32"}
                params = P.load(experiment, profile, chosen)
            n, least = params.train.processes, cluster.processes if cluster.gpus else cluster.nodes
            if n % least or (cluster.gpus and n != least):
                raise SubmitError(
                    f"train.processes = {n} does not fit {cluster.nodes} nodes with {cluster.gpus} GPUs: one a GPU, and as many on "
                    f"every node; {least} would"
                )
            words = [experiment, "--profile", profile]
            words += [
                w
                for key, value in chosen.items()
                for w in ("--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}")
            ]
            name = f"{experiment}/{profile}" + ("" if seed is None else f", seed {seed}")
            found.append(Task(name, tuple(words), str(folder(params)), params.train.processes, missing(params)))
    if len({task.folder for task in found}) < len(found):
        raise SubmitError("two tasks would train the same run: name every experiment and every seed once")
    return found


def missing(params: P.Params) -> tuple[str, ...]:
    """What a run would have to download: its data set, its text encoder, its autoencoder."""
    lacking = [] if available(params.data.name) else [f"data set {params.data.name}"]
    for name in filter(None, (params.text.encoder, params.model.vae)):
        if not pretrained.available(name):
            model = pretrained.PRETRAINED[name]
            lacking.append(f"{model.kind} {name} (or --set {model.key}={pretrained.EMBEDDED}, a stand-in)")
    return tuple(lacking)


def lacking(work: list[Task]) -> str | None:
    """Why the tasks could not run on a node, which has no internet, and what to do; or None."""
    pieces = dict.fromkeys(piece for task in work for piece in task.lacking)
    fetches = dict.fromkeys(f"guidebook fetch {shlex.join(_what(task))}" for task in work if task.lacking)
    if not pieces:
        return None
    return f"not on this machine: {'; '.join(pieces)}. A node has no internet: first `{' && '.join(fetches)}`"


def _what(task: Task) -> list[str]:
    """The words that say which data and which weights of others a task needs."""
    name, sets = task.words[:3], zip(task.words[3::2], task.words[4::2], strict=True)
    return [*name, *(word for pair in sets if pair[1].startswith(("data.", "text.", "model.vae")) for word in pair)]


def submit(cluster: Cluster, work: list[Task]) -> tuple[str, str]:
    """Submits the array and the book after it; their job ids. Raises SubmitError."""
    if objection := lacking(work):
        raise SubmitError(objection)
    if not shutil.which("sbatch"):
        raise SubmitError("sbatch is not on PATH: submit from a machine of the cluster; --dry-run prints the scripts")
    waiting = {job["folder"]: job["job"] for job in jobs() if job["state"] != ENDED}
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
    after = [f"--dependency=afterok:{array},singleton", "--kill-on-invalid-dep=yes"]
    try:
        book = _sbatch(book_script(cluster), *after)
    except SubmitError:
        _answer("scancel", array)
        raise
    (place / f"{array}.json").write_text(json.dumps({"book": book, "tasks": [asdict(task) for task in work]}, indent=1))
    return array, book


def jobs() -> list[dict]:
    """Every submitted task with the state of its job: `job`, `name`, `folder`, `state`, `reason`, `left` (time to its limit)."""
    files = sorted(logs().glob("*.json"), key=lambda f: int(f.stem))  # by job number: 9 before 10
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
        raise SubmitError(f"SLURM does not answer: {command[0]} said: {' '.join(done.stderr.split())[:200]}")
    return done.stdout
