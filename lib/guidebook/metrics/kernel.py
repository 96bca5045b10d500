"""Kernel distance between two sets of features: unbiased, so that few images do not make it larger."""

import numpy as np
import torch

from guidebook.metrics.intervals import Interval, normal, once, within
from guidebook.runtime.distributed import world

PART = 1000  # images of a set whose pairs give the quadratic part of the variance, at most


# MMD²_u = Σ_{i≠j} k(x_i, x_j) / n(n−1) + Σ_{i≠j} k(y_i, y_j) / m(m−1) − 2 Σ k(x_i, y_j) / nm,  k = (x·y / D + 1)³
#   (Bińkowski et al. 2018, section 4; Gretton et al. 2012, lemma 6)
def kernel_distance(a, b, labels: np.ndarray | None = None, chunk: int = 1000) -> Interval:
    """Squared kernel distance of features a (n, D) and b (m, D), with the interval of the jackknife over both sets.

    `labels` (n,) are the classes of a where every class is drawn as often. Of Inception's features it is the KID, over all pairs: random subsets have the same expectation and more variance. It may be negative.
    """
    x, y = (torch.as_tensor(f, dtype=torch.float64, device=world().device) for f in (a, b))
    of_x, of_y = np.zeros(len(x)) if labels is None else np.asarray(labels), np.zeros(len(y))
    inside_x, cross, each, own = _side(x, y, of_x, chunk)
    inside_y, _, other, more = _side(y, x, of_y, chunk)
    variance = np.var(each, ddof=1) / len(x) + np.var(other, ddof=1) / len(y)
    quadratic = own + more + 4 * _left(x, y, of_x, of_y) / (len(x) * len(y))
    error = max(variance - quadratic, variance / 2) ** 0.5  # V₂ is counted twice: see `intervals.once`
    return normal(inside_x + inside_y - 2 * cross, float(error), once(each, own))


def _side(x: torch.Tensor, y: torch.Tensor, labels: np.ndarray, chunk: int) -> tuple[float, float, np.ndarray, float]:
    """Of x (n, D) against y (m, D): the mean kernel of two of x, that of x and y, each image's influence on the distance (n,), its own V₂."""
    n, m, half = len(x), len(y), len(x) // 2
    own, cross = _sums(x, x, chunk) - (x.square().sum(1) / x.shape[1] + 1).pow(3), _sums(x, y, chunk)
    without = (own.sum() - 2 * own) / ((n - 1) * (n - 2)) - 2 * (cross.sum() - cross) / ((n - 1) * m)
    each = within((n - 1) * (without.mean() - without).cpu().numpy(), labels)
    quadratic = 2 * _left(x[:half], x[half:], labels[:half], labels[half:]) / n**2
    return float(own.sum()) / (n * (n - 1)), float(cross.sum()) / (n * m), each, quadratic


def _sums(x: torch.Tensor, y: torch.Tensor, chunk: int) -> torch.Tensor:
    """Σ_j k(x_i, y_j) for each i, (n,)."""
    return torch.cat([(part @ y.T / y.shape[1] + 1).pow(3).sum(1) for part in x.split(chunk)])


def _left(x: torch.Tensor, y: torch.Tensor, of_x: np.ndarray, of_y: np.ndarray) -> float:
    """Mean square over pairs of images of the kernel less its mean over the class of either, from the first of x (n, D) and y (m, D)."""
    kernel = (x[:PART] @ y[:PART].T / y.shape[1] + 1).pow(3).cpu().numpy()
    return float(np.square(within(within(kernel, of_x[:PART]).T, of_y[:PART])).mean())
