"""Checkpoints that survive a crash at any instruction: written aside, hashed, fsynced, then renamed.

A checkpoint is a folder `nimg-<images seen>` of safetensors files, `state.json` and a manifest of hashes.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from guidebook.runs.checkpoints import complete, images
from guidebook.runs.manifest import verify, whole
from guidebook.runs.run import Run
from guidebook.runtime.distributed import total, world
from guidebook.training.step import Tensors, Trainer


def save(folder: Path, nimg: int, tensors: Tensors, state: dict, keep: int, grid: int) -> Path:
    """Writes `folder/nimg-…` and prunes the folder. On a full disk the older ones stay and OSError is raised."""
    final = folder / f"nimg-{nimg:010d}"
    if final in complete(folder):
        return final
    for leftover in (final, *folder.glob(".*")):
        shutil.rmtree(leftover, ignore_errors=True)
    with whole(final, final.name) as aside:
        for name, group in tensors.items():
            save_file({k: v.detach().contiguous().cpu() for k, v in group.items()}, aside / f"{name}.safetensors")
        (aside / "state.json").write_text(json.dumps(state))
    prune(folder, keep, grid)
    return final


def prune(folder: Path, keep: int, grid: int, trained: bool = False) -> None:
    """Removes all but the newest `keep` of the checkpoints that are a multiple of `grid` images apart from the beginning.

    A stop saves between them: such a one stays while it is the newest, or one of two, and never in a run that is trained.
    """
    found = complete(folder)
    regular = [path for path in found if images(path) % grid == 0]
    newest = 0 if trained else 1 if len(regular) > 1 else 2
    kept = {*regular[-keep:], *found[len(found) - newest :]}
    for old in found:
        if old not in kept:
            shutil.rmtree(old)


class Writer:
    """Writes checkpoints, in the main process, in a thread while training goes on, one at a time, in order; a context.

    The tensors are copied to the CPU before `save` returns, so the next step may change them.
    """

    def __init__(self, folder: Path, keep: int, grid: int):
        self._folder, self._kept = folder, (keep, grid)
        self._thread, self._pending = ThreadPoolExecutor(1, "checkpoint"), None

    def save(self, tensors: Tensors, state: dict) -> None:
        """Begins to write. Raises what the write before this one met, such as a full disk."""
        if not world().is_main_process:
            return
        self.wait()
        copies = {file: {k: v.detach().to("cpu", copy=True) for k, v in g.items()} for file, g in tensors.items()}
        self._pending = self._thread.submit(lambda: save(self._folder, state["nimg"], copies, state, *self._kept))

    def wait(self) -> None:
        """Returns when everything is on the disk. Raises what the write met."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def finish(self) -> None:
        """Removes what only a training that is not at its end needs."""
        if world().is_main_process:
            prune(self._folder, *self._kept, trained=True)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        with self._thread:  # a write that has begun is finished, whatever ended the training
            if error is None:
                self.wait()


def load(path: Path, device="cpu", remedy: str = "") -> tuple[Tensors, dict]:
    """The tensors and the state of a checkpoint. Raises Corrupt where a file is not what was written."""
    usual = f"delete the folder {path} and run again: training goes on from the checkpoint before it"
    names = verify(path, remedy or usual)
    state = json.loads((path / "state.json").read_text())
    files = [path / n for n in names if n.endswith(".safetensors")]
    # Several processes call it cpu:0, which safetensors does not know.
    where = "cpu" if torch.device(device).type == "cpu" else str(device)
    return {f.stem: load_file(f, device=where) for f in files}, state


def resume(run: Run, trainer: Trainer) -> None:
    """Continues from the newest complete checkpoint of the run, if there is one. Raises Corrupt."""
    if found := complete(run.path / "checkpoints"):
        tensors, state = load(found[-1], trainer.device)
        trainer.restore(tensors, state)
    if total(torch.tensor(float(trainer.nimg), device=trainer.device)) != trainer.nimg * world().num_processes:
        raise RuntimeError(
            f"{run.path.name}: the processes do not see the same checkpoints (here {trainer.nimg:,} images): is the folder shared "
            "by all nodes? Run again"
        )
