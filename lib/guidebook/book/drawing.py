"""Pages of the book drawn beside each other, each by a process that ends with the one that builds."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from guidebook.book.notebook import NotebookFailed, execute, up_to_date

MOST = 4  # at once: each holds PyTorch in a kernel of its own


def draw_pages(pages: list[tuple], say: Callable[[str], None]) -> None:
    """Does `execute` with each of these arguments that is not up to date, one notebook a core at once. Raises NotebookFailed.

    They show what was computed before. No more are handed out than there are processes: what is not begun is easily left.
    """
    stale = [page for page in pages if not up_to_date(*page)]
    if not stale:
        return
    processes = min(len(os.sched_getaffinity(0)), MOST, len(stale))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin) as pool:
        waiting, running, done = list(stale), {}, 0
        while waiting or running:
            while waiting and len(running) < processes:
                page = waiting.pop(0)
                running[pool.submit(execute, *page)] = page
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                _, target, *_ = running.pop(ended)
                try:
                    ended.result()
                except BrokenProcessPool:
                    raise NotebookFailed(f"{target.stem}: its process was killed; perhaps memory ran out") from None
                done += 1
                say(f"page {done} of {len(stale)} drawn: {target.stem}")


def _begin() -> None:
    """Of a process that draws: one thread, and it ends with its parent, which may be killed without a word."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # their kernels inherit it
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
