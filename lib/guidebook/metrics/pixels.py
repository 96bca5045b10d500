"""Measures of single images by their pixels: noise level and colourfulness."""

import numpy as np

PART = 500  # images looked at at a time


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
