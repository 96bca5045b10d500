"""Sets that look into a model: the way from noise, one attribute changed, noise that turns, and images on demand."""

from typing import TYPE_CHECKING

from guidebook.runs.run import Run
from guidebook.sampling.draw import sample_set
from guidebook.sampling.sets import ImageSet
from guidebook.sampling.spec import Draw

if TYPE_CHECKING:
    from torch import Tensor

EDITS = ("Smiling", "Eyeglasses", "Wearing_Hat", "Blond_Hair", "Young", "Male")


def trajectory(run: Run, guidance: float, frames: int = 10) -> ImageSet:
    """Ten samples on their way from noise: `frames` moments, each a row of images; the last row is the samples."""
    return sample_set(run, Draw.of(run.params, guidance, 10 * frames, kind="trajectory", columns=frames))


def edits(run: Run, guidance: float, n: int, attributes: tuple[str, ...] = EDITS) -> ImageSet:
    """n faces, each followed by itself with one attribute switched on or off in its caption, all from the same noise.

    ((1 + K) · n, C, H, W): face i is image (1 + K) · i. Its other words stay, but for those that would contradict the new one.
    """
    n *= 1 + len(attributes)
    return sample_set(run, Draw.of(run.params, guidance, n, kind="edits", edits=attributes))


def interpolation(run: Run, guidance: float, rows: int = 4, columns: int = 10) -> ImageSet:
    """(rows · columns, C, H, W): in each row one caption, and noise that turns from that of one seed to that of another.

    On the great circle between the two, so that all of it is as likely as they are (White 2016); the way to the image adds no
    noise (DDIM).
    """
    solver = run.params.sample.solver.model_copy(update={"sampler": "ddim", "eta": 0.0})
    spec = {"solver": solver, "kind": "interpolation", "columns": columns}
    return sample_set(run, Draw.of(run.params, guidance, rows * columns, **spec))


def draw_now(run: Run, prompt: str, guidance: float, seed: int, n: int) -> "Tensor":
    """n images (n, C, H, W) uint8 of one prompt, kept nowhere."""
    import torch

    from guidebook.sampling.sampler import Sampler

    sampler = Sampler(run, Draw.of(run.params, guidance, n, prompt=prompt))
    *_, (_, x) = sampler.steps(seed * n + torch.arange(n))
    return sampler.images(x)
