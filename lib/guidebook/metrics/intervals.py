"""95 % intervals: every number of the study carries one."""

import math

import numpy as np

Z = 1.959963984540054  # the 97.5 % quantile of the standard normal


class Interval(tuple):
    """(value, low, high). `each` is the influence of every image on the value, (n,), up to a constant; None where it is not known."""

    each: np.ndarray | None

    def __new__(cls, value: float, low: float, high: float, each: np.ndarray | None = None) -> "Interval":
        self = super().__new__(cls, (value, low, high))
        self.each = each
        return self


def wilson(successes: int, n: int, each: np.ndarray | None = None) -> Interval:
    """A share with the score interval of Wilson (1927)."""
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(method="wilson")
    return Interval(successes / n, float(low), float(high), each)


def share(right: np.ndarray) -> Interval:
    """The share of bools (n,) that are true, with Wilson's interval."""
    return wilson(int(right.sum()), len(right), np.asarray(right, np.float64))


def mean(values: np.ndarray) -> Interval:
    """The mean of independent values (n,) with its normal interval."""
    return linear(float(np.mean(values)), values)


# P(k of n values lie below the quantile) = C(n, k) q^k (1 − q)^(n − k)
def quantile(values: np.ndarray, q: float) -> Interval:
    """A quantile of independent values (n,), between two of them: by how many lie below it, or the least and the greatest of few."""
    x, n = np.sort(values), len(values)
    below = np.cumsum([math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)])
    low, high = (below <= 0.025).sum() - 1, np.searchsorted(below, 0.975)
    return Interval(float(np.quantile(x, q)), float(x[max(low, 0)]), float(x[min(high, n - 1)]))


# Infinitesimal jackknife (Jaeckel 1972): θ̂ − θ ≈ mean of the influences, so that its variance is theirs over n
def linear(value: float, each: np.ndarray) -> Interval:
    """A value with the normal interval that influences (n,) give it."""
    return normal(value, float(np.std(each, ddof=1)) / len(each) ** 0.5, each)


def within(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Values (n, …) less the mean of their class, so scaled that their variance is that of sets in which every class is drawn as often.

    Differences between classes are then no chance. Labels (n,) of which most stand once, as faces', make one class of all.
    """
    kinds = np.unique(labels)
    if 2 * len(kinds) > len(values):
        labels, kinds = np.zeros(len(values)), np.zeros(1)
    members = np.equal.outer(labels, kinds).astype(np.float64)
    means = (members / members.sum(0)).T @ values
    return (values - members @ means) * ((len(values) - 1) / (len(values) - members.shape[1])) ** 0.5


# V_jackknife = V₁ + 2 V₂: the jackknife counts the quadratic part of a statistic's variance twice (Efron & Stein 1981)
def once(each: np.ndarray, quadratic: float) -> np.ndarray:
    """Influences (n,) scaled to the variance of their statistic, of which `quadratic` is V₂."""
    return each * max(0.5, 1 - quadratic * len(each) / max(float(np.var(each, ddof=1)), 1e-300)) ** 0.5


def proportion(found: Interval) -> Interval:
    """The interval of a value between 0 and 1, cut off at both."""
    value, low, high = found
    return Interval(value, max(0.0, low), min(1.0, high), found.each)


def above_zero(found: Interval) -> Interval:
    """The interval of a value that cannot be negative, as wide on a logarithmic scale: its error times exp(±)."""
    value, low, _ = found
    if value <= 0:
        return found
    factor = float(np.exp((value - low) / value))
    return Interval(value, value / factor, value * factor, found.each)


def pairs(sums: list[np.ndarray]) -> Interval:
    """Mean over pairs within a class, classes weighing the same, with the jackknife's interval over images.

    `sums` are those of the distances (m,) of each of a class's m ≥ 3 images to the others. `each` has the images class by class.
    """
    values, moved = [], []
    for rows in sums:
        m = len(rows)
        values.append(rows.sum() / (m * (m - 1)))
        without = (rows.sum() - 2 * rows) / ((m - 1) * (m - 2))
        moved.append((without.mean() - without) * ((m - 1) / m) ** 0.5 / len(sums))
    each = np.concatenate(moved)
    return normal(float(np.mean(values)), float(np.sqrt(np.square(each).sum())), len(each) * each)


def normal(value: float, error: float, each: np.ndarray | None = None) -> Interval:
    """A value ± 1.96 standard errors."""
    return Interval(value, value - Z * error, value + Z * error, each)
