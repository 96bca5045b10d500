"""Sampling against a diffusers pipeline of the same model, steps and noise, where the images come out the same."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import measuring
from bench.example import text_model
from bench.pipeline import GuidedPipeline
from guidebook import models
from guidebook.conditioning.captions import NULL, class_captions
from guidebook.config.params import Params
from guidebook.config.sampling import Guidance, Solver
from guidebook.config.schema import VP
from guidebook.data.images import to_uint8
from guidebook.diffusion.solvers import scheduler
from guidebook.models.backbone import Backbone
from guidebook.runs import manifest
from guidebook.runs.resolved import resolved
from guidebook.runs.run import Run
from guidebook.runtime.distributed import world
from guidebook.runtime.seeds import generator
from guidebook.sampling.sampler import Sampler
from guidebook.sampling.spec import Draw

STEPS, SCALE = 50, 3.0  # of the pipeline; what a guided sample costs does not depend on the scale
Drawing = Callable[[Tensor], Tensor]  # numbers of images (B,) → images (B, C, H, W) uint8


class NotTheSame(RuntimeError):
    """Two samplers that should give the same images do not, so their speeds say nothing."""


def sample(params: Params, repeats: int = 5, batch: int = 32) -> dict:
    """Seconds per image of the pipeline and of the library, with the U-Net as it is before training: weights change no speed.

    Raises NotTheSame where in fp32 a pixel differs by more than 1 of 255.
    """
    params, index = resolved(params), torch.arange(batch)
    solver = usual(params.objective)
    with prepared(params, models.build(params)) as run:
        ways = {}
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            ways[f"pipeline, {precision}"] = piped(run, "raw", SCALE, solver, dtype)
            for last in (False, True):
                train = {"precision": precision, "channels_last": last}
                changed = Run(params.replace(train=train), run.path, recorded=False)
                ways[f"library, {precision}{', channels last' * last}"] = ours(changed, "raw", SCALE, solver)
        images = {name: way(index) for name, way in ways.items()}  # warms up, too
        apart = {name: difference(x, images["pipeline, fp32"]) for name, x in images.items()}
        if (most := apart["library, fp32"]) > 1:
            raise NotTheSame(f"a pixel of library and pipeline differs by {most} of 255, not by at most 1")
        print(f"equal outputs: pixels differ by at most {most} of 255")
        speeds = measuring.alternate({name: timed(way, index) for name, way in ways.items()}, repeats)
    rows = [
        {"name": name, "speed": measuring.spread(s), "speeds": s, "steps": solver.steps, "max_difference": apart[name]}
        for name, s in speeds.items()
    ]
    same = "the same images, pixel for pixel within 1 of 255"
    pairs = [
        ("sampling, equal outputs", "library, fp32", "pipeline, fp32", same),
        ("sampling, bf16", "library, bf16", "pipeline, bf16", "nearly the same; the pipeline's states are bf16 too"),
        ("channels last", "library, fp32, channels last", "library, fp32", "by memory layout alone"),
        ("bf16", "library, bf16", "library, fp32", "by precision alone"),
        ("channels last, in bf16", "library, bf16, channels last", "library, bf16", "by memory layout alone"),
    ]
    facts = {"batch": batch, "guidance": SCALE, "sampler": solver.sampler}
    return measuring.report("sample", params, rows, measuring.ratios(speeds, pairs), **facts)


def usual(objective: VP) -> Solver:
    """The way a pipeline samples: 50 steps of DDPM."""
    spacing = "trailing" if objective.zero_terminal_snr else "leading"
    return Solver(sampler="ddpm", steps=min(STEPS, objective.timesteps), eta=0.0, spacing=spacing)


@contextmanager
def prepared(params: Params, model: Backbone) -> Iterator[Run]:
    """A run of these params whose raw weights are the model's, for as long as this is open."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(params, Path(folder), recorded=False)
        model.save_pretrained(run.path / "model" / "raw")
        manifest.checksum(run.path / "model" / "raw")
        yield run


def ours(run: Run, weights: str, guidance: Guidance | float, solver: Solver) -> Drawing:
    """The library's sampler."""
    sampler = Sampler(run, Draw.of(run.params, guidance, 1, weights=weights, solver=solver))

    def drawn(index: Tensor) -> Tensor:
        *_, (_, x) = sampler.steps(index)
        return to_uint8(x.cpu(), *run.params.data.range)

    return drawn


def piped(run: Run, weights: str, w: float, solver: Solver, dtype: torch.dtype) -> Drawing:
    """The pipeline with the same captions and the same noise."""
    params = run.params
    low, high = params.data.range
    if (low, high) != (-1.0, 1.0):
        raise ValueError(f"data.range = [{low:g}, {high:g}]: a diffusers pipeline clips to [−1, 1]")
    captions = class_captions(params.data.caption, params.data.entry.classes)
    text, ids = text_model(params.text, [*captions, NULL])
    unet = models.load(run.path / "model" / weights).stock().eval().type(dtype)
    pipe = GuidedPipeline(unet, scheduler(params.objective, solver), text).to(world().device)
    pipe.set_progress_bar_config(file=measuring.Nowhere())

    def drawn(index: Tensor) -> Tensor:
        rngs = [generator((params.sample.seed << 32) + i, "image") for i in index.tolist()]
        images = pipe(ids[index % len(captions)], ids[-1], w, solver.steps, rngs, solver.eta)
        arrays = torch.stack([torch.from_numpy(np.array(image)) for image in images])
        return arrays[:, None] if arrays.ndim == 3 else arrays.permute(0, 3, 1, 2)

    return drawn


def difference(a: Tensor, b: Tensor) -> int:
    """The largest difference of a pixel, of 255."""
    return int((a.int() - b.int()).abs().max())


def timed(draw: Drawing, index: Tensor) -> Callable[[], float]:
    """A block for `alternate`: images per second of one batch."""
    return lambda: len(index) / measuring.seconds(lambda: draw(index))
