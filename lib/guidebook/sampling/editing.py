"""What changes while the noise stays: one attribute of a caption; and while the caption stays: the noise, on the way to another."""

import torch

from guidebook.conditioning.captions import attribute_caption, switched
from guidebook.config.schema import Solver
from guidebook.runs.run import Run
from guidebook.runtime.rng import generator
from guidebook.sampling.draw import spec_of
from guidebook.sampling.sampler import Sampler
from guidebook.sampling.sets import ImageSet, image_set

EDITS = ("Smiling", "Eyeglasses", "Wearing_Hat", "Blond_Hair", "Young", "Male")


def edits(run: Run, guidance: float, n: int, attributes: tuple[str, ...] = EDITS) -> ImageSet:
    """n faces, each followed by itself with one attribute switched on or off in its caption, all from the same noise.

    ((1 + K) · n, C, H, W): face i is image (1 + K) · i. Its other words stay, but for those that would
    contradict the new one.
    """
    spec = spec_of(run, guidance, (1 + len(attributes)) * n) | {"edits": list(attributes)}

    def make() -> tuple[torch.Tensor, dict]:
        sampler = Sampler(run, run.params.sample.weights)
        faces = sampler.labels(torch.arange(n))
        labels = [label for face in faces for label in (face, *(switched(face, name) for name in attributes))]
        index = torch.arange(n).repeat_interleave(1 + len(attributes))
        return _drawn(sampler, guidance, index, labels), {"labels": labels}

    return image_set(run, "edits", spec, make)


def interpolation(run: Run, guidance: float, rows: int = 4, columns: int = 10) -> ImageSet:
    """(rows · columns, C, H, W): in each row one caption, and noise that turns from that of one seed to that of another.

    On the great circle between the two, so that all of it is as likely as they are (White 2016); the way to the image adds no noise (DDIM).
    """
    solver = Solver(sampler="ddim", steps=run.params.sample.steps, eta=0.0, spacing=run.params.sample.spacing)
    spec = spec_of(run, guidance, rows * columns, solver=solver) | {"columns": columns}

    def make() -> tuple[torch.Tensor, dict]:
        sampler = Sampler(run, run.params.sample.weights)
        shares = torch.linspace(0, 1, columns)[:, None, None, None]
        ends = [torch.randn(sampler.space.shape, generator=generator(spec["seed"], "end", i)) for i in range(2 * rows)]
        start = torch.cat([slerp(a, b, shares) for a, b in zip(ends[::2], ends[1::2], strict=True)])
        faces = sampler.labels(torch.arange(rows))
        labels = [label for label in faces for _ in range(columns)]
        index = torch.arange(rows).repeat_interleave(columns)
        return _drawn(sampler, guidance, index, labels, solver, start), {"labels": labels}

    return image_set(run, "interpolation", spec, make)


# sin((1 − s) Ω) / sin Ω · a + sin(s Ω) / sin Ω · b,  cos Ω = a · b / (|a| |b|)   (Shoemake 1985)
def slerp(a: torch.Tensor, b: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Between a and b (C, H, W), at each share (n, 1, 1, 1) of the angle between them."""
    angle = torch.acos((a.flatten() @ b.flatten() / (a.norm() * b.norm())).clamp(-1, 1))
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


def _drawn(sampler: Sampler, guidance: float, index, labels, solver=None, start=None) -> torch.Tensor:
    """Images of attributes in the words and with the noise of the images number `index`, part by part."""
    seed, size = sampler.params.sample.seed, sampler.params.sample.batch
    told = [attribute_caption(a, seed, i, 0) for a, i in zip(labels, index.tolist(), strict=True)]
    images = []
    for first in range(0, len(index), size):
        part = slice(first, first + size)
        begin = None if start is None else start[part]
        *_, (_, x) = sampler.steps(guidance, index[part], told[part], solver, start=begin)
        images.append(sampler.images(x))
    return torch.cat(images)
