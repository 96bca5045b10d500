"""Training: one loop for a notebook, a process or many, that can stop anywhere and go on as if it had not."""

import contextlib
import json
import logging
import math
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from tqdm import tqdm

from guidebook import checkpoint
from guidebook.captions import NULL, class_captions
from guidebook.data.catalog import CATALOG
from guidebook.data.images import Images, from_uint8, load, order
from guidebook.diffusion import loss, scheduler
from guidebook.ema import EMA
from guidebook.lock import lock
from guidebook.models.unet import build, suit
from guidebook.params import Params
from guidebook.rng import generator
from guidebook.run import Run
from guidebook.text import encode

log = logging.getLogger(__name__)
LOG_EVERY, BINS = 20, 10  # steps between lines of stats.jsonl; timestep bins of the loss


class Preempted(SystemExit):
    """Training stopped at a step boundary, saved, because the run folder holds a file STOP. Exit status 75: try again."""

    def __init__(self, nimg: int):
        super().__init__(75)
        self.nimg = nimg


class NonFiniteLoss(FloatingPointError):
    """The loss is NaN or infinite. Nothing of it was saved."""


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
        accelerator = Accelerator(
            mixed_precision="bf16" if run.params.train.precision == "bf16" else "no",
            step_scheduler_with_optimizer=False,
        )
        trainer = Trainer(run.params, load(run.params.data), accelerator)
        trainer.resume(run)
        _describe(run, trainer)
        total = updates(run.params) * run.params.train.batch
        with tqdm(total=total, initial=trainer.nimg, unit="img", unit_scale=True, desc=run.name, mininterval=1) as bar:
            for line in _steps(run, trainer, total):
                bar.update(line["nimg"] - bar.n)
                bar.set_postfix(loss=f"{line['loss']:.4f}", refresh=False)
        _publish(run, trainer)


def load_model(run: Run, weights: str, device="cpu") -> UNet2DConditionModel:
    """The trained U-Net with raw or averaged weights, in evaluation mode."""
    run.needs(f"the model ({weights})")
    return UNet2DConditionModel.from_pretrained(run.path / "model" / weights, use_safetensors=True).eval().to(device)


class Trainer:
    """Everything that changes while training, and the step that changes it. The clock is `nimg`, images seen."""

    def __init__(self, params: Params, data: Images, accelerator: Accelerator):
        self.params, self.accelerator, device = params, accelerator, accelerator.device
        t = params.train
        self.model = suit(build(params), device, t.precision).train()
        self.wrapped = accelerator.prepare_model(self.model)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, lr=t.lr, weight_decay=t.weight_decay, fused=True)
        self.averages = [EMA(self.model.named_parameters(), d) for d in t.ema]
        self.images, self.labels = data.train.images.to(device), data.train.labels.to(device)
        captions = [*class_captions(params.data.caption, data.classes), NULL]
        self.embeddings = encode(params.text, captions).to(device)  # (classes + 1, L, D); the last is the null caption
        self.alphas_cumprod = scheduler(params.diffusion).alphas_cumprod.to(device)
        self.data, self.nimg, self.seconds = data, 0, 0.0
        self._clear()

    def step(self) -> None:
        """One optimiser step on the next `batch` images. Its randomness depends on (seed, nimg) and nothing else."""
        t, device, rank = self.params.train, self.accelerator.device, self.accelerator.process_index
        index = order(len(self.labels), t.seed, self.nimg, t.batch).to(device, non_blocking=True)
        rng = generator(t.seed, "step", self.nimg, device=device)
        steps = torch.randint(0, len(self.alphas_cumprod), (t.batch,), generator=rng, device=device)
        dropped = torch.rand(t.batch, generator=rng, device=device) < t.caption_dropout
        eps = torch.randn(t.batch, *self.images.shape[1:], generator=rng, device=device)
        # Every process draws for the whole batch and takes its share: any number of processes sees the same noise.
        mine = slice(rank, None, self.accelerator.num_processes)
        index, steps, dropped, eps = index[mine], steps[mine], dropped[mine], eps[mine]

        caption = torch.where(dropped, len(self.embeddings) - 1, self.labels[index])
        losses = []
        for part in torch.arange(len(index), device=device).split(t.micro_batch or t.batch):
            x0 = from_uint8(self.images[index[part]], *self.params.data.range)
            with self.accelerator.autocast():
                each = loss(
                    self.wrapped, x0, eps[part], steps[part], self.embeddings[caption[part]], self.alphas_cumprod
                )
            self.accelerator.backward(each.sum() / len(index))
            losses.append(each.detach())
        if t.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.weights, t.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for average in self.averages:
            average.update(self.weights)

        losses, bins = torch.cat(losses), steps * BINS // len(self.alphas_cumprod)
        self.step_losses.append(losses.mean())
        self.bin_sum.index_add_(0, bins, losses)
        self.bin_count.index_add_(0, bins, torch.ones_like(losses))
        self.nimg += t.batch

    def flush(self) -> dict:
        """The line of `stats.jsonl` for the steps since the last one. Raises NonFiniteLoss, naming the step."""
        losses = torch.stack(self.step_losses)
        losses = self.accelerator.reduce(losses, "mean").tolist()
        sums, counts = (self.accelerator.reduce(x, "sum").tolist() for x in (self.bin_sum, self.bin_count))
        for i, value in enumerate(losses):
            if not math.isfinite(value):
                at = self.nimg // self.params.train.batch - len(losses) + i
                raise NonFiniteLoss(
                    f"loss {value} at step {at} ({at * self.params.train.batch:,} images seen), lr {self.params.train.lr}: "
                    "no such weights were saved; lower train.lr or set train.clip_norm, then run again"
                )
        self._clear()
        by_bin = [s / c if c else None for s, c in zip(sums, counts, strict=True)]
        return {
            "nimg": self.nimg,
            "loss": sum(losses) / len(losses),
            "loss_by_timestep": by_bin,
            "lr": self.params.train.lr,
        }

    def state(self) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
        """Tensors and facts from which `restore` makes an equal trainer. Raises NonFiniteLoss for weights that are not finite."""
        if not torch.stack([w.isfinite().all() for w in self.weights]).all():
            raise NonFiniteLoss(
                f"weights are not finite after {self.nimg:,} images: they were not saved; lower train.lr"
            )
        moments = self.optimizer.state
        tensors = {"model": self.model.state_dict()} | {a.name: a.weights for a in self.averages}
        tensors["optimizer"] = {f"{i}.{k}": v for i, w in enumerate(self.weights) for k, v in moments[w].items()}
        return tensors, {"nimg": self.nimg, "seconds": self.seconds, "ema": [a.updates for a in self.averages]}

    def restore(self, tensors: dict[str, dict[str, torch.Tensor]], state: dict) -> None:
        self.model.load_state_dict(tensors["model"])
        for average, count in zip(self.averages, state["ema"], strict=True):
            average.weights, average.updates = {k: tensors[average.name][k] for k in average.weights}, count
        for i, w in enumerate(self.weights):
            self.optimizer.state[w] = {k: tensors["optimizer"][f"{i}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
        self.nimg, self.seconds = state["nimg"], state["seconds"]

    def resume(self, run: Run) -> None:
        """Goes on from the newest complete checkpoint of the run, if there is one."""
        found = checkpoint.complete(run.path / "checkpoints")
        if found:
            self.restore(*checkpoint.load(found[-1], self.accelerator.device))
        kept = [row for row in run.stats() if row["nimg"] <= self.nimg]
        (run.path / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))

    def _clear(self) -> None:
        self.step_losses, device = [], self.accelerator.device
        self.bin_sum, self.bin_count = torch.zeros(BINS, device=device), torch.zeros(BINS, device=device)


def _steps(run: Run, trainer: Trainer, total: int) -> Iterator[dict]:
    """Trains to `total` images seen, a line of statistics at a time, with checkpoints on the way."""
    t = run.params.train
    every = max(1, round(t.checkpoint_every * train_images(run.params) / t.batch))
    clock, looked, seen = time.perf_counter(), 0.0, trainer.nimg
    with open(run.path / "stats.jsonl", "a") as stats:
        while trainer.nimg < total:
            trainer.step()
            step, now = trainer.nimg // t.batch, time.perf_counter()
            stop = now - looked > 1 and (run.path / "STOP").exists()
            looked = now if now - looked > 1 else looked
            save = step % every == 0 or stop
            if save or step % LOG_EVERY == 0 or trainer.nimg >= total:
                line, spent = trainer.flush(), time.perf_counter() - clock
                clock, trainer.seconds = time.perf_counter(), trainer.seconds + spent
                line |= {
                    "images_per_s": (trainer.nimg - seen) / spent,
                    "seconds": trainer.seconds,
                    "memory_mb": _memory(),
                }
                seen = trainer.nimg
                stats.write(json.dumps(line) + "\n")
                stats.flush()
                yield line
            if save:
                checkpoint.save(run.path / "checkpoints", trainer.nimg, *trainer.state(), keep=t.keep_checkpoints)
            if stop:
                (run.path / "STOP").unlink(missing_ok=True)
                raise Preempted(trainer.nimg)


def _publish(run: Run, trainer: Trainer) -> None:
    """Writes `model/`, one folder per set of weights, each loadable by `from_pretrained`; whole or not at all."""
    tensors, _ = trainer.state()
    aside = run.path / f".model-{os.getpid()}"
    for name in ("raw", *(a.name for a in trainer.averages)):
        trainer.model.load_state_dict(tensors["model" if name == "raw" else name], strict=name == "raw")
        trainer.model.save_pretrained(aside / name)
    run.note(
        train_seconds=round(trainer.seconds, 1),
        images_seen=trainer.nimg,
        updates=trainer.nimg // run.params.train.batch,
    )
    os.replace(aside, run.path / "model")


def _describe(run: Run, trainer: Trainer) -> None:
    device = trainer.accelerator.device
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu()}, {torch.get_num_threads()} threads"
    )
    facts = {"device": name, "processes": trainer.accelerator.num_processes, "text_encoder": run.params.text.encoder}
    data = {"name": run.params.data.name, "source": trainer.data.source, "fingerprint": trainer.data.fingerprint}
    run.note(**facts, data=data, data_note=CATALOG[run.params.data.name].note)


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
