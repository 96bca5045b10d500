"""Training: a loop that can stop anywhere and go on as if it had not."""

import contextlib
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from tqdm import tqdm

from guidebook.config.budget import checkpoint_images, checkpoint_steps, updates
from guidebook.config.datasets import DataError
from guidebook.data.images import Streamed, load
from guidebook.models.space import space
from guidebook.models.unet import build
from guidebook.runs import manifest, pool
from guidebook.runs.lock import job_id, owned
from guidebook.runs.preemption import Stop, stopping
from guidebook.runs.run import Run, commit
from guidebook.runtime.distributed import barrier, world
from guidebook.training.checkpoint import Writer, complete, images, prune
from guidebook.training.checkpoint import load as load_checkpoint
from guidebook.training.tracking import tracker
from guidebook.training.trainer import Trainer

LOG_EVERY = 20  # steps between lines of stats.jsonl


def train(run: Run) -> None:
    """Trains the run to its end, from its newest checkpoint on; returns at once when `model/` is there.

    With `train.processes` above 1 it starts so many, unless it runs in one of several already (`torchrun`).
    Raises Preempted (asked to stop), NonFiniteLoss, Locked, manifest.Corrupt, OSError (disk full), pool.ProcessFailed.
    """
    if (run.path / "model").is_dir() or (run.recorded and run.stats()):
        return
    run.needs("the training")
    if pool.wanted(run.params):
        return pool.do(run, "train")
    main = world().is_main_process
    with (
        owned(run.path),
        stopping(run) as stop,
        contextlib.closing(_trainer(run, stop)) as trainer,
    ):
        trainer.resume(run)
        if main:
            _describe(run, trainer)
        total = updates(run.params) * run.params.train.batch
        shown = {"unit": "img", "unit_scale": True, "desc": run.name, "mininterval": 1, "disable": not main}
        with tqdm(total=total, initial=trainer.nimg, **shown) as bar:
            for line in _steps(run, trainer, total, stop):
                bar.update(line["nimg"] - bar.n)
                bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
        tensors, _ = trainer.state()
        if main:
            _publish(run, trainer, tensors)
            prune(
                run.path / "checkpoints", run.params.train.keep_checkpoints, checkpoint_images(run.params), trained=True
            )
        barrier()


def _trainer(run: Run, stop: Stop) -> Trainer:
    """What trains the run, which is refused with another autoencoder than its own before anything is encoded with it."""
    where = space(run.params)
    where.same(run.provenance().get("autoencoder"))
    return Trainer(run.params, load(run.params.data), stop, where)


def load_model(run: Run, weights: str, at: int | None = None) -> UNet2DConditionModel:
    """The U-Net with raw or averaged weights, in evaluation mode: trained to its end, or as it was after `at` images.

    Raises manifest.Corrupt, and FileNotFoundError where no checkpoint was kept `at` so many.
    """
    run.needs(f"the model ({weights})")
    if at is not None:
        folder = run.path / "checkpoints"
        kept = {images(path): path for path in complete(folder)}
        if at not in kept:
            raise FileNotFoundError(
                f"{run.name} keeps no checkpoint after {at:,} images, but after {sorted(kept)}: take one of those, or let "
                f"train.checkpoint_every and train.keep_checkpoints include it, delete {folder} and {run.path / 'model'} and "
                "run again, which trains from the beginning"
            )
        model, (tensors, _) = build(run.params), load_checkpoint(kept[at])
        model.load_state_dict(tensors["model"] | (tensors[weights] if weights != "raw" else {}))
        return model.eval()
    folder = run.path / "model" / weights
    manifest.verify(folder, f"delete {folder.parent} and run again: training goes on from its last checkpoint")
    return UNet2DConditionModel.from_pretrained(folder, use_safetensors=True).eval()


def _steps(run: Run, trainer: Trainer, total: int, stop: Stop) -> Iterator[dict]:
    """Trains to `total` images seen, a line of statistics at a time, with checkpoints on the way."""
    t, main = run.params.train, world().is_main_process
    spacing, beside = checkpoint_steps(run.params)
    clock, seen, before = time.perf_counter(), trainer.nimg, trainer.seconds
    writer = Writer(run.path / "checkpoints", t.keep_checkpoints, checkpoint_images(run.params))

    def save() -> None:
        trainer.seconds = before + time.perf_counter() - clock
        state = trainer.state()
        if main:
            writer.save(trainer.nimg, *state)

    with _noting(run, main) as note, writer:
        while trainer.nimg < total:
            trainer.step()
            step = trainer.nimg // t.batch
            regular = step % spacing == 0
            if regular or step % LOG_EVERY == 0 or trainer.nimg >= total:
                line = trainer.flush()
                spent, clock = time.perf_counter() - clock, time.perf_counter()
                rate, seen = (trainer.nimg - seen) / spent, trainer.nimg
                before = trainer.seconds = before + spent
                line |= {"images_per_s": rate, "seconds": trainer.seconds, "memory_mb": _memory()}
                note(line)
                yield line
            if regular:
                save()
            if step % spacing == beside:
                writer.wait()
            writer.check()
            if stop.asked():  # last, so that one who asks during a regular save waits for no second one
                if not regular:
                    save()
                writer.wait()
                stop.obey(f"training after {trainer.nimg:,} images")


@contextlib.contextmanager
def _noting(run: Run, main: bool) -> Iterator[Callable[[dict], None]]:
    """Writes lines of statistics to `stats.jsonl`, and to the tracker where params name one."""
    if not main:
        yield lambda line: None
        return
    show = tracker(run)
    with open(run.path / "stats.jsonl", "a") as stats:

        def note(line: dict) -> None:
            stats.write(json.dumps(line) + "\n")
            stats.flush()
            show(line)

        yield note


def _publish(run: Run, trainer: Trainer, tensors: dict) -> None:
    """Writes `model/`, one folder per set of weights, each loadable by `from_pretrained`; whole or not at all."""
    for leftover in run.path.glob(".model-*"):
        shutil.rmtree(leftover)
    aside = run.path / f".model-{os.getpid()}"
    with manifest.writing(aside, "model/"):
        for name in ("raw", *(a.name for a in trainer.averages)):
            trainer.model.load_state_dict(tensors["model" if name == "raw" else name], strict=name == "raw")
            trainer.model.save_pretrained(aside / name)
            manifest.checksum(aside / name)
        run.note(
            train_seconds=round(trainer.seconds, 1),
            images_seen=trainer.nimg,
            updates=trainer.nimg // run.params.train.batch,
            data=_data(run, trainer),
        )
        os.replace(aside, run.path / "model")


def _describe(run: Run, trainer: Trainer) -> None:
    """Notes where this stretch of training runs and with which code: a run that was continued has several."""
    device, known = trainer.device, run.provenance()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu_name()}, {_threads()}"
    before = known.get("data", {}).get("fingerprint", trainer.data.fingerprint)
    if before != trainer.data.fingerprint:
        raise DataError(
            f"{run.name} began on data {before}, now there is {trainer.data.fingerprint}: put the first data back, or delete {run.path}"
        )
    if run.params.model.vae:
        run.note(autoencoder=trainer.space.autoencoder.name)
    stretch = {"from": trainer.nimg, "at": datetime.now(UTC).isoformat(timespec="seconds"), **commit(), "device": name}
    stretch |= {"processes": world().num_processes, "job": job_id()}
    run.note(
        device=name,
        processes=world().num_processes,
        text_encoder=run.params.text.encoder,
        data=_data(run, trainer),
        data_note=trainer.data.note,
        stretches=[*known.get("stretches", []), stretch],
    )


def _data(run: Run, trainer: Trainer) -> dict:
    """Which images it learnt from, and which of them could not be read: of a stream, known at the end."""
    facts = {"name": run.params.data.name, "source": trainer.data.source, "fingerprint": trainer.data.fingerprint}
    facts |= {"skipped": list(trainer.data.skipped)}
    return facts | ({"progressive": trainer.data.cache.progressive} if isinstance(trainer.data, Streamed) else {})


def _threads() -> str:
    n = torch.get_num_threads()
    return f"{n} thread{'s' if n > 1 else ''}"


def cpu_name() -> str:
    with contextlib.suppress(OSError, IndexError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(s.split(":")[1].strip() for s in lines if s.startswith("model name"))
    return "CPU"


def _memory() -> float:
    """Peak memory so far in MB: the device's where there is one, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
