"""95 % intervals: every number of the study carries one."""

import numpy as np

Interval = tuple[float, float, float]  # value, low, high
Z = 1.959963984540054  # the 97.5 % quantile of the standard normal


def wilson(successes: int, n: int) -> Interval:
    """A share with the score interval of Wilson (1927)."""
    from scipy.stats import binomtest

    low, high = binomtest(successes, n).proportion_ci(method="wilson")
    return successes / n, float(low), float(high)


def mean(values: np.ndarray) -> Interval:
    """The mean of independent values (n,) with its normal interval."""
    return normal(float(np.mean(values)), float(np.std(values, ddof=1)) / len(values) ** 0.5)


def pairs(sums: list[np.ndarray]) -> Interval:
    """Mean over pairs within a class, classes weighing the same, with the jackknife's interval over images.

    `sums` are those of the distances (m,) of each of a class's m ≥ 3 images to the others.
    """
    values, variances = [], []
    for rows in sums:
        m = len(rows)
        values.append(rows.sum() / (m * (m - 1)))
        variances.append(jackknife_variance((rows.sum() - 2 * rows) / ((m - 1) * (m - 2))))
    return normal(float(np.mean(values)), float(np.sqrt(np.sum(variances)) / len(values)))


def jackknife_variance(without: np.ndarray) -> float:
    """The variance of a statistic from its values (m,) without each of m images (Efron & Stein 1981)."""
    m = len(without)
    return float((m - 1) / m * np.square(without - without.mean()).sum())


def normal(value: float, error: float) -> Interval:
    """A value ± 1.96 standard errors."""
    return value, value - Z * error, value + Z * error
