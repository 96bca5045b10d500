"""Experiments as SLURM jobs: the tasks of an array, missing data and weights, and states in the queue."""

import json
import logging
import shutil
import subprocess
from pathlib import Path
from shlex import join

from guidebook.config import params as P
from guidebook.config import paths, pretrained
from guidebook.data.files import available, located
from guidebook.runs.manifest import write
from guidebook.runs.preemption import SAVED
from guidebook.runs.run import folder
from guidebook.slurm.script import Task, book_script, logs, records, script
from guidebook.slurm.site import BOOK, Cluster

ENDED = "not queued"
log = logging.getLogger(__name__)


class SubmitError(RuntimeError):
    """Jobs that were not submitted. One line: why, and what to do."""


def tasks(experiments: list[str], profile: str, settings: dict, seeds: list | None, cluster: Cluster) -> list[Task]:
    """A task per experiment and seed. Raises ParamsError, DataError and SubmitError."""
    if seeds and "train.seed" in settings:
        raise SubmitError("--seeds and --set train.seed name seeds twice: leave one of them out")
    chosen = [settings if seed is None else settings | {"train.seed": seed} for seed in seeds or [None]]
    named = [P.named(word, profile) for word in experiments]
    work = [_task(name, own, each, cluster.job(name)) for name, own in named for each in chosen]
    if len({task.folder for task in work}) < len(work):
        raise SubmitError("two tasks would train the same run: name every experiment and every seed once")
    return work


def _task(experiment: str, profile: str, settings: dict, cluster: Cluster) -> Task:
    settings = {"train.processes": cluster.processes} | settings
    params = P.load(experiment, profile, settings)
    if params.train.precision == "auto":  # resolved here: the job's script names the run's folder
        from guidebook.runtime.precision import native_bf16

        settings = settings | {"train.precision": "bf16" if cluster.gpus_per_node or native_bf16("cpu") else "fp32"}
        params = params.replace(train={"precision": settings["train.precision"]})
    if params.model.init and params.model.init != P.pinned(params):
        settings = settings | {"model.init": P.pinned(params)}
        params = params.replace(model={"init": settings["model.init"]})
    n, least = params.train.processes, cluster.processes
    if n != least if cluster.gpus_per_node else n % cluster.nodes:
        fit = f"{cluster.nodes} nodes with {cluster.gpus_per_node} GPUs: one a GPU, and as many on every node; {least} would"
        raise SubmitError(f"train.processes = {n} does not fit {fit}")
    words, fetch = [experiment, "--profile", profile], [experiment, "--profile", profile]
    for key, value in settings.items():
        change = ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        words += change
        fetch += change if key.startswith(("data.", "text.", "model.vae", "model.init")) else []
    name = f"{experiment}/{profile}" + (f", seed {settings['train.seed']}" if "train.seed" in settings else "")
    return Task(name, tuple(words), str(folder(params)), n, missing(params), f"guidebook fetch {join(fetch)}", cluster)


def missing(params: P.Params) -> tuple[str, ...]:
    """The downloads that a run needs: its data set, its text encoder, its autoencoder. Raises DataError for a file cut short."""
    data, subset = params.data.name, params.data.subset
    names = [] if available(data, subset) else [f"data set {data}"]
    if params.data.entry.stand_in and not names:
        from guidebook.data.parquet import opened

        files = located(data, subset)
        for file in (*files.train, *files.test):
            opened(str(file)).close()
    for name in pretrained.named(params):
        if not pretrained.available(name):
            names.append(pretrained.wanted(name))
    return tuple(dict.fromkeys([*names, *(missing(before) if (before := P.origin(params)) is not params else ())]))


def lacking(work: list[Task]) -> str | None:
    """Why the tasks could not run on a node, which has no internet, and what to do; or None."""
    names = "; ".join(dict.fromkeys(name for task in work for name in task.missing))
    commands = " && ".join(dict.fromkeys(task.fetch for task in work if task.missing))
    return f"not on this machine: {names}. A node has no internet: first `{commands}`" if names else None


def unfinished(work: list[Task]) -> tuple[list[Task], list[str]]:
    """The tasks that are neither complete nor in the queue, and a line about each of the others. Raises SubmitError."""
    queued = {job["folder"]: job["job"] for job in jobs() if job["state"] != ENDED}
    complete = {t.folder for t in work if (Path(t.folder) / "notebook.ipynb").exists()}
    lines = [f"{t.name}: in the queue already, as job {queued[t.folder]}" for t in work if t.folder in queued]
    lines += [f"{t.name}: complete" for t in work if t.folder in complete - queued.keys()]
    return [t for t in work if t.folder not in complete | queued.keys()], lines


def scripts(cluster: Cluster, work: list[Task]) -> list[tuple[str, list[Task]]]:
    """Batch scripts with their tasks: of an array for all tasks that ask for the same resources, and at last of the book."""
    alike: dict[str, list[Task]] = {}
    for task in work:
        alike.setdefault(task.asks.model_dump_json(), []).append(task)
    return [*((script(tasks), tasks) for tasks in alike.values()), (book_script(cluster), [])]


def check(cluster: Cluster, work: list[Task]) -> None:
    """Raises SubmitError where these tasks would not be submitted: why, and what to do."""
    if why := lacking(work):
        raise SubmitError(why)
    if not shutil.which("sbatch"):
        raise SubmitError("sbatch is not on PATH: submit from a machine of the cluster; --dry-run prints the scripts")
    for text, _ in scripts(cluster, work):
        _slurm("sbatch", "--test-only", text=text)  # plain sbatch takes a job that no node can ever start


def submit(cluster: Cluster, work: list[Task]) -> list[dict]:
    """Submits the arrays and the book after them; a record of each job. Raises SubmitError, and then nothing is in the queue."""
    check(cluster, work)
    *arrays, (book, _) = scripts(cluster, work)
    after = logs(cluster.job(BOOK))
    for folder_ in {records(), after, *(logs(task.asks) for task in work)}:
        folder_.mkdir(parents=True, exist_ok=True)
    for task in work:
        (Path(task.folder) / "STOP").unlink(missing_ok=True)  # whoever stopped it wants it continued
    submitted: dict[str, list[dict]] = {}
    try:
        for text, tasks_ in arrays:
            array = _sbatch(text)
            submitted[array] = [
                {"job": (job := f"{array}_{i}"), "name": t.name, "folder": t.folder, "log": f"{logs(t.asks)}/{job}.log"}
                for i, t in enumerate(tasks_)
            ]
        last = _sbatch(book, f"--dependency=afterany:{':'.join(submitted)},singleton")
    except SubmitError:
        if submitted:
            _slurm("scancel", *submitted)
        raise
    made = {"name": "the book", "folder": str(paths.BOOK)}
    submitted[array].append({"job": last, **made, "log": f"{after}/book-{last}.log"})
    for array, rows in submitted.items():
        lines = ",\n".join(map(json.dumps, rows))
        write(records() / f"{array}.json", f"[\n{lines}\n]\n")
    return [row for rows in submitted.values() for row in rows]


def jobs() -> list[dict]:
    """Every submitted task, and every book, with the state of its job. Of a folder's jobs the last one counts.

    `job`, `name`, `folder`, `log`, `state`, `reason`, `left` (time to its limit). Raises SubmitError.
    """
    files = [f for f in records().glob("*.json") if f.stem.isdecimal()]
    found = [job for file in sorted(files, key=lambda f: int(f.stem)) for job in _submitted(file)]  # 9 before 10
    asked = ("squeue", "-h", "-r", "--me", "-o", "%i|%T|%r|%L")
    lines = _slurm(*asked).splitlines() if found and shutil.which("squeue") else []
    rows = (dict(zip(("job", "state", "reason", "left"), x.split("|"), strict=True)) for x in lines)
    live = {row["job"]: row for row in rows}
    found = [job | live.get(job["job"], {"state": ENDED, "reason": "", "left": ""}) for job in found]
    return sorted(found, key=lambda job: (job["state"] != ENDED, job["state"] != "PENDING"))


def _submitted(file: Path) -> list[dict]:
    """The tasks of an array in a file of `submit`; of an older one the log lies beside it. One that cannot be read is left out."""
    try:
        found = [{"log": str(file.with_name(f"{job['job']}.log"))} | job for job in json.loads(file.read_bytes())]
        if all(isinstance(job[key], str) for job in found for key in ("job", "name", "folder", "log")):
            return found
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    log.warning("left out: %s is not what was written; delete it", file)
    return []


def failure(job: dict) -> str | None:
    """The last line in the log of a job that failed; None where it ended well, was stopped, or never began."""
    file = Path(job["log"])
    text = file.read_text(errors="replace").rpartition(": start ")[2] if file.is_file() else ""  # of its last start
    said, end, status = text.rpartition(": exit status ")
    lines = [line for line in (said.splitlines()[:-1] if end else text.splitlines()) if line.strip()]
    if not lines or status.split()[:1] in (["0"], ["75"]):
        return None
    if any(line.endswith((SAVED, " stop requested")) for line in (lines[-1:] if end else lines)):  # killed as it ended
        return None
    ours = [line for line in lines if end and line.startswith("guidebook: ")]  # where a traceback lies comes after it
    return (ours or lines)[-1].removeprefix("guidebook: ")


def _sbatch(text: str, *options: str) -> str:
    return _slurm("sbatch", "--parsable", *options, text=text).strip().partition(";")[0]


def _slurm(*command: str, text: str | None = None) -> str:
    """The output of a command of SLURM. Raises SubmitError."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.splitlines()[-1:]).removeprefix("allocation failure: ")[:300]
        raise SubmitError(f"{command[0]} refused: {reason} (the request is in params/cluster.yml)")
    return done.stdout
