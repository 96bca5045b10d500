"""The lock of a run folder: one process at a time, and a dead one holds nothing.

`.lock` is locked by the kernel (flock) for as long as the owner lives; `lock.json` names the owner. Where the file system's locks do
not reach beyond one machine, the owner on another one is believed for as long as SLURM runs its job.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from guidebook.runs.manifest import write

WAIT = 0.2  # seconds: `held` takes the kernel's lock for a moment, which is no owner's
log = logging.getLogger(__name__)


class Locked(RuntimeError):
    """Another live process owns the run folder."""


@contextlib.contextmanager
def lock(folder: Path):
    """Owns the folder while it is open. Raises Locked, which names the owner; takes over from an owner that is dead."""
    file = folder / "lock.json"
    with open(folder / ".lock", "w") as gate:
        taken, owner = _taken(gate, WAIT), _owner(file)
        if not taken or _elsewhere(owner):
            raise Locked(
                f"{folder.name} is in use by process {owner.get('pid')} on {owner.get('host')} (job {owner.get('job')}); "
                f"wait for it or end it; if it is surely gone, delete {file}"
            )
        if file.exists():
            log.warning("took over %s from a process that is gone", folder.name)
        write(file, json.dumps(_me()), f"the lock of {folder.name}")
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def owned(folder: Path):
    """`lock` where this is the main process of those that share the work; the others come with it."""
    from guidebook.runtime.distributed import world

    return lock(folder) if world().is_main_process else contextlib.nullcontext()


def held(folder: Path) -> bool:
    """A check that a live process owns the folder."""
    file = folder / "lock.json"
    if not file.exists():
        return False
    with open(folder / ".lock", "a") as gate:
        return not _taken(gate, 0) or _elsewhere(_owner(file))


def job_id() -> str | None:
    """The SLURM job of this process. Of a task `12_0`: SLURM_JOB_ID of one task is the number of its whole array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _taken(gate, seconds: float) -> bool:
    """A try for the kernel's lock: true where this process has it now; another one's is waited for so long."""
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)


def _owner(file: Path) -> dict:
    """The process that wrote the lock. A file cut short by a crash, or gone again, or of another form, names nobody."""
    try:
        owner = json.loads(file.read_text())
        kinds = {"pid": int, "host": str, "job": str | None, "start": int}
        words = [owner.get(k) or "" for k in ("host", "job")]
        fits = all(isinstance(owner.get(k, _me()[k]), kind) for k, kind in kinds.items())
        return owner if fits and all(len(word) < 300 and word.isprintable() for word in words) else {}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _me() -> dict:
    start = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    return {"pid": os.getpid(), "host": socket.gethostname(), "job": job_id(), "start": start}


def _elsewhere(owner: dict) -> bool:
    """A check that the owner may live on another machine: SLURM knows of its job; a job that started again has left the first node."""
    me, job = _me(), owner.get("job")
    if owner.get("host", me["host"]) == me["host"]:
        return False
    if job is None or shutil.which("squeue") is None:
        return True  # nobody can be asked, so it is believed
    if job == me["job"]:
        return owner.get("start", 0) >= me["start"]
    answer = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, check=False)
    if answer.returncode:
        return "Invalid job id" not in answer.stderr
    return any(state != "PENDING" for state in answer.stdout.split())
