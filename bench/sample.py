"""Sampling against a diffusers pipeline of the same model, steps and noise, where the images come out the same."""

import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import measuring
from bench.example import text_model
from bench.pipeline import GuidedPipeline
from bench.reduced import at_hand
from guidebook import models
from guidebook.conditioning.captions import NULL, class_captions
from guidebook.config.params import Params
from guidebook.config.sampling import Guidance, Solver
from guidebook.diffusion.solvers import scheduler
from guidebook.export.pipeline import pipeline
from guidebook.models.backbone import Backbone
from guidebook.runs import manifest
from guidebook.runs.resolved import resolved
from guidebook.runs.run import Run
from guidebook.runtime.distributed import world
from guidebook.runtime.precision import native_bf16
from guidebook.runtime.seeds import generator
from guidebook.sampling.sampler import Sampler
from guidebook.sampling.spec import Draw

STEPS, SCALE = 50, 3.0  # of the pipeline; what a guided sample costs does not depend on the scale
# Further solvers of a run in latents: in pixels diffusers clips x0 otherwise by them, or not at all
FURTHER = (
    Solver(sampler="ddim", steps=50, eta=0.0, spacing="trailing"),
    Solver(sampler="dpmpp-2m", steps=20, eta=0.0, spacing="linspace"),
)
PRECISIONS = ("fp32", torch.float32), ("bf16", torch.bfloat16)  # the second where it is native
Drawing = Callable[[Tensor], Tensor]  # numbers of images (B,) → images (B, C, H, W) uint8


class NotTheSame(RuntimeError):
    """Two samplers that should give the same images do not, so their speeds say nothing."""


def sample(params: Params, repeats: int = 5, batch: int = 32) -> dict:
    """Images per second of the pipeline and of the library, with the network as it is before training: weights change no speed.

    Raises NotTheSame where in fp32 a pixel differs by more than 1 of 255.
    """
    params = resolved(at_hand(params))
    batch = min(batch, params.sample.batch)
    index, first = torch.arange(batch), usual(params)
    with prepared(params, models.initial(params)) as run:
        ways: dict[str, tuple[Solver, Drawing]] = {}
        for solver in (first, *(FURTHER if params.model.vae else ())):
            word = "" if solver is first else f", {solver.sampler}"
            for precision, dtype in PRECISIONS[: 1 if word else 1 + native_bf16()]:
                ways[f"pipeline, {precision}{word}"] = solver, piped(run, "raw", SCALE, solver, dtype)
                for last in (False,) if word else (False, True):
                    train = {"precision": precision, "channels_last": last}
                    changed = Run(params.replace(train=train), run.path, recorded=False)
                    name = f"library, {precision}{word}{', channels last' * last}"
                    ways[name] = solver, ours(changed, "raw", SCALE, solver)
        images = {name: way(index) for name, (_, way) in ways.items()}  # warms up, too
        peers = {solver: images[name] for name, (solver, _) in ways.items() if name.startswith("pipeline, fp32")}
        apart = {name: difference(images[name], peers[solver]) for name, (solver, _) in ways.items()}
        most = max(apart[f"library, fp32{name[14:]}"] for name in ways if name.startswith("pipeline, fp32"))
        if most > 1:
            raise NotTheSame(f"a pixel of library and pipeline differs by {most} of 255, not by at most 1")
        print(f"equal outputs: pixels differ by at most {most} of 255")
        speeds = measuring.alternate({name: timed(way, index) for name, (_, way) in ways.items()}, repeats)
    rows = [
        {
            "name": name,
            "speed": measuring.spread(s),
            "speeds": s,
            "steps": ways[name][0].steps,
            "max_difference": apart[name],
        }
        for name, s in speeds.items()
    ]
    facts = {"batch": batch, "guidance": SCALE, "sampler": first.sampler}
    return measuring.report("sample", params, rows, measuring.ratios(speeds, _pairs(speeds)), **facts)


def usual(params: Params) -> Solver:
    """The way a pipeline samples: 50 steps of DDPM; in latents `trailing`, as a stock pipeline shifts the timesteps that lead."""
    o = params.objective
    spacing = "trailing" if o.zero_terminal_snr or params.model.vae else "leading"
    return Solver(sampler="ddpm", steps=min(STEPS, o.timesteps), eta=0.0, spacing=spacing)


def _pairs(names: Collection[str]) -> list[tuple[str, str, str, str]]:
    same, fp32 = "the same images, pixel for pixel within 1 of 255", "pipeline, fp32"
    equal = [
        (n.replace(fp32, "sampling, equal outputs"), n.replace("pipeline", "library"), n, same)
        for n in names
        if n.startswith(fp32)
    ]
    others = [
        ("sampling, bf16", "library, bf16", "pipeline, bf16", "nearly the same; the pipeline's states are bf16 too"),
        ("channels last", "library, fp32, channels last", "library, fp32", "by memory layout alone"),
        ("bf16", "library, bf16", "library, fp32", "by precision alone"),
        ("channels last, in bf16", "library, bf16, channels last", "library, bf16", "by memory layout alone"),
    ]  # fmt: skip
    return equal + [pair for pair in others if pair[1] in names]


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
        return sampler.images(x)

    return drawn


def piped(run: Run, weights: str, w: float, solver: Solver, dtype: torch.dtype) -> Drawing:
    """The pipeline with the same captions and the same noise: of a run in latents the one that is exported."""
    params, captions = run.params, class_captions(run.params.data.caption, run.params.data.entry.classes)
    if params.model.vae:
        sampled = params.replace(sample=solver.model_dump() | {"weights": weights})
        pipe, rows = pipeline(Run(sampled, run.path, recorded=False)), captions
        pipe = pipe if dtype == torch.float32 else pipe.to(dtype)  # diffusers warns of any
        settings = {"num_inference_steps": solver.steps, "guidance_scale": w, "eta": solver.eta}
    else:
        low, high = params.data.range
        if (low, high) != (-1.0, 1.0):
            raise ValueError(f"data.range = [{low:g}, {high:g}]: a diffusers pipeline clips to [−1, 1]")
        text, (*rows, null) = text_model(params.text, [*captions, NULL])
        unet = models.load(run.path / "model" / weights).stock().eval().type(dtype)
        pipe = GuidedPipeline(unet, scheduler(params.objective, solver), text)
        settings = {"null": null, "steps": solver.steps, "scale": w, "eta": solver.eta}
    pipe.to(world().device).set_progress_bar_config(file=measuring.Nowhere())

    def drawn(index: Tensor) -> Tensor:
        rngs = [generator((params.sample.seed << 32) + i, "image") for i in index.tolist()]
        images = pipe([rows[i % len(rows)] for i in index.tolist()], generator=rngs, **settings)
        images = images if isinstance(images, list) else images.images
        arrays = torch.stack([torch.from_numpy(np.array(image)) for image in images])
        return arrays[:, None] if arrays.ndim == 3 else arrays.permute(0, 3, 1, 2)

    return drawn


def difference(a: Tensor, b: Tensor) -> int:
    """The largest difference of a pixel, of 255."""
    return int((a.int() - b.int()).abs().max())


def timed(draw: Drawing, index: Tensor) -> Callable[[], float]:
    """A block for `alternate`: images per second of one batch."""
    return lambda: len(index) / measuring.seconds(lambda: draw(index))
