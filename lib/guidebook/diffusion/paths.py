"""Paths from noise to images in a plane, where the best possible answer is known: no network, and no error of one.

In NumPy, as a page is drawn again without the seconds that torch takes to import.
"""

import itertools

import numpy as np

from guidebook.config.schema import VP, Flow


def schedule(section: VP) -> tuple[np.ndarray, np.ndarray]:
    """a = √ᾱ and s = √(1 − ᾱ), each (T,), of `diffusion.objective.alphas_cumprod`."""
    if section.schedule == "squaredcos_cap_v2":
        f = np.cos((np.arange(section.timesteps + 1) / section.timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
    else:
        power = 2 if section.schedule == "scaled_linear" else 1
        beta = np.linspace(*np.power(section.betas, 1 / power), section.timesteps) ** power
    a = np.sqrt(np.cumprod(1 - beta))
    if section.zero_terminal_snr:
        a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    return a, np.sqrt(1 - a**2)


def levels(section: VP | Flow, steps: int) -> np.ndarray:
    """(a, s) (steps + 1, 2) at times as far apart as one another, from noise alone to the image: `solvers.trailing`."""
    if section.kind == "flow":
        t = 1 - np.arange(steps + 1) / steps
        t = section.shift * t / (1 + (section.shift - 1) * t)
        return np.stack([1 - t, t], 1)
    a, s = schedule(section)
    visited = np.round(len(a) - np.arange(steps) * len(a) / steps).astype(int) - 1
    return np.stack([np.append(a[visited], 1.0), np.append(s[visited], 0.0)], 1)


# x̂0 = Σ_k w_k (s² μ_k + a d² x) / v,  w_k ∝ exp(−‖x − a μ_k‖² / 2v),  Σ_k w_k = 1,  v = a² d² + s²
def mean_image(x: np.ndarray, a: float, s: float, blobs: np.ndarray, sd: float) -> np.ndarray:
    """The mean (N, 2) of the images x0 that x = a x0 + s ε (N, 2) may come from: points in round blobs around μ (K, 2)."""
    v = (a * sd) ** 2 + s**2
    far = np.square(x[:, None] - a * blobs).sum(-1) / (2 * v)
    weights = np.exp(far.min(1, keepdims=True) - far)
    weights /= weights.sum(1, keepdims=True)
    return (s**2 * weights @ blobs + a * sd**2 * x) / v


# x' = a' x̂0 + s' ε̂,  ε̂ = (x − a x̂0) / s   (Song et al. 2021, eq. 12; on a flow this is Euler's method)
def walk(noise: np.ndarray, levels: np.ndarray, blobs: np.ndarray, sd: float) -> np.ndarray:
    """States (steps + 1, N, 2) from noise (N, 2) to images, through the levels (a, s)."""
    states = [noise]
    for (a, s), (next_a, next_s) in itertools.pairwise(levels):
        x0 = mean_image(states[-1], a, s, blobs, sd)
        states.append(next_a * x0 + next_s * (states[-1] - a * x0) / s)
    return np.stack(states)
