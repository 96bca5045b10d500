"""The training step, and all that it changes. The clock is `nimg`, images seen."""

import functools
import math
import time
from typing import NamedTuple

import torch
from torch import Tensor

from guidebook.conditioning.condition import Condition
from guidebook.conditioning.source import Conditions, conditions
from guidebook.config.budget import images, updates
from guidebook.config.params import Params
from guidebook.data import described
from guidebook.data.batches import Batch, feed
from guidebook.data.images import Images, Streamed, load
from guidebook.diffusion.objective import Network, Objective, objective
from guidebook.models import initial
from guidebook.models.space import Latents, Pixels, space
from guidebook.runtime import distributed
from guidebook.runtime.lanes import Lanes
from guidebook.runtime.seeds import generator
from guidebook.training.ema import as_vector, averages
from guidebook.training.profiler import Profiler, peak_memory

BINS = 10  # timestep bins of the logged loss
Tensors = dict[str, dict[str, Tensor]]  # file of a checkpoint → name → tensor


class Noise(NamedTuple):
    """The random numbers of a step, for this process's n images."""

    t: Tensor  # (n,) training times
    dropped: Tensor  # (n,) whose text is replaced by the null caption
    eps: Tensor  # (n, *shape) ε
    mirrored: Tensor  # (n,)
    posterior: Tensor  # (n, *shape) for draws of the autoencoder's posterior; (n, 0) in pixel space


def step_noise(params: Params, nimg: int, path: Objective, where: Pixels | Latents) -> Noise:
    """Every process draws for the whole batch and takes its share: any number of processes sees the same noise."""
    t, world = params.train, distributed.world()
    device, mine = world.device, slice(world.process_index, None, world.num_processes)
    rng = generator(t.seed, "step", nimg, device=device)
    times = path.random_times(t.batch, rng)
    dropped = torch.rand(t.batch, generator=rng, device=device) < t.caption_dropout
    eps = torch.randn(t.batch, *where.shape, generator=rng, device=device)
    mirrored = torch.rand(t.batch, generator=rng, device=device) < (0.5 if params.data.flips else 0.0)
    return Noise(*(x[mine] for x in (times, dropped, eps, mirrored, where.noise(t.batch, rng))))


class NonFiniteLoss(FloatingPointError):
    """The loss is NaN or infinite. Nothing of it was saved."""


def prepared(
    params: Params,
    data: Images | Streamed | None = None,  # by default those of the params
    where: Pixels | Latents | None = None,  # by default that of the params
    known: str | None = None,  # the autoencoder that the training began with
) -> "Trainer":
    """A trainer, after the stages that may take minutes: latents and captions are read, or encoded now with a progress bar each.

    Raises DataError, PretrainedMissing, Preempted, and OSError where the disk is full.
    """
    data, where = data or load(params.data), where or space(params, known)
    described.check(data, params.data)
    learnt = where.learnt(data)
    return Trainer(params, learnt, where, conditions(params, learnt.train.labels if params.data.phrasings else None))


class Trainer:
    """Weights, optimiser, averages and statistics of a training."""

    def __init__(self, params: Params, data: Images | Streamed, where: Pixels | Latents, source: Conditions):
        t, world = params.train, distributed.world()
        self.params, self.device = params, world.device
        if t.batch % (n := world.num_processes):
            raise ValueError(f"{n} processes cannot share train.batch = {t.batch}: take a number that divides it")
        self.nimg, self.seconds = 0, 0.0  # images seen, and seconds until the last line of statistics
        self._clear()
        self.total, self.profiler = images(params), Profiler(self.device)  # images of the whole training
        self.model = initial(params).place(self.device, t).train()
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self._vector, parts = as_vector(self.weights)
        for p, part in zip(self.weights, parts, strict=True):
            p.data = part
        if t.compile:
            self.model.compile()  # in place: the weights keep their names
        self.wrapped = distributed.shared(self.model)
        self.lanes = Lanes(t.batch if distributed.alone() and not t.compile else 1)
        self.optimizer = torch.optim.AdamW(self.weights, lr=t.lr, weight_decay=t.weight_decay, fused=True)
        if t.steps_in_backward and self.lanes.n == 1:
            for w in self.weights:
                w.register_post_accumulate_grad_hook(self._step_of_one)
        self.averages = averages([*self.model.named_parameters()], t.ema, t.ema_warmup, updates(params))
        self.data, self.space, self.feed, self.conditions = data, where, feed(data, t), source
        self.objective = objective(params.objective, self.device)

    def step(self) -> None:
        """One optimiser step on the next `batch` images. Its randomness depends on (seed, nimg) and nothing else."""
        t, mark = self.params.train, self.profiler.mark
        self.optimizer.param_groups[0]["lr"] = self.lr_at(self.nimg)
        with self.lanes:
            mark(None)
            batch = self.feed.batch(self.nimg)
            mark("data")
            noise = step_noise(self.params, self.nimg, self.objective, self.space)
            mark("noise")
            losses = self._backward(batch, noise)
            if t.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.weights, t.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.model.after_step()
            mark("optimiser")
            for average in self.averages:
                average.update(self._vector)
            mark("EMA")
            self.step_losses.append(losses.mean())
            bins = self.objective.bins(noise.t, BINS)
            self.bin_sum.index_add_(0, bins, losses)
            self.bin_count.index_add_(0, bins, torch.ones_like(losses))
            self.nimg += t.batch
            mark("statistics")

    def _backward(self, batch: Batch, noise: Noise) -> Tensor:
        """Adds the gradient of the batch, in parts of `micro_batch`; the loss of each image (n,)."""
        t, mark, losses, n = self.params.train, self.profiler.mark, [], len(batch.labels)
        size = t.micro_batch or t.batch
        for first in range(0, n, size):
            part = slice(first, first + size)
            images, *about = (x if x is None else x[part] for x in batch)
            times, dropped, eps, mirrored, posterior = (x[part] for x in noise)
            x0 = self.space.x0(images, mirrored, posterior)
            if t.channels_last:
                x0 = x0.contiguous(memory_format=torch.channels_last)
            mark("to device")
            cond = self.conditions(*about)
            mark("text")
            cond = cond.drop(dropped, self.conditions.null)
            mark("caption dropout")
            if self.lanes.n > 1:
                losses_of = functools.partial(self._losses, self.model)
                each = self.lanes.backward(losses_of, (x0, eps, times, cond), self.weights, n)
            else:
                # Gradients travel between processes once a step, with the last part.
                each = self._losses(self.wrapped if first + size >= n else self.model, x0, eps, times, cond)
                (each.sum() / n).backward()
            losses.append(each.detach())
            mark("backward")
        return torch.cat(losses)

    def _step_of_one(self, weight: Tensor) -> None:
        """The optimiser's step of one weight, which alone has a gradient, and the end of that gradient."""
        self.optimizer.step()
        weight.grad = None

    def _losses(self, net: Network, x0: Tensor, eps: Tensor, times: Tensor, cond: Condition) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.params.train.precision == "bf16"):
            losses = self.objective.loss(net, x0, eps, times, cond)
        self.profiler.mark("forward")
        return losses

    def lr_at(self, nimg: int) -> float:
        """The learning rate of the step from `nimg`: rises along a line over `warmup` images, then stays."""
        t = self.params.train
        return t.lr * min(1.0, (nimg + t.batch) / t.warmup) if t.warmup else t.lr

    def flush(self) -> dict:
        """The line of `stats.jsonl` for the steps since the last one. Raises NonFiniteLoss, for a loss naming the step."""
        batch, (losses, sums, counts) = self.params.train.batch, (x.tolist() for x in self._statistics())
        for i, value in enumerate(losses):
            if not math.isfinite(value):
                at = self.nimg - (len(losses) - i) * batch
                raise NonFiniteLoss(
                    f"loss {value} at step {at // batch} ({at:,} images seen), lr {self.lr_at(at):g}: "
                    "no such weights were saved; lower train.lr or set train.clip_norm, then run again"
                )
        self._check_weights()
        images, seconds = self.nimg - self._line[0], time.perf_counter() - self._line[1]
        self.seconds += seconds
        self._clear()
        return {
            "nimg": self.nimg,
            "loss": sum(losses) / len(losses),
            "loss_by_timestep": [s / c if c else None for s, c in zip(sums, counts, strict=True)],
            "lr": self.optimizer.param_groups[0]["lr"],
            "ms_by_part": self.profiler.flush(),
            "images_per_s": images / seconds,
            "seconds": self.seconds,
            "memory_mb": peak_memory(),
        }

    def start_clock(self) -> None:
        """The time of training begins here, and again with each line of statistics."""
        self._line = self.nimg, time.perf_counter()

    def _check_weights(self) -> None:
        if not torch.stack([w.isfinite().all() for w in self.weights]).all():
            raise NonFiniteLoss(f"weights are not finite after {self.nimg:,} images: not saved; lower train.lr")

    def state(self) -> tuple[Tensors, dict]:
        """Tensors and facts from which `restore` makes an equal trainer. Raises NonFiniteLoss for weights that are not finite."""
        seconds = self.seconds + time.perf_counter() - self._line[1]
        self._check_weights()
        moments = [self.optimizer.state[w].items() for w in self.weights]
        tensors = {"model": self.model.state_dict()} | {a.name: a.weights for a in self.averages}
        tensors["optimizer"] = {f"{i}.{k}": v for i, of in enumerate(moments) for k, v in of}
        tensors["statistics"] = dict(zip(("step_losses", "bin_sum", "bin_count"), self._statistics(), strict=True))
        return tensors, {"nimg": self.nimg, "seconds": seconds, "ema": [a.updates for a in self.averages]}

    def snapshot(self) -> Tensors:
        """The power-function averages in half precision; nothing where there is none."""
        kept = [a for a in self.averages if isinstance(a.track, str)]
        return {a.name: {name: w.half() for name, w in a.weights.items()} for a in kept}

    def restore(self, tensors: Tensors, state: dict) -> None:
        self.model.load_state_dict(tensors["model"])
        for average, count in zip(self.averages, state["ema"], strict=True):
            average.updates = count
            for name, weight in average.weights.items():
                weight.copy_(tensors[average.name][name])
        for i, w in enumerate(self.weights):
            self.optimizer.state[w] = {k: tensors["optimizer"][f"{i}.{k}"] for k in ("step", "exp_avg", "exp_avg_sq")}
        pending = tensors["statistics"]
        self.step_losses = list(pending["step_losses"])
        if distributed.world().is_main_process:  # the others' share is in there
            self.bin_sum, self.bin_count = pending["bin_sum"], pending["bin_count"]
        self.nimg, self.seconds = state["nimg"], state["seconds"]

    def _statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each step since the last line, loss sums and image counts by timestep bin, of all processes."""
        losses = torch.stack(self.step_losses) if self.step_losses else torch.zeros(0, device=self.device)
        losses, sums, counts = map(distributed.total, (losses, self.bin_sum, self.bin_count))
        return losses / distributed.world().num_processes, sums, counts

    def _clear(self) -> None:
        self.start_clock()
        self.step_losses = []
        self.bin_sum, self.bin_count = (torch.zeros(BINS, device=self.device) for _ in range(2))
