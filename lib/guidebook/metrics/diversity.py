"""Diversity: the mean distance between two images of one class."""

import numpy as np
import torch

from guidebook.metrics.intervals import Interval, pairs


def diversity(features: np.ndarray, labels: np.ndarray) -> Interval | None:
    """Mean distance between two images of one class: features (n, D), labels (n,). Interval by the jackknife over images.

    Classes weigh the same. One of fewer than three images is left out; None where there is no other.
    """
    sums = []
    for label in np.unique(labels):
        x = features[labels == label].astype(np.float64)
        if len(x) >= 3:
            square = np.square(x).sum(1)
            sums.append(np.sqrt((square[:, None] + square - 2 * x @ x.T).clip(0)).sum(1))
    return pairs(sums) if sums else None


def diversity_of_squares(features: torch.Tensor) -> np.ndarray:
    """Each image's summed squared distance to the others, (n,), from features (n, D) of one class: for `intervals.pairs`."""
    x = features.double()
    x = x - x.mean(0)
    square = x.square().sum(1)
    return (len(x) * square + square.sum()).cpu().numpy()
