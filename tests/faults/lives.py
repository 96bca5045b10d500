"""Trainings in processes of their own, which can be killed, and what is left of them: the lives of one run.

A life calls the code of `guidebook train PARAMS.yml` in a process forked from a server that has imported what it needs: a
real process without the seconds of imports.
"""

import itertools
import os
import pkgutil
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from forks import PROCESSES
from safetensors.torch import load_file

from guidebook.runs.run import folder, opened
from guidebook.training import checkpoint

BATCH, EVERY, TOTAL = 16, 12 * 16, 44 * 16  # images of a step, between checkpoints, of the whole training
EPOCH = 24  # training images, so that one batch in three spans two epochs; as many are held out
PROMISED = EVERY + BATCH  # images that are repeated at most: while a checkpoint is written one step goes on
TIMING = {"ms_by_part", "images_per_s", "seconds", "memory_mb"}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def patched(where: str, wrap):
    owner, _, name = where.rpartition(".")
    owner = pkgutil.resolve_name(owner)
    setattr(owner, name, wrap(getattr(owner, name)))


def deadly(where: str, which: int | str, when: str):
    """The process kills itself at the call number `which`, or at the one for a path with this name."""

    def wrap(real):
        calls = itertools.count(1)

        def call(*args, **kwargs):
            due = which in Path(args[0]).name if isinstance(which, str) else next(calls) == which
            if due and when == "halfway":  # the file is open and empty
                args[0].open("w")
            if due and when != "after":
                die()
            result = real(*args, **kwargs)
            if due:
                die()
            return result

        return call

    patched(where, wrap)


def another_order():
    """Other data from here on: the comparison of weights must notice."""
    patched("guidebook.data.batches.order", lambda real: lambda n, seed, start, *more: real(n, seed, start + 1, *more))


def limited(size: int):
    """No file longer than this, as if the disk were full there."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _noted(file: Path):
    """Writes down process, images seen and time: before every step, when a save begins, when its checkpoint is whole. And the
    seconds of every save."""

    def note(*words):
        with open(file, "a") as lines:
            lines.write(" ".join(map(str, (os.getpid(), *words))) + "\n")

    def step(real):
        def call(self):
            note("step", self.nimg, time.monotonic())
            real(self)

        return call

    def save(real):
        def call(*args):
            began = time.monotonic()
            note("begun", args[1], began)
            path = real(*args)
            note("save", args[1], time.monotonic() - began)
            return path

        return call

    def named(real):
        def call(aside, folder):
            real(aside, folder)
            if folder.name.startswith("nimg-"):
                note("whole", folder.name[5:], time.monotonic())

        return call

    patched("guidebook.training.step.Trainer.step", step)
    patched("guidebook.runs.manifest.rename", named)
    patched("guidebook.training.checkpoint.save", save)


def _life(runs: Path, faults, together):
    os.environ["GUIDEBOOK_RUNS"] = str(runs)
    torch.set_num_threads(1)
    said = os.open(runs / f"said-{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    _noted(runs / "notes.txt")
    for fault, *arguments in faults:
        fault(*arguments)
    sys.argv = ["guidebook", "train", str(runs / "params.yml")]
    if together:
        together.wait()
    pkgutil.resolve_name("guidebook.cli:main")()


def started(params, runs: Path, *faults, together=None):
    """A process that trains; where `together` is a barrier, it begins when all who wait there are ready."""
    runs.mkdir(exist_ok=True)
    (runs / "params.yml").write_text(params.yaml())
    process = PROCESSES.Process(target=_life, args=(runs, faults, together))
    process.start()
    return process


def trained(params, runs: Path, *faults) -> tuple[int, str]:
    """Trains in a process of its own: its exit status, negative for a signal, and what it said."""
    process = started(params, runs, *faults)
    process.join(240)
    return process.exitcode, said(runs, process)


def said(runs: Path, process) -> str:
    """The lines that the command wrote; its progress bar is left out."""
    file = runs / f"said-{process.pid}.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return "\n".join(line for line in lines if line.strip() and "image/s" not in line)


def refused(end: tuple[int, str]) -> str:
    """The one line in which a training that failed said why. No traceback, and exit status 1."""
    status, text = end
    lines = [line for line in text.splitlines() if not line.startswith("WARNING: ")]
    assert status == 1, text
    assert [line[:11] for line in lines] == ["guidebook: "], text
    return lines[0]


def notes(runs: Path, what: str) -> dict[int, list[tuple[int, float]]]:
    """By process: (images seen, time) of its steps and of what was begun and whole, or (images seen, seconds) of its saves."""
    found: dict[int, list[tuple[int, float]]] = {}
    for line in (runs / "notes.txt").read_text().splitlines():
        pid, kind, nimg, seconds = line.split()
        if kind == what:
            found.setdefault(int(pid), []).append((int(nimg), float(seconds)))
    return found


def wait_for_steps(runs: Path, process, n: int) -> None:
    """Returns when the process has begun n steps, or has ended."""
    file, until = runs / "notes.txt", time.monotonic() + 120
    while process.is_alive() and time.monotonic() < until:
        if n == 0 or (file.exists() and file.read_text().count(f"{process.pid} step ") >= n):
            return
        time.sleep(0.003)


def at(params, runs: Path) -> Path:
    """The run's folder below another folder of runs."""
    return runs / folder(params).relative_to(folder(params).parents[1])


def the_run(params, runs: Path):
    return opened(at(params, runs))


def checkpoints(params, runs: Path) -> list[int]:
    """Images seen by the complete checkpoints, oldest first."""
    return [int(p.name[5:]) for p in checkpoint.complete(at(params, runs) / "checkpoints")]


def newest(params, runs: Path) -> int:
    return max(checkpoints(params, runs), default=0)


def weights(run) -> dict[str, torch.Tensor]:
    """Every number of `model/` and of the newest checkpoint."""
    files = sorted(run.path.glob("model/*/*.safetensors"))
    path = checkpoint.complete(run.path / "checkpoints")[-1]
    found = {f"{f.parent.name}/{k}": v for f in files for k, v in load_file(f).items()}
    tensors, _ = checkpoint.load(path)
    return found | {f"{path.name}/{g}/{k}": v for g, group in tensors.items() for k, v in group.items()}


def lines(run) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in TIMING} for row in run.stats()]


def same_weights(a, b) -> bool:
    x, y = weights(a), weights(b)
    return x.keys() == y.keys() and len(x) > 100 and all(torch.equal(x[k], y[k]) for k in x)


def same_lines(a, b) -> bool:
    return lines(a) == lines(b) and len(lines(a)) > 4
