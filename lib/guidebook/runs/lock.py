"""One process at a time in a run folder."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import subprocess
from pathlib import Path

log = logging.getLogger(__name__)


class Locked(RuntimeError):
    """Another live process owns the run folder."""


@contextlib.contextmanager
def lock(folder: Path):
    """Owns the folder while it is open. Raises Locked, saying who owns it; takes over from an owner that is dead."""
    file, mine = folder / "lock.json", _me()
    with open(folder / ".lock", "w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # one process at a time looks and writes
        if file.exists():
            if _alive(owner := _owner(file)):
                raise Locked(
                    f"{folder.name} is in use by process {owner.get('pid')} on {owner.get('host')} (job {owner.get('job')}); "
                    f"wait for it or end it; if it is surely gone, delete {file}"
                )
            log.warning("took over %s from a process that is gone", folder.name)
        aside = folder / ".lock.json"
        aside.write_text(json.dumps(mine))
        os.replace(aside, file)
    try:
        yield
    finally:
        if _owner(file) == mine:
            file.unlink()


def owned(folder: Path):
    """`lock` where this is the main process of those that share the work; the others come with it."""
    from guidebook.runtime.distributed import world

    return lock(folder) if world().is_main_process else contextlib.nullcontext()


def held(folder: Path) -> bool:
    """Whether a live process owns the folder."""
    file = folder / "lock.json"
    return file.exists() and _alive(_owner(file))


def _owner(file: Path) -> dict:
    """Who wrote the lock. A lock cut short by a crash, or gone again, names nobody."""
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def job_id() -> str | None:
    """The SLURM job of this process. Of a task `12_0`: SLURM_JOB_ID of one task is the number of its whole array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _me() -> dict:
    job, life = job_id(), int(os.environ.get("SLURM_RESTART_COUNT", 0))
    started = _started(os.getpid())
    return {"pid": os.getpid(), "started": started, "host": socket.gethostname(), "job": job, "life": life}


def _started(pid: int) -> str | None:
    """The start time of a process, which tells it from a later one with the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if fields[0] in "ZX" else fields[19]  # a zombie has ended, though nobody has asked how
    except (OSError, IndexError):
        return None


def _alive(owner: dict) -> bool:
    if owner.get("host") != socket.gethostname():
        return "host" in owner and _job_lives(owner)
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _started(owner["pid"]) == owner["started"]


def _job_lives(owner: dict) -> bool:
    """Another node cannot be asked about a process, but SLURM about its job: a job that began again has left the first node."""
    me, job = _me(), owner.get("job")
    if job is None or shutil.which("squeue") is None:
        return True  # nobody can be asked, so it is believed
    if job == me["job"]:
        return owner.get("life", 0) >= me["life"]
    asked = subprocess.run(["squeue", "-h", "-j", job, "-o", "%T"], capture_output=True, text=True, check=False)
    if asked.returncode:
        return "Invalid job id" not in asked.stderr
    return any(state != "PENDING" for state in asked.stdout.split())
