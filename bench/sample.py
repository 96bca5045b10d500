"""Sampling against a diffusers pipeline of the same model, steps and noise, where the images come out the same."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from bench import measuring
from bench.example import text_model
from bench.pipeline import GuidedPipeline
from guidebook.conditioning.captions import NULL, class_captions
from guidebook.config import params as P
from guidebook.config.datasets import CATALOG
from guidebook.config.schema import VP, Guidance, Solver
from guidebook.data.images import to_uint8
from guidebook.diffusion.solvers import scheduler
from guidebook.models import build
from guidebook.runs import manifest
from guidebook.runs.run import Run
from guidebook.runtime.distributed import world
from guidebook.runtime.rng import generator
from guidebook.sampling.sampler import Sampler
from guidebook.sampling.spec import Draw

STEPS, SCALE = 50, 3.0  # of the pipeline; what a guided sample costs does not depend on the scale


class NotTheSame(RuntimeError):
    """Two samplers that should give the same images do not, so their speeds say nothing."""


def sample(
    say: Callable[[str], None],
    params: P.Params | None = None,
    repeats: int = 5,
    batch: int = 32,
) -> dict:
    """Seconds per image of the pipeline and of the library, with the U-Net as it is before training: weights change no speed.

    Raises NotTheSame where in fp32 a pixel differs by more than 1 of 255.
    """
    params, index = measuring.chosen(params), torch.arange(batch)
    solver = usual(params.objective)
    with prepared(params, build(params)) as run:
        ways = {
            "pipeline, fp32": piped(run, "raw", SCALE, solver, torch.float32),
            "library, fp32": ours(told(run, "fp32", False), "raw", SCALE, solver),
            "library, fp32, channels last": ours(told(run, "fp32", True), "raw", SCALE, solver),
            "pipeline, bf16": piped(run, "raw", SCALE, solver, torch.bfloat16),
            "library, bf16": ours(told(run, "bf16", False), "raw", SCALE, solver),
            "library, bf16, channels last": ours(told(run, "bf16", True), "raw", SCALE, solver),
        }
        images = {name: way(index) for name, way in ways.items()}  # warms up, too
        apart = {name: difference(x, images["pipeline, fp32"]) for name, x in images.items()}
        if apart["library, fp32"] > 1:
            raise NotTheSame(
                f"a pixel of library and pipeline differs by {apart['library, fp32']} of 255, not by at most 1"
            )
        say(f"equal outputs: pixels differ by at most {apart['library, fp32']} of 255")
        speeds = measuring.alternate({name: timed(way, index) for name, way in ways.items()}, repeats)
    rows = [
        {"name": name, "speed": measuring.spread(s), "speeds": s, "steps": solver.steps, "max_difference": apart[name]}
        for name, s in speeds.items()
    ]
    found = measuring.report(
        "sample", params, rows, _ratios(speeds), batch=batch, guidance=SCALE, sampler=solver.sampler
    )
    measuring.tell(say, found)
    return found


def _ratios(speeds: dict[str, list[float]]) -> list[dict]:
    pairs = [
        (
            "sampling, equal outputs",
            "library, fp32",
            "pipeline, fp32",
            "the same images, pixel for pixel within 1 of 255",
        ),
        (
            "sampling, bf16",
            "library, bf16",
            "pipeline, bf16",
            "nearly the same images; the pipeline's states are bf16 too",
        ),
        ("channels last", "library, fp32, channels last", "library, fp32", "by memory layout alone"),
        ("bf16", "library, bf16", "library, fp32", "by precision alone"),
        ("channels last, in bf16", "library, bf16, channels last", "library, bf16", "by memory layout alone"),
    ]
    return [measuring.ratio(name, speeds[a], speeds[b], f"{a} / {b}: {what}") for name, a, b, what in pairs]


def usual(diffusion: VP) -> Solver:
    """The way a pipeline samples: 50 steps of DDPM."""
    spacing = "trailing" if diffusion.zero_terminal_snr else "leading"
    return Solver(sampler="ddpm", steps=min(STEPS, diffusion.timesteps), eta=0.0, spacing=spacing)


@contextmanager
def prepared(params: P.Params, model: UNet2DConditionModel) -> Iterator[Run]:
    """A run of these params whose raw weights are the model's, for as long as this is open."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(params, Path(folder), recorded=False)
        model.save_pretrained(run.path / "model" / "raw")
        manifest.checksum(run.path / "model" / "raw")
        yield run


def told(run: Run, precision: str, channels_last: bool) -> Run:
    """The same run, told to compute otherwise."""
    changed = run.params.replace(train={"precision": precision, "channels_last": channels_last})
    return Run(changed, run.path, recorded=False)


def ours(run: Run, weights: str, guidance: Guidance | float, solver: Solver) -> Callable[[torch.Tensor], torch.Tensor]:
    """The library's sampler: numbers of images (B,) → images (B, C, H, W) uint8."""
    sampler = Sampler(run, Draw.of(run.params, guidance, 1, weights=weights, solver=solver))

    def drawn(index: torch.Tensor) -> torch.Tensor:
        *_, (_, x) = sampler.steps(index)
        return to_uint8(x.cpu(), *run.params.data.range)

    return drawn


def piped(
    run: Run, weights: str, w: float, solver: Solver, dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The pipeline with the same captions and the same noise."""
    params = run.params
    low, high = params.data.range
    if (low, high) != (-1.0, 1.0):
        raise ValueError(f"data.range = [{low:g}, {high:g}]: a diffusers pipeline clips to [-1, 1]")
    captions = class_captions(params.data.caption, CATALOG[params.data.name].classes)
    text, ids = text_model(params.text, [*captions, NULL])
    model = UNet2DConditionModel.from_pretrained(run.path / "model" / weights, use_safetensors=True, torch_dtype=dtype)
    noise_scheduler = scheduler(params.objective, solver)
    pipe = GuidedPipeline(model.eval(), noise_scheduler, text, signed=low < 0).to(world().device)
    pipe.set_progress_bar_config(file=measuring.Nowhere())

    def drawn(index: torch.Tensor) -> torch.Tensor:
        rngs = [generator((params.sample.seed << 32) + i, "image") for i in index.tolist()]
        images = pipe(ids[index % len(captions)], ids[-1], w, solver.steps, rngs, solver.eta)
        arrays = torch.stack([torch.from_numpy(np.array(image)) for image in images])
        return arrays[:, None] if arrays.ndim == 3 else arrays.permute(0, 3, 1, 2)

    return drawn


def difference(a: torch.Tensor, b: torch.Tensor) -> int:
    """The largest difference of a pixel, of 255."""
    return int((a.int() - b.int()).abs().max())


def timed(draw: Callable[[torch.Tensor], torch.Tensor], index: torch.Tensor) -> Callable[[], float]:
    """A block for `alternate`: images per second of one batch."""

    def block() -> float:
        measuring.wait()
        started = time.perf_counter()
        draw(index)
        measuring.wait()
        return len(index) / (time.perf_counter() - started)

    return block
