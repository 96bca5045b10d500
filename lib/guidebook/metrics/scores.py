"""Measures of a set that need no reference: Inception Score, CLIP score, diversity, noise level and colourfulness."""

import math

import numpy as np
import torch

from guidebook.metrics.intervals import Interval, mean, pairs

PART = 500  # images at a time


# IS = exp(E_x KL(p(y|x) ‖ p(y)))   (Salimans et al. 2016)
def inception_score(logits: torch.Tensor) -> Interval:
    """Inception Score of logits (n, K), over all n at once: the mean over ten parts, as others report it, is lower.

    The influence of an image on log IS is its own divergence, whose standard error gives the interval.
    """
    log = logits.double().log_softmax(1)
    divergence = (log.exp() * (log - log.exp().mean(0).clamp(min=1e-300).log())).sum(1)
    found = mean(divergence.cpu().numpy())
    return Interval(*map(math.exp, found), each=math.exp(found[0]) * found.each)


# CLIPScore = 100 max(cos(image, caption), 0)   (Hessel et al. 2021, eq. 1, with 100 for their 2.5, as is usual since)
def clip_score(images: torch.Tensor, captions: torch.Tensor) -> Interval:
    """CLIP score of images (n, D) and their captions (n, D), both of length 1."""
    return mean(100 * (images * captions).sum(1).clamp(min=0).double().numpy())


def diversity(features: np.ndarray, labels: np.ndarray, unit: float = 1.0) -> Interval | None:
    """Mean distance, times `unit`, between two images of one class, of three or more: features (n, D), labels (n,); None without one."""
    sums, rows = [], []
    for label in np.unique(labels):
        x = features[labels == label].astype(np.float64)
        if len(x) >= 3:
            square = np.square(x).sum(1)
            sums.append(unit * np.sqrt((square[:, None] + square - 2 * x @ x.T).clip(0)).sum(1))
            rows.append(np.flatnonzero(labels == label))
    if not sums:
        return None
    found = pairs(sums)
    return Interval(*found, each=found.each[np.argsort(np.concatenate(rows))])


def diversity_of_squares(features: torch.Tensor) -> np.ndarray:
    """Each image's summed squared distance to the others, (n,), from features (n, D) of one class: for `intervals.pairs`."""
    x = features.double() - features.double().mean(0)
    square = x.square().sum(1)
    return (len(x) * square + square.sum()).cpu().numpy()


# σ = sqrt(π/2) / (6 (W − 2)(H − 2)) Σ |I * N|   (Immerkær 1996, eq. 3)
def grain(images: np.ndarray) -> np.ndarray:
    """Noise level of each image, (n,) in pixel values 0 … 255; images (n, C, H, W) uint8.

    N is a difference of two Laplacians: blind to edges that are locally straight, but not to thin strokes, so compare
    with the grain of real images rather than with zero.
    """
    found = []
    for part in np.array_split(images, range(PART, len(images), PART)):
        x = np.diff(np.diff(part.astype(np.float64), 2, 2), 2, 3)  # N = [1 −2 1]ᵀ [1 −2 1]
        found.append(np.sqrt(np.pi / 2) / 6 * np.abs(x).mean((1, 2, 3)))
    return np.concatenate(found)


def saturation(images: np.ndarray) -> np.ndarray:
    """Colourfulness of each image, (n,) in 0 … 1: the mean of HSV's saturation, (max − min) / max; images (n, 3, H, W) uint8."""
    found = []
    for part in np.array_split(images, range(PART, len(images), PART)):
        most, least = part.max(1).astype(np.float64), part.min(1).astype(np.float64)
        found.append(((most - least) / np.maximum(most, 1)).mean((1, 2)))
    return np.concatenate(found)
