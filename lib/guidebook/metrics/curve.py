"""A Fréchet distance against the number of images: its bias at each number, and the value it tends to."""

import torch

from guidebook.metrics.distances import Gaussian, influences
from guidebook.metrics.intervals import Interval, Z, normal

PARTS = (1, 2, 3, 4)  # the line is fitted to sets of n, n/2, n/3 and n/4 images


def fd_curve(features: torch.Tensor, reference: Gaussian, counts: list[int]) -> list[tuple[int, Interval]]:
    """For each count N the distance of a set of N images: the mean over all disjoint sets that features (n, D) hold.

    The interval is that of one such set: 19 in 20 sets of N images lie there.
    """
    points = []
    for count in counts:
        found = [influences(part, reference) for part in _parts(features, count)]
        value = sum(v for v, _ in found) / len(found)
        error = sum(float(i.std()) for _, i in found) / len(found) / count**0.5
        points.append((count, normal(value, error)))
    return points


# FD(N) = FD_∞ + c / N   (Chong & Forsyth 2020, section 3)
def fd_infinite(features: torch.Tensor, reference: Gaussian) -> Interval:
    """The Fréchet distance that infinitely many images would have: a line in 1/N, read at 0, from features (n, D).

    The line is linear in the distances, so each image's influence on what is read is the same mixture of its influences on
    them: that gives the interval, though the sets share their images. The reference stays as it is, finite. Below D images a
    set the covariance is not full and the bias is no line: raises ValueError for n < `fewest(D)`.
    """
    n, width = features.shape
    if n < fewest(width):
        raise ValueError(f"{n} images of {width} features: the extrapolation needs {fewest(width):,}")
    counts = [n // p for p in PARTS]
    value, influence = 0.0, torch.zeros(n, dtype=torch.float64)
    for count, parts, weight in zip(counts, PARTS, _at_zero(counts), strict=True):
        for i, part in enumerate(_parts(features, count)[:parts]):
            distance, own = influences(part, reference)
            value += weight * distance / parts
            influence[i * count : (i + 1) * count] += weight * n / (parts * count) * own.cpu()
    error = Z * float(influence.std()) / n**0.5
    return value, value - error, value + error


def fewest(width: int) -> int:
    """The number of images that `fd_infinite` needs: its smallest sets have more images than there are features."""
    return PARTS[-1] * (width + 1)


def _at_zero(counts: list[int]) -> list[float]:
    """Weights of the values at 1/N whose sum is what the least-squares line says at 0."""
    x = 1 / torch.tensor(counts, dtype=torch.float64)
    away = x - x.mean()
    return (1 / len(x) - x.mean() * away / away.square().sum()).tolist()


def _parts(features: torch.Tensor, count: int) -> list[torch.Tensor]:
    """All disjoint sets of `count` rows, in order."""
    return [features[i : i + count] for i in range(0, len(features) - count + 1, count)]
