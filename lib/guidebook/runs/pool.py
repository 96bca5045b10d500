"""Several processes for one notebook: started once, each on its device, told what to do a line at a time.

The notebook's kernel never forks and stays the record; the processes run `worker.py`. On one machine they are started here, on
several nodes by `srun`, one a device.
"""

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from guidebook.config.params import Params
from guidebook.runs.preemption import Preempted
from guidebook.runs.run import Run

GRACE = 30  # seconds in which the others may end by themselves when one has


class ProcessFailed(RuntimeError):
    """One of the processes ended or met an error. One line: which, and its last words."""


def wanted(params: Params) -> bool:
    """Whether work on this run is to be shared by processes that are still to be started."""
    return params.train.processes > 1 and int(os.environ.get("WORLD_SIZE", 1)) == 1


def do(run: Run, stage: str, **arguments) -> None:
    """Has a stage of the run done by `train.processes` processes. Raises Preempted and ProcessFailed."""
    pool = _pools.get(run.params.train.processes) or Pool(run.params.train.processes, run.path)
    _pools[pool.size] = pool
    try:
        pool.do({"run": str(run.path), "stage": stage, "arguments": arguments})
    except BaseException:
        _pools.pop(pool.size).close()
        raise


class Pool:
    """Processes that wait for work. Their errors go to `processes.log` in the first run's folder."""

    def __init__(self, size: int, folder: Path):
        self.size, self.log, self._folder = size, folder / "processes.log", tempfile.TemporaryDirectory()
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", 1))
        command = [sys.executable, "-m", "guidebook.runs.worker"]
        cores = max(1, len(os.sched_getaffinity(0)) * nodes // size)
        env = {"OMP_NUM_THREADS": str(cores), **os.environ, "PYTHONUNBUFFERED": "1"}
        if nodes > 1:
            srun = [
                "srun",
                f"--nodes={nodes}",
                f"--ntasks={size}",
                f"--ntasks-per-node={size // nodes}",
                "--unbuffered",
            ]
            srun += [f"--cpus-per-task={os.environ.get('SLURM_CPUS_PER_TASK', 1)}", "--kill-on-bad-exit=1", "--overlap"]
            commands = [([*srun, *command], env)]
        else:
            env |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "GLOO_SOCKET_IFNAME": "lo"}
            env |= {"NCCL_SOCKET_IFNAME": "lo", "GUIDEBOOK_STORE": f"file://{self._folder.name}/store"}
            commands = [(command, env | {"RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(size)]
        with open(self.log, "ab") as errors:
            self.members = [
                subprocess.Popen(c, env=e, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
                for c, e in commands
            ]
        self._answers = selectors.DefaultSelector()
        for member in self.members:
            self._answers.register(member.stdout, selectors.EVENT_READ, member)
        atexit.register(self.close)

    def do(self, job: dict) -> None:
        line = json.dumps(job).encode() + b"\n"
        for member in self.members:
            try:
                member.stdin.write(line)
                member.stdin.flush()
            except BrokenPipeError:
                break  # the answer says why
        answer = self._answer()
        if "preempted" in answer:
            raise Preempted(answer["preempted"])
        if "error" in answer:
            raise ProcessFailed(f"in {self.size} processes: {answer['error']}\n(more in {self.log})")

    def _answer(self) -> dict:
        """The first line of JSON that any process writes: the main one after its work, another one when it fails."""
        (ready, _), *_ = self._answers.select()
        line = ready.fileobj.readline()
        answer = json.loads(line) if line else {"error": "a process ended without a word"}
        if "error" in answer:
            # Where one was killed, the others only know that they lost it.
            until = time.monotonic() + 1
            while time.monotonic() < until and not any((m.poll() or 0) < 0 for m in self.members):
                time.sleep(0.05)
            killed = [m.returncode for m in self.members if (m.returncode or 0) < 0]
            if killed or not line:
                status = killed[0] if killed else next((m.returncode for m in self.members if m.returncode), 0)
                answer = {"error": f"a process ended with status {status}; {self._last_words()}"}
        return answer

    def _last_words(self) -> str:
        words = [w for w in self.log.read_text(errors="replace").splitlines() if w.strip()]
        return words[-1][-300:] if words else "it said nothing"

    def close(self) -> None:
        """Ends the processes: at once where they wait for work, at the end of a step where they train."""
        atexit.unregister(self.close)
        for member in self.members:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                member.stdin.close()
        until = time.monotonic() + GRACE
        for member in self.members:
            try:
                member.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.kill()
                member.wait()
            member.stdout.close()
        self._answers.close()
        self._folder.cleanup()


_pools: dict[int, Pool] = {}
