"""Trainings that need nothing of each other: on a CPU side by side, each with its share of the cores.

A small network's step is hundreds of short operations, which two cores hardly make shorter; two trainings keep both busy.
"""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch

from guidebook.runs.launch import Processes
from guidebook.runs.preemption import EVERY, Preempted, stopping
from guidebook.runs.progress import Bar
from guidebook.runs.run import Run
from guidebook.runtime.distributed import world
from guidebook.training import loop

MOST = 4  # processes, each of which has PyTorch in memory


def train(runs: Sequence[Run]) -> None:
    """Trains runs as `loop.train` does, in their order; on a GPU, and where a run has several processes, one after the other.

    How many threads a training has depends on all the runs that are named, not on those that are left: each goes on as it began.
    Raises what `loop.train` raises, and ProcessFailed for what went wrong in a process of its own.
    """
    cores = torch.get_num_threads() if world().device.type == "cpu" and world().num_processes == 1 else 1
    lanes = 1 if any(run.params.train.processes > 1 for run in runs) else min(len(runs), cores, MOST)
    left = [run for run in runs if not run.trained]
    if lanes > 1:
        for run in left:
            run.needs("the training")
        _beside(left, lanes, cores // lanes)
    else:
        for run in left:
            loop.train(run)


def _beside(runs: list[Run], lanes: int, threads: int) -> None:
    """Processes of so many threads, each of which takes the next run when it has trained one. A stop, or an error of one, ends all."""
    left, gate = deque(runs), threading.Lock()  # whoever takes a run, and whoever ends it all, does so alone

    def work(processes: Processes) -> None:
        try:
            while True:
                with gate:
                    if not left:
                        return
                    processes.give({"run": str(left.popleft().path), "stage": "train", "arguments": {}})
                processes.take()
                bar.update()
        finally:
            processes.close()

    with (
        stopping(runs[0]) as stop,
        Bar(None, "trained", len(runs), unit="run") as bar,
        ThreadPoolExecutor(lanes) as pool,
    ):
        started = [Processes(1, run.path, threads) for run in runs[:lanes]]
        working = [pool.submit(work, processes) for processes in started]
        try:
            while not any(of.done() and of.exception() for of in working) and not stop.asked():
                if not wait(working, EVERY, FIRST_EXCEPTION).not_done:
                    break
        finally:
            with gate:
                left.clear()
                for processes in started:
                    processes.leave()
    # Those that were told to leave have saved, and say so; what made them leave comes first.
    if errors := sorted(filter(None, (of.exception() for of in working)), key=lambda e: isinstance(e, Preempted)):
        raise errors[0]
