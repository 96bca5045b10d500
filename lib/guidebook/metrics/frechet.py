"""Fréchet distance of two sets of features, its bias at each number of images, and the value it tends to."""

from dataclasses import dataclass

import numpy as np
import torch

from guidebook.metrics.intervals import Interval, Z, above_zero, linear, normal, once, within
from guidebook.runs.progress import measured
from guidebook.runtime.distributed import world

PARTS = (1, 2, 3, 4)  # the line is fitted to sets of n, n/2, n/3 and n/4 images


@dataclass(frozen=True)
class Gaussian:
    """The reference of a Fréchet distance; float64, on the device."""

    mean: torch.Tensor  # (D,)
    root: torch.Tensor  # (D, D), the symmetric root of the covariance
    trace: float  # of the covariance


def gaussian(features) -> Gaussian:
    """The Gaussian fitted to features (m, D)."""
    x = _on_device(features)
    mean = x.mean(0)
    cov = (x - mean).T @ (x - mean) / (len(x) - 1)
    roots, vectors = _roots(cov)
    return Gaussian(mean, (vectors * roots) @ vectors.T, float(cov.trace()))


def frechet_to(a, reference: Gaussian, labels: np.ndarray | None = None) -> Interval:
    """Fréchet distance of features (n, D) to a reference, with the interval of the infinitesimal jackknife over the n images.

    `labels` (n,) are their classes where every class is drawn as often. The interval is that of the mean over sets of n images:
    the bias of a finite n stays, so compare with the floor at the same n, or extrapolate (`fd_infinite`). For n ≤ D it is too wide
    where most of the distance is that bias.
    """
    return above_zero(_normal_to(a, reference, labels))


def _normal_to(a, reference: Gaussian, labels: np.ndarray | None = None) -> Interval:
    """`frechet_to` with a normal interval, which may reach below 0."""
    (value, influence), labels = influences(a, reference), np.zeros(len(a)) if labels is None else labels
    each = within(influence.cpu().numpy(), labels)
    return linear(value, once(each, _quadratic(a, reference, labels)))


# V₂ of Gaussian features, from the second derivatives of d²: (2 tr Σ² + Σ_ij (k_ij s_i s_j / (s_i + s_j))² + ¼ Σ_i (k_ii s_i)²) / n²,
# Σ within classes, s² the eigenvalues of P, k_ij = 1 − f_i f_j, f the shares of s² between classes
def _quadratic(a, reference: Gaussian, labels: np.ndarray) -> float:
    """The part of the distance's variance that is left where its influences vanish, of features (n, D); 0 for n ≤ D."""
    x = _on_device(a)
    if (n := len(x)) <= x.shape[1]:
        return 0.0
    own = torch.as_tensor(within(x.cpu().numpy(), labels), device=x.device)
    r, own_r = (y @ reference.root for y in (x - x.mean(0), own))
    roots, vectors = _roots(r.T @ r / (n - 1))
    roots = roots.clamp(min=1e-9 * float(roots[-1]) + 1e-300)
    f = 1 - (own_r @ vectors).square().sum(0) / (n - 1) / roots.square()
    kept = (1 - f[:, None] * f) * roots[:, None] * roots / (roots[:, None] + roots)
    spread = 2 * (own.T @ own / (n - 1)).square().sum()
    return float(spread + kept.square().sum() + kept.diagonal().square().sum()) / n**2


# d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)   (Heusel et al. 2017, eq. 6)
def influences(a, reference: Gaussian) -> tuple[float, torch.Tensor]:
    """The distance of features (n, D) to a reference, and each image's influence on it (n,) (Jaeckel 1972), which sum to about 0.

    With P = Σ₂^½ Σ₁ Σ₂^½, whose eigenvalues are those of Σ₁ Σ₂ but stay real, image k of deviation x moves the distance by
    2 (μ₁ − μ₂)·x + ‖x‖² − rᵀ P^{−½} r, r = Σ₂^½ x, up to a constant. Decomposed is P or, where it is smaller, the n × n matrix with
    the same eigenvalues.
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


# tr (Σ₁ Σ₂)^½ is the sum of the singular values of A Bᵀ, where Σ₁ = Aᵀ A and Σ₂ = Bᵀ B
def frechet_of_few(a: torch.Tensor, b: Gaussian | torch.Tensor) -> torch.Tensor:
    """The distances (K,) of K small sets (K, n, D) to a reference, or each to a small set of its own (K, m, D).

    What is decomposed is n × n, and the K sets are done together: of six images a thousand times as fast as by `gaussian`.
    """
    a = _on_device(a)
    if isinstance(b, Gaussian):
        mean, factor, trace = b.mean, b.root, b.trace
    else:
        mean, factor = _centred(_on_device(b))
        trace = factor.square().sum((1, 2))
    own, a = _centred(a)
    r = a @ factor.mT
    roots = torch.linalg.eigvalsh(r @ r.mT).clamp(min=0).sqrt()
    return (own - mean).square().sum(1) + a.square().sum((1, 2)) + trace - 2 * roots.sum(1)


def fd_curve(features: torch.Tensor, reference: Gaussian, counts: list[int]) -> list[tuple[int, Interval]]:
    """For each count N the distance of a set of N images: the mean over all disjoint sets that features (n, D) hold.

    The interval is that of one such set: 19 in 20 sets of N images lie there.
    """
    points = []
    for count in measured(counts, "Fréchet distances", "count"):
        value, low, high = np.mean([_normal_to(part, reference)[:3] for part in _parts(features, count)], 0)
        points.append((count, above_zero(normal(value, (high - low) / (2 * Z)))))
    return points


# FD(N) = FD_∞ + c / N   (Chong & Forsyth 2020, section 3)
def fd_infinite(features: torch.Tensor, reference: Gaussian) -> Interval:
    """The Fréchet distance that infinitely many images would have: a line in 1/N, read at 0, from features (n, D).

    The value at 0 is linear in the distances, so an image's influence on it is the same mixture of its influences on them: that
    gives the interval, though the sets share their images. The reference stays finite. Below D images a set the covariance is not
    full and the bias is no line: raises ValueError for n < `fewest(D)`.
    """
    n, width = features.shape
    if n < fewest(width):
        raise ValueError(f"{n} images of {width} features: the extrapolation needs {fewest(width):,}")
    counts = [n // p for p in PARTS]
    x = 1 / torch.tensor(counts, dtype=torch.float64)
    # Weights of the distances whose sum is the least-squares line at 0
    weights = torch.linalg.pinv(torch.stack([torch.ones_like(x), x], 1))[0].tolist()
    value, influence = 0.0, torch.zeros(n, dtype=torch.float64)
    for count, parts, weight in zip(counts, PARTS, weights, strict=True):
        for i, part in enumerate(_parts(features, count)[:parts]):
            distance, own = influences(part, reference)
            value += weight * distance / parts
            influence[i * count : (i + 1) * count] += weight * n / (parts * count) * own.cpu()
    # Of a perfect model it is 0, which an extrapolation may miss on either side
    return linear(value, influence.numpy())


def fewest(width: int) -> int:
    """The number of images that `fd_infinite` needs: its smallest sets have more images than there are features."""
    return PARTS[-1] * (width + 1)


def _parts(features: torch.Tensor, count: int) -> list[torch.Tensor]:
    """All disjoint sets of `count` rows, in order."""
    return [features[i : i + count] for i in range(0, len(features) - count + 1, count)]


def _roots(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Roots of the eigenvalues of a symmetric matrix, and the eigenvectors as columns."""
    values, vectors = torch.linalg.eigh(p)
    return values.clamp(min=0).sqrt(), vectors


def _centred(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means (K, D) of sets (K, n, D), and the factors A (K, n, D) of their covariances Aᵀ A."""
    mean = x.mean(1)
    return mean, (x - mean[:, None]) / (x.shape[1] - 1) ** 0.5


def _on_device(features) -> torch.Tensor:
    return torch.as_tensor(features, dtype=torch.float64, device=world().device)
