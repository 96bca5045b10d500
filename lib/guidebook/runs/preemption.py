"""Asked to stop: finish the step, save, and say with exit status 75 that the same command goes on from there."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from guidebook.runs.run import Run
from guidebook.runtime.distributed import agreed, barrier, world

EVERY = 0.1  # seconds between looks for the file
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(SystemExit):
    """Work stopped where it could be saved, because it was asked to. Exit status 75: try again."""

    def __init__(self, what: str):
        super().__init__(75)
        self.what = what

    def __str__(self) -> str:
        return f"stopped {self.what}, saved; run again to go on"


class Stop:
    """A file STOP in the run's folder, or a signal: SIGTERM, the SIGUSR1 that SLURM sends before a time limit, or Ctrl-C."""

    def __init__(self, run: Run):
        self.signalled, self._looked = False, 0.0
        # Whoever stops a run means its variants too.
        folders = [run.path, *([run.path.parents[1]] if run.path.parent.name == "variants" else [])]
        self._files = [folder / "STOP" for folder in folders]

    def asked(self) -> bool:
        """Whether to stop now: the same answer in every process, for one that stops alone leaves the others waiting."""
        now, mine = time.monotonic(), self.signalled
        if world().is_main_process and now - self._looked >= EVERY:
            self._looked, mine = now, mine or any(file.exists() for file in self._files)
        return agreed(mine)

    def obey(self, what: str) -> None:
        """Call when everything is saved. Raises Preempted."""
        if world().is_main_process:
            for file in self._files:
                file.unlink(missing_ok=True)
        barrier()
        raise Preempted(what)


@contextmanager
def stopping(run: Run) -> Iterator[Stop]:
    """While it is open, a signal to stop is remembered instead of ending the process at once. A second Ctrl-C interrupts it."""
    stop, before = Stop(run), {}

    def remember(number, frame):
        stop.signalled = True
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    # Handlers can be set in the main thread only; elsewhere the file is the way.
    if threading.current_thread() is threading.main_thread():
        # What runs in a shell's background ignores Ctrl-C, which is meant for what runs before it.
        ctrl_c = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
        before |= {s: signal.signal(s, remember) for s in (*SIGNALS, *ctrl_c)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            with contextlib.suppress(TypeError):  # None: it was not set from Python
                signal.signal(number, handler)
