"""Kernel distance between two sets of features: unbiased, so that few images do not make it larger."""

import torch

from guidebook.metrics.intervals import Interval, jackknife_variance, normal
from guidebook.runtime.distributed import world


# MMD²_u = Σ_{i≠j} k(x_i, x_j) / n(n−1) + Σ_{i≠j} k(y_i, y_j) / m(m−1) − 2 Σ k(x_i, y_j) / nm,  k = (x·y / D + 1)³
#   (Bińkowski et al. 2018, section 4; Gretton et al. 2012, lemma 6)
def kernel_distance(a, b, chunk: int = 1000) -> Interval:
    """Squared kernel distance of features a (n, D) and b (m, D), with the interval of the jackknife over both sets.

    Of Inception's features it is the KID, over all pairs: random subsets have the same expectation and more variance. It may be negative.
    """
    x, y = (torch.as_tensor(f, dtype=torch.float64, device=world().device) for f in (a, b))
    n, m = len(x), len(y)
    own_x, own_y = _sums(x, x, chunk) - _diagonal(x), _sums(y, y, chunk) - _diagonal(y)
    cross_x, cross_y = _sums(x, y, chunk), _sums(y, x, chunk)
    inside_x, inside_y, cross = own_x.sum() / (n * (n - 1)), own_y.sum() / (m * (m - 1)), cross_x.sum() / (n * m)
    without_x = (own_x.sum() - 2 * own_x) / ((n - 1) * (n - 2)) - 2 * (cross_x.sum() - cross_x) / ((n - 1) * m)
    without_y = (own_y.sum() - 2 * own_y) / ((m - 1) * (m - 2)) - 2 * (cross_y.sum() - cross_y) / ((m - 1) * n)
    variance = sum(jackknife_variance(w.cpu().numpy()) for w in (without_x, without_y))
    each = (n - 1) * (without_x.mean() - without_x)  # of the samples, given these real images
    return normal(float(inside_x + inside_y - 2 * cross), variance**0.5, each.cpu().numpy())


def _sums(x: torch.Tensor, y: torch.Tensor, chunk: int) -> torch.Tensor:
    """Σ_j k(x_i, y_j) for each i, (n,)."""
    return torch.cat([(part @ y.T / y.shape[1] + 1).pow(3).sum(1) for part in x.split(chunk)])


def _diagonal(x: torch.Tensor) -> torch.Tensor:
    return (x.square().sum(1) / x.shape[1] + 1).pow(3)
