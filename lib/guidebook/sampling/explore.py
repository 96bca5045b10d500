"""Sets that look into a model: the way from noise, one attribute changed, and noise that turns."""

from pkgutil import resolve_name

from guidebook.runs.run import Run
from guidebook.sampling.draw import sample_set
from guidebook.sampling.sets import ImageSet, image_set
from guidebook.sampling.spec import Draw

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


def one_by_one(run: Run, guidance: float, n: int = 100) -> ImageSet:
    """n samples, each drawn alone as for one who waits for it; `facts["seconds"]` are those of each, from noise to pixels."""
    draw = Draw.of(run.params, guidance, n)
    spec = {"draw": draw.json, "drawn": "one by one"}
    return image_set(run, "one-by-one", spec, lambda: resolve_name("guidebook.sampling.sampler:drawn_alone")(run, draw))
