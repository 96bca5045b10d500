"""What the training loop costs beside a bare one with the same model and data."""

import statistics
import time
from collections.abc import Callable

import torch

from guidebook.config import params as P


def loop(say: Callable[[str], None], repeats: int = 9, steps: int = 8) -> float:
    """The training loop against a bare one with the same model and data; returns the ratio of their median step times.

    The bare loop draws a batch, predicts, steps AdamW, and nothing else. The library's adds its order of samples, seeds of
    every step, captions and their dropout, EMA, loss bins, statistics and checks. The two take turns, block by block.
    """
    from guidebook.training.step import prepared

    params = P.load("mnist", "demo")
    trainer, bare = prepared(params), _bare(params)
    times: dict[str, list[float]] = {"bare": [], "library": []}
    for _ in range(repeats + 1):
        for name, step in (("bare", bare), ("library", trainer.step)):
            started = time.perf_counter()
            for _ in range(steps):
                step()
            if name == "library":
                trainer.flush()
            times[name].append((time.perf_counter() - started) / steps)
    medians = {name: statistics.median(t[1:]) for name, t in times.items()}  # the first block warms up
    ratio = statistics.median(a / b for a, b in zip(times["library"][1:], times["bare"][1:], strict=True))
    for name, t in medians.items():
        say(f"{name:8} {1000 * t:7.2f} ms per step, {params.train.batch / t:,.0f} images/s")
    say(f"ratio    {ratio:7.4f} (median of {repeats} pairs of {steps} steps)")
    return ratio


def _bare(params: P.Params) -> Callable[[], None]:
    from guidebook.conditioning.condition import Condition
    from guidebook.conditioning.encoders import width
    from guidebook.data.images import load
    from guidebook.diffusion.solvers import scheduler
    from guidebook.models import build

    split, model = load(params.data).train, build(params).train()
    images, noise = split.images.float() / 255, scheduler(params.objective)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=params.train.lr, weight_decay=params.train.weight_decay, fused=True
    )
    cond = Condition(tokens=torch.randn(len(images), params.text.tokens, width(params.text)))
    batch = params.train.batch

    def step():
        index = torch.randint(0, len(images), (batch,))
        t, eps = torch.randint(0, params.objective.timesteps, (batch,)), torch.randn(batch, *images.shape[1:])
        predicted = model(noise.add_noise(images[index], eps, t), t, cond[index])
        torch.nn.functional.mse_loss(predicted, eps).backward()
        if params.train.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), params.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
