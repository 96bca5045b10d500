"""Processes that need not import PyTorch anew: forked from one that has imported what takes seconds, once for all tests."""

import json
import multiprocessing
import os
import runpy
import signal
import sys
from contextlib import contextmanager

import pytest

PROCESSES = multiprocessing.get_context("forkserver")
IMPORTED = ["guidebook.training.loop", "guidebook.metrics.measure", "guidebook.cli", "ipykernel.kernelapp"]
# What is imported at its first use
IMPORTED += ["guidebook.models.unet", "sklearn.datasets", "transformers.models.clip.modeling_clip", "matplotlib.pyplot"]
PROCESSES.set_forkserver_preload(IMPORTED)


def _kernel(command: list[str], environment: dict[str, str], folder: str, started) -> None:
    os.setsid()
    started.send(True)
    os.environ.clear()
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))
    os.chdir(folder)
    if "matplotlib" in sys.modules:  # which chooses when it is imported
        sys.modules["matplotlib"].rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    sys.argv = command[2:]
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)


def executed(folder) -> None:
    """A notebook of one cell that ran to its end, in the folder of a run."""
    from guidebook.runs.executed import sign

    cell = {"cell_type": "code", "metadata": {"papermill": {"status": "completed"}}, "execution_count": 1}
    (folder / "notebook.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {}}))
    sign(folder / "notebook.ipynb", "key")


class Kernel:
    """A forked kernel as jupyter_client sees a process that it started: a part of subprocess.Popen."""

    stdin = stdout = stderr = None

    def __init__(self, command: list[str], env: dict[str, str], cwd: str, **_):
        started, tell = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=_kernel, args=(command, env, cwd, tell))
        self.process.start()
        started.recv()  # from here on it has a process group of its own, which gets its signals
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


@contextmanager
def forked_kernels():
    """While it is open, the kernels that this process starts are forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", Kernel)
        yield
