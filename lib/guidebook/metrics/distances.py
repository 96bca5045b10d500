"""Distances in a feature space, and the grain of an image."""

import numpy as np

from guidebook.metrics.intervals import Interval, Z


# d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)   (Heusel et al. 2017, eq. 6)
def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the Gaussians fitted to features a (n, D) and b (m, D)."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # Σ₁Σ₂ has the eigenvalues of the symmetric Σ₁^½ Σ₂ Σ₁^½, which stay real and positive.
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def diversity(features: np.ndarray, labels: np.ndarray) -> Interval:
    """Mean distance between two images of one class: features (n, D), labels (n,). Interval by the jackknife over images.

    Classes weigh the same. Each needs at least three images.
    """
    values, variances = [], []
    for label in np.unique(labels):
        x = features[labels == label].astype(np.float64)
        m = len(x)
        square = np.square(x).sum(1)
        rows = np.sqrt((square[:, None] + square - 2 * x @ x.T).clip(0)).sum(1)  # the sum of each image's distances
        values.append(rows.sum() / (m * (m - 1)))
        without = (rows.sum() - 2 * rows) / ((m - 1) * (m - 2))
        variances.append((m - 1) / m * np.square(without - without.mean()).sum())
    value, error = float(np.mean(values)), float(np.sqrt(np.sum(variances)) / len(values))
    return value, value - Z * error, value + Z * error


# σ = sqrt(π/2) / (6 (W − 2)(H − 2)) Σ |I * N|   (Immerkær 1996, eq. 3)
def grain(images: np.ndarray) -> np.ndarray:
    """Noise level of each image, (n,) in pixel values 0 … 255; images (n, C, H, W) uint8.

    N is a difference of two Laplacians: blind to edges that are locally straight, but not to thin strokes, so compare
    with the grain of real images rather than with zero.
    """
    x = images.astype(np.float64)
    for axis in (2, 3):  # N = [1 −2 1]ᵀ [1 −2 1]
        a, b, c = (np.take(x, np.arange(k, x.shape[axis] - 2 + k), axis) for k in range(3))
        x = a - 2 * b + c
    return np.sqrt(np.pi / 2) / 6 * np.abs(x).mean((1, 2, 3))
