"""Copying of training images by a model: how near samples lie to training images, against images it never saw.

After Meehan, Chaudhuri and Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models" (2020), section 3, over
one cell. Distances are between pixels: copies are the same picture, not the same idea.
"""

import numpy as np
import torch

from guidebook.data.images import load
from guidebook.metrics.intervals import Interval, normal, proportion, share
from guidebook.runs.progress import measured
from guidebook.runs.run import Run
from guidebook.runtime.distributed import world
from guidebook.sampling.sets import ImageSet

PART = 2**28  # numbers of a part of the training images, at most


def nearest(images: torch.Tensor, among: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Root-mean-square distance (n,) of each image (n, C, H, W) uint8 to the nearest of others (m, C, H, W), and its index."""
    device = world().device
    mine = images.to(device).flatten(1).float()
    least = torch.full((len(mine),), torch.inf, device=device)
    which = torch.zeros(len(mine), dtype=torch.long, device=device)
    size = max(1, PART // mine.shape[1])
    for first in measured(range(0, len(among), size), "nearest images", "part"):
        distance, index = torch.cdist(mine, among[first : first + size].to(device).flatten(1).float()).min(1)
        which = torch.where(distance < least, index + first, which)
        least = torch.minimum(distance, least)
    return (least / mine.shape[1] ** 0.5).cpu(), which.cpu()


def copying(samples: np.ndarray, unseen: np.ndarray) -> Interval:
    """The probability that a sample lies nearer to the training images than an unseen real image, ties counted half.

    Of distances (n,) and (m,) to the nearest training image; unseen images have one half, copies 1. Interval: DeLong et al. (1988).
    """
    nearer, others = 1 - _ranks(samples, unseen), _ranks(unseen, samples)
    value = float(nearer.mean())
    error = float(np.sqrt(nearer.var(ddof=1) / len(nearer) + others.var(ddof=1) / len(others)))
    return proportion(normal(value, error, nearer))


def _ranks(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The share of others (m,) that are smaller than each value, (n,), ties counted half."""
    order = np.sort(among)
    return (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right")) / (2 * len(order))


def copies(samples: np.ndarray, unseen: np.ndarray) -> Interval:
    """The share of samples that lie nearer to a training image than 99 of 100 unseen images do, of distances (n,) and (m,).

    It shows a few copies that move no mean; a quantile, because unseen images may have doubles among the training images.
    """
    return share(samples < np.quantile(unseen, 0.01))


def expected(m: int) -> float:
    """The most that `copies` is of unseen images, with 97.5 % certainty: the quantile of m distances is itself uncertain."""
    from scipy.stats import beta

    k = int(0.01 * m) + 1  # the order of the quantile among them, whose share of all images has this distribution
    return round(float(beta.ppf(0.975, k, m + 1 - k)), 6)


def beside_nearest(run: Run, images: ImageSet, n: int) -> tuple[torch.Tensor, dict]:
    """Images (2n, C, H, W) uint8: the n samples that lie nearest to a training image, each followed by that image; and facts."""
    train = load(run.params.data).train
    distance, which = nearest(images.images, train.images)
    chosen = distance.argsort()[:n]
    pairs = torch.stack([images.images[chosen], train.images[which[chosen]]], 1).flatten(0, 1)
    labels = torch.stack([images.labels[chosen], train.labels[which[chosen]]], 1).flatten()
    return pairs, {"labels": labels.tolist(), "distances": distance[chosen].tolist()}
