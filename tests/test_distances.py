"""Distances and grain: closed forms, brute force, and another library's value."""

import itertools

import numpy as np
import pytest
import torch
from pytorch_fid.fid_score import calculate_frechet_distance
from scipy.stats import ortho_group

from guidebook.metrics import intervals
from guidebook.metrics.frechet import frechet_to, gaussian, influences
from guidebook.metrics.intervals import Z
from guidebook.metrics.scores import diversity, diversity_of_squares, grain


def frechet(a, b) -> float:
    """The distance of the Gaussians fitted to features a (n, D) and b (m, D)."""
    return influences(a, gaussian(b))[0]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def exactly(mean: np.ndarray, root: np.ndarray, n: int, seed: int) -> np.ndarray:
    """n rows whose sample mean is `mean` and whose sample covariance is root @ root.T, both exactly."""
    x = rng(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return x @ root.T + mean


def test_frechet_of_gaussians_that_share_their_axes():
    """‖μ₁ − μ₂‖² + Σ (σ₁ − σ₂)²."""
    s1, s2, gap = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5]), np.array([1.0, -2.0, 0.0])
    a, b = exactly(np.zeros(3), np.diag(s1), 50, 1), exactly(gap, np.diag(s2), 70, 2)
    assert frechet(a, b) == pytest.approx(np.square(gap).sum() + np.square(s1 - s2).sum(), rel=1e-9)


def test_frechet_of_scaled_gaussians_is_the_squared_difference_of_scales():
    root = rng(3).normal(size=(4, 4))
    a, b = exactly(np.zeros(4), root, 60, 4), exactly(np.zeros(4), 2.5 * root, 60, 5)
    assert frechet(a, b) == pytest.approx(1.5**2 * np.trace(root @ root.T), rel=1e-9)


@pytest.mark.parametrize("n", [200, 500])
def test_frechet_is_pytorch_fids(n):
    a = rng(6).normal(size=(n, 64)) @ rng(7).normal(size=(64, 64))
    b = rng(8).normal(size=(400, 64)) @ rng(9).normal(size=(64, 64)) + 0.5
    moments = [m for x in (a, b) for m in (x.mean(0), np.cov(x, rowvar=False))]
    assert frechet(a, b) == pytest.approx(calculate_frechet_distance(*moments), rel=1e-6)


@pytest.mark.parametrize("n", [300, 20])  # fewer rows than dimensions too: a covariance that is not full
def test_frechet_of_a_set_with_itself_is_zero(n):
    a = rng(10).normal(size=(n, 64)) * 10
    assert frechet(a, a) == pytest.approx(0, abs=1e-6 * a.var(0).sum())
    assert frechet(a, rng(11).permutation(a)) == pytest.approx(0, abs=1e-6 * a.var(0).sum())


def test_frechet_is_symmetric_and_does_not_turn_with_the_axes():
    a, b = rng(12).normal(size=(100, 8)) * np.arange(1, 9), rng(13).normal(size=(90, 8)) + 1
    turn = ortho_group.rvs(8, random_state=0)
    assert frechet(b, a) == pytest.approx(frechet(a, b), rel=1e-9)
    assert frechet(a @ turn, b @ turn) == pytest.approx(frechet(a, b), rel=1e-9)
    assert frechet(a + 5, b + 5) == pytest.approx(frechet(a, b), rel=1e-9)
    assert frechet(3 * a, 3 * b) == pytest.approx(9 * frechet(a, b), rel=1e-9)


def pair_mean(x: np.ndarray) -> float:
    return float(np.mean([np.linalg.norm(p - q) for p, q in itertools.combinations(x, 2)]))


@pytest.fixture(scope="module")
def features():
    labels = np.repeat([0, 1, 2], [12, 5, 3])
    return (rng(14).normal(size=(20, 6)) * (1 + labels[:, None])).astype(np.float32), rng(15).permutation(labels)


def test_diversity_is_the_mean_over_classes_of_the_mean_over_pairs(features):
    x, labels = features
    assert diversity(x, labels)[0] == pytest.approx(np.mean([pair_mean(x[labels == k]) for k in range(3)]), rel=1e-6)


def test_diversity_has_the_jackknifes_interval(features):
    x, labels = features
    variance = 0.0
    for k in range(3):
        own = x[labels == k]
        without = np.array([pair_mean(np.delete(own, i, 0)) for i in range(len(own))])
        variance += (len(own) - 1) / len(own) * np.square(without - without.mean()).sum()
    value, low, high = diversity(x, labels)
    error = variance**0.5 / 3
    assert (low, high) == pytest.approx((value - Z * error, value + Z * error), rel=1e-6)
    assert high - low > 0.1


def test_diversity_of_identical_images_is_zero_and_scales_with_distance(features):
    x, labels = features
    few = np.concatenate([labels, [97, 98, 98]])
    assert diversity(np.concatenate([x, x[:3]]), few) == diversity(x, labels)  # a class of one and one of two
    assert diversity(x[:2], np.array([0, 0])) is None
    assert diversity(np.ones((9, 4)), np.repeat([0, 1, 2], 3)) == pytest.approx((0, 0, 0), abs=1e-6)
    assert diversity(7 * x, labels) == pytest.approx(tuple(7 * v for v in diversity(x, labels)), rel=1e-5)


def test_diversity_does_not_see_where_the_classes_lie(features):
    x, labels = features
    moved = x + 100 * labels[:, None]
    assert diversity(moved, labels) == pytest.approx(diversity(x, labels), rel=1e-4)


def test_the_jackknife_covers_the_mean_distance_of_gaussians_19_times_in_20():
    """Two points of N(0, I) in the plane are sqrt(π) apart on average."""
    source, labels = rng(16), np.repeat(np.arange(5), 40)
    found = [diversity(source.normal(size=(200, 2)), labels) for _ in range(600)]
    cover = np.mean([low <= np.pi**0.5 <= high for _, low, high in found])
    assert cover == pytest.approx(0.95, abs=0.035)


def noisy(sd: float, shape=(60, 1, 28, 28), background=128.0) -> np.ndarray:
    return (background + rng(17).normal(0, sd, size=shape)).round().clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("sd", [3, 10, 25])
@pytest.mark.parametrize("channels", [1, 3])
def test_grain_of_white_noise_is_its_standard_deviation(sd, channels):
    value, low, high = intervals.mean(grain(noisy(sd, (60, channels, 28, 28))))
    true = (sd**2 + 1 / 12) ** 0.5  # rounding to whole pixel values adds 1/12
    margin = (high - low) / 2 * 1.5  # 99.7 % instead of 95 %
    assert value - margin <= true <= value + margin
    assert margin < 0.03 * sd


def test_grain_of_noise_on_a_slope_is_that_of_the_noise():
    y, x = np.mgrid[:28, :28]
    assert grain(noisy(5, background=60.0 + 2 * x + 3 * y)).mean() == pytest.approx(grain(noisy(5)).mean(), rel=0.02)


def test_flat_images_and_slopes_have_no_grain():
    y, x = np.mgrid[:16, :16]
    images = np.stack([np.full((16, 16), 77), 10 * x, 255 - 9 * y, 5 * x + 7 * y])[:, None].astype(np.uint8)
    assert grain(images).tolist() == [0, 0, 0, 0]


def test_straight_edges_along_the_axes_have_no_grain():
    images = np.zeros((2, 1, 16, 16), np.uint8)
    images[0, :, :, 8:], images[1, :, 5:] = 255, 255
    assert grain(images).tolist() == [0, 0]


def test_grain_is_immerkaers_filter():
    """The 3 × 3 mask written out, at every place, by hand."""
    images, mask = (
        rng(18).integers(0, 256, (2, 1, 6, 7), dtype=np.uint8),
        np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]),
    )
    for image, value in zip(images[:, 0].astype(float), grain(images), strict=True):
        total = sum(abs((image[i : i + 3, j : j + 3] * mask).sum()) for i in range(4) for j in range(5))
        assert value == pytest.approx((np.pi / 2) ** 0.5 * total / (6 * 4 * 5))


def test_frechet_of_samples_of_gaussians_tends_to_the_closed_form():
    """‖μ‖² + Σ (σ₁ − σ₂)², from 20,000 random rows of each."""
    s1, s2, gap = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5]), np.array([1.0, -2.0, 0.0])
    a, b = rng(20).normal(size=(20_000, 3)) * s1, rng(21).normal(size=(20_000, 3)) * s2 + gap
    assert frechet(a, b) == pytest.approx(np.square(gap).sum() + np.square(s1 - s2).sum(), rel=0.03)


@pytest.mark.parametrize("n", [30, 90])  # the matrix that is decomposed is n × n, or D × D
def test_an_influence_is_the_derivative_by_an_images_weight(n):
    """With weight 1 + h on one image, against a finite difference; the covariance keeps its divisor."""
    x, reference = rng(22).normal(size=(n, 40)) + 0.3, gaussian(rng(23).normal(size=(300, 40)))
    value, influence = influences(x, reference)

    def weighted(w):
        w = w / w.sum()
        gap, mean = w @ x - reference.mean.numpy(), w @ x
        r = np.sqrt(w[:, None] * n / (n - 1)) * (x - mean)
        cross = np.linalg.svd(r @ reference.root.numpy(), compute_uv=False).sum()
        return gap @ gap + np.square(r).sum() + reference.trace - 2 * cross

    assert value == pytest.approx(weighted(np.ones(n)), rel=1e-9)
    for k in (0, 7, n - 1):
        h = np.zeros(n)
        h[k] = 1e-4
        slope = (weighted(1 + h) - weighted(1 - h)) / 2e-4 * n
        correction = (n / (n - 1) - 1) * 10  # the mean of ‖x‖² has n, the covariance n − 1
        assert float(influence[k]) == pytest.approx(slope, abs=correction + 1e-3)


@pytest.mark.parametrize(("n", "width", "shift"), [(20, 32, 0.5), (100, 32, 0.0), (300, 32, 0.5)])
def test_the_infinitesimal_jackknife_is_as_wide_as_the_value_scatters(n, width, shift):
    """Over sets of n drawn anew; never narrower than 0.85 of it, and at most 1.8 times as wide where the bias is all there is."""
    source, reference = rng(24), gaussian(exactly(np.zeros(width), np.eye(width), 500, 25))
    found = [frechet_to(source.normal(size=(n, width)) * (1 + shift) + shift, reference) for _ in range(150)]
    scatter, claimed = np.std([v for v, _, _ in found]), np.mean([(high - low) / 2 / Z for _, low, high in found])
    assert 0.85 < claimed / scatter < 1.8


def test_squared_distances_to_the_others_are_summed_in_one_pass():
    x = rng(26).normal(size=(9, 5)) + 4
    naive = [sum(np.square(p - q).sum() for q in x) for p in x]
    assert diversity_of_squares(torch.from_numpy(x)) == pytest.approx(naive)
