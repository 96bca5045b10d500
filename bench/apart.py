"""Work in a process of its own, and the memory that it takes."""

import importlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from guidebook.runtime.malloc import keeping_memory

SPAWN = multiprocessing.get_context("spawn")


def apart(work: Callable[..., dict], *args, watched: bool = True, libraries: Sequence[str] = ()) -> dict:
    """What `work(*args)` returns, and `memory_mb`: the most that it and its workers took above the interpreter and its libraries.

    These are what the module of `work` imports, and `libraries`. To watch the memory costs time: where that is measured, `watched` is False.
    """
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_life, args=(work, args, there, libraries))
    with keeping_memory():  # as a run's kernel does
        process.start()
    there.close()
    peak, ended = 0.0, threading.Event()
    try:
        here.recv()  # it has imported what it needs
    except EOFError:
        process.join()
        raise RuntimeError(f"{work.__name__} did not begin: its error stands above") from None
    base = memory(process.pid)

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, memory(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    if watched:
        watcher.start()
    here.send("go")
    try:
        found = here.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__}{args} ended without an answer: its error stands above") from None
    finally:
        ended.set()
        if watched:
            watcher.join()
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


def _life(work: Callable[..., dict], args: tuple, told, libraries: Sequence[str]) -> None:
    for name in libraries:
        importlib.import_module(name)
    told.send("ready")
    told.recv()
    told.send(work(*args))
    told.close()
    os._exit(0)  # what still works ahead is not waited for
