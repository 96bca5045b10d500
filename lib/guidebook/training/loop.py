"""Training: a loop that can stop anywhere and go on as if it had not."""

import contextlib
import json
import os
import re
import resource
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from guidebook import models
from guidebook.config.budget import checkpoint_images, checkpoint_steps, updates
from guidebook.config.datasets import DataError
from guidebook.data.images import Streamed
from guidebook.models.space import space
from guidebook.runs import launch, manifest
from guidebook.runs.lock import job_id, owned
from guidebook.runs.preemption import Stop, stopping
from guidebook.runs.run import Run, commit
from guidebook.runtime.distributed import barrier, world
from guidebook.training import checkpoint
from guidebook.training.step import Trainer, prepared
from guidebook.training.tracking import tracker

if TYPE_CHECKING:
    from guidebook.models.backbone import Backbone

LOG_EVERY = 20  # steps between lines of stats.jsonl


def train(run: Run) -> None:
    """Trains the run to its end, as `lines` does; with `train.processes` above 1 in so many, started now unless `torchrun` did.

    Raises what `lines` raises, and launch.ProcessFailed.
    """
    if launch.wanted(run.params) and not run.trained:
        launch.do(run, "train")
    for _ in lines(run):
        pass


def lines(run: Run) -> Iterator[dict]:
    """The lines of statistics of a training, from its newest checkpoint to its end; none when it is trained.

    Whoever stops to iterate stops the training. Raises NotRecorded, Preempted, NonFiniteLoss, Locked, DataError,
    manifest.Corrupt, and OSError where the disk is full.
    """
    if run.trained:
        return
    run.needs("the training")
    main = world().is_main_process
    with owned(run.path), stopping(run) as stop:
        where = space(run.params)
        where.same(run.provenance().get("autoencoder"))
        trainer = prepared(run.params, where=where)
        with contextlib.closing(trainer):
            trainer.resume(run)
            if main:
                _describe(run, trainer)
            total = updates(run.params) * run.params.train.batch
            shown = {"unit": "img", "unit_scale": True, "desc": run.name, "mininterval": 1, "disable": not main}
            with tqdm(total=total, initial=trainer.nimg, **shown) as bar:
                for line in _steps(run, trainer, total, stop):
                    bar.update(line["nimg"] - bar.n)
                    bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
                    yield line
            tensors, _ = trainer.state()
            if main:
                _publish(run, trainer, tensors)
                keep, grid = run.params.train.keep_checkpoints, checkpoint_images(run.params)
                checkpoint.prune(run.path / "checkpoints", keep, grid, trained=True)
            barrier()


def load_model(run: Run, weights: str, at: int | None = None) -> "Backbone":
    """The backbone with raw or averaged weights, in evaluation mode: trained to its end, or as it was after `at` images.

    Raises manifest.Corrupt, and FileNotFoundError where no checkpoint was kept `at` so many.
    """
    run.needs(f"the model ({weights})")
    if at is None:
        folder = run.path / "model" / weights
        manifest.verify(folder, f"delete {folder.parent} and run again: training goes on from its last checkpoint")
        return models.load(folder)
    folder = run.path / "checkpoints"
    kept = {checkpoint.images(path): path for path in checkpoint.complete(folder)}
    if at not in kept:
        raise FileNotFoundError(
            f"{run.name} keeps no checkpoint after {at:,} images, but after {sorted(kept)}: take one of those, or let "
            f"train.checkpoint_every and train.keep_checkpoints include it, delete {folder} and {run.path / 'model'} and "
            "run again, which trains from the beginning"
        )
    net, (tensors, _) = models.build(run.params), checkpoint.load(kept[at])
    net.load_state_dict(tensors["model"] | (tensors[weights] if weights != "raw" else {}))
    return net.eval()


def _steps(run: Run, trainer: Trainer, total: int, stop: Stop) -> Iterator[dict]:
    """Trains to `total` images seen, a line of statistics at a time, with checkpoints on the way."""
    t, main = run.params.train, world().is_main_process
    interval, beside = checkpoint_steps(run.params)
    clock, seen, before = time.perf_counter(), trainer.nimg, trainer.seconds
    writer = checkpoint.Writer(run.path / "checkpoints", t.keep_checkpoints, checkpoint_images(run.params))

    def save() -> None:
        trainer.seconds = before + time.perf_counter() - clock
        state = trainer.state()
        if main:
            writer.save(trainer.nimg, *state)

    show = tracker(run) if main else None
    with writer:
        while trainer.nimg < total:
            trainer.step()
            step = trainer.nimg // t.batch
            regular = step % interval == 0
            if regular or step % LOG_EVERY == 0 or trainer.nimg >= total:
                line = trainer.flush()
                spent, clock = time.perf_counter() - clock, time.perf_counter()
                rate, seen = (trainer.nimg - seen) / spent, trainer.nimg
                before = trainer.seconds = before + spent
                line |= {"images_per_s": rate, "seconds": trainer.seconds, "memory_mb": _memory()}
                if main:
                    with open(run.path / "stats.jsonl", "a") as stats:
                        stats.write(json.dumps(line) + "\n")
                    show(line)
                yield line
            if regular:
                save()
            if step % interval == beside:
                writer.wait()
            writer.check()
            if stop.asked():  # last, so that one who asks during a regular save waits for no second one
                if not regular:
                    save()
                writer.wait()
                stop.obey(f"training after {trainer.nimg:,} images")


def _publish(run: Run, trainer: Trainer, tensors: checkpoint.Tensors) -> None:
    """Writes `model/`, one folder per set of weights, each loadable by `from_pretrained`; all of them or none."""
    for leftover in run.path.glob(".model-*"):
        shutil.rmtree(leftover)
    aside = run.path / f".model-{os.getpid()}"
    with manifest.writing(aside, "model/"):
        for name in ("raw", *(a.name for a in trainer.averages)):
            trainer.model.load_state_dict(tensors["model" if name == "raw" else name], strict=name == "raw")
            trainer.model.save_pretrained(aside / name)
            manifest.checksum(aside / name)
        facts = {"train_seconds": round(trainer.seconds, 1), "images_seen": trainer.nimg}
        run.note(**facts, updates=trainer.nimg // run.params.train.batch, data=_data(run, trainer))
        os.replace(aside, run.path / "model")


def _describe(run: Run, trainer: Trainer) -> None:
    """Notes where this training runs and with which code, an entry per resumption. Raises DataError where it began on other data."""
    known, data = run.provenance(), trainer.data
    before = known.get("data", {}).get("fingerprint", data.fingerprint)
    if before != data.fingerprint:
        raise DataError(
            f"{run.name} began on data {before}, now there is {data.fingerprint}: put the first data back, or delete {run.path}"
        )
    if run.params.model.vae:
        run.note(autoencoder=trainer.space.autoencoder.name)
    where = {"device": device_name(trainer.device), "processes": world().num_processes}
    began = {"from": trainer.nimg, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    entries = [*known.get("stretches", []), {**began, **commit(), **where, "job": job_id()}]
    facts = {"text_encoder": run.params.text.encoder, "data_note": data.note, "data": _data(run, trainer)}
    run.note(**where, **facts, stretches=entries)


def _data(run: Run, trainer: Trainer) -> dict:
    """Which images it learnt from, and which of them could not be read: of a stream, known at the end."""
    name, data = run.params.data.name, trainer.data
    rest = {"progressive": data.cache.progressive} if isinstance(data, Streamed) else {}
    return {"name": name, "source": data.source, "fingerprint": data.fingerprint, "skipped": list(data.skipped), **rest}


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    n = torch.get_num_threads()
    return f"{cpu_name()}, {n} thread{'s' if n > 1 else ''}"


def cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:(.+)", file.read_text() if file.exists() else "", re.MULTILINE)
    return name[1].strip() if name else "CPU"


def _memory() -> float:
    """Peak memory so far in MB: the device's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
