"""Intervals: closed forms, and how often they cover what they should."""

import numpy as np
import pytest
from scipy.stats import binom, norm

from guidebook.metrics.intervals import Z, mean, quantile, wilson


def score_interval(k: int, n: int) -> tuple[float, float]:
    """Wilson 1927: the shares p with |k/n − p| ≤ z sqrt(p (1 − p) / n), by solving the quadratic."""
    p = k / n
    centre, half = p + Z**2 / (2 * n), Z * (p * (1 - p) / n + Z**2 / (4 * n**2)) ** 0.5
    return (centre - half) / (1 + Z**2 / n), (centre + half) / (1 + Z**2 / n)


def test_z_is_the_normal_quantile():
    assert pytest.approx(norm.ppf(0.975), abs=1e-12) == Z


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (0, 1), (1, 1), (5, 10), (487, 500), (1, 10_000)])
def test_wilson_solves_the_quadratic(k, n):
    value, low, high = wilson(k, n)
    assert value == k / n
    assert (low, high) == pytest.approx(score_interval(k, n), abs=1e-9)


@pytest.mark.parametrize("n", [1, 10, 500])
def test_wilson_at_the_edges_ends_at_the_edge_and_is_no_point(n):
    none, every = wilson(0, n), wilson(n, n)
    assert none[1] == pytest.approx(0, abs=1e-12)
    assert none[2] == pytest.approx(Z**2 / (n + Z**2))
    assert every[2] == pytest.approx(1, abs=1e-12)
    assert every[1] == pytest.approx(n / (n + Z**2))


@pytest.mark.parametrize("n", [30, 100])
def test_wilson_covers_a_share_19_times_in_20(n):
    """Exactly: the probability of every count whose interval holds the true share, averaged over shares."""
    counts = np.arange(n + 1)
    low, high = np.array([wilson(int(k), n)[1:] for k in counts]).T
    shares = np.linspace(0.02, 0.98, 193)
    cover = [binom.pmf(counts, n, p)[(low <= p) & (p <= high)].sum() for p in shares]
    assert np.mean(cover) == pytest.approx(0.95, abs=0.01)
    assert min(cover) > 0.83  # Wilson's known dip near the edges


def coverage(interval, n: int, trials: int) -> float:
    """Share of trials whose interval holds the mean of an exponential distribution, 1."""
    rng = np.random.default_rng(0)
    found = [interval(rng.exponential(size=n)) for _ in range(trials)]
    return float(np.mean([low <= 1 <= high for _, low, high in found]))


def test_the_normal_interval_covers_a_mean_19_times_in_20():
    assert coverage(mean, n=200, trials=4000) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("q", "n"), [(0.5, 20), (0.5, 101), (0.95, 100), (0.1, 60)])
def test_the_interval_of_a_quantile_covers_it_19_times_in_20_and_hardly_more(q, n):
    """Where it ends at an order statistic, by the binomial distribution of how many values lie below."""
    rng, truth = np.random.default_rng(0), -np.log(1 - q)  # of the exponential distribution
    found = np.array([quantile(rng.exponential(size=n), q) for _ in range(2000)])
    covered = np.mean((found[:, 1] <= truth) & (truth <= found[:, 2]))
    assert 0.94 < covered < 0.985
    assert np.all((found[:, 1] <= found[:, 0]) & (found[:, 0] <= found[:, 2]))


def test_of_few_values_the_interval_of_a_far_quantile_ends_at_the_greatest():
    assert tuple(quantile(np.array([3.0, 1.0, 2.0]), 0.95)) == pytest.approx((2.9, 2.0, 3.0))
