"""The library's own cost: the training loop beside a bare one, and checkpoints beside training without them."""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from bench.measuring import alternate, seconds
from guidebook.conditioning.condition import Condition
from guidebook.conditioning.encoders import width
from guidebook.config.budget import checkpoint_steps
from guidebook.config.params import Params
from guidebook.data.images import load
from guidebook.diffusion.solvers import scheduler
from guidebook.models import build
from guidebook.training.checkpoint import Writer
from guidebook.training.step import Trainer, prepared


def loop(params: Params, repeats: int = 9, steps: int = 8) -> float:
    """Step time of the training loop by that of a bare one, which draws a batch, predicts, steps AdamW, and nothing else.

    The library's adds its order of samples, seeds of every step, captions and their dropout, EMA, loss bins, statistics and checks.
    """
    trainer, bare = prepared(params), _bare(params)
    blocks = {
        "bare": lambda: seconds(lambda: [bare() for _ in range(steps)]) / steps,
        "library": lambda: seconds(lambda: _train(trainer, steps)) / steps,
    }
    alternate(blocks, 1)  # warms up
    times = alternate(blocks, repeats)
    ratio = statistics.median(a / b for a, b in zip(times["library"], times["bare"], strict=True))
    for name, values in times.items():
        t = statistics.median(values)
        print(f"{name:8} {1000 * t:7.2f} ms per step, {params.train.batch / t:,.0f} images/s")
    print(f"ratio    {ratio:7.4f} (median of {repeats} pairs of {steps} steps)")
    return ratio


def checkpoint(params: Params, repeats: int = 9) -> float:
    """The share of training time that checkpoints take, at the interval of the params.

    Blocks of as many steps as fit into some three writes, with and without a checkpoint at their beginning, take turns; the
    difference of a pair is what the checkpoint cost, the copying before the next step and the writing beside the steps.
    """
    trainer = prepared(params)
    with tempfile.TemporaryDirectory() as folder, Writer(Path(folder), 2, 1) as writer:

        def block(steps: int, save: bool) -> float:
            def work() -> None:
                if save:
                    writer.save(*trainer.state())
                _train(trainer, steps)
                writer.wait()

            return seconds(work)

        block(8, True)  # warms up
        step, whole = block(8, False) / 8, block(0, True)
        steps = max(8, round(3 * whole / step))
        cost = statistics.median(block(steps, True) - block(steps, False) for _ in range(repeats))
    every = checkpoint_steps(params)[0]
    share = cost / (every * step)
    print(f"step       {1000 * step:8.1f} ms, {every} between two checkpoints: {every * step:.1f} s")
    print(f"checkpoint {1000 * whole:8.1f} ms if training waits for all of it")
    print(f"           {1000 * cost:8.1f} ms of training time, written beside the steps (median of {repeats} pairs)")
    print(f"share      {100 * share:8.2f} %")
    return share


def _train(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer.step()
    if steps:
        trainer.flush()


def _bare(params: Params) -> Callable[[], None]:
    split, model, t = load(params.data).train, build(params).train(), params.train
    images, noise = split.images.float() / 255, scheduler(params.objective)
    optimizer = torch.optim.AdamW(model.parameters(), lr=t.lr, weight_decay=t.weight_decay, fused=True)
    cond = Condition(tokens=torch.randn(len(images), params.text.tokens, width(params.text)))

    def step():
        index, at = torch.randint(0, len(images), (t.batch,)), torch.randint(0, params.objective.timesteps, (t.batch,))
        eps = torch.randn(t.batch, *images.shape[1:])
        predicted = model(noise.add_noise(images[index], eps, at), at, cond[index])
        torch.nn.functional.mse_loss(predicted, eps).backward()
        if t.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), t.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
