"""Experiments as SLURM jobs: the tasks of an array, missing data and weights, and states in the queue."""

import json
import shutil
import subprocess
from shlex import join

from guidebook.config import params as P
from guidebook.config import pretrained
from guidebook.data.files import available
from guidebook.runs.run import folder
from guidebook.slurm.script import Task, book_script, logs, script
from guidebook.slurm.site import Cluster

ENDED = "not queued"


class SubmitError(RuntimeError):
    """Jobs that were not submitted. One line: why, and what to do."""


def tasks(experiments: list[str], profile: str, settings: dict, seeds: list | None, cluster: Cluster) -> list[Task]:
    """A task per experiment and seed. Raises ParamsError and SubmitError."""
    if seeds and "train.seed" in settings:
        raise SubmitError("--seeds and --set train.seed name seeds twice: leave one of them out")
    settings = {"train.processes": cluster.processes} | settings
    chosen = [settings if seed is None else settings | {"train.seed": seed} for seed in seeds or [None]]
    work = [_task(*P.named(word, profile), each, cluster) for word in experiments for each in chosen]
    if len({task.folder for task in work}) < len(work):
        raise SubmitError("two tasks would train the same run: name every experiment and every seed once")
    return work


def _task(experiment: str, profile: str, settings: dict, cluster: Cluster) -> Task:
    params = P.load(experiment, profile, settings)
    if params.train.precision == "auto":  # resolved here: the job's script names the run's folder
        from guidebook.runtime.precision import native_bf16

        settings = settings | {"train.precision": "bf16" if cluster.gpus or native_bf16("cpu") else "fp32"}
        params = params.replace(train={"precision": settings["train.precision"]})
    n, least = params.train.processes, cluster.processes
    if n != least if cluster.gpus else n % cluster.nodes:
        fit = f"{cluster.nodes} nodes with {cluster.gpus} GPUs: one a GPU, and as many on every node; {least} would"
        raise SubmitError(f"train.processes = {n} does not fit {fit}")
    words, fetch = [experiment, "--profile", profile], [experiment, "--profile", profile]
    for key, value in settings.items():
        change = ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        words += change
        fetch += change if key.startswith(("data.", "text.", "model.vae")) else []
    name = f"{experiment}/{profile}" + (f", seed {settings['train.seed']}" if "train.seed" in settings else "")
    return Task(name, tuple(words), str(folder(params)), n, missing(params), f"guidebook fetch {join(fetch)}")


def missing(params: P.Params) -> tuple[str, ...]:
    """The downloads that a run needs: its data set, its text encoder, its autoencoder."""
    names = [] if available(params.data.name, params.data.subset) else [f"data set {params.data.name}"]
    for name in filter(None, (params.text.encoder, params.model.vae)):
        if not pretrained.available(name):
            model = pretrained.PRETRAINED[name]
            names.append(f"{model.kind} {name} (or --set {model.key}={pretrained.EMBEDDED}, a stand-in)")
    return tuple(names)


def lacking(work: list[Task]) -> str | None:
    """Why the tasks could not run on a node, which has no internet, and what to do; or None."""
    names = "; ".join(dict.fromkeys(name for task in work for name in task.missing))
    commands = " && ".join(dict.fromkeys(task.fetch for task in work if task.missing))
    return f"not on this machine: {names}. A node has no internet: first `{commands}`" if names else None


def submit(cluster: Cluster, work: list[Task]) -> tuple[str, str]:
    """Submits the array and the book after it; their job ids. Raises SubmitError."""
    if objection := lacking(work):
        raise SubmitError(objection)
    if not shutil.which("sbatch"):
        raise SubmitError("sbatch is not on PATH: submit from a machine of the cluster; --dry-run prints the scripts")
    queued = {job["folder"]: job for job in jobs() if job["state"] != ENDED}
    if job := next((queued[task.folder] for task in work if task.folder in queued), None):
        raise SubmitError(f"{job['name']} is in the queue already, as job {job['job']}: wait for it or scancel it")
    text = script(cluster, work)
    _slurm("sbatch", "--test-only", text=text)  # plain sbatch takes a job that no node can ever start
    logs().mkdir(parents=True, exist_ok=True)
    array = _sbatch(text)
    try:
        book = _sbatch(book_script(cluster), f"--dependency=afterok:{array},singleton", "--kill-on-invalid-dep=yes")
    except SubmitError:
        _slurm("scancel", array)
        raise
    submitted = [{"job": f"{array}_{i}", "name": task.name, "folder": task.folder} for i, task in enumerate(work)]
    (logs() / f"{array}.json").write_text(json.dumps(submitted, indent=1))
    return array, book


def jobs() -> list[dict]:
    """Every submitted task with the state of its job: `job`, `name`, `folder`, `state`, `reason`, `left` (time to its limit)."""
    files = sorted(logs().glob("*.json"), key=lambda f: int(f.stem))  # by job number: 9 before 10
    if not files or not shutil.which("squeue"):
        return []
    lines = [line.split("|") for line in _slurm("squeue", "-h", "-r", "--me", "-o", "%i|%T|%r|%L").splitlines()]
    live = {job: {"state": state, "reason": reason, "left": left} for job, state, reason, left in lines}
    ended = {"state": ENDED, "reason": "", "left": ""}
    return [task | live.get(task["job"], ended) for file in files for task in json.loads(file.read_text())]


def _sbatch(text: str, *options: str) -> str:
    return _slurm("sbatch", "--parsable", *options, text=text).strip().partition(";")[0]


def _slurm(*command: str, text: str | None = None) -> str:
    """The output of a command of SLURM. Raises SubmitError."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.splitlines()[-1:]).removeprefix("allocation failure: ")[:300]
        raise SubmitError(f"{command[0]} refused: {reason} (the request is in params/cluster.yml)")
    return done.stdout
