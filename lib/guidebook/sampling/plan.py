"""The images of a set of samples, drawn part by part: what each of them shows, and the noise that it begins from."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guidebook.conditioning.captions import caption_of
from guidebook.conditioning.grammar import switched
from guidebook.config.datasets import CATALOG
from guidebook.diffusion.solvers import times
from guidebook.runs.artifact import Parts, arrays, artifact, notes
from guidebook.runs.run import Run
from guidebook.runtime.seeds import generator
from guidebook.sampling.sampler import Sampler
from guidebook.sampling.spec import Draw


def drawn(run: Run, draw: Draw, folder: Path) -> tuple[Tensor, dict]:
    """Images (n, C, H, W) uint8 of the set that `folder` is for, and facts of them; the processes take turns.

    Parts that were drawn before an interruption are found. Raises Preempted between two parts, and OSError where the disk is full.
    """
    sampler = Sampler(run, draw)
    plan = _plan(draw, sampler)
    # A classifier that guides is trained here, not while parts are timed.
    facts = {"labels": plan.labels, "clipped": sampler.limits, "evaluations": sampler.evaluations()}
    moments, size = [-1], run.params.sample.batch
    if draw.kind == "trajectory":  # one part, which has more images than samples
        moments, size = [round(i) for i in torch.linspace(0, draw.solver.steps - 1, draw.columns).tolist()], draw.n
        visited = times(sampler.objective, draw.solver)
        facts["timesteps"] = [round(t) for t in visited[moments].tolist()]

    def part(first: int, end: int) -> tuple[dict, list[float]]:
        started = time.perf_counter()
        prompts, start = (rows if rows is None else rows[first:end] for rows in (plan.prompts, plan.start))
        states = list(sampler.steps(plan.index[first:end], prompts, start))
        images = sampler.images(torch.cat([states[i][1] for i in moments]))
        return {"images": images.numpy()}, [time.perf_counter() - started]

    shape = (CATALOG[run.params.data.name].channels, *[run.params.data.resolution] * 2)
    parts = Parts([*range(0, draw.n, size), draw.n], {"images": (shape, "uint8")})
    made = artifact(folder.parent, f".parts-{draw.name}", {"draw": draw.json}, part, parts, f"drawing {folder.name}")
    facts["seconds_per_image"] = sum(notes(made)) / draw.n
    return torch.from_numpy(arrays(made)["images"]), facts


@dataclass(frozen=True)
class Plan:
    """What each image of a set of N shows and begins from."""

    index: Tensor  # (N,) numbers of images, which give their noise
    labels: list[int]  # N
    prompts: list[str] | None = None  # N captions; None: the draw's prompt, or those of the labels
    start: Tensor | None = None  # noise (N, *shape) in place of that of the index


def _plan(draw: Draw, sampler: Sampler) -> Plan:
    if draw.kind in ("samples", "trajectory"):
        moments = draw.columns if draw.kind == "trajectory" else 1
        index = torch.arange(draw.n // moments)
        return Plan(index, sampler.labels(index) * moments)
    each = 1 + len(draw.edits) if draw.kind == "edits" else draw.columns
    first, index = sampler.labels(torch.arange(draw.n // each)), torch.arange(draw.n // each).repeat_interleave(each)
    if draw.kind == "edits":
        labels = [label for face in first for label in (face, *(switched(face, name) for name in draw.edits))]
    else:
        labels = [label for label in first for _ in range(each)]
    captions = [caption_of(sampler.params, label, i) for label, i in zip(labels, index.tolist(), strict=True)]
    return Plan(index, labels, captions, None if draw.kind == "edits" else _great_circles(draw, sampler.space.shape))


def _great_circles(draw: Draw, shape: tuple[int, int, int]) -> Tensor:
    """Noise (n, *shape) that turns, in each row, from that of one seed to that of another."""
    rows, shares = draw.n // draw.columns, torch.linspace(0, 1, draw.columns)[:, None, None, None]
    ends = [torch.randn(shape, generator=generator(draw.seed, "end", i)) for i in range(2 * rows)]
    return torch.cat([slerp(a, b, shares) for a, b in zip(ends[::2], ends[1::2], strict=True)])


# sin((1 − s) Ω) / sin Ω · a + sin(s Ω) / sin Ω · b,  cos Ω = a · b / (|a| |b|)   (Shoemake 1985)
def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Between a and b (C, H, W), at each share (n, 1, 1, 1) of the angle between them."""
    angle = torch.acos((a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1))
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)
