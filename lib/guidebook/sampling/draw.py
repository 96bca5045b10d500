"""Sets of samples: drawn once with everything that their specification says, found afterwards."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guidebook.conditioning.captions import caption_of
from guidebook.conditioning.grammar import switched
from guidebook.config.schema import Guidance
from guidebook.diffusion.solvers import times
from guidebook.runs import launch
from guidebook.runs.preemption import stopping
from guidebook.runs.run import Run
from guidebook.runtime.seeds import generator
from guidebook.sampling.sets import ImageSet, image_set, in_parts, path_of
from guidebook.sampling.spec import Draw

if TYPE_CHECKING:
    from guidebook.sampling.sampler import Sampler


def draw(run: Run, guidance: Guidance | float, n: int, **spec: Any) -> ImageSet:
    """n samples guided in one way (a number is a scale of plain guidance); `spec` as in `Draw.of`.

    Image i has seed (sample.seed, i), the same at every scale, by every solver and way to guide, and shows class i mod K, or
    `prompt` where one is given.
    """
    return sample_set(run, Draw.of(run.params, guidance, n, **spec))


def sample_set(run: Run, draw: Draw | dict) -> ImageSet:
    """The set of a `Draw`, or of its JSON: found in the run folder, else drawn. A stage of `runs.launch`."""
    draw = Draw.model_validate(draw)
    spec = {"draw": draw.json}
    folder = path_of(run, draw.name, spec)
    if not folder.exists() and not run.recorded and launch.wanted(run.params):
        launch.do(run, "draw", **spec)
    return image_set(run, draw.name, spec, lambda: _drawn(run, draw, folder))


def _drawn(run: Run, draw: Draw, folder) -> tuple[Tensor, dict]:
    """The images of a set, and facts of them."""
    from guidebook.sampling.sampler import Sampler

    sampler = Sampler(run, draw)
    plan = _plan(draw, sampler)
    with stopping(run):  # a classifier that guides is trained here, not while parts are timed
        facts = {"labels": plan.labels, "clipped": sampler.limits, "evaluations": sampler.evaluations()}
    moments, size = [-1], run.params.sample.batch
    if draw.kind == "trajectory":
        moments, size = [round(i) for i in torch.linspace(0, draw.solver.steps - 1, draw.columns).tolist()], draw.n
        visited = times(sampler.objective, draw.solver)
        facts["timesteps"] = [round(t) for t in visited[moments].tolist()]

    def part(index: Tensor) -> Tensor:
        rows = index[index < len(plan.index)]  # of a trajectory, whose one part has more images than samples
        prompts = plan.prompts and [plan.prompts[i] for i in rows.tolist()]
        states = list(sampler.steps(plan.index[rows], prompts, None if plan.start is None else plan.start[rows]))
        return sampler.images(torch.cat([states[i][1] for i in moments]))

    images, facts["seconds_per_image"] = in_parts(run, folder, draw.n, size, part)
    return images, facts


@dataclass(frozen=True)
class Plan:
    """What each image of a set of N shows and begins from."""

    index: Tensor  # (N,) numbers of images, which give their noise
    labels: list[int]  # N
    prompts: list[str] | None = None  # N captions; None: the draw's prompt, or those of the labels
    start: Tensor | None = None  # noise (N, *shape) in place of that of the index


def _plan(draw: Draw, sampler: "Sampler") -> Plan:
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
