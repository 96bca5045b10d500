"""Distances in a feature space, and the grain of an image."""

from dataclasses import dataclass

import numpy as np
import torch

from guidebook.metrics.intervals import Interval, Z, pairs
from guidebook.runtime.distributed import world

PART = 500  # images looked at at a time


@dataclass(frozen=True)
class Gaussian:
    """What a Fréchet distance needs to know of its reference; float64, on the device."""

    mean: torch.Tensor  # (D,)
    root: torch.Tensor  # (D, D), the symmetric root of the covariance
    trace: float  # of the covariance


def gaussian(features) -> Gaussian:
    """The Gaussian fitted to features (m, D)."""
    x = _on_device(features)
    mean = x.mean(0)
    cov = (x - mean).T @ (x - mean) / (len(x) - 1)
    values, vectors = torch.linalg.eigh(cov)
    return Gaussian(mean, (vectors * values.clamp(min=0).sqrt()) @ vectors.T, float(cov.trace()))


def frechet(a, b) -> float:
    """Fréchet distance of the Gaussians fitted to features a (n, D) and b (m, D)."""
    return influences(a, gaussian(b))[0]


def frechet_to(a, reference: Gaussian) -> Interval:
    """Fréchet distance of features (n, D) to a reference, with the interval of the infinitesimal jackknife over the n images.

    It says how much the value would move with other images of the same number. It does not remove the bias that a finite
    number gives; for that, compare with the floor at the same n, or extrapolate (`curve.py`).
    """
    value, influence = influences(a, reference)
    error = Z * float(influence.std()) / len(a) ** 0.5
    return value, value - error, value + error


# d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)   (Heusel et al. 2017, eq. 6)
def influences(a, reference: Gaussian) -> tuple[float, torch.Tensor]:
    """The distance of features (n, D) to a reference, and each image's influence on it (n,) (Jaeckel 1972), which sum to about 0.

    With P = Σ₂^½ Σ₁ Σ₂^½, whose eigenvalues are those of Σ₁ Σ₂ but stay real, image k of deviation x moves the distance by
    2 (μ₁ − μ₂)·x + ‖x‖² − rᵀ P^{−½} r, r = Σ₂^½ x, up to a constant. One decomposition gives value and influences: of P, or
    of the n × n matrix with the same eigenvalues where that is smaller.
    """
    x = _on_device(a)
    n, gap = len(x), x.mean(0) - reference.mean
    x = x - x.mean(0)
    r, square = x @ reference.root, x.square().sum(1)
    if n <= x.shape[1]:
        roots, vectors = _roots(r @ r.T / (n - 1))
        turned = (n - 1) * vectors.square() @ roots
    else:
        roots, vectors = _roots(r.T @ r / (n - 1))
        turned = ((r @ vectors).square() / roots.clamp(min=1e-9 * float(roots[-1]) + 1e-300)).sum(1)
    value = gap.square().sum() + square.sum() / (n - 1) + reference.trace - 2 * roots.sum()
    influence = 2 * x @ gap + square - turned
    return float(value), influence - influence.mean()


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


# σ = sqrt(π/2) / (6 (W − 2)(H − 2)) Σ |I * N|   (Immerkær 1996, eq. 3)
def grain(images: np.ndarray) -> np.ndarray:
    """Noise level of each image, (n,) in pixel values 0 … 255; images (n, C, H, W) uint8.

    N is a difference of two Laplacians: blind to edges that are locally straight, but not to thin strokes, so compare
    with the grain of real images rather than with zero.
    """
    return np.concatenate([_grain(images[first : first + PART]) for first in range(0, len(images), PART)])


def _grain(images: np.ndarray) -> np.ndarray:
    x = images.astype(np.float64)
    for axis in (2, 3):  # N = [1 −2 1]ᵀ [1 −2 1]
        a, b, c = (np.take(x, np.arange(k, x.shape[axis] - 2 + k), axis) for k in range(3))
        x = a - 2 * b + c
    return np.sqrt(np.pi / 2) / 6 * np.abs(x).mean((1, 2, 3))


def saturation(images: np.ndarray) -> np.ndarray:
    """Colourfulness of each image, (n,) in 0 … 1: the mean of HSV's saturation, (max − min) / max; images (n, 3, H, W) uint8."""
    found = []
    for first in range(0, len(images), PART):
        most, least = (reduce(images[first : first + PART], axis=1).astype(np.float64) for reduce in (np.max, np.min))
        found.append(((most - least) / np.maximum(most, 1)).mean((1, 2)))
    return np.concatenate(found)


def _roots(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Roots of the eigenvalues of a symmetric matrix, and the eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(p)
    return values.clamp(min=0).sqrt(), vectors


def _on_device(features) -> torch.Tensor:
    return torch.as_tensor(features, dtype=torch.float64, device=world().device)
