"""Precision, recall, density, coverage: naive loops, and sets whose values are known."""

import numpy as np
import pytest

from guidebook.metrics.manifold import manifold


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def values(samples, real, **how) -> dict[str, float]:
    return {name: value[0] for name, (value, _) in manifold(samples, real, **how).items()}


def naive(x, y, k) -> dict[str, float]:
    def reach(points):
        return [sorted(np.linalg.norm(p - q) for q in points)[k] for p in points]

    rx, ry = reach(x), reach(y)
    inside = np.array([[np.linalg.norm(p - q) < r for q, r in zip(y, ry, strict=True)] for p in x])
    near = np.array([[np.linalg.norm(p - q) < r for q in y] for p, r in zip(x, rx, strict=True)])
    return {
        "precision": inside.any(1).mean(),
        "recall": near.any(0).mean(),
        "density": inside.sum(1).mean() / k,
        "coverage": inside.any(0).mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_they_are_the_naive_loops(k):
    x, y = rng(1).normal(size=(23, 4)), rng(2).normal(size=(31, 4)) * 1.5 + 0.5
    found = values(x, y, k=k)
    assert found == pytest.approx(naive(x, y, k))
    assert found == values(x, y, k=k, chunk=7)
    assert min(found.values()) > 0


def test_identical_sets_have_one_of_each():
    x = rng(3).normal(size=(60, 8))
    assert values(x, x.copy()) == pytest.approx(dict.fromkeys(("precision", "recall", "density", "coverage"), 1.0))


def test_sets_far_apart_have_nothing():
    x = rng(4).normal(size=(40, 8))
    assert set(values(x, x + 100).values()) == {0.0}


def test_a_collapsed_model_is_precise_and_reaches_little():
    real = rng(5).normal(size=(300, 3))
    found = values(real[:1] + rng(6).normal(size=(300, 3)) * 1e-3, real)
    assert found["precision"] > 0.95
    assert found["recall"] < 0.05
    assert found["coverage"] < 0.1


def test_one_wild_real_image_raises_precision_but_not_density():
    """What Naeem et al. made density for: one ball of an outlier holds everything."""
    real, wild = rng(7).normal(size=(100, 2)), np.array([[60.0, 60.0]])
    samples = rng(8).normal(size=(100, 2)) + 30
    before, after = values(samples, real), values(samples, np.concatenate([real, wild]))
    assert before["precision"] == 0 < after["precision"]
    assert after["density"] <= 0.2 * after["precision"] + 1e-9


def test_they_do_not_see_where_the_origin_lies():
    x, y = rng(9).normal(size=(50, 6)), rng(10).normal(size=(50, 6))
    assert values(x + 1e7, y + 1e7) == pytest.approx(values(x, y))


def test_each_has_an_interval_about_it():
    found = manifold(rng(11).normal(size=(80, 4)), rng(12).normal(size=(90, 4)) + 0.5)
    assert {name: method for name, (_, method) in found.items()} == {
        "precision": "Wilson", "recall": "Wilson", "density": "normal", "coverage": "Wilson",
    }  # fmt: skip
    for (value, low, high), _ in found.values():
        assert low < value < high


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="5 neighbours need more than 5"):
        manifold(np.zeros((5, 2)), np.zeros((50, 2)))
