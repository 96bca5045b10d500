"""Work in a process of its own, and the memory that it takes."""

import importlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from guidebook.runtime.malloc import keeping_memory

PROCESSES = multiprocessing.get_context("spawn")


def apart(work: Callable[..., dict], *args, watched: bool = True, libraries: Sequence[str] = ()) -> dict:
    """The result of `work(*args)` in a process of its own, and `memory_mb`: the most it and its workers took above their imports.

    Those are the module of `work`, and `libraries`. To watch the memory costs time: where that is measured, `watched` is False.
    """
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_life, args=(work, args, there, libraries))
    with keeping_memory():  # as a run's kernel does
        process.start()
    there.close()
    peak, ended = 0.0, threading.Event()

    def answer():
        try:
            return here.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"{work.__name__}{args} ended without an answer: its error stands above") from None

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, memory(process.pid))

    answer()  # it has imported what it needs
    base, watcher = memory(process.pid), threading.Thread(target=watch, daemon=True)
    if watched:
        watcher.start()
    here.send("go")
    try:
        found = answer()
    finally:
        ended.set()
    process.join()
    return found | ({"memory_mb": peak - base} if watched else {})


def memory(pid: int) -> float:
    """MB of a process and its children; what they share counts once."""
    total, waiting = 0.0, [pid]
    while waiting:
        at = Path(f"/proc/{waiting.pop()}")
        try:
            total += int((at / "smaps_rollup").read_text().split("Pss:")[1].split()[0]) / 1024
            waiting += [int(p) for task in (at / "task").iterdir() for p in (task / "children").read_text().split()]
        except (OSError, IndexError):  # it has ended
            continue
    return total


def _life(work: Callable[..., dict], args: tuple, answers, libraries: Sequence[str]) -> None:
    for name in libraries:
        importlib.import_module(name)
    answers.send("ready")
    answers.recv()
    answers.send(work(*args))
    answers.close()
    os._exit(0)  # what still works ahead is not waited for
