"""A Fréchet distance against the number of images, and what it tends to."""

import numpy as np
import pytest
import torch

from guidebook.metrics.frechet import PARTS, Gaussian, fd_curve, fd_infinite, fewest, frechet_to


def standard(width: int) -> Gaussian:
    """The standard Gaussian itself, not one fitted to a sample."""
    return Gaussian(torch.zeros(width, dtype=torch.float64), torch.eye(width, dtype=torch.float64), float(width))


def drawn(n: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, size=(n, width)))


def test_the_bias_falls_as_one_over_n():
    """Of a perfect model the whole distance is bias."""
    points = dict(fd_curve(drawn(4000, 8, 0), standard(8), [100, 200, 400, 1000]))
    values = [value * n for n, (value, _, _) in points.items()]
    assert values == pytest.approx([values[0]] * 4, rel=0.15)
    assert all(low < value < high for value, low, high in points.values())


def test_a_point_is_the_mean_over_all_disjoint_sets():
    x, reference = drawn(50, 4, 1), standard(4)
    (n, (value, low, high)), (_, one) = fd_curve(x, reference, [20, 50])
    sets = [frechet_to(x[:20], reference), frechet_to(x[20:40], reference)]
    assert n == 20
    assert value == pytest.approx(np.mean([s[0] for s in sets]))
    assert value * np.log(high / low) == pytest.approx(np.mean([v * np.log(h / l) for v, l, h in sets]))
    assert one == pytest.approx(frechet_to(x, reference))


@pytest.mark.parametrize("shift", [0.0, 0.2])
def test_the_extrapolation_is_nearer_to_the_truth_than_any_number_of_images(shift):
    true, width, n = 16 * shift**2, 16, 200
    sets = [drawn(n, width, seed, shift) for seed in range(100)]
    finite = np.mean([frechet_to(x, standard(width))[0] for x in sets])
    infinite = np.mean([fd_infinite(x, standard(width))[0] for x in sets])
    assert finite - true > 0.3
    assert abs(infinite - true) < 0.1 * (finite - true)


def test_its_interval_covers_the_truth_19_times_in_20():
    shift, width, n = 0.3, 8, 400
    found = [fd_infinite(drawn(n, width, seed, shift), standard(width)) for seed in range(300)]
    cover = np.mean([low <= width * shift**2 <= high for _, low, high in found])
    assert cover == pytest.approx(0.95, abs=0.04)
    scatter = np.std([v for v, _, _ in found])
    assert np.mean([(high - low) / 2 / 1.96 for _, low, high in found]) == pytest.approx(scatter, rel=0.15)


def test_it_is_the_least_squares_line_read_at_zero():
    x, reference = drawn(240, 8, 3, 0.5), standard(8)
    counts = [240 // p for p in PARTS]
    values = [np.mean([frechet_to(s, reference)[0] for s in x.split(c)]) for c in counts]
    line = np.polyfit([1 / c for c in counts], values, 1)
    assert fd_infinite(x, reference)[0] == pytest.approx(line[1], rel=1e-9)


def test_fewer_images_than_the_line_needs_are_refused():
    assert fewest(64) == 260
    fd_infinite(drawn(fewest(4), 4, 4), standard(4))
    with pytest.raises(ValueError, match="needs 20"):
        fd_infinite(drawn(fewest(4) - 1, 4, 4), standard(4))


def test_the_limit_of_a_perfect_model_has_an_interval_around_zero():
    value, low, high = fd_infinite(drawn(400, 4, 5), standard(4))
    assert low < 0 < high < 1
    assert low <= value <= high
