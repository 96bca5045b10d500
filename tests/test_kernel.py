"""The kernel distance: a naive double loop, no bias, and an interval that covers."""

import numpy as np
import pytest

from guidebook.metrics import kernel
from guidebook.metrics.kernel import kernel_distance


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def naive(x, y) -> float:
    def k(p, q):
        return (p @ q / len(p) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(p, q) for p in x for q in y) / (n * m)


def test_it_is_the_naive_double_loop():
    x, y = rng(1).normal(size=(13, 6)), rng(2).normal(size=(9, 6)) + 0.7
    assert kernel_distance(x, y)[0] == pytest.approx(naive(x, y), rel=1e-9)
    assert kernel_distance(x, y, chunk=4) == pytest.approx(kernel_distance(x, y), rel=1e-9)


def test_its_interval_is_the_jackknife_over_both_sets(monkeypatch):
    """But for the quadratic part, which the jackknife counts twice."""
    monkeypatch.setattr(kernel, "_left", lambda *of: 0.0)
    x, y = rng(3).normal(size=(8, 4)), rng(4).normal(size=(7, 4)) + 1
    variance = 0.0
    for without in ([naive(np.delete(x, i, 0), y) for i in range(8)], [naive(x, np.delete(y, i, 0)) for i in range(7)]):
        variance += (len(without) - 1) * np.var(without)
    value, low, high = kernel_distance(x, y)
    assert (high - low) / 2 == pytest.approx(1.959964 * variance**0.5, rel=1e-6)
    assert value == pytest.approx((low + high) / 2)


@pytest.mark.parametrize("n", [5, 50])
def test_sets_of_one_distribution_are_at_zero_on_average_however_few(n):
    source = rng(5)
    found = [kernel_distance(source.normal(size=(n, 8)), source.normal(size=(n, 8)))[0] for _ in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20
    assert min(found) < 0 < max(found)


def test_it_covers_the_true_distance_19_times_in_20():
    source = rng(6)
    far = kernel_distance(source.normal(size=(4000, 4)), source.normal(size=(4000, 4)) + 0.8)[0]
    found = [kernel_distance(source.normal(size=(200, 4)), source.normal(size=(200, 4)) + 0.8) for _ in range(300)]
    assert np.mean([low <= far <= high for _, low, high in found]) == pytest.approx(0.95, abs=0.04)


def test_it_tells_two_distributions_apart():
    x, y = rng(7).normal(size=(200, 8)), rng(8).normal(size=(200, 8)) + 1
    assert kernel_distance(x, y)[1] > 0
    assert kernel_distance(y, x) == pytest.approx(kernel_distance(x, y))
