"""Preemption: a request to stop, obeyed where the work is saved; exit status 75 says that the same command continues from there.

A request is a file STOP in the run's folder, or a signal: SIGTERM, the SIGUSR1 that SLURM sends before a time limit, or Ctrl-C.
Long work opens `stopping(run)`; whatever it calls polls `current()`, which needs not be handed down.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from guidebook.runs.manifest import me, running
from guidebook.runs.run import Run
from guidebook.runtime.distributed import agreed, barrier, world

EVERY = 0.1  # seconds between looks for the file
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SAVED = ", saved; run again to go on"


class Preempted(SystemExit):
    """Work stopped on request where it could be saved. Exit status 75: try again."""

    def __init__(self, what: str):
        super().__init__(75)
        self.what = what

    def __str__(self) -> str:
        return f"stopped {self.what}{SAVED}"


def request(stop: Path) -> None:
    """Writes the file STOP for a signal that this process got; a person's is empty."""
    stop.write_text(me())


def drop_stale(stop: Path) -> None:
    """Removes a file STOP for a signal to a command that is gone: it is not meant for the next one."""
    text = stop.read_text(errors="replace") if stop.exists() else ""
    if text and not running(text):
        stop.unlink(missing_ok=True)


class Stop:
    """The request to stop work on a run; without a run, one that never comes."""

    def __init__(self, run: Run | None = None):
        self.signalled, self._looked = False, 0.0
        # Whoever stops a run means its variants too.
        self.files = [folder / "STOP" for folder in {run.path, run.owner}] if run else []

    def asked(self) -> bool:
        """The answer to whether to stop now: the same in every process, for one that stops by itself leaves the others waiting.

        So all of them call equally often. Where one works while the others wait for it (`distributed.solo`), the answer is its own.
        """
        now, mine = time.monotonic(), any(stop.signalled for stop in _open)
        if world().is_main_process and now - self._looked >= EVERY:
            self._looked, mine = now, mine or any(file.exists() for stop in _open for file in stop.files)
        return agreed(mine)

    def obey(self, what: str) -> None:
        """Ends the work once everything is saved. Raises Preempted."""
        if world().is_main_process:
            for file in (file for stop in _open for file in stop.files):
                file.unlink(missing_ok=True)
        barrier()
        raise Preempted(what)


_open: list[Stop] = []  # the innermost last


def current() -> Stop:
    """The request that the innermost `stopping` listens for; outside of any, one that never comes."""
    return _open[-1] if _open else Stop()


@contextmanager
def stopping(run: Run) -> Iterator[Stop]:
    """While it is open, a signal to stop is remembered instead of ending the process at once. A second Ctrl-C interrupts it.

    Nested, the inner one hears what the outer one hears, and nothing that came meanwhile is lost.
    """
    stop, before = Stop(run), {}

    def remember(number, frame):
        stop.signalled = True
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    # Handlers can be set in the main thread only; elsewhere the file is the way. The outermost one's serve those inside.
    if not _open and threading.current_thread() is threading.main_thread():
        # What runs in a shell's background ignores Ctrl-C, which is meant for what runs before it.
        ctrl_c = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
        before |= {s: signal.signal(s, remember) for s in (*SIGNALS, *ctrl_c)}
    _open.append(stop)
    try:
        yield stop
    finally:
        _open.remove(stop)
        for number, handler in before.items():
            with suppress(TypeError):  # None: it was not set from Python
                signal.signal(number, handler)
