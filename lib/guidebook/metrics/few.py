"""The Fréchet distance of six images, drawn many times from larger sets, as the distances of a published study are of six."""

import torch

from guidebook.metrics.frechet import frechet_of_few
from guidebook.metrics.intervals import Interval, share
from guidebook.metrics.records import SPACES, rows
from guidebook.metrics.subject import Subject, of_real, of_samples
from guidebook.runs.run import Run
from guidebook.runtime.seeds import generator
from guidebook.sampling.sets import ImageSet

FEW, DRAWS = 6, 2000  # images of a set, and draws of it


def drawn(n: int, count: int) -> torch.Tensor:
    """Indices (DRAWS, count) below n, each row without repetition."""
    rng = generator("draws", n, count)
    return torch.stack([torch.randperm(n, generator=rng)[:count] for _ in range(DRAWS)])


def of_six(run: Run, subject: Subject, other: ImageSet, ratio: float) -> list[dict]:
    """fd_six: the distance of six samples to six test images, with the range of 19 in 20 draws, in features that know no classes.

    falls_of_six: the share of draws in which it is `ratio` times that of six of the `other` set, or less, against the same test
    images: of the same six seeds, or of one set of six other images.
    """
    before, space = of_samples(run, other), "random"
    mine, theirs, real = (rows(run, x, space)["features"].double() for x in (subject, before, of_real(run, "test")))
    here, there = drawn(len(mine), 2 * FEW).split(FEW, 1)
    base = real[drawn(len(real), FEW)]
    second = frechet_of_few(mine[here], base)
    first = frechet_of_few(theirs[there if before.name == subject.name else here], base)
    network, against = SPACES[space](run.params.data), f"test split, {FEW} images"
    spread = Interval(float(second.mean()), *second.quantile(torch.tensor([0.025, 0.975]).to(second)).tolist())
    fell = share((second <= ratio * first).cpu().numpy())
    of_draws = {"n": FEW, "drawn": DRAWS}
    return [
        subject.record("fd_six", spread, "19 in 20 draws", network, against, **of_draws),
        subject.record("falls_of_six", Interval(*fell), "Wilson", network, f"{other.name}; {against}", **of_draws),
    ]
