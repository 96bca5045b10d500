"""Trainings that need nothing of each other: on a CPU side by side, each with its share of the cores.

A small network's step is hundreds of short operations, which two cores hardly make shorter; two trainings keep both busy.
"""

import os
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import torch

from guidebook.config.budget import images
from guidebook.data.images import load
from guidebook.models.space import space
from guidebook.runs.launch import Processes
from guidebook.runs.preemption import Preempted, stopping
from guidebook.runs.progress import Bar
from guidebook.runs.run import Run
from guidebook.runtime.distributed import world
from guidebook.training import loop
from guidebook.training.estimate import GB, memory

MOST = 4  # processes, each of which has PyTorch in memory
LOOK = 1.0  # seconds between looks at how far they are, and whether to stop


def train(runs: Sequence[Run]) -> None:
    """Trains runs as `loop.train` does, in their order; on a GPU, and where a run has several processes, one after the other.

    How many threads a training has depends on all the runs that are named, not on those that are left: each goes on as it began.
    Raises what `loop.train` raises, and ProcessFailed for what goes wrong in a process of its own: its line names the run.
    """
    runs = list(dict.fromkeys(runs))
    left = [run for run in runs if not run.trained]
    if (lanes := _lanes(runs)) == 1:
        for run in left:
            loop.train(run)
        return
    for run in left:
        run.needs("the training")
    with stopping(left[0]):
        # Once, before all of them do: data, autoencoders and latents, which they share
        for params in {(run.params.data, run.params.model.vae): run.params for run in left}.values():
            space(params).learnt(load(params.data))
    _beside(left, lanes, torch.get_num_threads() // lanes)


def _lanes(runs: list[Run]) -> int:
    """How many runs are trained at a time: as many as there are cores and memory for."""
    if world().device.type != "cpu" or world().num_processes > 1 or any(run.params.train.processes > 1 for run in runs):
        return 1
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (memory(runs[0].params)[0] + GB)
    return max(1, min(len(runs), torch.get_num_threads(), MOST, int(room)))


def _beside(runs: list[Run], lanes: int, threads: int) -> None:
    """Processes of so many threads, each of which takes the next run when it has trained one. A stop, or an error of one, ends all."""
    left, gate, started = deque(runs), threading.Lock(), []  # the gate: one takes a run, or ends it all, at a time

    def work(processes: Processes) -> None:
        try:
            while True:
                with gate:
                    if not left:
                        return
                    run = left.popleft()
                    processes.give({"run": str(run.path), "stage": "train", "arguments": {}}, run.name)
                processes.take()
        finally:
            processes.close()

    with stopping(runs[0]) as stop, ThreadPoolExecutor(lanes) as pool:
        seen = _seen(runs)
        bar = Bar(
            None,
            f"training {len(runs)} runs side by side",
            sum(images(r.params) for r in runs),
            initial=seen,
            unit="image",
        )
        try:
            for run in runs[:lanes]:
                started.append(Processes(1, run.path, threads))
            working = [pool.submit(work, processes) for processes in started]
            while not any(of.done() and of.exception() for of in working) and not stop.asked():
                if not wait(working, LOOK, FIRST_EXCEPTION).not_done:
                    break
                bar.update(-seen + (seen := _seen(runs)))
        finally:
            bar.close()
            with gate:
                unfinished = bool(left)
                left.clear()
                for processes in started:
                    processes.leave()
        # Those that were told to leave have saved, and say so; what made them leave comes first.
        if errors := sorted(filter(None, (of.exception() for of in working)), key=lambda e: isinstance(e, Preempted)):
            raise errors[0]
        if unfinished:
            stop.obey("between two trainings")


def _seen(runs: list[Run]) -> int:
    """Images that the runs have seen so far, by their statistics."""
    return sum(lines[-1]["nimg"] for run in runs if (lines := run.stats()))
