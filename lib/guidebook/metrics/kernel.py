"""Kernel distance between two sets of features: unbiased, so that few images do not make it larger."""

import numpy as np
import torch

from guidebook.metrics.intervals import Interval, jackknife_variance, normal, once, within
from guidebook.runtime.distributed import world

PART = 1000  # images of a set whose pairs give the quadratic part of the variance, at most


# MMD²_u = Σ_{i≠j} k(x_i, x_j) / n(n−1) + Σ_{i≠j} k(y_i, y_j) / m(m−1) − 2 Σ k(x_i, y_j) / nm,  k = (x·y / D + 1)³
#   (Bińkowski et al. 2018, section 4; Gretton et al. 2012, lemma 6)
def kernel_distance(a, b, labels: np.ndarray | None = None, chunk: int = 1000) -> Interval:
    """Squared kernel distance of features a (n, D) and b (m, D), with the interval of the jackknife over both sets.

    `labels` (n,) are the classes of a where every class is drawn as often. Of Inception's features it is the KID, over all pairs: random subsets have the same expectation and more variance. It may be negative.
    """
    x, y = (torch.as_tensor(f, dtype=torch.float64, device=world().device) for f in (a, b))
    n, m = len(x), len(y)
    own_x, own_y = _sums(x, x, chunk) - _diagonal(x), _sums(y, y, chunk) - _diagonal(y)
    cross_x, cross_y = _sums(x, y, chunk), _sums(y, x, chunk)
    inside_x, inside_y, cross = own_x.sum() / (n * (n - 1)), own_y.sum() / (m * (m - 1)), cross_x.sum() / (n * m)
    without_x = (own_x.sum() - 2 * own_x) / ((n - 1) * (n - 2)) - 2 * (cross_x.sum() - cross_x) / ((n - 1) * m)
    without_y = (own_y.sum() - 2 * own_y) / ((m - 1) * (m - 2)) - 2 * (cross_y.sum() - cross_y) / ((m - 1) * n)
    each = (n - 1) * (without_x.mean() - without_x).cpu().numpy()  # of the samples, given these real images
    of_x, of_y = np.zeros(n) if labels is None else np.asarray(labels), np.zeros(m)
    each = within(each, of_x)
    variance = np.var(each, ddof=1) / n + jackknife_variance(without_y.cpu().numpy())
    own = [
        2 * _left(f[: len(f) // 2], f[len(f) // 2 :], c[: len(f) // 2], c[len(f) // 2 :]) / len(f) ** 2
        for f, c in ((x, of_x), (y, of_y))
    ]
    quadratic = sum(own) + 4 * _left(x, y, of_x, of_y) / (n * m)
    error = max(variance - quadratic, variance / 2) ** 0.5  # V₂ is counted twice: see `intervals.once`
    return normal(float(inside_x + inside_y - 2 * cross), float(error), once(each, own[0]))


def _sums(x: torch.Tensor, y: torch.Tensor, chunk: int) -> torch.Tensor:
    """Σ_j k(x_i, y_j) for each i, (n,)."""
    return torch.cat([(part @ y.T / y.shape[1] + 1).pow(3).sum(1) for part in x.split(chunk)])


def _left(x: torch.Tensor, y: torch.Tensor, of_x: np.ndarray, of_y: np.ndarray) -> float:
    """Mean square over pairs of images of the kernel less its mean over the class of either, from the first of x (n, D) and y (m, D)."""
    kernel = (x[:PART] @ y[:PART].T / y.shape[1] + 1).pow(3).cpu().numpy()
    return float(np.square(within(within(kernel, of_x[:PART]).T, of_y[:PART])).mean())


def _diagonal(x: torch.Tensor) -> torch.Tensor:
    return (x.square().sum(1) / x.shape[1] + 1).pow(3)
