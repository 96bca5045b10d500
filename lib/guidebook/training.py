"""Training: a loop that can stop anywhere and go on as if it had not."""

import contextlib
import json
import logging
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from tqdm import tqdm

from guidebook import checkpoint
from guidebook.data.catalog import CATALOG
from guidebook.data.images import DataError, load
from guidebook.lock import lock
from guidebook.params import Params
from guidebook.run import Run
from guidebook.trainer import Trainer

log = logging.getLogger(__name__)
LOG_EVERY = 20  # steps between lines of stats.jsonl


class Preempted(SystemExit):
    """Training stopped at a step boundary, saved, because the run folder holds a file STOP. Exit status 75: try again."""

    def __init__(self, nimg: int):
        super().__init__(75)
        self.nimg = nimg

    def __str__(self) -> str:
        return f"stopped after {self.nimg:,} images, saved; run again to go on"


def updates(params: Params) -> int:
    """Optimiser steps of the whole training: the nearest whole number of batches to `epochs`."""
    return max(1, round(params.train.epochs * train_images(params) / params.train.batch))


def train_images(params: Params) -> int:
    rows = CATALOG[params.data.name].train
    return min(rows, params.data.limit or rows)


def train(run: Run) -> None:
    """Trains the run to its end, from its newest checkpoint on; returns at once when `model/` is there.

    Raises Preempted (a file STOP in the run folder), NonFiniteLoss, Locked, checkpoint.CorruptCheckpoint, OSError (disk full).
    """
    if (run.path / "model").is_dir() or (run.recorded and run.stats()):
        return
    run.needs("the training")
    with lock(run.path):
        accelerator = Accelerator(mixed_precision="bf16" if run.params.train.precision == "bf16" else "no")
        trainer = Trainer(run.params, load(run.params.data), accelerator)
        trainer.resume(run)
        _describe(run, trainer)
        total = updates(run.params) * run.params.train.batch
        with tqdm(total=total, initial=trainer.nimg, unit="img", unit_scale=True, desc=run.name, mininterval=1) as bar:
            for line in _steps(run, trainer, total):
                bar.update(line["nimg"] - bar.n)
                bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
        _publish(run, trainer)


def load_model(run: Run, weights: str) -> UNet2DConditionModel:
    """The trained U-Net with raw or averaged weights, in evaluation mode. Raises checkpoint.CorruptCheckpoint."""
    run.needs(f"the model ({weights})")
    checkpoint.verify(run.path / "model" / weights)
    return UNet2DConditionModel.from_pretrained(run.path / "model" / weights, use_safetensors=True).eval()


def _steps(run: Run, trainer: Trainer, total: int) -> Iterator[dict]:
    """Trains to `total` images seen, a line of statistics at a time, with checkpoints on the way."""
    t = run.params.train
    every = max(1, round(t.checkpoint_every * train_images(run.params) / t.batch))
    stops = [run.path / "STOP"]
    if run.path.parent.name == "variants":  # whoever stops a run means its variants too
        stops.append(run.path.parents[1] / "STOP")
    clock, looked, seen, before = time.perf_counter(), 0.0, trainer.nimg, trainer.seconds
    with open(run.path / "stats.jsonl", "a") as stats:
        while trainer.nimg < total:
            trainer.step()
            step, now = trainer.nimg // t.batch, time.perf_counter()
            save = step % every == 0
            stop = now - looked > 1 and any(file.exists() for file in stops)
            looked = now if now - looked > 1 else looked
            if save or step % LOG_EVERY == 0 or trainer.nimg >= total:
                line = trainer.flush()
                spent, clock = time.perf_counter() - clock, time.perf_counter()
                rate, seen = (trainer.nimg - seen) / spent, trainer.nimg
                before = trainer.seconds = before + spent
                line |= {"images_per_s": rate, "seconds": trainer.seconds, "memory_mb": _memory()}
                stats.write(json.dumps(line) + "\n")
                stats.flush()
                yield line
            if save or stop:
                trainer.seconds = before + time.perf_counter() - clock
                checkpoint.save(run.path / "checkpoints", trainer.nimg, *trainer.state(), keep=t.keep_checkpoints)
            if stop:
                for file in stops:
                    file.unlink(missing_ok=True)
                raise Preempted(trainer.nimg)


def _publish(run: Run, trainer: Trainer) -> None:
    """Writes `model/`, one folder per set of weights, each loadable by `from_pretrained`; whole or not at all."""
    tensors, _ = trainer.state()
    for leftover in run.path.glob(".model-*"):
        shutil.rmtree(leftover)
    aside = run.path / f".model-{os.getpid()}"
    for name in ("raw", *(a.name for a in trainer.averages)):
        trainer.model.load_state_dict(tensors["model" if name == "raw" else name], strict=name == "raw")
        trainer.model.save_pretrained(aside / name)
        checkpoint.seal(aside / name)
    run.note(
        train_seconds=round(trainer.seconds, 1),
        images_seen=trainer.nimg,
        updates=trainer.nimg // run.params.train.batch,
    )
    os.replace(aside, run.path / "model")


def _describe(run: Run, trainer: Trainer) -> None:
    device = trainer.accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu()}, {_threads()}"
    facts = {"device": name, "processes": trainer.accelerator.num_processes, "text_encoder": run.params.text.encoder}
    before = run.provenance().get("data", {}).get("fingerprint", trainer.data.fingerprint)
    if before != trainer.data.fingerprint:
        raise DataError(
            f"{run.name} began on data {before}, now there is {trainer.data.fingerprint}: put the first data back, or delete {run.path}"
        )
    data = {"name": run.params.data.name, "source": trainer.data.source, "fingerprint": trainer.data.fingerprint}
    run.note(**facts, data=data, data_note=CATALOG[run.params.data.name].note)


def _threads() -> str:
    n = torch.get_num_threads()
    return f"{n} thread{'s' if n > 1 else ''}"


def _cpu() -> str:
    with contextlib.suppress(OSError, IndexError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(s.split(":")[1].strip() for s in lines if s.startswith("model name"))
    return "CPU"


def _memory() -> float:
    """Peak memory so far in MB: the device's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
