"""Precision, recall, density and coverage: whether samples look real, and whether they reach all that is real."""

import torch

from guidebook.metrics.intervals import Interval, mean, share, wilson
from guidebook.runtime.distributed import world

NEIGHBOURS = 5


def manifold(samples, real, k: int = NEIGHBOURS, chunk: int = 1000) -> dict[str, tuple[Interval, str]]:
    """Each measure with its interval and the interval's name, from features of samples (n, D) and real images (m, D).

    The ball of a point reaches to its k-th nearest neighbour among its own kind and does not hold its border.

    precision: share of samples in a ball of a real image; recall: share of real images in a ball of a sample
        (Kynkäänniemi et al. 2019, eq. 1 and 2);
    density: number of real balls a sample lies in, over k; coverage: share of real images with a sample in their ball
        (Naeem et al. 2020, eq. 3 and 4).

    Compare at the same n and m only. Raises ValueError for k or fewer images.
    """
    if min(len(samples), len(real)) <= k:
        raise ValueError(f"{len(samples)} samples and {len(real)} real images: {k} neighbours need more than {k}")
    x, y = (torch.as_tensor(f, dtype=torch.float64, device=world().device) for f in (samples, real))
    x, y = x - y.mean(0), y - y.mean(0)  # far from the origin, differences of squares lose their digits
    reach_x, reach_y = _reach(x, k, chunk), _reach(y, k, chunk)
    balls, near, covered = [], *torch.zeros(2, len(y), dtype=torch.bool, device=y.device)
    for part, reach in zip(x.split(chunk), reach_x.split(chunk), strict=True):
        square = _squares(part, y)
        inside = square < reach_y
        balls.append(inside.sum(1))
        covered |= inside.any(0)
        near |= (square < reach[:, None]).any(0)
    balls = torch.cat(balls)
    return {
        "precision": (share((balls > 0).cpu().numpy()), "Wilson"),
        "recall": (wilson(int(near.sum()), len(y)), "Wilson"),
        "density": (mean((balls.double() / k).cpu().numpy()), "normal"),
        "coverage": (wilson(int(covered.sum()), len(y)), "Wilson"),
    }


def _reach(x: torch.Tensor, k: int, chunk: int) -> torch.Tensor:
    """The squared distance of each point to its k-th nearest neighbour, (n,); the nearest of all is the point itself."""
    return torch.cat([_squares(part, x).kthvalue(k + 1, dim=1).values for part in x.split(chunk)])


def _squares(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared distances (n, m)."""
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)
