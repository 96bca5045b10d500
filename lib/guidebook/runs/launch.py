"""Processes that share the work of a run, one a device: started once, each stage a line of JSON.

The notebook's kernel never forks and stays the record. It starts `python -m guidebook.runs.launch`, on one machine itself, on several
nodes through `srun`. The main process answers each line with one: `{}` or `{"preempted": …}`; whichever fails, `{"error": …}`. When
stdin ends, so does the process; in the middle of a stage it stops as it would for a signal, so nothing outlives the notebook.
"""

import atexit
import contextlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from pkgutil import resolve_name

from guidebook.config.params import Params
from guidebook.runs.preemption import Preempted
from guidebook.runs.progress import FILE
from guidebook.runs.run import Run, opened

GRACE = 30  # seconds in which the others may end by themselves when one has
STAGES = {  # functions of a run and of what JSON can hold
    "train": "guidebook.training.loop:train",
    "draw": "guidebook.sampling.draw:sample_set",
    "measure": "guidebook.metrics.measure:measure",
}


class ProcessFailed(RuntimeError):
    """One of the processes ended or met an error. One line: which, and its last words."""


def wanted(params: Params) -> bool:
    """A check that work on this run is to be shared by processes that are still to be started."""
    return params.train.processes > 1 and int(os.environ.get("WORLD_SIZE", 1)) == 1


def do(run: Run, stage: str, **arguments) -> None:
    """A stage of the run, done by `train.processes` processes. Raises Preempted and ProcessFailed."""
    size = run.params.train.processes
    processes = _running[size] = _running.get(size) or Processes(size, run.path)
    try:
        processes.give({"run": str(run.path), "stage": stage, "arguments": arguments})
        processes.take()
    except BaseException:
        _running.pop(size).close()
        raise


class Processes:
    """Processes that wait for stages, each of so many threads, by default its share of the cores. Their errors go to `processes.log` in the
    first run's folder."""

    def __init__(self, size: int, folder: Path, threads: int | None = None):
        self.size, self.log, self._folder = size, folder / "processes.log", tempfile.TemporaryDirectory()
        nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", 1)) if size > 1 else 1
        command = [sys.executable, "-m", "guidebook.runs.launch"]
        cores = max(1, len(os.sched_getaffinity(0)) * nodes // size)
        env, ranks = {"OMP_NUM_THREADS": str(cores), **os.environ, "PYTHONUNBUFFERED": "1"}, [{}]
        if threads:  # one of several, whose progress is told by who started them
            env |= {"OMP_NUM_THREADS": str(threads), FILE: ""}
        if nodes > 1:
            options = {"nodes": nodes, "ntasks": size, "ntasks-per-node": size // nodes, "kill-on-bad-exit": 1}
            options["cpus-per-task"] = os.environ.get("SLURM_CPUS_PER_TASK", 1)
            command = ["srun", "--unbuffered", "--overlap", *(f"--{k}={v}" for k, v in options.items()), *command]
        else:
            env |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "GLOO_SOCKET_IFNAME": "lo"}
            env |= {"NCCL_SOCKET_IFNAME": "lo", "GUIDEBOOK_STORE": f"file://{self._folder.name}/store"}
            ranks = [{"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(size)] if size > 1 else ranks
        with open(self.log, "ab") as errors:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            self.members = [subprocess.Popen(command, env=env | rank, **pipes) for rank in ranks]
        self._answers = selectors.DefaultSelector()
        for member in self.members:
            self._answers.register(member.stdout, selectors.EVENT_READ)
        atexit.register(self.close)

    def give(self, job: dict, of: str = "") -> None:
        """A stage for the processes; what it is of, errors say."""
        self._of = f"{of}, " if of else ""
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            for member in self.members:
                member.stdin.write(json.dumps(job).encode() + b"\n")
                member.stdin.flush()

    def take(self) -> None:
        """Waits for the answer. Raises Preempted and ProcessFailed."""
        (ready, _), *_ = self._answers.select()
        line = ready.fileobj.readline()
        answer = json.loads(line) if line else {"error": None}
        if "preempted" in answer:
            raise Preempted(answer["preempted"])
        if "error" in answer:
            where = self._of + (f"in {self.size} processes" if self.size > 1 else "in a process of its own")
            raise ProcessFailed(f"{where}: {self._reason(answer['error'])}\n(more in {self.log})")

    def _reason(self, error: str | None) -> str:
        """Why a stage failed. Where a process was killed, the others only know that they lost it."""
        until = time.monotonic() + 1
        while time.monotonic() < until and not any((m.poll() or 0) < 0 for m in self.members):
            time.sleep(0.05)
        status = min(m.returncode or 0 for m in self.members)
        if error and status >= 0:
            return error
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"a process ended with status {status}; {lines[-1][-300:] if lines else 'its log is empty'}"

    def leave(self) -> None:
        """Tells the processes to end: at once where they wait for a stage, at the end of a step where they train."""
        for member in self.members:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                member.stdin.close()

    def close(self) -> None:
        """Ends the processes, and waits for that."""
        atexit.unregister(self.close)
        self.leave()
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


_running: dict[int, Processes] = {}


def main() -> None:
    """One of the processes: reads stages from stdin and does them."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    if "WORLD_SIZE" not in os.environ:  # srun has words of its own
        for ours, theirs in (("RANK", "PROCID"), ("LOCAL_RANK", "LOCALID"), ("WORLD_SIZE", "NTASKS")):
            os.environ[ours] = os.environ[f"SLURM_{theirs}"]
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)  # between two stages the end of stdin is enough
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for who started them, too
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()

    import torch.distributed as dist

    from guidebook.runtime.distributed import world

    main, answer = world().is_main_process, {}
    while not answer and (line := lines.get()) is not None:
        job = json.loads(line)
        try:
            resolve_name(STAGES[job["stage"]])(opened(Path(job["run"])), **job["arguments"])
        except Preempted as stop:
            answer = {"preempted": stop.what}
        except BaseException as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        if main or "error" in answer:
            with contextlib.suppress(BrokenPipeError):  # nobody listens any more
                print(json.dumps(answer), file=answers, flush=True)
    if not answer and dist.is_initialized():
        dist.destroy_process_group()
    os._exit(1 if "error" in answer else 0)  # a process that failed cannot take leave of the others


def _listen(lines: queue.Queue) -> None:
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    while True:  # a stage that is being prepared may not listen yet
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


if __name__ == "__main__":
    main()
